#!/usr/bin/env python3
"""Says what both CRMs must hold, from nothing but what Bitrix24 holds: a second implementation of the rules.

Written from the rules, not from the mapper, with another phone library and another decimal library, so that a
mistake of one is unlikely to be a mistake of the other. Reads one JSON file; prints
{"checked": N, "differences": [...]}. Differences name records by id only.
"""

import collections
import datetime
import decimal
import json
import re
import sys
import unicodedata

import phonenumbers

SUCCESS = "Успешно"
SURNAME, FIRST_NAME = "UF_CRM_57AD7FAF7E6C4", "UF_CRM_1608028374"
PRODUCTS, BRANCHES, BIRTHDATE = "UF_CRM_58D15BB9CA8F4", "UF_CRM_1470852549", "UF_CRM_1607943642"
SALE_DATE, PAYMENT = "UF_CRM_58D1057919A6F", "UF_CRM_1490347942"
OFFLINE, ONLINE = "404", "410"
ONLINE_BRANCH, ONLINE_COURSES = "2633", ["10985", "10986"]
OFFLINE_COURSES = ["Групповые занятия", "Индивидуальные занятия"]
CONTACT_BRANCHES = {"48": "+ ЦДШ `МСК", "12708": "+ СКОЛКОВО `МСК *"}
DEAL_BRANCHES = {"186": "+ ЦДШ `МСК", "12706": "+ СКОЛКОВО `МСК *"}

REFUSED, SKIPPED = "refused", "skipped"

# What otmechalka keeps of each entity.
PLURAL = {"contact": "clients", "deal": "tickets"}


class Wrong(Exception):
    """The record has at least one mistake."""


def seen(value):
    """Leaves out what nobody can see: control and format characters. One that joins two emoji is part of them."""
    kept = []
    for index, character in enumerate(value):
        category = unicodedata.category(character)
        around = value[index - 1 : index] + value[index + 1 : index + 2]
        joins = character == "\u200d" and len(around) == 2 and all(unicodedata.category(c) in ("So", "Mn") for c in around)
        if joins or character.isspace() or category not in ("Cc", "Cf"):
            kept.append(character)
    return "".join(kept)


def absent(value):
    empty = isinstance(value, str) and not seen(value).strip()
    return value is None or value is False or value == [] or value == {} or empty


def listed(value):
    if absent(value):
        return []
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else [value]


def text(value):
    if absent(value):
        raise Wrong("missing")
    if isinstance(value, (dict, list, bool)):
        raise Wrong("no text")
    collapsed = " ".join(seen(str(value)).split())
    if not collapsed:
        raise Wrong("blank")
    return collapsed


def name(value):
    collapsed = text(value)
    if len(collapsed) > 100:
        raise Wrong("too long")
    return collapsed


def product_name(value):
    """Trims only, as the type is known by exactly that name, unless something in it cannot be seen."""
    collapsed = text(value)
    hides = seen(str(value)) != str(value) or any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in str(value))
    trimmed = collapsed if hides else str(value).strip()
    if len(trimmed) > 255:
        raise Wrong("too long")
    return trimmed


def first_value(value):
    for item in listed(value):
        found = item.get("VALUE") if isinstance(item, dict) else item
        if not absent(found):
            return str(found)
    return None


def phone(value):
    found = first_value(value)
    if found is None:
        raise Wrong("no phone")
    # The matcher finds a number in a text; words before and after it do not matter.
    matches = phonenumbers.PhoneNumberMatcher(found, "RU", leniency=phonenumbers.Leniency.VALID)
    number = next((match.number for match in matches), None)
    if number is None:
        raise Wrong("phone")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164).lstrip("+")


def email(value):
    found = first_value(value)
    if found is None:
        return None
    found = " ".join(seen(found).split())
    if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s.]+", found):
        raise Wrong("email")
    return found


def date(value):
    if absent(value):
        return None
    match = re.match(r"(\d{4})-(\d\d)-(\d\d)(?:$|[T ])", str(value).strip())
    german = re.match(r"(\d\d)\.(\d\d)\.(\d{4})(?:$| )", str(value).strip())
    if not match and not german:
        raise Wrong("date")
    year, month, day = match.groups() if match else reversed(german.groups())
    try:
        return datetime.date(int(year), int(month), int(day)).isoformat()
    except ValueError as error:
        raise Wrong("date") from error


