//! The page as HTML. Pure. It works without scripts and loads nothing but its style sheet.

use chrono::TimeDelta;
use maud::{DOCTYPE, Markup, html};
use schemas::problem::catalogue;
use schemas::{Entity, RecordRef};

use super::english;
use super::view::{ProblemRecord, View};
use super::words::Language;
use crate::answer::Severity;
use crate::status::{Condition, Reading, Status};

/// Problem records on one page.
const ON_A_PAGE: usize = 50;

/// Seconds after which the browser asks for the front page again by itself.
const REFRESH_SECONDS: u32 = 15;

/// Path of the page with one record's story.
pub const STORY: &str = "/history";

/// Which problem records a reader wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    entity: Option<Entity>,
    problem: Option<String>,
    page: usize,
    is_still: bool,
}

impl Choice {
    /// Takes what stands in the address; what makes no sense is left out.
    pub fn new(entity: Option<&str>, problem: Option<String>, page: Option<usize>) -> Choice {
        Choice {
            entity: entity.and_then(Entity::from_token),
            problem: problem.filter(|code| !code.is_empty()),
            page: page.unwrap_or(1).max(1),
            is_still: false,
        }
    }

    /// Has the page stay as it is, for somebody who types into it.
    pub fn still(self, is_still: bool) -> Choice {
        Choice { is_still, ..self }
    }

    fn takes(&self, problem: &ProblemRecord) -> bool {
        self.entity.is_none_or(|entity| problem.record.entity == entity)
            && self.problem.as_ref().is_none_or(|code| problem.codes.contains(code))
    }

    fn address(&self, language: Language, page: usize) -> String {
        let mut query = form_urlencoded::Serializer::for_suffix(String::from("/?"), 2);
        query.append_pair("lang", language.tag());
        if let Some(entity) = self.entity {
            query.append_pair("entity", entity.token());
        }
        if let Some(code) = &self.problem {
            query.append_pair("problem", code);
        }
        if page > 1 {
            query.append_pair("page", &page.to_string());
        }
        if self.is_still {
            query.append_pair("still", "1");
        }
        query.finish()
    }
}

/// Draws the page.
pub fn front(view: &View, choice: &Choice, language: Language, portal: Option<&str>) -> String {
    let status = &view.status;
    let other = choice.clone().still(!choice.is_still);
    let body = html! {
        header {
            h1 { (language.pick("Rollcall: как идёт синхронизация", "Rollcall: how the sync is going")) }
            a href=(choice.address(language.other(), choice.page)) hreflang=(language.other().tag()) {
                (language.pick("English", "По-русски"))
            }
        }
        (findings(view, language))
        (reading(view, language))
        (flow(status, language))
        (at_work(status, language))
        (budgets(status, language))
        (outcomes(status, language))
        (problems(view, choice, language, portal))
        (search(language))
        footer {
            (language.pick("Состояние на", "As of")) " " (view.zone().moment(status.at)) ". "
            a href=(other.address(language, choice.page)) #still {
                @if choice.is_still {
                    (language.pick("Обновлять каждые 15 с", "Ask again every 15 s"))
                } @else {
                    (language.pick("Не обновлять", "Stay as it is"))
                }
            } ". "
            a href="/status.json" { "status.json" }
        }
    };
    document(language, (!choice.is_still).then_some(REFRESH_SECONDS), &body)
}

/// Draws the page when there is nothing to show.
pub fn out_of_order(reason: &str, language: Language) -> String {
    let body = html! {
        h1 { (language.pick("Состояние сейчас не прочитать", "The state cannot be read now")) }
        p.bad { (reason) }
    };
    document(language, Some(REFRESH_SECONDS), &body)
}

/// Puts a page together; one that somebody reads line by line is not renewed under their eyes.
pub fn document(language: Language, refresh_seconds: Option<u32>, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang=(language.tag()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if let Some(seconds) = refresh_seconds { meta http-equiv="refresh" content=(seconds); }
                title { "Rollcall" }
                link rel="stylesheet" href="/style.css";
            }
            body { (body) }
        }
    };
    page.into_string()
}

/// What somebody should look at, first of all.
fn findings(view: &View, language: Language) -> Markup {
    html! {
        @if view.findings.is_empty() {
            p id="findings" { span.good { (language.pick("Ничто не стоит.", "Nothing stands still.")) } }
        } @else {
            ul id="findings" { @for finding in &view.findings {
                li.bad[finding.severity == Severity::Error] { (language.finding(finding)) }
            } }
        }
    }
}

