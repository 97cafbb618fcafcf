//! One record's story as a page: what `rollcall history` tells, personal data hidden. Pure.

use maud::{Markup, html};
use schemas::{Outcome, Problem, RecordRef, StatusSettled};
use serde_json::Value;

use super::page::{document, link, meaning, search};
use super::words::{Language, Zone};
use crate::history::{Change, Entry, Made, Story, What, of_otmechalka};

/// Draws the story of a record.
pub fn story(
    story: &Story,
    record: RecordRef,
    zone: Zone,
    language: Language,
    portal: Option<&str>,
) -> String {
    let name = format!("{} {}", language.record(record.entity), record.id);
    let body = html! {
        (head(&name, &super::page::story_address(record, language.other()), language))
        p id="links" {
            a href=(format!("/?lang={}", language.tag())) { (language.pick("← все записи", "← all records")) }
            @if portal.is_some() {
                " · " (language.pick("в Битрикс24: ", "in Bitrix24: ")) (link(record, language, portal))
            }
        }
        @if story.entries.is_empty() {
            p id="unknown" { (language.pick(
                "Об этой записи ничего не известно: с начала синхронизации её не меняли, или дольше, чем хранят потоки.",
                "Nothing is known of this record: it was not changed since the sync began, or longer ago than the streams keep.",
            )) }
        } @else {
            (timeline(story, zone, language))
        }
        (search(language))
        footer { (language.pick(
            "Значения полей скрыты: вместо них звёздочки и число знаков.",
            "Values of fields are hidden: asterisks and the number of characters stand for them.",
        )) }
    };
    document(language, None, &body)
}

/// Draws the page when no record was named, or none can be read.
pub fn refused(reason: &str, language: Language) -> String {
    let title = language.pick("История одной записи", "One record's history");
    let body = html! {
        (head(title, &format!("/?lang={}", language.other().tag()), language))
        p.bad { (reason) }
        (search(language))
    };
    document(language, None, &body)
}

fn head(title: &str, elsewhere: &str, language: Language) -> Markup {
    html! {
        header {
            h1 { (title) }
            a href=(elsewhere) hreflang=(language.other().tag()) { (language.pick("English", "По-русски")) }
        }
    }
}

fn timeline(story: &Story, zone: Zone, language: Language) -> Markup {
    html! {
        @if story.left_out > 0 {
            p { (language.pick("Более ранних событий, которых здесь нет", "Older entries that are not here")) ": " (story.left_out) }
        }
        table id="story" {
            thead { tr {
                th scope="col" { (language.pick("Когда", "When")) }
                th scope="col" { (language.pick("Версия", "Version")) }
                th scope="col" { (language.pick("Что было", "What happened")) }
            } }
            tbody { @for entry in &story.entries { tr {
                td { (zone.moment(entry.at)) }
                td { (version(entry)) }
                td { (what(&entry.what, language)) }
            } } }
        }
    }
}

/// Writes a version as `12`, one that was sent again as `12.1`.
fn version(entry: &Entry) -> String {
    match (entry.raw_sequence, entry.redrive) {
        (None, _) => "–".to_owned(),
        (Some(raw_sequence), 0) => raw_sequence.to_string(),
        (Some(raw_sequence), redrive) => format!("{raw_sequence}.{redrive}"),
    }
}

