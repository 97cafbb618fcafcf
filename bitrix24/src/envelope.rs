//! Reading what the portal answers, around the result itself.

use chrono::{DateTime, FixedOffset};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{AnswerFault, ApiError, Error};
use crate::php::{self, present};

/// A successful answer to a call or to one command of a batch.
#[derive(Clone)]
pub struct Answer {
    /// The result, in the very bytes the portal sent.
    pub result: Box<RawValue>,
    /// Where the next page of an offset walk starts.
    pub next: Option<u64>,
    /// How many rows match, when the portal counted them.
    pub total: Option<u64>,
    /// What the portal says about time.
    pub time: Time,
    pub(crate) method: Box<str>,
}

impl Answer {
    /// Reads the answer to a call as it came over HTTP, for those with a transport of their own.
    pub fn from_http(method: &str, status: u16, body: &[u8]) -> Result<Self, Error> {
        let reply = Reply { status, body: body.to_vec() };
        let Envelope { time, outcome } = read(method, &reply)?;
        Ok(Self::new(method, outcome?, time))
    }

    pub(crate) fn new(method: &str, success: Success<'_>, time: Time) -> Self {
        let Success { result, next, total } = success;
        Self { result: result.to_owned(), next, total, time, method: method.into() }
    }

    /// Reads the result as a type.
    pub fn parse<T: DeserializeOwned>(&self, expected: &'static str) -> Result<T, Error> {
        serde_json::from_str(self.result.get()).map_err(|_| self.shape_error(expected))
    }

    pub(crate) fn shape_error(&self, expected: &'static str) -> Error {
        Error::Answer { method: self.method.clone(), fault: AnswerFault::Shape(expected) }
    }
}

/// Leaves the result out, for it is somebody's record.
impl std::fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Answer")
            .field("method", &self.method)
            .field("bytes", &self.result.get().len())
            .field("next", &self.next)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

/// What the portal says about time; every part of it may be absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Time {
    /// Start of the call, in Unix seconds.
    pub start: Option<f64>,
    /// End of the call, in Unix seconds.
    pub finish: Option<f64>,
    /// Seconds from start to end.
    pub duration: Option<f64>,
    /// Seconds of it spent in the method.
    pub processing: Option<f64>,
    /// Start of the call with the portal's offset.
    pub date_start: Option<DateTime<FixedOffset>>,
    /// End of the call with the portal's offset.
    pub date_finish: Option<DateTime<FixedOffset>>,
    /// Computing time the method has used in the last ten minutes, in seconds.
    pub operating: Option<f64>,
    /// When the oldest part of it is forgotten, in Unix seconds.
    pub operating_reset_at: Option<f64>,
}

impl Time {
    /// Reads whatever can be read.
    pub(crate) fn read(raw: Option<&RawValue>) -> Self {
        let value = raw.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok()).unwrap_or_default();
        let seconds = |key: &str| value.get(key).and_then(moment).filter(|seconds| *seconds >= 0.0);
        let date = |key: &str| value.get(key).and_then(date_time);
        Self {
            start: seconds("start"),
            finish: seconds("finish"),
            duration: seconds("duration"),
            processing: seconds("processing"),
            date_start: date("date_start"),
            date_finish: date("date_finish"),
            operating: seconds("operating"),
            operating_reset_at: seconds("operating_reset_at"),
        }
    }

    /// Returns the end of the call as exactly as it is known.
    ///
    /// `finish` has fractions; `date_finish` is trusted when the two disagree.
    pub(crate) fn end(&self) -> Option<f64> {
        let date = self.date_finish.or(self.date_start).map(|date| date.timestamp_micros() as f64 / 1e6);
        match (self.finish, date) {
            (Some(finish), Some(date)) if (finish - date).abs() > 2.0 => Some(date),
            (Some(finish), _) => Some(finish),
            (None, date) => date,
        }
    }

    pub(crate) fn offset(&self) -> Option<FixedOffset> {
        self.date_finish.or(self.date_start).map(|date| *date.offset())
    }
}

