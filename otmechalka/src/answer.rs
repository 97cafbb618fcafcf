//! Decides what an answer means, from its status, its headers and as much body as arrived.

use std::time::{Duration, SystemTime};

use chrono::Utc;
use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use serde_json::Value;

use crate::client::Record;
use crate::error::{Call, Error, Operation};
use crate::refusal::{self, Refusal};

/// No answer of otmechalka is near this size; anything longer is not read to its end.
pub(crate) const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Weight of the parts of an answer beyond which it is not taken apart, which takes up to a hundred times the room of its text.
const MOST_PARTS: usize = 20_000;

/// A longer pause is a mistake of the server, and whoever honoured it would seem dead.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// How reading the body ended.
pub(crate) enum BodyEnd {
    Complete,
    TooLong,
    Broken(Error),
}

/// An answer as it came from the wire.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub end: BodyEnd,
    /// When it came, by our clock.
    pub received: SystemTime,
}

/// Reads an answer as it came over HTTP, for those with a transport of their own; `None` means that a lookup found
/// nothing.
pub fn read_http(
    operation: Operation,
    status: StatusCode,
    headers: HeaderMap,
    body: &[u8],
) -> Result<Option<Record>, Error> {
    let end = if body.len() > MAX_BODY_BYTES { BodyEnd::TooLong } else { BodyEnd::Complete };
    let answer = Answer { status, headers, body: body.to_vec(), end, received: Utc::now().into() };
    read(answer, operation, Absence::Json)
}

/// Which 404 answers to a lookup mean that the record is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// Only those with a JSON body, as otmechalka's own code writes them.
    Json,
    /// All.
    Any,
}

/// Reads an answer; `None` means that a lookup found nothing.
pub(crate) fn read(answer: Answer, operation: Operation, absence: Absence) -> Result<Option<Record>, Error> {
    let status = answer.status.as_u16();
    // These need no body: a page that is cut short or mangled changes nothing about them.
    match status {
        401 | 403 => return Err(Error::Unauthorized { operation, status }),
        429 => return Err(Error::RateLimited { operation, retry_after: retry_after(&answer) }),
        // Proxies and overloaded servers speak here, not otmechalka about the record.
        407 | 408 | 421 | 425 | 500.. => {
            let retry_after = retry_after(&answer);
            return Err(Error::Unavailable { operation, status, retry_after });
        }
        _ => {}
    }
    match answer.end {
        BodyEnd::Complete => {}
        BodyEnd::TooLong => return Err(Error::Garbled { operation, status, what: "longer than 1 MiB" }),
        BodyEnd::Broken(error) => return Err(error),
    }
    let body = answer.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&answer.body);
    match status {
        200..=299 => success(body, operation, status).map(Some),
        404 => not_found(body, operation, absence),
        400..=499 => Err(refused(body, operation, status)),
        _ => Err(Error::Garbled { operation, status, what: "not one otmechalka gives" }),
    }
}

/// Reads JSON, or says what the answer is instead.
fn parse(body: &[u8]) -> Result<Value, &'static str> {
    if parts(body) > MOST_PARTS {
        return Err("of more parts than any record has");
    }
    serde_json::from_slice(body).map_err(|_| "not JSON")
}

/// Returns the weight of what an answer would be taken apart into, at most: objects and lists weigh as much as ten values.
fn parts(body: &[u8]) -> usize {
    let weight = |byte: &u8| match byte {
        b'{' | b'[' => 10,
        b',' => 1,
        _ => 0,
    };
    body.iter().map(weight).sum()
}

/// Reads a refusal, which otmechalka words in JSON; a page is a proxy's and says nothing about the record.
fn refused(body: &[u8], operation: Operation, status: u16) -> Error {
    match parse(body) {
        Ok(value) if value.is_object() || value.is_array() => {
            Error::Refused { operation, status, refusal: Refusal::from_json(status, &value) }
        }
        Ok(_) => Error::Garbled { operation, status, what: "no JSON object or array" },
        Err(what) => Error::Garbled { operation, status, what },
    }
}

