//! Whether the server that this process is connected to still reaches those that lead the streams.
//!
//! A server of a cluster that is cut off from the others goes on taking connections and answers some reads from its own
//! copy, but nothing is stored through it. So is a server whose leader just died, which passes by itself.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Subject, jetstream::AckKind};
use bytes::Bytes;
use schemas::streams::ACK_WAIT;
use tokio::time::Instant;

/// How long leaders may stay silent before another server is tried: longer than they take to elect a new one.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

/// How long one answer is waited for in the first tries: a leader that died with the request answers never, and a new one
/// is there after four to nine seconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long it is waited for in later ones, so that a server that is only slow gets to answer.
const LONG_PATIENCE: Duration = Duration::from_secs(5);

/// Returns how long to wait for the answer to a try; the first is number 0.
pub(crate) fn patience(tries: u32) -> Duration {
    if tries < 3 { PATIENCE } else { LONG_PATIENCE }
}

/// Since when no leader answered.
#[derive(Default)]
pub(crate) struct Silence(Mutex<Option<Instant>>);

impl Silence {
    /// Notes that one answered.
    pub(crate) fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes that one did not answer. Says yes when it is time to try another server, once for each silence.
    pub(crate) fn go_on(&self, now: Instant) -> bool {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_long = since.is_some_and(|since| now.duration_since(since) >= LONGEST_SILENCE);
        *since = if is_long { None } else { since.or(Some(now)) };
        is_long
    }
}

/// How long an ack may have to be said again. After that the server has handed the message out again by itself.
const ACK_AGE: Duration = ACK_WAIT;

/// Most acks of a consumer that are kept: no consumer has more in flight.
const MOST_ACKS: usize = 1_024;

/// What was acked lately. An ack gets no answer, so one that died with its leader would be missed only when the message
/// came again, and a consumer with one message in flight would stand still until then.
#[derive(Default)]
pub(crate) struct Acks(Mutex<HashMap<String, VecDeque<Ack>>>);

#[derive(Clone)]
struct Ack {
    at: Instant,
    to: Subject,
    kind: Bytes,
}

impl Acks {
    /// Keeps one that ends its message; what only puts it off may not be said twice.
    pub(crate) fn note(&self, consumer: &str, to: Option<&Subject>, kind: AckKind, now: Instant) {
        let (Some(to), AckKind::Ack | AckKind::Term) = (to, kind) else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(consumer) {
            all.insert(consumer.to_owned(), VecDeque::new());
        }
        let Some(acks) = all.get_mut(consumer) else { return };
        let is_old = |ack: &Ack| now.duration_since(ack.at) > ACK_AGE;
        while acks.len() >= MOST_ACKS || acks.front().is_some_and(is_old) {
            acks.pop_front();
        }
        acks.push_back(Ack { at: now, to: to.clone(), kind: kind.into() });
    }

    /// Returns those of a consumer that may be missing: where to, and what.
    pub(crate) fn recent(&self, consumer: &str, now: Instant) -> Vec<(Subject, Bytes)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let acks = all.get(consumer).into_iter().flatten();
        let recent = acks.filter(|ack| now.duration_since(ack.at) <= ACK_AGE);
        recent.map(|ack| (ack.to.clone(), ack.kind.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_server_is_tried_after_a_long_silence_and_not_again_at_once() {
        let (silence, start) = (Silence::default(), Instant::now());
        assert!(!silence.go_on(start));
        assert!(!silence.go_on(start + LONGEST_SILENCE / 2));
        silence.end();
        assert!(!silence.go_on(start + LONGEST_SILENCE), "somebody answered meanwhile");
        assert!(silence.go_on(start + LONGEST_SILENCE * 2));
        assert!(!silence.go_on(start + LONGEST_SILENCE * 2), "the next server has its time too");
    }

    #[test]
    fn acks_that_end_a_message_are_kept_for_as_long_as_it_could_come_again() {
        let (acks, start) = (Acks::default(), Instant::now());
        let to = |number: u32| Subject::from(format!("$JS.ACK.B24_RAW.mapper.1.{number}.1.0.0"));
        acks.note("mapper", Some(&to(1)), AckKind::Ack, start);
        acks.note("mapper", Some(&to(2)), AckKind::Nak(None), start);
        acks.note("mapper", Some(&to(3)), AckKind::Term, start + ACK_AGE);
        acks.note("mapper", None, AckKind::Ack, start);
        assert!(acks.recent("pusher-01", start).is_empty());
        assert_eq!(acks.recent("mapper", start + ACK_AGE).len(), 2);
        let later = acks.recent("mapper", start + ACK_AGE + Duration::from_millis(1));
        assert_eq!(later, [(to(3), Bytes::from_static(b"+TERM"))]);
        for number in 0..3_000 {
            acks.note("mapper", Some(&to(number)), AckKind::Ack, start);
        }
        assert_eq!(acks.recent("mapper", start).len(), MOST_ACKS);
    }
}