fn reading(view: &View, language: Language) -> Markup {
    let status = &view.status;
    let is_stale = |entity: &str| {
        view.findings.iter().any(|finding| finding.code == "watermark" && finding.message.starts_with(entity))
    };
    let line = |entity: Entity, reading: &Reading| {
        let name = format!("{}s", entity.token());
        html! {
            tr {
                th scope="row" { (language.records(entity)) }
                td {
                    @match reading.watermark {
                        Some(watermark) => span.bad[is_stale(&name)] {
                            (watermark.format("%Y-%m-%d %H:%M:%S %:z"))
                            " (" (language.ago(TimeDelta::seconds(reading.age_seconds.unwrap_or(0)))) ")"
                        }
                        None => span.bad { (language.pick("ещё не читались", "never read")) }
                    }
                }
                td.number { (reading.polls) }
            }
        }
    };
    html! {
        h2 { (language.pick("Прочитано из Битрикс24", "Read from Bitrix24")) }
        table id="reading" {
            thead { tr {
                th scope="col" {}
                th scope="col" { (language.pick("изменения до", "changes up to")) }
                th.number scope="col" { (language.pick("опросов", "polls")) }
            } }
            tbody {
                (line(Entity::Contact, &status.contacts))
                (line(Entity::Deal, &status.deals))
            }
        }
    }
}

fn flow(status: &Status, language: Language) -> Markup {
    let is_bad = |condition| matches!(condition, Condition::ActiveButFrozen | Condition::Missing);
    html! {
        h2 { (language.pick("Поток", "The flow")) }
        table id="flow" {
            thead { tr {
                th scope="col" { (language.pick("Этап", "Stage")) }
                th.number scope="col" { (language.pick("ждут", "waiting")) }
                th.number scope="col" { (language.pick("в работе", "in flight")) }
                th scope="col" { (language.pick("состояние", "condition")) }
            } }
            tbody { @for stage in &status.stages {
                tr {
                    th scope="row" { (stage.stage) }
                    td.number { (stage.waiting) }
                    td.number { (stage.in_flight) }
                    td.bad[is_bad(stage.condition)] { (language.condition(stage.condition)) }
                }
                @for frozen in &stage.frozen { tr {
                    th scope="row" { "· " (frozen.consumer) }
                    td.number { (frozen.waiting) }
                    td.number { (frozen.in_flight) }
                    td.bad { (language.condition(Condition::ActiveButFrozen)) }
                } }
            } }
        }
        p {
            (language.pick("Ждут новой попытки", "Waiting for another try")) ": " (status.parked) ". "
            (language.pick("Сообщений, которым нужен человек", "Messages that need a person")) ": "
            span.bad[status.dead_letters > 0] { (status.dead_letters) } "."
        }
    }
}

fn at_work(status: &Status, language: Language) -> Markup {
    html! {
        @if !status.at_work.is_empty() {
            h2 { (language.pick("Кто работает", "At work")) }
            table id="at-work" {
                thead { tr {
                    th scope="col" { (language.pick("Этап", "Stage")) }
                    th scope="col" { (language.pick("процесс", "process")) }
                    th scope="col" { (language.pick("начал", "began")) }
                    th scope="col" { (language.pick("был на связи", "last heard of")) }
                } }
                tbody { @for worker in &status.at_work { tr {
                    th scope="row" { (worker.stage) }
                    td { (worker.replica) }
                    td { (language.ago(status.at - worker.since)) }
                    td { (language.ago(status.at - worker.renewed)) }
                } } }
            }
        }
    }
}

fn budgets(status: &Status, language: Language) -> Markup {
    html! {
        @if status.bucket_requests.is_some() || !status.operating.is_empty() {
            h2 { (language.pick("Запас запросов к Битрикс24", "Budgets of Bitrix24")) }
            table id="budgets" {
                thead { tr {
                    th scope="col" {}
                    th.number scope="col" { (language.pick("занято", "used")) }
                    th.number scope="col" { (language.pick("можно", "of")) }
                    th scope="col" { (language.pick("когда", "when")) }
                } }
                tbody {
                    @if let (Some(requests), Some(at)) = (status.bucket_requests, status.bucket_at) { tr {
                        th scope="row" { (language.pick("запросы", "requests")) }
                        td.number { (format!("{requests:.0}")) }
                        td.number { (status.bucket_capacity.map(|most| format!("{most:.0}")).unwrap_or_default()) }
                        td { (language.ago(status.at - at)) }
                    } }
                    @for told in &status.operating { tr {
                        th scope="row" { (told.method) }
                        td.number { (format!("{:.1}", told.used_seconds)) " " (language.pick("с", "s")) }
                        td.number { (format!("{:.0}", told.limit_seconds)) " " (language.pick("с", "s")) }
                        td { (language.ago(status.at - told.at)) }
                    } }
                }
            }
        }
    }
}

