//! What both CRMs answer. An input is a line with the status, and the body.

use bitrix24::{Answer, Batch, BatchAnswer, ChainLength, Command, Error, Listing};
use otmechalka::{Call, Operation};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use schemas::Problem;
use schemas::problem::{STATUS_MAX_CHARS, status_text};
use serde_json::{Value, json};

use super::{first_line, shown, text_of};
use crate::Target;

/// One call to Bitrix24.
pub const BITRIX24_ANSWER: Target =
    Target { name: "bitrix24_answer", seeds: bitrix24_seeds, check: bitrix24_answer };

/// Several commands in one request.
pub const BITRIX24_BATCH: Target =
    Target { name: "bitrix24_batch", seeds: batch_seeds, check: bitrix24_batch };

/// Several pages of a list in one request.
pub const BITRIX24_LIST: Target = Target { name: "bitrix24_list", seeds: list_seeds, check: bitrix24_list };

/// One call to otmechalka. The line also names the call and a `Retry-After`.
pub const OTMECHALKA_ANSWER: Target =
    Target { name: "otmechalka_answer", seeds: otmechalka_seeds, check: otmechalka_answer };

const TIME: &str = r#""time":{"start":1700000000.1,"finish":1700000000.3,"duration":0.2,"processing":0.1,"date_start":"2023-11-15T01:13:20+03:00","date_finish":"2023-11-15T01:13:20+03:00","operating_reset_at":1700000600,"operating":0.1}"#;

fn with_status(status: u16, body: impl AsRef<[u8]>) -> Vec<u8> {
    [format!("{status}\n").as_bytes(), body.as_ref()].concat()
}

fn parsed_status(line: &str) -> u16 {
    line.trim().parse().ok().filter(|status| (100..1000).contains(status)).unwrap_or(200)
}