fn success(body: &[u8], operation: Operation, status: u16) -> Result<Record, Error> {
    let garbled = |operation, what| Err(Error::Garbled { operation, status, what });
    if body.iter().all(u8::is_ascii_whitespace) {
        return garbled(operation, "empty");
    }
    let value = match parse(body) {
        Ok(value) => value,
        Err(what) => return garbled(operation, what),
    };
    let Some(fields) = value.as_object() else {
        return garbled(operation, "not a JSON object");
    };
    if refusal::is_error_body(fields) {
        let refusal = Refusal::from_json(status, &value);
        return Err(Error::Refused { operation, status, refusal });
    }
    let id = fields.get("id").and_then(scalar).filter(|id| is_id(id));
    match fields.get("origin_id").map(scalar) {
        // A cache or a proxy that mixes up answers must not make a record look synchronized.
        Some(origin_id) if origin_id.as_deref() != Some(operation.origin_id.as_str()) => {
            garbled(operation, "about another record")
        }
        None if id.is_none() => garbled(operation, "not a record"),
        _ => Ok(Record { id, body: value }),
    }
}

fn not_found(body: &[u8], operation: Operation, absence: Absence) -> Result<Option<Record>, Error> {
    let is_json = || parse(body).is_ok_and(|value| value.is_object());
    match operation.call {
        Call::GetClient | Call::GetTicket if absence == Absence::Any || is_json() => Ok(None),
        Call::GetClient | Call::GetTicket => {
            // A proxy without its backend says 404 too; believing it would create the record twice.
            Err(Error::Garbled { operation, status: 404, what: "not JSON, check OTMECHALKA_URL" })
        }
        _ => Err(Error::NotFound { operation }),
    }
}

/// Longest id that is taken for one: it travels on in messages and stands in what operators read.
const MAX_ID_CHARS: usize = 64;

fn is_id(text: &str) -> bool {
    let length = text.chars().count();
    (1..=MAX_ID_CHARS).contains(&length) && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// Reads an id, which some answers hold as a number and others as a string.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Reads `Retry-After`, which is a number of seconds or a date.
fn retry_after(answer: &Answer) -> Option<Duration> {
    let text = answer.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            httpdate::parse_http_date(text).ok()?.duration_since(server_time(answer)).unwrap_or_default()
        }
    };
    Some(pause.min(MAX_RETRY_AFTER))
}