fn outcomes(status: &Status, language: Language) -> Markup {
    let counts = &status.outcomes;
    html! {
        h2 { (language.pick("Результаты", "Outcomes")) }
        table id="outcomes" {
            thead { tr {
                th scope="col" {}
                th.number scope="col" { (language.pick("за час", "last hour")) }
                th.number scope="col" { (language.pick("за сутки", "last day")) }
            } }
            tbody { @for (name, day) in &counts.last_day { tr {
                th scope="row" { (language.outcome(name)) }
                td.number { (counts.last_hour.get(name).copied().unwrap_or_default()) }
                td.number { (day) }
            } } }
        }
    }
}

fn problems(view: &View, choice: &Choice, language: Language, portal: Option<&str>) -> Markup {
    let chosen: Vec<&ProblemRecord> = view.problems.iter().filter(|problem| choice.takes(problem)).collect();
    let pages = chosen.len().div_ceil(ON_A_PAGE).max(1);
    let page = choice.page.min(pages);
    let shown = chosen.iter().skip((page - 1) * ON_A_PAGE).take(ON_A_PAGE);
    html! {
        h2 { (language.pick("Записи, которые нужно исправить", "Records to be corrected")) ": " (chosen.len()) }
        (filters(view, choice, language))
        table id="problems" {
            thead { tr {
                th scope="col" { (language.pick("Запись", "Record")) }
                th scope="col" { (language.pick("Что не так", "What is wrong")) }
                th scope="col" { (language.pick("С какого времени", "Since")) }
                th scope="col" { (language.pick("Как было", "Story")) }
            } }
            tbody { @for problem in shown { tr {
                td { (link(problem.record, language, portal)) }
                td {
                    ul { @for code in &problem.codes { li { (meaning(code, language)) } } }
                    p.status lang="ru" { (problem.status) }
                }
                td { (view.zone().moment(problem.since)) }
                td { a href=(story_address(problem.record, language)) { (language.pick("история", "history")) } }
            } } }
        }
        @if pages > 1 { nav { p {
            @if page > 1 { a href=(choice.address(language, page - 1)) rel="prev" { "←" } " " }
            (page) " / " (pages)
            @if page < pages { " " a href=(choice.address(language, page + 1)) rel="next" { "→" } }
        } } }
    }
}

fn filters(view: &View, choice: &Choice, language: Language) -> Markup {
    html! {
        form method="get" action="/" {
            input type="hidden" name="lang" value=(language.tag());
            label { (language.pick("Что", "Kind")) " "
                select name="entity" {
                    option value="" { (language.pick("все", "all")) }
                    @for entity in Entity::ALL {
                        option value=(entity.token()) selected[choice.entity == Some(entity)] {
                            (language.records(entity))
                        }
                    }
                }
            }
            label { (language.pick("Ошибка", "Problem")) " "
                select name="problem" {
                    option value="" { (language.pick("любая", "any")) }
                    @for (code, count) in view.codes(choice.entity) {
                        option value=(code) selected[choice.problem.as_deref() == Some(code)] {
                            (meaning(code, language)) " (" (count) ")"
                        }
                    }
                }
            }
            button type="submit" { (language.pick("Показать", "Show")) }
        }
    }
}

/// Asks for any record, whether something is wrong with it or not.
pub fn search(language: Language) -> Markup {
    html! {
        h2 { (language.pick("История одной записи", "One record's history")) }
        form id="find" method="get" action=(STORY) {
            input type="hidden" name="lang" value=(language.tag());
            label { (language.pick("Что", "Kind")) " "
                select name="entity" { @for entity in Entity::ALL {
                    option value=(entity.token()) { (language.record(entity)) }
                } }
            }
            label { "ID " input name="id" inputmode="numeric" pattern="[0-9]+" required size="10"; }
            button type="submit" { (language.pick("Показать", "Show")) }
        }
    }
}

/// Returns where a record's story is.
pub fn story_address(record: RecordRef, language: Language) -> String {
    let mut query = form_urlencoded::Serializer::for_suffix(format!("{STORY}?"), STORY.len() + 1);
    query.append_pair("lang", language.tag());
    query.append_pair("entity", record.entity.token());
    query.append_pair("id", &record.id.to_string());
    query.finish()
}

/// Links to the record in the portal, where that is known.
pub fn link(record: RecordRef, language: Language, portal: Option<&str>) -> Markup {
    let name = format!("{} {}", language.record(record.entity), record.id);
    match portal {
        None => html! { (name) },
        Some(portal) => {
            let address = format!("{portal}/crm/{}/details/{}/", record.entity.token(), record.id);
            html! { a href=(address) rel="noreferrer" { (name) } }
        }
    }
}

