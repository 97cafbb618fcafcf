//! Reads from an answer why otmechalka does not take a record.
//!
//! Understood are the bodies of Django REST framework (`{"phone": ["..."]}`) and the usual
//! `error`, `errors`, `detail` and `message`, nested or not. The result is text for a person.

use std::fmt;

use serde_json::{Map, Value};

/// Longer texts are cut: the status field holds them together with other problems.
const MAX_TEXT_CHARS: usize = 500;
/// A record has fewer fields than this; more are not worth reading.
const MAX_FIELDS: usize = 32;
/// More messages than this are not looked at: a mebibyte holds a quarter of a million, and each takes its path along.
const MAX_MESSAGES: usize = 256;
/// Longest path of a field within fields, in bytes; what lies deeper goes by the name of what it is in.
const MAX_PATH_BYTES: usize = 80;
/// Most fields that a log line names.
const MAX_SHOWN: usize = 5;
/// Keys that hold the message itself instead of naming a field of the record.
const WRAPPERS: [&str; 7] =
    ["errors", "error", "detail", "message", "non_field_errors", "error_description", "error_message"];

/// Why a record was refused, in otmechalka's words.
///
/// `Display` and `Debug` show field names only, as the words may repeat what was sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal {
    text: String,
    general: String,
    fields: Vec<(String, String)>,
}

impl Refusal {
    /// Reads a body that is JSON.
    pub(crate) fn from_json(status: u16, value: &Value) -> Self {
        let mut messages = Vec::new();
        collect(value, "", &mut messages);
        Self::from_messages(status, messages)
    }

    fn from_messages(status: u16, messages: Vec<(String, String)>) -> Self {
        let mut general: Vec<String> = Vec::new();
        let mut fields: Vec<(String, String)> = Vec::new();
        for (field, message) in messages {
            let message = cut(&clean(&message));
            if message.is_empty() {
                continue;
            }
            if field.is_empty() {
                if !general.contains(&message) {
                    general.push(message);
                }
            } else if fields.len() < MAX_FIELDS {
                fields.push((field, message));
            }
        }
        // A missing key order on their side must not make the text change from run to run.
        fields.sort();
        fields.dedup();
        if general.is_empty() && fields.is_empty() {
            general.push(format!("отмечалка отклонила запись без объяснения (код {status})"));
        }
        let of_fields = fields.iter().map(|(field, message)| format!("{field}: {message}"));
        let all: Vec<String> = general.iter().cloned().chain(of_fields).collect();
        Self { text: cut(&all.join("; ")), general: cut(&general.join("; ")), fields }
    }

    /// Returns what it says of no field, for a person to read.
    pub fn general(&self) -> &str {
        &self.general
    }

    /// Returns all of it for a person to read, at most 500 characters.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns (field, message) where otmechalka names fields.
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.fields.is_empty() {
            return f.write_str("no field named");
        }
        f.write_str("fields:")?;
        self.fields.iter().take(MAX_SHOWN).try_for_each(|(field, _)| write!(f, " {field}"))?;
        if self.fields.len() > MAX_SHOWN { f.write_str(" …") } else { Ok(()) }
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Refusal({self})")
    }
}