/// Portals write moments as Unix seconds, and at least once as a date.
fn moment(value: &Value) -> Option<f64> {
    php::number(value).or_else(|| date_time(value).map(|date| date.timestamp() as f64))
}

fn date_time(value: &Value) -> Option<DateTime<FixedOffset>> {
    DateTime::parse_from_rfc3339(value.as_str()?.trim()).ok()
}

/// Status and body of one HTTP exchange.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// The answer's outer layer, still borrowing from the body.
#[derive(Debug)]
pub(crate) struct Envelope<'a> {
    pub(crate) time: Time,
    pub(crate) outcome: Result<Success<'a>, ApiError>,
}

#[derive(Debug)]
pub(crate) struct Success<'a> {
    pub(crate) result: &'a RawValue,
    pub(crate) next: Option<u64>,
    pub(crate) total: Option<u64>,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error_description: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    next: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    total: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    time: Option<&'a RawValue>,
}

/// Reads an answer; whether it is an error is decided by its `error` key, not by its status.
pub(crate) fn read<'a>(method: &str, reply: &'a Reply) -> Result<Envelope<'a>, Error> {
    let wire = match wire(&reply.body) {
        Ok(wire) => wire,
        Err(_) if !(200..300).contains(&reply.status) => return Err(bare_status(method, reply.status)),
        Err(fault) => return Err(Error::Answer { method: method.into(), fault }),
    };
    let time = Time::read(wire.time);
    if let Some(error) = wire.error {
        let error = api_error(method, error, wire.error_description, Some(reply.status));
        return Ok(Envelope { time, outcome: Err(error) });
    }
    if !(200..300).contains(&reply.status) {
        return Err(bare_status(method, reply.status));
    }
    match wire.result.filter(|result| result.get() != "null") {
        Some(result) => {
            let next = wire.next.and_then(php::whole_number);
            let total = wire.total.and_then(php::whole_number);
            Ok(Envelope { time, outcome: Ok(Success { result, next, total }) })
        }
        None => Err(Error::Answer { method: method.into(), fault: AnswerFault::NoResult }),
    }
}

fn bare_status(method: &str, status: u16) -> Error {
    Error::Status { method: method.into(), status }
}

fn wire(body: &[u8]) -> Result<Wire<'_>, AnswerFault> {
    let text = std::str::from_utf8(body).map_err(|_| AnswerFault::Encoding)?;
    let text = text.trim_ascii();
    if text.is_empty() {
        return Err(AnswerFault::Empty);
    }
    php::check(text).map_err(|error| AnswerFault::json(&error))?;
    // A list would be read as the fields in their order.
    if !text.starts_with('{') {
        return Err(AnswerFault::NoResult);
    }
    serde_json::from_str(text).map_err(|error| AnswerFault::json(&error))
}

/// Reads an error whose code may be text, a number, null, or an object of its own.
pub(crate) fn api_error(
    method: &str,
    error: &RawValue,
    description: Option<&RawValue>,
    status: Option<u16>,
) -> ApiError {
    let (code, inner) = code_and_words(error);
    let description = description.map_or(inner, words);
    // A null code says nothing, not even that the request was at fault.
    let code = if error.get() == "null" { "INTERNAL_SERVER_ERROR".to_owned() } else { code };
    ApiError::new(method, &code, &description, status)
}

fn code_and_words(error: &RawValue) -> (String, String) {
    #[derive(Deserialize)]
    struct Nested<'a> {
        #[serde(borrow, default, deserialize_with = "present", alias = "error")]
        code: Option<&'a RawValue>,
        #[serde(borrow, default, deserialize_with = "present", alias = "error_description")]
        message: Option<&'a RawValue>,
    }
    if !error.get().starts_with('{') {
        return (words(error), String::new());
    }
    match serde_json::from_str::<Nested<'_>>(error.get()) {
        Ok(nested) => {
            (nested.code.map(words).unwrap_or_default(), nested.message.map(words).unwrap_or_default())
        }
        Err(_) => (String::new(), String::new()),
    }
}

