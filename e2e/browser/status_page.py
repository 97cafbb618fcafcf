#!/usr/bin/env python3
"""Looks at the pages of `rollcall serve` as a person does: in a real Chromium, by what can be seen and clicked.

Reads one JSON file with the address of the page and what must be on it; ends with an error at the first thing that
is otherwise. Prints how many pages were looked at.
"""

import json
import os
import re
import sys
from urllib.parse import urlsplit

from playwright.sync_api import Error, sync_playwright

PATIENCE_MS = 60_000
ON_A_PAGE = 50


class Visitor:
    """A person at a browser, and all that went on behind the scenes meanwhile."""

    def __init__(self, browser, expected, **options):
        self.expected, self.pages = expected, 0
        self.address = expected["address"].rstrip("/")
        self.requests, self.complaints = [], []
        context = browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        self.page = context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))

    def open(self, path):
        response = self.page.goto(self.address + path)
        self.look()
        return response.status

    def click(self, selector):
        """Follows a link or sends a form, and waits for the page that comes of it."""
        with self.page.expect_navigation():
            self.page.click(selector)
        self.look()

    def look(self):
        """Makes sure of what must hold on every page."""
        self.pages += 1
        html = self.page.content()
        found = [secret for secret in self.expected["secrets"] if secret in html]
        assert not found, f"{len(found)} personal data at {self.page.url}, the first has {len(found[0])} characters"

    def language(self):
        return self.page.get_attribute("html", "lang")

    def text(self, selector="body"):
        return self.page.inner_text(selector)

    def rows(self, table):
        """Returns what the cells of a table's rows say, in one look: the page renews itself from time to time."""
        texts = "rows => rows.map(row => [...row.querySelectorAll('th, td')].map(cell => cell.innerText.trim()))"
        try:
            return self.page.eval_on_selector_all(f"{table} tbody tr", texts)
        except Error as error:
            if "context was destroyed" not in str(error):
                raise
            self.page.wait_for_load_state()
            return self.page.eval_on_selector_all(f"{table} tbody tr", texts)

    def asked_nobody_else(self):
        own = urlsplit(self.address).netloc
        others = [url for url in self.requests if urlsplit(url).netloc != own]
        assert self.requests and not others, others
        assert not self.complaints, self.complaints


def front_page_in_english(visitor):
    expected = visitor.expected
    assert visitor.open("/") == 200
    assert visitor.language() == "en", "the browser prefers English"
    reading = visitor.rows("#reading")
    assert [row[0] for row in reading] == ["Contacts", "Deals"], reading
    assert all("ago" in row[1] and int(row[2]) > 0 for row in reading), reading
    flow = {row[0]: row[1:] for row in visitor.rows("#flow")}
    assert set(flow) == {"mapper", "pusher", "status-writer"}, flow
    assert int(flow["mapper"][0]) + int(flow["mapper"][1]) == expected["waiting_for_mapper"], flow
    assert flow["pusher"][2] == flow["status-writer"][2] == "idle", flow
    assert [row[0] for row in visitor.rows("#at-work")] == ["producer", "status-writer"]
    budgets = {row[0]: row[1:] for row in visitor.rows("#budgets")}
    assert "ago" in budgets["requests"][2] and "crm.contact.list" in budgets, budgets
    assert visitor.text("#findings").strip(), "what stands still, or that nothing does"
    outcomes = {row[0]: row[1:] for row in visitor.rows("#outcomes")}
    assert int(outcomes["created"][1]) == expected["created"], outcomes
    assert int(outcomes["refused"][1]) >= expected["problems"]["contact"], outcomes
    everything = sum(expected["problems"].values())
    assert f"Records to be corrected: {everything}" in visitor.text(), visitor.text()
    assert len(visitor.rows("#problems")) == min(everything, ON_A_PAGE)
    collapse = visitor.page.evaluate("getComputedStyle(document.querySelector('table')).borderCollapse")
    assert collapse == "collapse", "the style sheet is not in use"


def pages_go_on(visitor):
    everything = sum(visitor.expected["problems"].values())
    assert everything > ON_A_PAGE, "a second page is to be looked at"
    first = [row[0] for row in visitor.rows("#problems")]
    visitor.click("nav a[rel=next]")
    second = [row[0] for row in visitor.rows("#problems")]
    assert len(second) == min(everything - ON_A_PAGE, ON_A_PAGE) and not set(first) & set(second)
    visitor.click("nav a[rel=prev]")
    assert [row[0] for row in visitor.rows("#problems")] == first