/// Tells whether a body that came with a success status reports an error.
pub(crate) fn is_error_body(body: &Map<String, Value>) -> bool {
    let reports = |key: &str| body.get(key).is_some_and(|value| !is_nothing(value));
    let denies = |key: &str| body.get(key) == Some(&Value::Bool(false));
    let failed = body.get("status").and_then(Value::as_str).is_some_and(|status| {
        matches!(status.to_ascii_lowercase().as_str(), "error" | "fail" | "failed" | "failure")
    });
    let is_record = body.contains_key("id") || body.contains_key("origin_id");
    reports("error")
        || reports("errors")
        || denies("success")
        || denies("ok")
        || failed
        || (!is_record && ["detail", "message", "non_field_errors"].into_iter().any(reports))
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Walks through a body and notes every message with the field it is about.
fn collect(value: &Value, field: &str, messages: &mut Vec<(String, String)>) {
    if messages.len() >= MAX_MESSAGES {
        return;
    }
    match value {
        Value::String(text) => messages.push((field.to_owned(), text.clone())),
        Value::Array(items) => items.iter().for_each(|item| collect(item, field, messages)),
        Value::Object(fields) => collect_object(fields, field, messages),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn collect_object(fields: &Map<String, Value>, field: &str, messages: &mut Vec<(String, String)>) {
    if let (Some(Value::String(named)), Some(message)) = (fields.get("field"), fields.get("message")) {
        return collect(message, &within(field, named), messages);
    }
    let before = messages.len();
    for key in WRAPPERS {
        if let Some(value) = fields.get(key) {
            collect(value, field, messages);
        }
    }
    let has_wrapper = messages.len() > before;
    for (key, value) in fields {
        // Beside a message, only lists read as messages of a field: plain values are codes or echoes.
        let is_message = if has_wrapper { value.is_array() } else { true };
        if is_message && !WRAPPERS.contains(&key.as_str()) && !is_bookkeeping(key) {
            collect(value, &within(field, key), messages);
        }
    }
}

fn is_bookkeeping(key: &str) -> bool {
    matches!(
        key,
        "id" | "code" | "error_code" | "status" | "status_code" | "success" | "ok" | "data" | "input"
    )
}

/// Joins a field and what is below it; an index of a list adds nothing a person could use.
fn within(field: &str, key: &str) -> String {
    let key = if is_field_name(key) { key } else { "?" };
    match (field, key.bytes().all(|byte| byte.is_ascii_digit())) {
        ("", true) => String::new(),
        (_, true) => field.to_owned(),
        ("", false) => key.to_owned(),
        _ if field.len() + key.len() >= MAX_PATH_BYTES => field.to_owned(),
        (_, false) => format!("{field}.{key}"),
    }
}

fn is_field_name(key: &str) -> bool {
    (1..=40).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Makes text safe to show: no markup, no control or invisible characters, single spaces.
fn clean(text: &str) -> String {
    // Four times what is kept is enough to look at, however long the answer is.
    let bounded: String = text.chars().take(4 * MAX_TEXT_CHARS).collect();
    let plain = without_markup(&without_entities(&bounded));
    let visible: String =
        plain.chars().map(|c| if c.is_control() || is_invisible(c) { ' ' } else { c }).collect();
    visible.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn without_entities(text: &str) -> String {
    const ENTITIES: [(&str, &str); 6] =
        [("&nbsp;", " "), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    ENTITIES.iter().fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character))
}

fn without_markup(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        plain.push_str(before);
        let opens = tag[1..].starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?'));
        match tag.find('>').filter(|_| opens) {
            Some(end) => {
                plain.push(' ');
                rest = &tag[end + 1..];
            }
            None => {
                plain.push('<');
                rest = &tag[1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

/// Tells direction marks, zero-width characters and line separators, which deceive readers of a log.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn cut(text: &str) -> String {
    if text.chars().count() <= MAX_TEXT_CHARS {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(MAX_TEXT_CHARS - 1).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(body: &Value, text: &str) {
        assert_eq!(Refusal::from_json(400, body).text(), text, "{body}");
    }

    #[test]
    fn every_usual_shape_gives_its_text() {
        check(&json!({"phone": ["Только цифры."]}), "phone: Только цифры.");
        check(&json!({"phone": ["Раз.", "Два."], "email": "Три."}), "email: Три.; phone: Два.; phone: Раз.");
        check(&json!({"errors": {"phone": ["Только цифры."]}}), "phone: Только цифры.");
        check(&json!({"errors": [{"field": "phone", "message": "Мало цифр"}]}), "phone: Мало цифр");
        check(&json!({"error": "Лимит посетителей"}), "Лимит посетителей");
        check(&json!({"error": {"code": 7, "message": "Лимит"}}), "Лимит");
        check(&json!({"detail": "Нет такого типа", "code": "invalid"}), "Нет такого типа");
        check(&json!({"message": "Не вышло", "data": {"phone": "79261234567"}}), "Не вышло");
        check(&json!({"non_field_errors": ["Суммы не сходятся"]}), "Суммы не сходятся");
        check(&json!({"courses": {"1": ["Нет такого"]}}), "courses: Нет такого");
        check(&json!({"client": {"phone": ["Нет"]}}), "client.phone: Нет");
        check(&json!(["Раз", "Раз"]), "Раз");
        check(&json!("Просто текст"), "Просто текст");
    }

    #[test]
    fn refusal_without_words_still_says_something() {
        for body in [json!({}), json!(null), json!([]), json!({"phone": []}), json!({"detail": " \n "})] {
            check(&body, "отмечалка отклонила запись без объяснения (код 400)");
        }
    }

    #[test]
    fn text_is_reduced_to_what_is_visible() {
        let hostile = json!({"detail": "a\u{1b}[31m<script>x</script>\u{202e}b\r\nc\u{0}&lt;b&gt;d 1 < 2"});
        check(&hostile, "a [31m x b c d 1 < 2");
    }

    #[test]
    fn long_answers_are_cut() {
        let long = "ж".repeat(10_000);
        let refusal = Refusal::from_json(400, &json!({"detail": long}));
        assert_eq!(refusal.text().chars().count(), MAX_TEXT_CHARS);
        let fields: Map<String, Value> = (0..1000).map(|n| (format!("f{n}"), json!([long]))).collect();
        let refusal = Refusal::from_json(400, &Value::Object(fields));
        assert_eq!(refusal.text().chars().count(), MAX_TEXT_CHARS);
        assert_eq!(refusal.fields().len(), MAX_FIELDS);
    }

    #[test]
    fn deep_and_crowded_answers_take_little() {
        let key = "a".repeat(40);
        let crowd: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
        let deep = (0..100).fold(json!(crowd), |inner, _| json!({ key.as_str(): inner }));
        let refusal = Refusal::from_json(400, &deep);
        assert!(refusal.fields().iter().all(|(field, _)| field.len() <= MAX_PATH_BYTES));
        let fields: Map<String, Value> =
            (0..30).map(|n| (format!("{key:.38}{n:02}"), json!(["x"]))).collect();
        assert!(Refusal::from_json(400, &Value::Object(fields)).to_string().chars().count() < 300);
        // As many different words without a field: comparing each with each would take minutes.
        assert_eq!(Refusal::from_json(400, &json!(crowd)).fields().len(), 0);
    }

    #[test]
    fn foreign_words_never_become_field_names() {
        let refusal = Refusal::from_json(400, &json!({"+7 926 123-45-67": ["занят"]}));
        assert_eq!(refusal.text(), "?: занят");
        assert_eq!(format!("{refusal:?}"), "Refusal(fields: ?)");
    }

    #[test]
    fn success_bodies_and_error_bodies_are_told_apart() {
        let is_error = |value: Value| is_error_body(value.as_object().expect("an object"));
        for body in [
            json!({"error": "x"}),
            json!({"errors": ["x"]}),
            json!({"id": 1, "error": {"a": 1}}),
            json!({"success": false}),
            json!({"status": "Error"}),
            json!({"detail": "x"}),
            json!({"ok": false, "id": 5}),
        ] {
            assert!(is_error(body.clone()), "{body}");
        }
        for body in [
            json!({"id": 1}),
            json!({"id": 1, "error": null, "errors": []}),
            json!({"id": 1, "message": "создан"}),
            json!({"origin_id": "5", "status": "active"}),
            json!({}),
        ] {
            assert!(!is_error(body.clone()), "{body}");
        }
    }
}