fn words(raw: &RawValue) -> String {
    match serde_json::from_str(raw.get()) {
        Ok(Value::String(text)) => text,
        Ok(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorClass;

    fn reply(status: u16, body: &str) -> Reply {
        Reply { status, body: body.as_bytes().to_vec() }
    }

    fn error_of(status: u16, body: &str) -> Error {
        let reply = reply(status, body);
        match read("crm.deal.list", &reply) {
            Ok(envelope) => match envelope.outcome {
                Ok(success) => panic!("read as success: {success:?}"),
                Err(error) => error.into(),
            },
            Err(error) => error,
        }
    }

    #[test]
    fn a_result_keeps_its_bytes() {
        let reply =
            reply(200, r#" {"result":[{"ID":"1","PRICE":8702.2999999999993}],"next":"50","total":120} "#);
        let envelope = read("crm.deal.list", &reply).expect("an envelope");
        let success = envelope.outcome.expect("a result");
        assert_eq!(success.result.get(), r#"[{"ID":"1","PRICE":8702.2999999999993}]"#);
        assert_eq!((success.next, success.total), (Some(50), Some(120)));
    }

    #[test]
    fn the_error_key_decides_whatever_the_status() {
        for body in [
            r#"{"error":"","error_description":"Access denied."}"#,
            r#"{"error":100,"error_description":"no"}"#,
            r#"{"error":null,"result":[]}"#,
            r#"{"error":"ERROR_CORE","result":[]}"#,
            r#"{"error":{"code":"X","message":"y"}}"#,
        ] {
            assert!(matches!(error_of(200, body), Error::Api(_)), "{body}");
        }
        assert_eq!(error_of(200, r#"{"error":null,"result":[]}"#).class(), ErrorClass::Transient);
    }

    #[test]
    fn broken_bodies_are_never_empty_results() {
        for body in [
            "",
            "  ",
            "null",
            "[]",
            "true",
            "{}",
            r#"{"result":null}"#,
            "<html>Bitrix24</html>",
            "\u{feff}{\"result\":[]}",
            "<br />\n<b>Warning</b>: x in <b>y.php</b>\n{\"result\":[]}",
            r#"{"result":[{"ID":"1"},"#,
            r#"{"result":[],"result":[]}"#,
            r#"{"result":[]} x"#,
        ] {
            let error = error_of(200, body);
            assert!(matches!(error, Error::Answer { .. }), "{body}: {error}");
            assert_eq!(error.class(), ErrorClass::Transient, "{body}");
        }
        let cp1251 = Reply { status: 200, body: b"{\"result\":[\"\xcf\xf0\xe8\"]}".to_vec() };
        assert!(matches!(read("x", &cp1251), Err(Error::Answer { fault: AnswerFault::Encoding, .. })));
    }

    #[test]
    fn statuses_count_where_the_body_says_nothing() {
        assert_eq!(error_of(502, "<html>").class(), ErrorClass::Transient);
        assert_eq!(error_of(500, r#"{"result":[]}"#).class(), ErrorClass::Transient);
        assert_eq!(error_of(401, "").class(), ErrorClass::Refused);
        assert_eq!(error_of(413, "").class(), ErrorClass::Permanent);
    }

    #[test]
    fn time_is_read_in_all_its_forms() {
        let raw = RawValue::from_string(
            r#"{"start":"1700000000","finish":1700000001.25,"duration":1.25,"processing":0,
                "date_start":"2023-11-15T01:13:20+03:00","date_finish":"2023-11-15T01:13:21+03:00",
                "operating_reset_at":"2023-11-15T01:23:20+03:00","operating":"0.5","new":[]}"#
                .to_owned(),
        )
        .expect("JSON");
        let time = Time::read(Some(&raw));
        assert_eq!(time.end(), Some(1_700_000_001.25));
        assert_eq!(time.operating_reset_at, Some(1_700_000_600.0));
        assert_eq!(time.operating, Some(0.5));
        assert_eq!(Time::read(None), Time::default());
        assert_eq!(Time { finish: Some(5.0), ..time }.end(), Some(1_700_000_001.0));
    }
}