/// Bodies that are no answer, whatever was asked.
fn strange() -> Vec<Vec<u8>> {
    let whole = format!(r#"{{"result":[{{"ID":"1"}}],{TIME}}}"#);
    vec![
        with_status(200, ""),
        with_status(200, "null"),
        with_status(200, r#"{"result":null}"#),
        with_status(200, "<html><title>Вход</title></html>"),
        with_status(502, "<html>502 Bad Gateway</html>"),
        with_status(200, format!("\u{feff}{whole}")),
        with_status(200, format!("<br />\n<b>Warning</b>: x in <b>y.php</b>\n{whole}")),
        with_status(200, &whole[..whole.len() / 2]),
        with_status(200, format!("{whole}}}<!-- 0.01 -->")),
        with_status(200, b"{\"result\":[\"\xcf\xf0\xe8\"]}"),
        with_status(200, r#"{"result":["\ud800"]}"#),
        with_status(200, r#"{"result":[1e400]}"#),
        with_status(200, r#"{"result":[],"result":[{"ID":"1"}]}"#),
        with_status(200, format!(r#"{{"result":{}{}}}"#, "[".repeat(1_000), "]".repeat(1_000))),
        with_status(503, r#"{"error":"QUERY_LIMIT_EXCEEDED","error_description":"Too many requests"}"#),
        with_status(429, format!(r#"{{"error":"OPERATION_TIME_LIMIT","error_description":"x",{TIME}}}"#)),
        with_status(401, r#"{"error":"expired_token","error_description":"x"}"#),
        with_status(200, r#"{"error":"","error_description":"Not found"}"#),
        with_status(200, r#"{"error":100,"error_description":["x"]}"#),
        with_status(400, r#"{"error":{"code":"X","message":"\u001b[31m"}}"#),
    ]
}

fn bitrix24_seeds() -> Vec<Vec<u8>> {
    let contact = r#"{"ID":"39910","NAME":"Елена","PHONE":[{"ID":"1","VALUE":"8 (926) 123-45-67"}],"UF_CRM_1":[410],"UF_CRM_2":false}"#;
    let mut seeds = strange();
    seeds.extend([
        with_status(200, format!(r#"{{"result":[{contact}],"next":50,"total":120,{TIME}}}"#)),
        with_status(200, format!(r#"{{"result":true,{TIME}}}"#)),
        with_status(200, r#"{"result":[],"total":"0","next":"50","time":[]}"#),
    ]);
    seeds
}

fn bitrix24_answer(input: &[u8]) -> String {
    let (line, body) = first_line(input);
    let status = parsed_status(line);
    let read = || Answer::from_http("crm.contact.list", status, body);
    match (read(), read()) {
        (Ok(answer), Ok(again)) => {
            assert!((200..300).contains(&status), "a result under status {status}");
            assert_eq!(answer.result.get(), again.result.get());
            assert_eq!((answer.next, answer.total, &answer.time), (again.next, again.total, &again.time));
            assert!(text_of(body).contains(answer.result.get()), "the result is not what was sent");
            assert_ne!(answer.result.get(), "null");
            sound(answer.result.get());
            let debug = format!("{answer:?}");
            assert!(debug.len() < 300, "`Debug` shows a record: {debug}");
            format!("result {:?} {:?}", kind(answer.result.get()), answer.time.date_start.is_some())
        }
        (Err(error), Err(again)) => {
            assert_eq!((error.to_string(), error.class()), (again.to_string(), again.class()));
            bitrix24_error(&error, "crm.contact.list")
        }
        _ => panic!("the same bytes are read in two ways"),
    }
}

/// Whoever reads on must not have to fear anything: no lone surrogate, no number beyond all bounds, no depth.
fn sound(json: &str) {
    assert!(serde_json::from_str::<Value>(json).is_ok(), "a result that a later reader chokes on");
}

fn kind(json: &str) -> char {
    json.chars().next().unwrap_or(' ')
}

fn bitrix24_error(error: &Error, method: &str) -> String {
    let text = error.to_string();
    assert!(text.contains(method) || text.contains("batch"), "{text} does not name {method}");
    assert!(format!("{error:?}").len() < 4_000, "`Debug` of an error is boundless");
    format!("{} {:?}", shown(&text), std::mem::discriminant(&error.class()))
}

fn three_commands() -> Batch {
    let mut batch = Batch::new();
    for id in 1..=3 {
        let command = Command::new("crm.deal.get", &json!({ "id": id })).expect("a command");
        batch.push(command).expect("room for three");
    }
    batch
}

fn batch_seeds() -> Vec<Vec<u8>> {
    let inner = format!(
        r#""result":{{"c0":{{"ID":"1"}},"c1":true}},"result_error":{{"c2":{{"error":"ERROR_CORE","error_description":"Not found"}}}},"result_total":[],"result_next":{{"c0":50}},"result_time":{{"c0":{{{}}}}}"#,
        TIME.trim_start_matches("\"time\":{").trim_end_matches('}')
    );
    let mut seeds = strange();
    seeds.extend([
        with_status(200, format!(r#"{{"result":{{{inner}}},{TIME}}}"#)),
        with_status(
            200,
            r#"{"result":{"result":[],"result_error":{"c0":"X","c1":100,"c2":{"error":null}}}}"#,
        ),
        with_status(200, r#"{"result":{"result":{"c0":null,"c1":[],"c2":{}},"result_error":[]}}"#),
        with_status(200, r#"{"result":{"result":[{"ID":1},{"ID":2}],"result_error":[]}}"#),
    ]);
    seeds
}

fn bitrix24_batch(input: &[u8]) -> String {
    let (line, body) = first_line(input);
    let batch = three_commands();
    let read = || BatchAnswer::from_http(&batch, parsed_status(line), body);
    match (read(), read()) {
        (Ok(answer), Ok(again)) => {
            let names: Vec<&str> = answer.iter().map(|(id, _)| id.as_str()).collect();
            assert_eq!(names, ["c0", "c1", "c2"], "an outcome for each command, in order");
            let mut words = String::from("batch");
            for ((_, outcome), (_, outcome_again)) in answer.into_outcomes().zip(again.into_outcomes()) {
                words.push_str(&format!(" {}", command_outcome(body, outcome, outcome_again)));
            }
            words
        }
        (Err(error), Err(again)) => {
            assert_eq!(error.to_string(), again.to_string());
            bitrix24_error(&error, "batch")
        }
        _ => panic!("the same bytes are read in two ways"),
    }
}

fn command_outcome(
    body: &[u8],
    outcome: Result<Answer, bitrix24::ApiError>,
    again: Result<Answer, bitrix24::ApiError>,
) -> String {
    match (outcome, again) {
        (Ok(answer), Ok(again)) => {
            assert_eq!(answer.result.get(), again.result.get());
            assert!(text_of(body).contains(answer.result.get()), "the result is not what was sent");
            assert_ne!(answer.result.get(), "null");
            sound(answer.result.get());
            kind(answer.result.get()).to_string()
        }
        (Err(error), Err(again)) => {
            assert_eq!(error.to_string(), again.to_string());
            bitrix24_error(&error.into(), "crm.deal.get")
        }
        _ => panic!("the same command has two outcomes"),
    }
}

const AFTER: u64 = 100;
const PAGES: u8 = 3;

fn list_seeds() -> Vec<Vec<u8>> {
    let page = |from: u64, rows: u64| -> Value {
        (from..from + rows).map(|id| json!({"ID": id.to_string(), "NAME": "Елена"})).collect()
    };
    let answer = |pages: [Value; 3]| {
        let [c0, c1, c2] = pages;
        let result = json!({"result": {"c0": c0, "c1": c1, "c2": c2}, "result_error": []});
        with_status(200, json!({ "result": result }).to_string())
    };
    let mut seeds = strange();
    seeds.extend([
        answer([page(101, 50), page(151, 50), page(201, 50)]),
        answer([page(101, 50), page(151, 7), page(1, 50)]),
        answer([page(101, 2), json!([]), json!([])]),
        answer([page(101, 50), page(101, 50), page(101, 50)]),
        answer([json!({"0": {"ID": 101}, "2": {"ID": "102"}}), json!(false), json!(null)]),
        answer([page(1, 3), page(101, 51), page(u64::MAX - 60, 50)]),
    ]);
    seeds
}

fn bitrix24_list(input: &[u8]) -> String {
    let (line, body) = first_line(input);
    let length = ChainLength::try_new(PAGES).expect("a length");
    let listing = Listing::classic("crm.contact.list", serde_json::Map::new(), &["ID"]);
    let batch = listing.chain(AFTER, length).expect("a batch");
    let read = || {
        let answer = BatchAnswer::from_http(&batch, parsed_status(line), body)?;
        listing.read(AFTER, length, answer)
    };
    match (read(), read()) {
        (Ok(page), Ok(again)) => {
            let ids: Vec<u64> = page.rows.iter().map(|row| row.id).collect();
            assert_eq!(ids, again.rows.iter().map(|row| row.id).collect::<Vec<_>>());
            assert!(ids.len() <= usize::from(PAGES) * 50, "{} rows", ids.len());
            assert!(ids.is_sorted_by(|left, right| left < right), "rows out of order: {ids:?}");
            assert!(ids.first().is_none_or(|first| *first > AFTER), "a row of before: {ids:?}");
            if let Some(next) = page.next {
                assert!(next > AFTER, "the walk would stand still at {next}");
                assert_eq!(Some(&next), ids.last(), "rows would be passed over");
            }
            for row in &page.rows {
                assert!(row.raw.get().starts_with('{') && text_of(body).contains(row.raw.get()));
            }
            format!("page of {} then {}", ids.len() / 50, page.next.is_some())
        }
        (Err(error), Err(again)) => {
            assert_eq!(error.to_string(), again.to_string());
            bitrix24_error(&error, "crm.contact.list")
        }
        _ => panic!("the same bytes are read in two ways"),
    }
}

const CALLS: [Call; 5] =
    [Call::GetClient, Call::CreateClient, Call::UpdateClient, Call::GetTicket, Call::CreateTicket];

fn otmechalka_seeds() -> Vec<Vec<u8>> {
    let bodies = [
        (200, r#"{"id": 12456, "origin_id": "39558", "last_name": "Петров"}"#),
        (201, r#"{"id": "a1"}"#),
        (200, r#"{"id": 1, "origin_id": "5"}"#),
        (200, r#"{"error": "Нет такого типа"}"#),
        (200, "\u{feff} {\"id\": 24545676786}"),
        (200, "<html></html>"),
        (200, ""),
        (400, r#"{"phone": ["Только цифры."], "courses": ["Нет такого направления: «7»."]}"#),
        (400, r#"{"detail": "Телефон занят (запрос 3f2a9c1e-77b0-4d0e-9a55-3d6a70bd5c11)"}"#),
        (400, r#"{"non_field_errors": [{"message": "x", "code": "y"}], "nested": {"a": {"b": ["c"]}}}"#),
        (404, r#"{"detail": "Не найдено."}"#),
        (404, "404 page not found"),
        (422, r#"["нет"]"#),
        (500, "<h1>Server Error (500)</h1>"),
        (302, ""),
    ];
    let mut seeds = Vec::new();
    for call in CALLS {
        let token = call.token();
        seeds.extend(bodies.map(|(status, body)| format!("{token} {status}\n{body}").into_bytes()));
        seeds.push(format!("{token} 429 17\n{{}}").into_bytes());
        seeds.push(format!("{token} 503 Wed, 21 Oct 2026 07:29:30 GMT\n").into_bytes());
    }
    seeds
}

const ORIGIN: &str = "39558";

fn otmechalka_answer(input: &[u8]) -> String {
    let (line, body) = first_line(input);
    let mut words = line.splitn(3, ' ');
    let token = words.next().unwrap_or_default();
    let call = CALLS.into_iter().find(|call| call.token() == token).unwrap_or(Call::GetClient);
    let status = parsed_status(words.next().unwrap_or_default());
    let mut headers = HeaderMap::new();
    if let Some(value) = words.next().and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.insert(RETRY_AFTER, value);
    }
    let read = || {
        let operation = Operation { call, origin_id: ORIGIN.to_owned() };
        let status = StatusCode::from_u16(status).expect("a status of three digits");
        otmechalka::read_http(operation, status, headers.clone(), body)
    };
    match (read(), read()) {
        (Ok(found), Ok(again)) => {
            assert_eq!(found, again);
            let Some(record) = found else {
                assert!(status == 404 && !call.is_write(), "{call:?} under {status} found nothing");
                return "nothing".to_owned();
            };
            assert!((200..300).contains(&status), "a record under status {status}");
            let id = record.id.unwrap_or_default();
            assert!(id.chars().count() <= 64, "an id of {} bytes", id.len());
            assert!(!id.chars().any(char::is_control), "an id with control characters: {id:?}");
            assert!(format!("{:?}", again.map(|record| record.id)).len() < 1_000);
            format!("record {}", id.is_empty())
        }
        (Err(error), Err(again)) => {
            assert_eq!(error.to_string(), again.to_string());
            assert_eq!(error.class(), again.class());
            assert!(error.to_string().contains(ORIGIN), "{error} names no record");
            if error.outcome_unknown() {
                assert!(call.is_write(), "a lookup changes nothing");
            }
            refusal_text(&error.class(), &again.class());
            format!("{call:?} {}", shown(&error.to_string()))
        }
        _ => panic!("the same bytes are read in two ways"),
    }
}

fn refusal_text(class: &otmechalka::ErrorClass, again: &otmechalka::ErrorClass) {
    let status_of = |class: &otmechalka::ErrorClass| match class {
        otmechalka::ErrorClass::Refused { text, fields } => {
            Some(status_text(&[Problem::refused_by_otmechalka(text, fields)]))
        }
        _ => None,
    };
    if let Some(status) = status_of(class) {
        assert!(
            status.chars().count() <= STATUS_MAX_CHARS,
            "a status of {} characters",
            status.chars().count()
        );
        assert!(!status.chars().any(char::is_control), "a status with control characters: {status:?}");
        assert_eq!(Some(status), status_of(again));
    }
}