/// Reads the server's clock, so that a date is measured against the clock it was made with.
fn server_time(answer: &Answer) -> SystemTime {
    let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
    date.and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or(answer.received)
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;
    use crate::error::ErrorClass;

    fn operation(call: Call) -> Operation {
        Operation { call, origin_id: "39558".to_owned() }
    }

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: HeaderMap::new(),
            body: body.as_bytes().to_vec(),
            end: BodyEnd::Complete,
            received: SystemTime::UNIX_EPOCH,
        }
    }

    fn check(call: Call, status: u16, body: &str) -> Result<Option<Record>, Error> {
        read(answer(status, body), operation(call), Absence::Json)
    }

    #[test]
    fn records_are_read_with_their_id() {
        for (body, id) in [
            (r#"{"id": 12456}"#, Some("12456")),
            (r#"{"id": "a1", "origin_id": "39558"}"#, Some("a1")),
            (r#"{"origin_id": 39558}"#, None),
            ("\u{feff} {\"id\": 24545676786}", Some("24545676786")),
            (r#"{"id": "", "origin_id": "39558"}"#, None),
            (r#"{"id": "1\u001b[2J", "origin_id": "39558"}"#, None),
        ] {
            let record = check(Call::CreateClient, 200, body).expect("a success").expect("a record");
            assert_eq!(record.id.as_deref(), id, "{body}");
        }
    }

    #[test]
    fn what_would_take_a_hundred_times_its_room_is_not_taken_apart() {
        let dense = format!(r#"{{"id":1,"x":[{}{{}}]}}"#, r#"{"":0},"#.repeat(100_000));
        for (call, status) in [(Call::GetClient, 200), (Call::GetClient, 404), (Call::CreateClient, 400)] {
            let error = check(call, status, &dense).expect_err("too many parts");
            assert!(matches!(error, Error::Garbled { .. }), "{error}");
        }
        let many = (0..1_000).map(|n| format!(r#"{{"id":{n},"name":"Занятие, {n}"}}"#));
        let record = format!(r#"{{"id":1,"lessons":[{}]}}"#, many.collect::<Vec<_>>().join(","));
        assert!(check(Call::GetClient, 200, &record).is_ok());
    }

    #[test]
    fn unreadable_success_is_transient_and_may_have_been_applied() {
        for body in [
            "",
            "  \n",
            "<html></html>",
            "null",
            "true",
            "[]",
            "{}",
            r#"{"id": "#,
            r#"{"id": 1, "origin_id": "5"}"#,
            r#"{"name": "x"}"#,
            r#"{"id": "12\r\n34"}"#,
            r#"{"id": 1} x"#,
        ] {
            let error = check(Call::CreateClient, 200, body).expect_err("no success");
            assert_eq!(error.class(), ErrorClass::Transient, "{body}");
            assert!(error.outcome_unknown(), "{body}");
            let error = check(Call::GetClient, 200, body).expect_err("no success");
            assert!(!error.outcome_unknown(), "a lookup changes nothing");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let error = check(Call::GetClient, 200, &deep).expect_err("no success");
        assert_eq!(error.class(), ErrorClass::Transient);
    }

    #[test]
    fn errors_under_200_are_refusals() {
        let error =
            check(Call::CreateTicket, 200, r#"{"error": "Нет такого типа"}"#).expect_err("no success");
        let text = "Нет такого типа".to_owned();
        assert_eq!(error.class(), ErrorClass::Refused { text, fields: Vec::new() });
        assert!(!error.outcome_unknown());
    }

    #[test]
    fn statuses_are_classed() {
        for status in [500, 502, 503, 504, 520, 408, 425] {
            let error = check(Call::CreateClient, status, "<html>").expect_err("no success");
            assert_eq!(error.class(), ErrorClass::Transient, "{status}");
            assert!(error.outcome_unknown(), "{status}");
        }
        for status in [401, 403] {
            let error = check(Call::GetClient, status, "").expect_err("no success");
            assert_eq!(error.class(), ErrorClass::Unauthorized, "{status}");
        }
        for status in [301, 302, 304] {
            let error = check(Call::CreateClient, status, "").expect_err("no success");
            assert_eq!(error.class(), ErrorClass::Transient, "{status}");
            assert!(error.outcome_unknown(), "a redirect may follow a create");
        }
        for status in [400, 402, 405, 409, 413, 422, 451] {
            let error = check(Call::CreateClient, status, r#"{"detail": "нет"}"#).expect_err("no success");
            assert!(matches!(error.class(), ErrorClass::Refused { .. }), "{status}");
        }
    }

    #[test]
    fn a_refusal_is_believed_only_in_json() {
        for (status, body) in [
            (400, "<html><title>400 Bad Request</title></html>"),
            (405, ""),
            (409, "null"),
            (413, "Request Entity Too Large"),
            (422, "\"нет\""),
        ] {
            let error = check(Call::CreateClient, status, body).expect_err("no success");
            assert_eq!(error.class(), ErrorClass::Transient, "{status}");
            assert!(error.outcome_unknown(), "{status}");
        }
        let error = check(Call::CreateClient, 400, r#"["нет"]"#).expect_err("no success");
        assert!(matches!(error.class(), ErrorClass::Refused { .. }));
    }

    #[test]
    fn absence_is_believed_only_from_otmechalka_itself() {
        let json = r#"{"detail": "Не найдено."}"#;
        assert_eq!(check(Call::GetClient, 404, json).expect("no error"), None);
        assert_eq!(check(Call::UpdateClient, 404, json).expect_err("gone").class(), ErrorClass::NotFound);
        assert_eq!(check(Call::CreateTicket, 404, json).expect_err("gone").class(), ErrorClass::NotFound);
        for body in ["", "404 page not found", "<html>404</html>"] {
            let error = check(Call::GetTicket, 404, body).expect_err("a proxy's answer");
            assert_eq!(error.class(), ErrorClass::Transient, "{body}");
            let trusting = read(answer(404, body), operation(Call::GetTicket), Absence::Any);
            assert_eq!(trusting.expect("no error"), None);
        }
    }

    #[test]
    fn pause_is_read_as_seconds_and_as_date() {
        let pause = |retry_after: &str| {
            let mut answer = answer(429, "");
            answer.headers.insert(DATE, HeaderValue::from_static("Wed, 21 Oct 2026 07:28:00 GMT"));
            answer.headers.insert(RETRY_AFTER, HeaderValue::from_str(retry_after).expect("a header"));
            match read(answer, operation(Call::GetClient), Absence::Json).expect_err("limited").class() {
                ErrorClass::RateLimited { retry_after } => retry_after,
                other => panic!("not a rate limit: {other:?}"),
            }
        };
        assert_eq!(pause("7"), Some(Duration::from_secs(7)));
        assert_eq!(pause("Wed, 21 Oct 2026 07:29:30 GMT"), Some(Duration::from_secs(90)));
        assert_eq!(pause("Wed, 21 Oct 2026 07:20:00 GMT"), Some(Duration::ZERO));
        assert_eq!(pause("99999999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(pause("soon"), None);
        assert_eq!(pause("-1"), None);
    }
}
