//! The texts, their table and the joining of several.

use std::collections::HashSet;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn field(token: &'static str, title: &'static str) -> Field<'static> {
    Field { token, title }
}

/// Writes the page that `docs/statuses.md` has to be.
fn page() -> String {
    let mut page = String::from(
        "# Status texts\n\n\
         What the field \"Статус синхронизации\" may say. Written from `schemas/src/problem/catalogue.rs`: after a change \
         there run `UPDATE_DOCS=1 cargo test -p schemas statuses`.\n\n\
         `Успешно` stands for everything that is in otmechalka or need not be. Anything else tells every problem \
         of the record at once, numbered when there are several, in at most 1,000 characters. Fields are called \
         what the mapping file calls them; the same problem always gives the same text.\n\n\
         | code | when | for example |\n| --- | --- | --- |\n",
    );
    for Example { when, problem } in catalogue() {
        let text = problem.text.replace('|', "\\|");
        let _ = writeln!(page, "| `{}` | {when} | {text} |", problem.code);
    }
    page
}

#[test]
fn the_page_of_statuses_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/statuses.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page(), "docs/statuses.md is stale: run with UPDATE_DOCS=1");
}

#[test]
fn every_kind_is_told_apart_and_told_in_russian() {
    let mut codes = HashSet::new();
    for Example { problem, .. } in catalogue() {
        // A blank branch is one kind with two texts: of a pupil and of a sale.
        let is_new = codes.insert(problem.code.clone());
        assert!(is_new || problem.code == "branch.missing", "{} twice", problem.code);
        let text = &problem.text;
        assert!(text.ends_with('.') && text.chars().count() <= 420, "{text}");
        let latin = text.chars().filter(char::is_ascii_alphabetic).count();
        assert!(latin * 3 < text.chars().count(), "{text}");
    }
}

#[test]
fn one_problem_stands_alone_and_several_are_numbered() {
    let (one, other) = (Problem::new("a", "Первое."), Problem::new("b", "Второе."));
    assert_eq!(status_text(std::slice::from_ref(&one)), "Первое.");
    assert_eq!(status_text(&[one, other]), "1) Первое. 2) Второе.");
    assert_ne!(status_text(&[]), SUCCESS);
}

#[test]
fn what_has_no_room_is_left_out_whole_and_counted() {
    let problems: Vec<Problem> =
        (0..5).map(|number| Problem::new("a", format!("{number}{}.", "я".repeat(300)))).collect();
    let text = status_text(&problems);
    assert!(text.chars().count() <= STATUS_MAX_CHARS);
    assert!(text.ends_with("я. …и ещё 2."), "{text}");
    let huge = [Problem::new("a", "я".repeat(5_000)), Problem::new("b", "Второе.")];
    let text = status_text(&huge);
    assert_eq!(text.chars().count(), STATUS_MAX_CHARS);
    assert!(text.ends_with("… …и ещё 1."), "{text}");
    assert_eq!(status_text(&huge[..1]).chars().count(), STATUS_MAX_CHARS);
}

#[test]
fn values_are_cleaned_and_cut() {
    let phone = field("phone", "Телефон");
    let text = Problem::phone_invalid(phone, "звоните\r\n\u{202e}вечером\u{0}\u{7}").text;
    assert!(text.contains("«звоните вечером»"), "{text}");
    let text = Problem::phone_invalid(phone, &"ы".repeat(2_000_000)).text;
    assert!(text.contains(&format!("«{}…»", "ы".repeat(VALUE_MAX_CHARS - 1))), "{text}");
}

#[test]
fn clean_lines_keep_what_can_be_seen() {
    for (text, expected) in [
        ("  Анна \t Мария\r\nИванова ", "Анна Мария Иванова"),
        ("Анна\u{a0}\u{2003}Мария", "Анна Мария"),
        ("\u{a0}\u{200b}\u{feff}\u{2800}", ""),
        ("Ан\u{ad}на\u{200b}", "Анна"),
        ("\u{202e}аннА\u{202c}", "аннА"),
        ("А\u{0}н\u{7}на\u{1b}[31m", "Анна[31m"),
        ("Анна\u{2028}Мария", "Анна Мария"),
        ("👨\u{200d}👩\u{200d}👧 Иван", "👨\u{200d}👩\u{200d}👧 Иван"),
        ("❤\u{fe0f}\u{200d}🔥", "❤\u{fe0f}\u{200d}🔥"),
        ("Ив\u{200d}ан", "Иван"),
        ("👨\u{200d}", "👨"),
        ("🏴\u{e0067}\u{200d}\u{e007f}", "🏴\u{e0067}\u{e007f}"),
        ("Андреи\u{306}", "Андреи\u{306}"),
        ("𝓐𝓷𝓷𝓪", "𝓐𝓷𝓷𝓪"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("'; DROP TABLE pupils; --", "'; DROP TABLE pupils; --"),
        (
            "А=Б&ID=1#x+y 100 %s%n {{7*7}} ${jndi:x} $result[0][ID] sync.>.*",
            "А=Б&ID=1#x+y 100 %s%n {{7*7}} ${jndi:x} $result[0][ID] sync.>.*",
        ),
    ] {
        assert_eq!(clean(text), expected, "{text:?}");
    }
}

#[test]
fn a_text_that_is_cut_is_as_clean_as_it_was() {
    let family = "👨\u{200d}👩\u{200d}👧 ".repeat(200);
    for letters in 0..8 {
        let value = format!("{}{family}", "я".repeat(letters));
        let text = Problem::phone_invalid(field("phone", "Телефон"), &value).text;
        assert!(text.contains('…'));
        assert_eq!(clean(&text), text);
    }
}

#[test]
fn the_same_refusal_gives_the_same_text() {
    let of = |text: &str| Problem::refused_by_otmechalka(text, &[]).text;
    assert_eq!(
        of("Нет места (запрос 3f2a9c1e-77b0-4d0e-9a55-3d6a70bd5c11, 2020-12-21T10:19:34Z)"),
        of("Нет места (запрос 00aa9c1e-1234-4d0e-9a55-3d6a70bd5c99, 2021-01-02T11:20:35Z)"),
    );
    assert!(of("Телефон 79261234567 занят").contains("79261234567"));
    assert!(of("").contains("причина не названа"));
    assert!(of(&"слово ".repeat(1_000)).chars().count() < 500);
    let named = Problem::refused_by_otmechalka("", &[("phone".into(), "неверный формат.".into())]).text;
    assert!(named.contains("«телефон: неверный формат»"), "{named}");
}

proptest! {
    #[test]
    fn clean_text_is_one_line_and_stays_as_it_is(text in any::<String>()) {
        let once = clean(&text);
        prop_assert!(!once.chars().any(char::is_control));
        prop_assert!(!once.contains("  ") && once.trim() == once);
        prop_assert_eq!(clean(&once), once.clone());
    }

    #[test]
    fn statuses_never_outgrow_their_field(lengths in proptest::collection::vec(0_usize..1_500, 0..20)) {
        let problems: Vec<Problem> = lengths.iter().map(|length| Problem::new("a", "я".repeat(*length))).collect();
        prop_assert!(status_text(&problems).chars().count() <= STATUS_MAX_CHARS);
    }

    #[test]
    fn texts_of_any_value_are_short(value in any::<String>()) {
        let phone = field("phone", "Телефон");
        prop_assert!(Problem::phone_invalid(phone, &value).text.chars().count() < 250);
        prop_assert!(Problem::refused_by_otmechalka(&value, &[(value.clone(), value.clone())]).text.chars().count() < 500);
    }
}
