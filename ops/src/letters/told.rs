//! How dead letters look as text.

use std::fmt::Write as _;

use chrono::{DateTime, TimeDelta, Utc};
use runtime::broker::StoredMessage;
use schemas::DeadLetter;
use serde::Serialize;
use serde_json::Value;

use super::redrive::{Done, Fate, Mode};
use super::select::Letter;
use super::{Discarded, Listed, Redriven};
use crate::answer::{Answer, count, findings_text};
use crate::mask::Mask;
use crate::moment::exact;
use crate::terminal::line;

/// One letter with everything in it.
#[derive(Debug, Serialize)]
pub struct Whole {
    /// What the list shows of it.
    #[serde(flatten)]
    letter: Letter,
    /// Subject of the message.
    subject: String,
    /// Headers of the message.
    headers: Vec<(String, String)>,
    /// Bytes of its payload, as far as the letter has them.
    payload_bytes: usize,
    /// The payload, where it is JSON or may be shown as it is.
    payload: Option<Value>,
}

impl Whole {
    /// Reads a letter, hiding what the mask hides.
    pub fn of(
        message: &StoredMessage,
        mask: &Mask,
        open: impl FnOnce(&DeadLetter) -> Option<Vec<u8>>,
    ) -> Whole {
        let letter = Letter::of(message);
        let Ok(read) = serde_json::from_slice::<DeadLetter>(&message.payload) else {
            let (subject, payload_bytes) = (message.subject.clone(), message.payload.len());
            return Whole { letter, subject, headers: Vec::new(), payload_bytes, payload: None };
        };
        let bytes = open(&read).unwrap_or_default();
        let payload = match serde_json::from_slice::<Value>(&bytes) {
            Ok(value) => Some(mask.value("", &value)),
            // No JSON, so nothing in it can be told apart.
            Err(_) => mask.whole_text(&String::from_utf8_lossy(&bytes)).map(Value::String),
        };
        let headers = read.headers.into_iter();
        let headers = headers.map(|(name, value)| {
            let value = mask.header(&name, &value);
            (name, value)
        });
        Whole {
            letter,
            subject: read.subject,
            headers: headers.collect(),
            payload_bytes: bytes.len(),
            payload,
        }
    }
}

/// Tells the list.
pub fn list(answer: &Answer<Listed>) -> String {
    format!("{}{}", table(&answer.result.letters, Utc::now()), answer.summary)
}

/// Tells what was discarded.
pub fn discarded(answer: &Answer<Discarded>) -> String {
    let table = table(&answer.result.letters, Utc::now());
    format!("{table}{}{}", findings_text(&answer.findings), answer.summary)
}

fn table(letters: &[Letter], now: DateTime<Utc>) -> String {
    let mut text = String::new();
    for letter in letters {
        let Letter { sequence, stage, record, reason, deliveries, first_failed, .. } = letter;
        // Letters of earlier versions do not tell.
        let first = first_failed.map_or_else(|| "?".to_owned(), |first| age(now - first));
        let (age, record) = (age(now - letter.at), record.as_deref().unwrap_or("unknown"));
        let (stage, reason) = (line(stage), line(reason));
        let tries = if *deliveries == 1 { "delivery,  " } else { "deliveries," };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{sequence:>6}  {age:>5} ago  {stage:<13}  {record:<16}  {deliveries:>3} {tries} first failed {first:>5} ago  \
             {reason}"
        );
    }
    text
}

/// Writes a length of time in its one biggest unit.
fn age(length: TimeDelta) -> String {
    let seconds = length.num_seconds().max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} m", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Tells one letter.
pub fn whole(answer: &Answer<Whole>) -> String {
    let Whole { letter, subject, headers, payload_bytes, payload } = &answer.result;
    let mut text = String::new();
    let raw = letter.raw_sequence.map_or_else(|| "not told".to_owned(), |raw| raw.to_string());
    let lines = [
        ("letter", letter.sequence.to_string()),
        ("given up", exact(letter.at)),
        ("first failed", letter.first_failed.map_or_else(|| "not told".to_owned(), exact)),
        ("stage", letter.stage.clone()),
        ("reason", letter.reason.clone()),
        ("record", letter.record.clone().unwrap_or_else(|| "unknown".into())),
        ("raw version", raw),
        ("message", format!("{} of {} under {subject}", letter.stream_sequence, letter.stream)),
        ("deliveries", letter.deliveries.to_string()),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "{name:<12} {}", line(&value));
    }
    for (name, value) in headers {
        let _ = writeln!(text, "header       {}: {}", line(name), line(value));
    }
    let _ = writeln!(text, "payload      {payload_bytes} bytes");
    if let Some(payload) = payload {
        let _ = writeln!(text, "{}", serde_json::to_string_pretty(payload).unwrap_or_default());
    }
    text
}

