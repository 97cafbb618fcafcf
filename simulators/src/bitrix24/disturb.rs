//! What a fault makes of an answer.

use std::convert::Infallible;
use std::io::{self, Write};

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};

use super::faults::{Kind, Rule};
use super::methods::ApiError;
use super::run::operating_error;
use crate::bodies::{self, CHUNK};

const JSON: &str = "application/json; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const DEFAULT_HUGE_BYTES: u64 = 64 * 1024 * 1024;

/// Answers with JSON.
pub fn json_response(status: u16, body: &Value) -> Response {
    respond(status, JSON, body.to_string())
}

/// Answers like a gateway that gave up.
pub fn html_response(status: u16, title: &str) -> Response {
    let page = format!(
        "<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>\r\n<center><h1>{status} {title}</h1>\
         </center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    );
    respond(status, HTML, page)
}

fn respond(status: u16, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn api_error(status: u16, code: &str, description: &str) -> Response {
    json_response(status, &ApiError::new(status, code, description).body())
}

/// Answers a request that is not carried out; `None` for faults of another sort.
pub fn refuse(rule: &Rule, path: &str) -> Option<Response> {
    let response = match rule.kind {
        Kind::Html502 => html_response(502, "Bad Gateway"),
        Kind::Html504 => html_response(504, "Gateway Time-out"),
        Kind::Html403 => html_response(403, "Forbidden"),
        Kind::PhpFatal500 => respond(
            500,
            HTML,
            "<br />\n<b>Fatal error</b>:  Allowed memory size of 268435456 bytes exhausted (tried to allocate \
             20480 bytes) in <b>/home/bitrix/www/bitrix/modules/main/lib/db/result.php</b> on line <b>201</b><br />\n",
        ),
        Kind::Internal500 => api_error(500, "INTERNAL_SERVER_ERROR", "Internal server error"),
        Kind::UnexpectedAnswer500 => {
            api_error(500, "ERROR_UNEXPECTED_ANSWER", "Server returned an unexpected response")
        }
        Kind::QueryLimit503 => query_limit(),
        Kind::Overload503 => api_error(503, "OVERLOAD_LIMIT", "REST API is blocked due to overload."),
        Kind::Operating429 => json_response(429, &operating_error().body()),
        Kind::PortalDeleted500 => api_error(500, "PORTAL_DELETED", "Portal was deleted"),
        Kind::Unauthorized401 => unauthorized(),
        Kind::Expired401 => api_error(401, "expired_token", "The access token provided has expired"),
        Kind::Forbidden403 => {
            api_error(403, "INVALID_CREDENTIALS", "The user does not have sufficient rights to access REST")
        }
        Kind::AccessDenied403 => {
            api_error(403, "ACCESS_DENIED", "REST API is available only on commercial plans")
        }
        Kind::ErrorUnder200 => api_error(200, "ERROR_CORE", "Внутренняя ошибка.<br>"),
        Kind::EmptyCode200 => api_error(200, "", "Access denied."),
        Kind::ResultNull => json_response(200, &json!({"result": null})),
        Kind::ResultEmpty => json_response(200, &json!({"result": []})),
        Kind::EmptyBody => respond(200, JSON, ""),
        Kind::Html200 => respond(200, HTML, "<!DOCTYPE html><html><body>Технические работы</body></html>"),
        Kind::LoginRedirect => redirect("/auth/?backurl=%2Frest%2F"),
        Kind::DomainRedirect => {
            let base = rule.location.as_deref().unwrap_or_default().trim_end_matches('/');
            redirect(&format!("{base}{path}"))
        }
        Kind::Garbage => {
            respond(200, JSON, Bytes::from_static(&[0x00, 0xff, 0xfe, b'{', 0x80, b'"', 0x1b, 0x07]))
        }
        Kind::HugeBody => respond(200, JSON, huge_body(rule.bytes.unwrap_or(DEFAULT_HUGE_BYTES))),
        Kind::EndlessBody => respond(200, JSON, bodies::endless("{\"result\":[")),
        Kind::GzipBomb => encoded(bodies::gzip_bomb()),
        Kind::DeepNesting => respond(200, JSON, format!("{{\"result\":{}}}", bodies::deep())),
        _ => return None,
    };
    Some(response)
}

/// Answers a request beyond the bucket.
pub fn query_limit() -> Response {
    api_error(503, "QUERY_LIMIT_EXCEEDED", "Too many requests")
}

/// Answers a request with a wrong code.
pub fn unauthorized() -> Response {
    api_error(401, "NO_AUTH_FOUND", "Wrong authorization data")
}

fn redirect(location: &str) -> Response {
    let mut response = respond(302, HTML, "");
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Disturbs the answer of a request that was carried out.
pub fn disturb(rule: &Rule, status: u16, mut body: Value) -> Response {
    match rule.kind {
        Kind::NoTime => {
            remove_time(&mut body, true);
            return json_response(status, &body);
        }
        Kind::NoOperating => {
            remove_time(&mut body, false);
            return json_response(status, &body);
        }
        _ => {}
    }
    let text = body.to_string();
    let middle = (text.len() / 2..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    match rule.kind {
        Kind::Cp1251 => respond(status, "application/json; charset=windows-1251", cp1251(&text)),
        Kind::Bom => respond(status, JSON, format!("\u{feff}{text}")),
        Kind::PhpWarning => respond(
            status,
            JSON,
            format!(
                "<br />\n<b>Warning</b>:  Undefined array key 0 in <b>/home/bitrix/x.php</b> on line <b>7</b><br />\n{text}"
            ),
        ),
        Kind::Truncated => respond(status, JSON, text[..middle].to_owned()),
        Kind::TruncatedTransfer => truncated_transfer(status, &text, middle),
        Kind::BadGzip => encoded(Body::from(broken_gzip(&text))),
        Kind::TrailingBytes => respond(status, JSON, format!("{text}}}<!-- 0.0123 -->")),
        Kind::LoneSurrogate => respond(status, JSON, with_first_key(&text, r#""note":"\ud800""#)),
        Kind::HugeNumber => respond(status, JSON, with_first_key(&text, r#""weight":1e400"#)),
        Kind::DuplicateKeys => respond(status, JSON, with_first_key(&text, r#""result":[],"total":0"#)),
        Kind::Drip => respond(status, JSON, bodies::drip(text.into_bytes(), rule.seconds)),
        _ => json_response(status, &body),
    }
}

fn with_first_key(object: &str, entry: &str) -> String {
    object.replacen('{', &format!("{{{entry},"), 1)
}

fn remove_time(body: &mut Value, entirely: bool) {
    let times = |value: &mut Value| match value {
        Value::Object(time) if entirely => time.clear(),
        Value::Object(time) => time.retain(|key, _| !key.starts_with("operating")),
        _ => {}
    };
    if let Some(commands) = body.pointer_mut("/result/result_time").and_then(Value::as_object_mut) {
        commands.values_mut().for_each(times);
    }
    match body.as_object_mut() {
        Some(envelope) if entirely => {
            envelope.remove("time");
        }
        Some(envelope) => {
            envelope.get_mut("time").into_iter().for_each(times);
        }
        None => {}
    }
}

fn cp1251(text: &str) -> Vec<u8> {
    let byte = |c: char| match c {
        '\0'..='\x7f' => c as u8,
        'А'..='я' => (c as u32 - 'А' as u32 + 0xc0) as u8,
        'Ё' => 0xa8,
        'ё' => 0xb8,
        '«' => 0xab,
        '»' => 0xbb,
        '№' => 0xb9,
        _ => b'?',
    };
    text.chars().map(byte).collect()
}

fn truncated_transfer(status: u16, text: &str, middle: usize) -> Response {
    let start = Bytes::from(text.as_bytes()[..middle].to_vec());
    // Pausing between the two lets the first half leave before the connection breaks.
    let broken = async {
        tokio::task::yield_now().await;
        Err(io::Error::from(io::ErrorKind::BrokenPipe))
    };
    let halves = stream::iter([Ok(start)]).chain(stream::once(broken));
    let mut response = respond(status, JSON, Body::from_stream(halves));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    response
}

fn broken_gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail; if it did, the answer would only be broken differently.
    let _ = encoder.write_all(text.as_bytes());
    let mut bytes = encoder.finish().unwrap_or_default();
    for byte in bytes.iter_mut().skip(12) {
        *byte ^= 0x5a;
    }
    bytes
}

fn encoded(body: Body) -> Response {
    let mut response = respond(200, JSON, body);
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response
}

fn huge_body(bytes: u64) -> Body {
    let spaces = Bytes::from(vec![b' '; CHUNK]);
    let head = Bytes::from_static(b"{\"result\":[");
    let chunks = bytes / CHUNK as u64;
    let filling = (0..chunks).map(move |_| spaces.clone());
    let all = std::iter::once(head).chain(filling).chain(std::iter::once(Bytes::from_static(b"]}")));
    Body::from_stream(stream::iter(all.map(Ok::<_, Infallible>)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cyrillic_is_written_in_the_old_encoding() {
        assert_eq!(cp1251("Ёж Яя№"), [0xa8, 0xe6, b' ', 0xdf, 0xff, 0xb9]);
    }

    #[test]
    fn operating_keys_can_be_left_out_everywhere() {
        let time = json!({"start": 1, "operating": 2, "operating_reset_at": 3});
        let mut body = json!({"result": {"result_time": {"a": time}}, "time": time});
        remove_time(&mut body, false);
        assert_eq!(body, json!({"result": {"result_time": {"a": {"start": 1}}}, "time": {"start": 1}}));
    }
}