fn what(what: &What, language: Language) -> Markup {
    let say = |russian, english| language.pick(russian, english);
    match what {
        What::Read { modified, fields, is_first, changes, trimmed, .. } => html! {
            (say("Прочитано из Битрикс24, изменено ", "Read from Bitrix24, changed "))
            (modified.format("%Y-%m-%d %H:%M:%S %:z")) ": "
            @if *is_first {
                (say("первая из хранимых версий, полей: ", "first version that is kept, fields: ")) (fields)
            } @else {
                (say("изменилось полей: ", "fields that differ: ")) (changes.len())
            }
            (changed(changes, language))
            @for field in trimmed {
                p { (field) ": " (say("слишком велико, не передано", "too big to travel, left out")) }
            }
        },
        What::Mapped(made) => self::made(say("Преобразовано", "Mapped"), made, language),
        What::SentAgain(made) => self::made(say("Отправлено заново", "Sent round again"), made, language),
        What::TriedAgain(made) => self::made(say("Новая попытка", "Tried again"), made, language),
        What::Waits { until, failures, answered } => html! {
            (say("Ждёт новой попытки до ", "Waits for another try until ")) (until) "; "
            (say("неудач: ", "failures: ")) (failures)
            @if let Some(answered) = answered { "; " (language.answered(answered)) }
        },
        What::Processed { outcome, problems, target_id, answered, .. } => html! {
            (said(*outcome, problems, language))
            @if let Some(id) = target_id { ", id " (id) }
            @if let Some(answered) = answered { "; " (language.answered(answered)) }
            // What the mapper found was told with what it made.
            @if of_otmechalka(problems) { (found(problems, language)) }
        },
        What::Status { status, how, .. } => html! {
            (settled(*how, language)) ": " span lang="ru" { (status) }
        },
        What::DeadLetter { stage, reason, deliveries } => html! {
            span.bad {
                (say("Этап не справился: ", "A stage gave it up: ")) (stage) ". "
                (say("Доставок: ", "Deliveries: ")) (deliveries)
            }
            p { (reason) }
        },
        What::Unreadable { why } => html! {
            span.bad { (say("Сообщение не прочитать: ", "A message that cannot be read: ")) (why) }
        },
    }
}

fn made(verb: &str, made: &Made, language: Language) -> Markup {
    let outcome = match made.outcome.as_str() {
        "client" => language.pick("передать клиента", "a client to be sent"),
        "ticket" => language.pick("передать абонемент", "a ticket to be sent"),
        "out_of_scope" => language.pick("отмечалки не касается", "nothing in it concerns otmechalka"),
        "refused" => language.pick("нужно исправить", "to be corrected"),
        other => other,
    };
    html! {
        (verb) ": " (outcome)
        @if made.failures > 0 { ", " (language.pick("неудач: ", "failures: ")) (made.failures) }
        @if let Some(answered) = &made.answered { ", " (language.answered(answered)) }
        (found(&made.problems, language))
        (changed(&made.changes, language))
    }
}

fn said(outcome: Outcome, problems: &[Problem], language: Language) -> &'static str {
    match outcome {
        Outcome::Created => language.pick("Отмечалка: создано", "otmechalka: created"),
        Outcome::Updated => language.pick("Отмечалка: обновлено", "otmechalka: updated"),
        Outcome::Unchanged => language
            .pick("В отмечалке уже так; не передавалось", "otmechalka held exactly this; nothing was sent"),
        Outcome::AlreadyThere => {
            language.pick("Абонемент в отмечалке уже есть", "otmechalka had the ticket; it was left alone")
        }
        Outcome::OutOfScope => language
            .pick("Отмечалки не касается; не передавалось", "otmechalka is not concerned; nothing was sent"),
        Outcome::Refused if of_otmechalka(problems) => {
            language.pick("Отмечалка: отказ", "otmechalka: refused")
        }
        Outcome::Refused => {
            language.pick("Не передано: нужно исправить", "Refused; nothing was sent to otmechalka")
        }
        Outcome::Superseded => language
            .pick("Новая версия была раньше; не передавалось", "A newer version was first; nothing was sent"),
    }
}

fn settled(how: StatusSettled, language: Language) -> &'static str {
    match how {
        StatusSettled::Written => language.pick("Статус записан", "Status written"),
        StatusSettled::AlreadyShown => language.pick("Статус уже был", "Status shown already"),
        StatusSettled::RecordGone => language.pick("Записи больше нет, статус", "The record is gone; status"),
    }
}