def filters_and_language(visitor):
    deals = visitor.expected["problems"]["deal"]
    assert 0 < deals <= ON_A_PAGE
    visitor.page.select_option("select[name=entity] >> nth=0", "deal")
    visitor.click("form[action='/'] button")
    rows = visitor.rows("#problems")
    assert len(rows) == deals and all(row[0].startswith("Deal ") for row in rows), rows
    # The most frequent problem, with the number of records that the list promises.
    option = visitor.page.locator("select[name=problem] option").nth(1)
    code, label = option.get_attribute("value"), option.inner_text()
    visitor.page.select_option("select[name=problem]", code)
    visitor.click("form[action='/'] button")
    rows = visitor.rows("#problems")
    assert label.endswith(f"({len(rows)})") and all(f"({code})" in row[1] for row in rows), (label, rows)
    visitor.click("header a")
    assert visitor.language() == "ru"
    assert f"Записи, которые нужно исправить: {len(rows)}" in visitor.text()
    again = visitor.rows("#problems")
    assert len(again) == len(rows) and all(row[0].startswith("Сделка ") for row in again), again
    assert visitor.page.input_value("select[name=problem]") == code, "the choice is kept"


def the_story_of_a_problem(visitor):
    """From the list of problems to what happened to the record, and on into Bitrix24."""
    expected = visitor.expected
    number = expected["contact"]
    visitor.open("/?lang=ru&entity=contact")
    row = visitor.page.locator("#problems tbody tr", has_text=f"Контакт {number}")
    assert "не номер телефона: «***»" in row.inner_text(), row.inner_text()
    details = f"{expected['portal']}/crm/contact/details/{number}/"
    assert row.locator("a").first.get_attribute("href") == details
    with visitor.page.expect_navigation():
        row.get_by_text("история").click()
    visitor.look()
    assert visitor.text("h1") == f"Контакт {number}"
    told = [row[2] for row in visitor.rows("#story")]
    steps = ["Прочитано из Битрикс24", "Преобразовано: нужно исправить", "Не передано", "Статус"]
    assert len(told) >= 8, told
    for index, step in enumerate(steps * 2):
        assert told[index].startswith(step), told
    assert "phone.missing" in told[1] and "phone.invalid" in told[5] and "PHONE" in told[4], told
    assert "***" in told[4] and "«***»" in told[7], told
    assert visitor.page.get_attribute(f"a[href='{details}']", "rel") == "noreferrer"
    visitor.click("header a")
    assert visitor.language() == "en" and visitor.text("h1") == f"Contact {number}"
    assert [row[2] for row in visitor.rows("#story")][1].startswith("Mapped: to be corrected")
    visitor.click("#links a >> nth=0")
    assert visitor.page.locator("#problems").count() == 1 and visitor.language() == "en"


def any_record_can_be_asked_for(visitor):
    good = visitor.expected["good_contact"]
    visitor.open("/?lang=en")
    visitor.page.fill("#find input[name=id]", str(good))
    visitor.click("#find button")
    told = [row[2] for row in visitor.rows("#story")]
    assert any(step.startswith("otmechalka: created") for step in told), told
    assert any(step == "Status written: Успешно" for step in told), told
    visitor.page.fill("#find input[name=id]", "999999999")
    visitor.click("#find button")
    assert "Nothing is known of this record" in visitor.text("#unknown")
    seen = len(visitor.complaints)
    assert visitor.open("/history?lang=en&entity=contact&id=one") == 400
    assert "Name a contact or a deal" in visitor.text()
    # The browser notes a page of this kind by itself.
    noted = visitor.complaints[seen:]
    del visitor.complaints[seen:]
    assert all("400" in complaint for complaint in noted), noted


def nothing_in_the_address_runs(visitor):
    attack = "%22%3E%3Cscript%3Ewindow.ran%3D1%3C%2Fscript%3E%3Cimg%20src%3Dx%20onerror%3Dwindow.ran%3D1%3E"
    visitor.open(f"/?lang=en&problem={attack}")
    assert visitor.page.evaluate("window.ran") is None
    assert visitor.page.locator("script, img").count() == 0


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        expected = json.load(file)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM_BIN"], timeout=PATIENCE_MS)
        english = Visitor(browser, expected, locale="en-GB")
        for see in (front_page_in_english, pages_go_on, filters_and_language, nothing_in_the_address_runs):
            see(english)
        plain = Visitor(browser, expected, locale="ru-RU", java_script_enabled=False)
        assert plain.open("/") == 200 and plain.language() == "ru"
        ages = [row[1] for row in plain.rows("#reading")] + [row[3] for row in plain.rows("#at-work")]
        assert all(re.search(r"\d (с|мин|ч|д) назад", age) for age in ages), ages
        # In the zone of the portal, as its watermarks are.
        zones = {re.search(r"[+-]\d\d:\d\d", text)[0] for text in [plain.text("footer"), *ages[:2]]}
        assert len(zones) == 1, zones
        for visitor in (plain, english):
            the_story_of_a_problem(visitor)
            any_record_can_be_asked_for(visitor)
            visitor.asked_nobody_else()
        print(json.dumps({"pages": english.pages + plain.pages}))
        browser.close()


if __name__ == "__main__":
    main()