def required_date(value):
    found = date(value)
    if found is None:
        raise Wrong("no date")
    return found


def ids(value):
    return [str(item).strip() for item in listed(value) if not absent(item)]


def parts(*makers):
    """Makes every part; one that is wrong makes the whole wrong."""
    made, wrong = [], False
    for maker in makers:
        try:
            made.append(maker())
        except Wrong:
            wrong = True
    return REFUSED if wrong else made


def directions(contact):
    """Returns courses and branch offices, or that nothing concerns otmechalka."""
    products, branches = ids(contact.get(PRODUCTS)), ids(contact.get(BRANCHES))
    if not products or (OFFLINE in products and not branches):
        raise Wrong("nothing chosen")
    courses, offices = [], []
    if ONLINE in products:
        courses += ONLINE_COURSES
        offices.append(ONLINE_BRANCH)
    if OFFLINE in products:
        supported = [office for branch, office in CONTACT_BRANCHES.items() if branch in branches]
        offices += supported
        courses += OFFLINE_COURSES if supported else []
    return None if not offices else (courses, offices)


def client_of(contact):
    try:
        chosen = directions(contact)
        if chosen is None:
            return SKIPPED
    except Wrong:
        return REFUSED
    made = parts(
        lambda: name(contact.get(SURNAME)),
        lambda: name(contact.get(FIRST_NAME)),
        lambda: phone(contact.get("PHONE")),
        lambda: email(contact.get("EMAIL")),
        lambda: date(contact.get(BIRTHDATE)),
        lambda: name(contact.get("LAST_NAME")),
        lambda: name(contact.get("NAME")),
    )
    if made == REFUSED:
        return REFUSED
    last, first, digits, mail, born, parent_last, parent_first = made
    client = {
        "last_name": last, "first_name": first, "phone": digits, "courses": sorted(chosen[0]),
        "branchoffices": sorted(chosen[1]), "gender": "M", "additional_data": f"{parent_last} {parent_first}",
    }
    client.update({"email": mail} if mail else {})
    client.update({"birthdate": born} if born else {})
    return client


def money(value):
    if absent(value):
        raise Wrong("no amount")
    try:
        amount = decimal.Decimal(str(value).strip())
    except decimal.InvalidOperation as error:
        raise Wrong("amount") from error
    if not amount.is_finite() or abs(amount) >= 10**9:
        raise Wrong("amount")
    return amount.quantize(decimal.Decimal("0.01"), decimal.ROUND_HALF_UP)


def prices(row):
    initial, final = money(row.get("PRICE_BRUTTO")), money(row.get("PRICE"))
    stated = decimal.Decimal(0) if absent(row.get("DISCOUNT_SUM")) else money(row.get("DISCOUNT_SUM"))
    rate = decimal.Decimal(0) if absent(row.get("TAX_RATE")) else decimal.Decimal(str(row["TAX_RATE"]))
    taxed = rate != 0
    if initial == 0 != final and not absent(row.get("PRICE_EXCLUSIVE")):
        # A row from before the portal kept the figure.
        untaxed = decimal.Decimal(str(row["PRICE_EXCLUSIVE"]).strip()) + stated
        initial = money(untaxed * (1 + rate / 100))
    discount = initial - final
    if min(initial, final, discount, stated) < 0 or (not taxed and stated != discount):
        raise Wrong("prices contradict")
    return f"{initial:.2f}", f"{discount:.2f}", f"{final:.2f}"


def only_row(rows):
    if len(rows) != 1:
        raise Wrong("rows")
    if decimal.Decimal(str(rows[0].get("QUANTITY", 0) or 0)) != 1:
        raise Wrong("quantity")
    return rows[0]


def currency(deal):
    if deal.get("CURRENCY_ID") != "RUB":
        raise Wrong("currency")


def seller(deal, users):
    user = users.get(str(deal.get("ASSIGNED_BY_ID") or "").strip())
    if user is None:
        raise Wrong("seller")
    return text(" ".join(str(user.get(key) or "") for key in ("NAME", "LAST_NAME")))