fn found(problems: &[Problem], language: Language) -> Markup {
    html! {
        @if !problems.is_empty() {
            ul { @for problem in problems {
                li { (meaning(&problem.code, language)) p.status lang="ru" { (problem.text) } }
            } }
        }
    }
}

fn changed(changes: &[Change], language: Language) -> Markup {
    let value = |value: &Option<Value>| {
        value.as_ref().map_or_else(|| language.pick("ничего", "nothing").to_owned(), Value::to_string)
    };
    html! {
        @if !changes.is_empty() {
            ul.changes { @for change in changes {
                li {
                    code { (change.field) }
                    @if let Some(title) = &change.title { " «" (title) "»" }
                    ": " (value(&change.before)) " → " (value(&change.after))
                }
            } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use schemas::Answered;
    use serde_json::json;

    fn entry(what: What) -> Entry {
        let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        Entry { at, stream: "B24_RAW", sequence: 7, raw_sequence: Some(7), redrive: 2, attempt: 0, what }
    }

    fn draw(entries: Vec<Entry>, language: Language) -> String {
        let told = Story { record: "contact/39910".into(), left_out: 0, entries };
        story(
            &told,
            RecordRef::parse("contact.39910").unwrap(),
            Zone::UTC,
            language,
            Some("https://school.example"),
        )
    }

    #[test]
    fn a_story_is_told_in_both_languages_and_names_the_record_in_bitrix24() {
        let change = Change {
            field: "UF_CRM_1".into(),
            title: Some("Филиал".into()),
            before: None,
            after: Some(json!(["48"])),
        };
        let read = What::Read {
            modified: DateTime::parse_from_rfc3339("2026-01-10T12:00:00+03:00").unwrap(),
            status: None,
            fields: 40,
            is_first: false,
            changes: vec![change],
            trimmed: Vec::new(),
        };
        let processed = What::Processed {
            outcome: Outcome::Created,
            status: "Успешно".into(),
            problems: Vec::new(),
            target_id: Some("81".into()),
            answered: None,
        };
        let russian = draw(vec![entry(read.clone()), entry(processed.clone())], Language::Russian);
        assert!(russian.contains(r#"href="https://school.example/crm/contact/details/39910/""#), "{russian}");
        assert!(
            russian.contains("изменилось полей: 1") && russian.contains("Отмечалка: создано, id 81"),
            "{russian}"
        );
        assert!(russian.contains("«Филиал»: ничего → [&quot;48&quot;]"), "{russian}");
        assert!(russian.contains("<td>7.2</td>") && !russian.contains("http-equiv"), "{russian}");
        let english = draw(vec![entry(read), entry(processed)], Language::English);
        assert!(
            english.contains("fields that differ: 1") && english.contains("otmechalka: created"),
            "{english}"
        );
        assert!(english.contains("/history?lang=ru&amp;entity=contact&amp;id=39910"), "{english}");
    }

    #[test]
    fn a_failed_try_is_told_with_its_answer_in_both_languages() {
        let answered =
            Answered { call: "update_client".into(), kind: "unavailable".into(), status: Some(503) };
        let waits = What::Waits { until: "12:05".into(), failures: 2, answered: Some(answered) };
        let russian = draw(vec![entry(waits.clone())], Language::Russian);
        assert!(russian.contains("неудач: 2; обновление клиента: 503, не справляется"), "{russian}");
        let english = draw(vec![entry(waits)], Language::English);
        assert!(english.contains("failures: 2; update client: 503, not well"), "{english}");
    }

    #[test]
    fn a_record_that_no_stream_knows_is_said_to_be_unknown() {
        assert!(draw(Vec::new(), Language::English).contains("Nothing is known of this record"));
    }

    #[test]
    fn what_a_message_says_cannot_become_code() {
        let page = draw(vec![entry(What::Unreadable { why: "<script>".into() })], Language::Russian);
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;"), "{page}");
        assert!(!refused("<b>", Language::English).contains("<b>"));
    }
}