/// Says what a code means. Codes are English, and say nothing that anybody typed.
pub fn meaning(code: &str, language: Language) -> String {
    let words = match language {
        Language::English => english::meaning(code),
        Language::Russian => {
            let known = catalogue().into_iter().find(|example| example.problem.code == code);
            known.map(|example| example.when.to_owned())
        }
    };
    words.map_or_else(|| code.to_owned(), |words| format!("{words} ({code})"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chrono::DateTime;

    use super::*;
    use crate::status::facts::Facts;
    use crate::status::findings;

    fn view(problems: usize) -> View {
        let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let problem = |id: usize| ProblemRecord {
            record: RecordRef::parse(&format!(
                "{}.{id}",
                if id.is_multiple_of(2) { "deal" } else { "contact" }
            ))
            .unwrap(),
            codes: BTreeSet::from([
                if id.is_multiple_of(2) { "contact.missing" } else { "phone.invalid" }.to_owned()
            ]),
            status: "В поле «Телефон» не номер телефона: «***».".into(),
            since: at,
        };
        let facts = Facts::default();
        let findings = findings(&facts, at);
        View { status: Status::of(facts, at), findings, problems: (1..=problems).map(problem).collect() }
    }

    fn draw(choice: &Choice, language: Language) -> String {
        front(&view(120), choice, language, Some("https://school.example"))
    }

    #[test]
    fn problem_records_are_linked_filtered_and_paged() {
        let all = draw(&Choice::new(None, None, None), Language::Russian);
        assert!(all.contains(r#"href="https://school.example/crm/contact/details/1/""#), "{all}");
        assert!(all.contains("Вместо телефона что-то другое (phone.invalid)"), "{all}");
        assert!(all.contains("1 / 3"), "{all}");
        assert!(all.contains("не номер телефона: «***»"), "{all}");
        assert!(all.contains(r#"href="/history?lang=ru&amp;entity=contact&amp;id=1""#), "{all}");
        let deals = draw(&Choice::new(Some("deal"), None, Some(2)), Language::English);
        assert!(deals.contains("Records to be corrected: 60") && deals.contains("2 / 2"), "{deals}");
        assert!(deals.contains("the deal has no contact (contact.missing)"), "{deals}");
        assert!(!deals.contains("/crm/contact/"), "{deals}");
        assert!(deals.contains("/?lang=en&amp;entity=deal"), "{deals}");
        let none =
            draw(&Choice::new(Some("contact"), Some("contact.missing".into()), None), Language::English);
        assert!(none.contains("Records to be corrected: 0"), "{none}");
    }

    #[test]
    fn what_stands_still_comes_first_in_the_readers_own_words() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let old =
            (now - TimeDelta::minutes(25)).with_timezone(&chrono::FixedOffset::east_opt(10_800).unwrap());
        let mut facts = Facts::default();
        facts.snapshot.contacts.watermark = Some(old);
        facts.snapshot.deals.watermark = Some(now.fixed_offset());
        facts.snapshot.dead_letters.stored = 3;
        facts.bucket = Some(runtime::budget::Level { level: 12.0, at: now });
        let findings = findings(&facts, now);
        let mut view = View { status: Status::of(facts, now), findings, problems: Vec::new() };
        let draw = |view: &View, language| front(view, &Choice::new(None, None, None), language, None);
        let russian = draw(&view, Language::Russian);
        assert!(russian.contains(r#"<li class="bad">Контакты: давно ничего не прочитано."#), "{russian}");
        assert!(
            russian.contains(r#"<span class="bad">2027-01-15 10:35:00 +03:00 (25 мин назад)"#),
            "{russian}"
        );
        assert!(russian.contains(r#"<span class="">2027-01-15 08:00:00 +00:00 (0 с назад)"#), "{russian}");
        assert!(russian.contains(r#"<li class="">Есть сообщения, которым нужен человек"#), "{russian}");
        assert!(russian.contains("Состояние на 2027-01-15 11:00 +03:00"), "{russian}");
        let english = draw(&view, Language::English);
        assert!(english.contains("contacts: active but frozen: nothing read for 25m. Look at"), "{english}");
        assert!(english.contains(r#"<td class="number">12</td>"#), "{english}");
        view.findings.clear();
        assert!(draw(&view, Language::English).contains("Nothing stands still."));
    }

    #[test]
    fn what_stands_in_the_address_cannot_become_code() {
        let choice =
            Choice::new(Some("<script>"), Some("\"><script>alert(1)</script>".into()), Some(usize::MAX));
        let page = draw(&choice, Language::English);
        assert!(!page.contains("<script"), "{page}");
        let page = out_of_order("<b>no</b>", Language::Russian);
        assert!(page.contains("&lt;b&gt;no"), "{page}");
    }
}