def payment(deal):
    value = deal.get(PAYMENT)
    value = listed(value)[0] if isinstance(value, list) and value else value
    if absent(value) or str(value).strip() == "0":
        raise Wrong("payment")
    return "CASH" if str(value).strip() == "450" else "ONLINE"


def pupil(deal):
    value = str(deal.get("CONTACT_ID") or "").strip()
    if not value.isdigit() or int(value) == 0:
        raise Wrong("pupil")
    return str(int(value))


def one_branch(branches):
    supported = [office for branch, office in DEAL_BRANCHES.items() if branch in branches]
    if len(supported) != 1:
        raise Wrong("branches")
    return supported[0]


def ticket_of(deal, rows, users):
    branches = ids(deal.get(BRANCHES))
    if branches and not any(branch in DEAL_BRANCHES for branch in branches):
        return SKIPPED
    row = rows[0] if len(rows) == 1 else {}
    made = parts(
        lambda: pupil(deal),
        lambda: only_row(rows),
        lambda: currency(deal),
        lambda: product_name(row.get("PRODUCT_NAME")),
        lambda: prices(row),
        lambda: required_date(deal.get(SALE_DATE)),
        lambda: one_branch(branches),
        lambda: seller(deal, users),
        lambda: payment(deal),
    )
    if made == REFUSED:
        return REFUSED
    origin, _, _, product, (initial, discount, final), sold, office, employee, method = made
    return {
        "client_origin_id": origin, "ticket_type": product, "price_initial": initial, "discount": discount,
        "price_final": final, "selling_date": sold, "selling_branchoffice": office, "employee": employee,
        "payment_method": method,
    }


def moment(value):
    parsed = datetime.datetime.fromisoformat(value)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=3)))


def rows_of(state, key):
    found = state[key]
    return list(found.values()) if isinstance(found, dict) else found