/// Tells a redrive in a sentence.
pub fn summary(done: &[Done], mode: Mode) -> String {
    let count_of = |is_it: fn(&Fate) -> bool| done.iter().filter(|done| is_it(&done.fate)).count();
    let sent = count_of(|fate| matches!(fate, Fate::Sent { .. }));
    let superseded = count_of(|fate| matches!(fate, Fate::Superseded { .. }));
    let stay = done.len() - sent;
    let sent = count(sent, "letter");
    match (mode, stay, superseded) {
        (Mode::Look, 0, _) => format!("{sent} would be redriven and deleted."),
        (Mode::Look, ..) => {
            format!("{sent} would be redriven and deleted, {stay} would stay ({superseded} superseded).")
        }
        (Mode::Send, 0, _) => format!("{sent} redriven and deleted."),
        (Mode::Send, ..) => format!("{sent} redriven and deleted, {stay} not ({superseded} superseded)."),
    }
}

/// Tells what came of a redrive.
pub fn redriven(answer: &Answer<Redriven>) -> String {
    let mut text = String::new();
    for Done { letter, fate } in &answer.result.letters {
        let Fate::Sent { redrive, subject, stored_as, event_type, as_it_was } = fate else {
            continue;
        };
        let record = letter.record.as_deref().unwrap_or("unknown");
        let raw_sequence = letter.raw_sequence.unwrap_or_default();
        let how = if *as_it_was { "as it was then" } else { "mapped anew" };
        let stored = match answer.result.dry_run {
            true => "would be sent".to_owned(),
            false => format!("stored as message {stored_as}"),
        };
        let _ = writeln!(
            text,
            "{:>6}  {record:<16}  version {raw_sequence}.{redrive}, {how}: {event_type}, {stored} under {subject}",
            letter.sequence
        );
    }
    format!("{text}{}{}", findings_text(&answer.findings), answer.summary)
}

#[cfg(test)]
mod tests {
    use super::super::select::tests::letter;
    use super::*;

    #[test]
    fn a_line_tells_who_why_and_since_when() {
        let letter = letter(12, "header `ce-id` is missing");
        let text = table(std::slice::from_ref(&letter), letter.at + TimeDelta::minutes(90));
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words[..5], ["12", "1", "h", "ago", "mapper"]);
        assert!(text.contains("contact/39910") && text.contains("`ce-id` is missing"), "{text}");
        assert!(text.contains("5 deliveries, first failed   2 h ago"), "{text}");
        let once = table(&[Letter { deliveries: 1, ..letter.clone() }], letter.at);
        assert!(once.contains("  1 delivery,   first failed"), "{once}");
        let of_earlier = Letter { first_failed: None, ..letter };
        assert!(table(std::slice::from_ref(&of_earlier), of_earlier.at).contains("first failed     ? ago"));
        assert_eq!(age(TimeDelta::days(3)), "3 d");
    }

    #[test]
    fn a_reason_with_an_escape_stays_on_its_line_and_does_nothing() {
        let letter = letter(12, "x\n   13  1 h ago\u{1b}[2J\u{202e}");
        let told = table(std::slice::from_ref(&letter), letter.at);
        assert_eq!(told.lines().count(), 1, "{told}");
        let answer = Answer::new("", Listed { letters: vec![letter] }, Vec::new());
        let shown = crate::terminal::text(&list(&answer));
        assert!(shown.contains("x\\n   13") && shown.contains("\\u{1b}[2J\\u{202e}"), "{shown}");
    }

    #[test]
    fn a_redrive_says_what_was_deleted_and_what_stays() {
        let done = |fate| Done { letter: letter(1, "x"), fate };
        let sent = Fate::Sent {
            redrive: 1,
            subject: "crm.cmd.01.contact.39910".into(),
            stored_as: 9,
            event_type: "rollcall.client.ready.v1".into(),
            as_it_was: false,
        };
        assert_eq!(summary(&[done(sent.clone())], Mode::Send), "1 letter redriven and deleted.");
        let both = [done(sent), done(Fate::Superseded { newer: 8 })];
        assert_eq!(summary(&both, Mode::Send), "1 letter redriven and deleted, 1 not (1 superseded).");
        let looked = summary(&both, Mode::Look);
        assert_eq!(looked, "1 letter would be redriven and deleted, 1 would stay (1 superseded).");
    }

    #[test]
    fn a_letter_is_shown_without_personal_data_unless_asked() {
        let headers = vec![("ce-rawsequence".to_owned(), "5".to_owned())];
        let read = DeadLetter {
            stage: "pusher".into(),
            reason: "x".into(),
            stream: "CRM_CMD".into(),
            sequence: 3,
            subject: "crm.cmd.01.contact.39910".into(),
            deliveries: 1,
            first_failed: None,
            headers,
            payload: r#"{"last_name":"Осинкин"}"#.into(),
            payload_is_base64: false,
        };
        let message = StoredMessage {
            sequence: 1,
            stored: DateTime::UNIX_EPOCH,
            subject: "dlq.pusher.contact.39910".into(),
            headers: async_nats::HeaderMap::new(),
            payload: serde_json::to_vec(&read).unwrap().into(),
        };
        let shown = |mask: &Mask| {
            let whole = Whole::of(&message, mask, super::super::open_payload);
            super::whole(&Answer::new("", whole, Vec::new()))
        };
        assert!(!shown(&Mask::default()).contains("Осинкин"));
        assert!(shown(&Mask::default()).contains("ce-rawsequence: 5"));
        assert!(shown(&Mask::default().revealing()).contains("Осинкин"));
    }
}