class Judge:
    def __init__(self, given):
        self.bitrix24, self.settings = given["bitrix24"], given["settings"]
        self.users = {str(user["ID"]): user for user in rows_of(self.bitrix24, "users")}
        self.calls = [call for call in entries(given["otmechalka_history"]) if not call.get("admin")]
        self.writes = entries(given["bitrix24_history"])
        self.clients = by_origin(rows_of(given["otmechalka"], "clients"))
        self.tickets = by_origin(rows_of(given["otmechalka"], "tickets"))
        self.differences, self.checked = [], 0
        self.more = given.get("more") or {}
        self.applied_to_clients = by_origin(
            call
            for call in self.calls
            if call.get("method") == "POST" and call.get("applied") and call["path"].startswith("/api/clients/")
        )
        # Successes of contacts that a witness saw: the last call of otmechalka by then.
        self.calls_by = {(str(identity), write): call for identity, write, call in self.more.get("successes", [])}
        self.refusals = {
            (call["path"].split("/")[2], str(call.get("origin_id")))
            for call in self.calls
            if call.get("method") == "POST" and is_refusal(call)
        }
        # What an employee of otmechalka changed there is not compared with what was edited here.
        self.touched = {
            ("contact" if "client" in call["path"] else "deal", str(call.get("origin_id")))
            for call in entries(given["otmechalka_history"])
            if call.get("admin")
        }
        # What people wrote, by record: an hour's history has tens of thousands of writes.
        self.human = collections.defaultdict(list)
        for write in filter(is_human, self.writes):
            self.human[(str(write.get("entity")), str(write.get("id")))].append(write)
        self.edited = {
            record
            for record, edits in self.human.items()
            if any(not str(edit.get("method")).endswith(".add") for edit in edits)
        }

    def say(self, entity, identity, what):
        self.differences.append(f"{entity} {identity}: {what}")

    def selected(self, record, since):
        return moment(record["DATE_CREATE"]) >= moment(self.settings["sync_start_date"]) and moment(
            record["DATE_MODIFY"]
        ) >= moment(self.settings[since])

    def status(self, entity, record, good):
        self.checked += 1
        found = record.get(self.settings["status_field"]) or ""
        if good and found != SUCCESS:
            self.say(entity, record["ID"], f"status is not the success: {'an error text' if found else 'empty'}")
        if not good and (found in ("", SUCCESS) or len(found) > 1000 or not re.search("[а-яА-Я]", found)):
            self.say(entity, record["ID"], f"status tells no error: {found[:40]!r}")

    def held(self, entity, record, expected, found):
        identity = str(record["ID"])
        if len(found) > 1:
            self.say(entity, identity, f"{len(found)} times in otmechalka")
        if not isinstance(expected, dict):
            if found and (entity, identity) not in self.edited:
                self.say(entity, identity, f"is in otmechalka though {expected}")
            return
        if not found:
            return self.say(entity, identity, "is not in otmechalka")
        if entity == "deal" and (entity, identity) in self.edited:
            return self.is_of_a_version(record, found[0])
        for key, value in expected.items():
            held = found[0].get(key)
            held = sorted(map(str, held)) if isinstance(held, list) else held
            if held != value:
                self.say(entity, identity, f"{key} differs")
        for key in ("email", "birthdate"):
            if entity == "contact" and key not in expected and found[0].get(key):
                self.say(entity, identity, f"{key} is there and should not be")

    def is_of_a_version(self, deal, ticket):
        """A ticket is left alone once it is there, so it may be that of any version of its deal, and of nothing else."""
        identity = str(deal["ID"])
        if ("deal", identity) not in self.touched and not any(
            is_body(made, ticket) for made in self.tickets_of(deal)
        ):
            self.say("deal", identity, "the ticket is that of no version")

    def refused_there(self, path):
        """Tells whether otmechalka's last word on a record was a refusal."""
        answers = [call for call in self.calls if call.get("method") == "POST" and path(call)]
        return bool(answers) and is_refusal(answers[-1])

    def judge_contact(self, contact):
        identity = str(contact["ID"])
        expected = client_of(contact) if self.selected(contact, "contacts_since") else None
        if expected is None:
            return self.untouched("contact", contact, self.clients[identity])
        refused = isinstance(expected, dict) and self.refused_there(
            lambda call: "client" in call["path"] and str(call.get("origin_id")) == identity
        )
        self.status("contact", contact, expected != REFUSED and not refused)
        if not refused:
            self.held("contact", contact, expected, self.clients[identity])

    def judge_deal(self, deal):
        identity = str(deal["ID"])
        if deal["STAGE_ID"] != "WON" or not self.selected(deal, "deals_since"):
            if ("deal", identity) in self.edited:
                self.was_selected(deal, self.tickets[identity])
            else:
                self.untouched("deal", deal, self.tickets[identity])
            return
        rows = self.bitrix24["product_rows"].get(identity, [])
        expected = ticket_of(deal, rows, self.users)
        if isinstance(expected, dict) and not self.clients[expected["client_origin_id"]]:
            expected = REFUSED
        # A ticket that is there is left alone, whatever is edited later.
        kept = expected == REFUSED and bool(self.tickets[identity]) and ("deal", identity) in self.edited
        refused = isinstance(expected, dict) and self.refused_there(
            lambda call: "ticket" in call["path"] and str(call.get("origin_id")) == identity
        )
        if expected is not None:
            self.status("deal", deal, kept or (expected != REFUSED and not refused))
        if expected is not None and not refused:
            self.held("deal", deal, expected, self.tickets[identity])
        if not isinstance(expected, dict) and self.tickets[identity] and ("deal", identity) in self.edited:
            self.is_of_a_version(deal, self.tickets[identity][0])

    def was_selected(self, deal, found):
        """What is no longer selected, or never was, keeps what an earlier version brought it."""
        self.checked += 1
        identity = str(deal["ID"])
        made = self.tickets_of(deal)
        status = deal.get(self.settings["status_field"])
        if found:
            self.is_of_a_version(deal, found[0])
        if status and not made:
            self.say("deal", identity, "was never in the selection and has a status")
        if status == SUCCESS and not found and SKIPPED not in made and ("deal", identity) not in self.touched:
            self.say("deal", identity, "shows the success and is not in otmechalka")

    def untouched(self, entity, record, found):
        self.checked += 1
        if record.get(self.settings["status_field"]):
            self.say(entity, record["ID"], "is outside the selection and has a status")
        if found:
            self.say(entity, record["ID"], "is outside the selection and in otmechalka")

    def judge_histories(self):
        creates = collections.Counter(
            (call["path"], str(call.get("origin_id")))
            for call in self.calls
            if call.get("method") == "POST" and call["path"] in ("/api/clients/", "/api/tickets/") and call.get("applied")
        )
        for (path, origin), count in creates.items():
            if count > 1:
                self.say(path, origin, f"created {count} times")
        for write in self.writes:
            if is_human(write):
                continue
            fields = write.get("fields") or {}
            if str(write.get("method")) not in ("crm.contact.update", "crm.deal.update"):
                self.say(write.get("entity"), write.get("id"), f"was written by {write.get('method')}")
            elif list(fields) != [self.settings["status_field"]]:
                self.say(write.get("entity"), write.get("id"), f"was written with {sorted(fields)}")

    def told(self, entity, identity):
        """Returns what a record said, version by version, as people made it, each with the number of the write that made it."""
        edits = [write for write in self.human.get((entity, identity), []) if write.get("record")]
        said = [(write["seq"], write["record"]) for write in edits]
        if not edits:
            said = [(0, record) for record in rows_of(self.bitrix24, f"{entity}s") if str(record["ID"]) == identity]
        elif not edits[0]["method"].endswith(".add"):
            said.insert(0, (0, edits[0]["before"]))
        return said

    def versions(self, identity):
        return [said for _, said in self.told("contact", identity)]

    def tickets_since(self, identity):
        """Returns what a deal called for, version by version, with the number of the write that made it. Its rows are read
        after its fields, so they may be later ones."""
        sets = [e for e in self.human.get(("deal", identity), []) if e["method"] == "crm.deal.productrows.set"]
        # Rows, and the number of the write that replaced them.
        rows = [(edit["before"] or [], edit["seq"]) for edit in sets]
        rows.append((self.bitrix24["product_rows"].get(identity, []), float("inf")))
        return [
            (since, ticket_of(said, read, self.users))
            for since, said in self.told("deal", identity)
            for read, until in rows
            if until > since and said["STAGE_ID"] == "WON" and self.selected(said, "deals_since")
        ]

    def tickets_of(self, deal):
        return [ticket for _, ticket in self.tickets_since(str(deal["ID"]))]

    def judge_order(self):
        """Each applied body is that of a version, and of no earlier one than the body before it."""
        for identity, calls in self.applied_to_clients.items():
            versions = [client_of(version) for version in self.versions(identity)]
            reached = 0
            for call in calls:
                at = next((n for n in range(reached, len(versions)) if is_body(versions[n], call["body"])), None)
                if at is None:
                    known = any(is_body(version, call["body"]) for version in versions)
                    unknown = f"a body of no version was applied: {call['body']}, versions {versions}"
                    self.say("contact", identity, "an older version was applied after a newer" if known else unknown)
                else:
                    reached = at

    def judge_statuses(self):
        """Each status that was ever written is that of a version, and of no earlier one than the status before it."""
        written = collections.defaultdict(list)
        for write in self.writes:
            text = None if is_human(write) else (write.get("fields") or {}).get(self.settings["status_field"])
            if write.get("applied") and text:
                written[(str(write["entity"]), str(write["id"]))].append((write["seq"], text))
        for (entity, identity), statuses in written.items():
            if entity == "contact":
                called_for = [(since, client_of(said)) for since, said in self.told("contact", identity)]
            else:
                called_for = self.tickets_since(identity)
            reached, times = 0, collections.Counter()
            for at, text in statuses:
                # Twice at most for one version, and for each that an operator sends round again.
                times[text] += 1
                edits = [edit["method"] for edit in self.human.get((entity, identity), []) if edit["seq"] < at]
                versions = len(edits) + (not any(method.endswith(".add") for method in edits))
                if times[text] > 2 * (versions + self.more.get("sent_again", 0)):
                    self.say(entity, identity, f"was given one status {times[text]} times over {versions} versions")
                fitting = [since for since, made in called_for if since < at and self.may_show(entity, identity, made, text, at)]
                later = [since for since in fitting if since >= reached]
                if later:
                    reached = min(later)
                    could_be = [made for since, made in called_for if reached <= since < at]
                    if entity == "contact" and text == SUCCESS and self.is_too_early(identity, at, could_be):
                        self.say(entity, identity, f"was called a success by write {at}, before otmechalka had that version")
                else:
                    what = "of a version before that of the last one" if fitting else "that no version calls for"
                    shown = "the success" if text == SUCCESS else f"the error {text[:60]!r}"
                    self.say(entity, identity, f"was given {shown} by write {at}, {what}")

    def is_too_early(self, identity, at, could_be):
        """Tells whether a success was shown before otmechalka was given the body of any version that it can be of."""
        calls = self.calls_by.get((identity, at))
        if calls is None or SKIPPED in could_be or None in could_be:
            return False
        given = [call["body"] for call in self.applied_to_clients[identity] if call["seq"] <= calls]
        return not any(is_body(made, body) for body in given for made in could_be)

    def may_show(self, entity, identity, made, text, at):
        """Tells whether a version that calls for this may have brought a status."""
        if text == SUCCESS:
            # A refused deal whose ticket is there all the same has nothing to be corrected.
            return made != REFUSED or (entity == "deal" and bool(self.tickets[identity]))
        return made == REFUSED or self.ever_refused(entity, identity) or (entity == "deal" and self.lacked_pupil(identity, at))

    def ever_refused(self, entity, identity):
        """Tells whether otmechalka ever refused a record."""
        return (PLURAL[entity], identity) in self.refusals

    def lacked_pupil(self, identity, at):
        """Tells whether a deal had a pupil, before a write, who could be missing in otmechalka."""
        for since, said in self.told("deal", identity):
            pupil = str(said.get("CONTACT_ID") or "").strip()
            edits = self.human.get(("contact", pupil), [])
            known = [(made, contact) for made, contact in self.told("contact", pupil) if made < at]
            good = known and all(
                isinstance(client_of(contact), dict) and self.selected(contact, "contacts_since") for _, contact in known
            )
            gone = any(edit["method"].endswith(".delete") for edit in edits)
            if since < at and (not good or gone or self.ever_refused("contact", pupil)):
                return True
        return False

    def judge_suspects(self):
        """A success that was shown while otmechalka did not hold the record is true only where it need not."""
        for entity, identity in self.more.get("suspects", []):
            if entity == "contact":
                made = [client_of(version) for version in self.versions(str(identity))]
            else:
                deals = [deal for deal in rows_of(self.bitrix24, "deals") if str(deal["ID"]) == str(identity)]
                rows = self.bitrix24["product_rows"].get(str(identity), [])
                made = [ticket_of(deal, rows, self.users) for deal in deals]
            if made and SKIPPED not in made:
                self.say(entity, identity, "showed the success before otmechalka had it")

    def judge(self):
        if self.more.get("order"):
            self.judge_order()
            self.judge_statuses()
        self.judge_suspects()
        # A record whose message was given up stays as it is, for an operator.
        buried = {(entity, str(identity)) for entity, identity in self.more.get("buried", [])}
        for contact in rows_of(self.bitrix24, "contacts"):
            if ("contact", str(contact["ID"])) not in buried:
                self.judge_contact(contact)
        for deal in rows_of(self.bitrix24, "deals"):
            if ("deal", str(deal["ID"])) not in buried:
                self.judge_deal(deal)
        self.judge_histories()
        return {"checked": self.checked, "differences": self.differences}


def is_refusal(call):
    """Tells whether a record was refused: 400, or an error under 200. That a token or a call was refused, or that otmechalka is
    busy or ill, says nothing about the record."""
    return call["status"] == 400 or call.get("fault") == "error_200"


def is_body(expected, body):
    """Tells whether a body that was sent is what a version calls for."""
    if not isinstance(expected, dict) or any(key not in expected and body.get(key) for key in ("email", "birthdate")):
        return False
    held = {key: sorted(map(str, body[key])) if isinstance(body.get(key), list) else body.get(key) for key in expected}
    return held == expected


def entries(history):
    return history if isinstance(history, list) else history["history"]


def is_human(write):
    return write["origin"] == "human"


def by_origin(items):
    grouped = collections.defaultdict(list)
    for item in items:
        grouped[str(item.get("origin_id"))].append(item)
    return grouped


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        json.dump(Judge(json.load(file)).judge(), sys.stdout, ensure_ascii=False)
