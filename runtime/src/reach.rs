//! Whether the server that this process is connected to still reaches those that lead the streams.
//!
//! A server of a cluster that is cut off from the others goes on taking connections and answers some reads from its own
//! copy, but nothing is stored through it. So is a server whose leader just died, which passes by itself.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::{AckKind, stream::ClusterInfo};
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

/// Tries that fall into an election.
const FIRST_TRIES: u32 = 6;

/// Returns how long to wait for the answer to a try; the first is number 0.
pub(crate) fn patience(tries: u32) -> Duration {
    if tries < FIRST_TRIES { PATIENCE } else { LONG_PATIENCE }
}

/// Who has to be there for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Any server that has a copy, so an answer says nothing of the others.
    Anyone,
    /// The leader. One that was cut off believes for ten seconds that it still is.
    Leader,
    /// Most of the servers, as whenever something is stored.
    Most,
}

/// Since when there was no answer from leaders, and since when nothing was stored.
#[derive(Default)]
pub(crate) struct Silence(Mutex<[Option<Span>; 2]>);

/// From the first sign to the last one.
#[derive(Clone, Copy)]
struct Span(Instant, Instant);

impl Silence {
    /// Notes an answer.
    pub(crate) fn end(&self, asked: Asked) {
        let mut silences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match asked {
            Asked::Anyone => {}
            Asked::Leader => silences[0] = None,
            Asked::Most => *silences = [None, None],
        }
    }

    /// Notes that there is none, since `since`. Says yes when it is time to try another server, once for each silence.
    pub(crate) fn go_on(&self, asked: Asked, since: Instant, now: Instant) -> bool {
        let mut silences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let silence = &mut silences[usize::from(asked == Asked::Most)];
        // Signs that lie far apart are not of one silence.
        let first = silence.filter(|Span(_, last)| now.duration_since(*last) < LONGEST_SILENCE);
        let first = first.map_or(since, |Span(first, _)| first.min(since));
        let is_long = now.duration_since(first) >= LONGEST_SILENCE;
        match is_long {
            true => *silences = [None, None],
            false => *silence = Some(Span(first, now)),
        }
        is_long
    }
}

/// How long most of the others may be unheard by a leader that is well; they tell it of themselves each second.
const UNHEARD: Duration = Duration::from_secs(4);

/// Returns for how long who answered has had no majority: it does not know the leader, or leads and hears too few.
pub(crate) fn cut_off_for(cluster: Option<&ClusterInfo>) -> Option<Duration> {
    let ClusterInfo { leader, replicas, .. } = cluster?;
    if leader.is_none() {
        return Some(Duration::ZERO);
    }
    let mut unheard: Vec<Duration> = replicas.iter().map(|replica| replica.active).collect();
    unheard.sort_unstable();
    // So many of the others are most of all, together with the leader.
    let needed = replicas.len().div_ceil(2);
    let unheard = *unheard.get(needed.checked_sub(1)?)?;
    (unheard >= UNHEARD).then_some(unheard)
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
        let go_on = |seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            silence.go_on(Asked::Leader, now, now)
        };
        assert!(!go_on(0) && !go_on(5));
        silence.end(Asked::Anyone);
        silence.end(Asked::Leader);
        assert!(!go_on(10) && !go_on(15), "a leader answered meanwhile");
        silence.end(Asked::Anyone);
        assert!(go_on(20));
        assert!(!go_on(20), "the next server has its time too");
        assert!(!go_on(40), "another silence");
    }

    #[test]
    fn reads_of_a_leader_that_is_cut_off_do_not_hide_that_nothing_is_stored() {
        let (silence, start) = (Silence::default(), Instant::now());
        let stores_not = |seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            silence.go_on(Asked::Most, now, now)
        };
        assert!(!stores_not(0) && !stores_not(5));
        silence.end(Asked::Leader);
        assert!(stores_not(10));
        assert!(!stores_not(11));
        silence.end(Asked::Most);
        assert!(!stores_not(21));
        let (now, earlier) = (start + Duration::from_secs(22), start + Duration::from_secs(12));
        assert!(silence.go_on(Asked::Leader, earlier, now), "it was told since when");
    }

    #[test]
    fn a_leader_that_hears_nobody_is_cut_off_and_one_that_hears_most_is_not() {
        let heard = |leader: Option<&str>, seconds: &[u64]| {
            let replicas = seconds.iter().map(|seconds| {
                serde_json::json!({"name": "n", "current": true, "active": seconds * 1_000_000_000})
            });
            let replicas: Vec<_> = replicas.collect();
            let cluster = serde_json::json!({"leader": leader, "replicas": replicas});
            cut_off_for(Some(&serde_json::from_value(cluster).unwrap()))
        };
        assert_eq!(heard(Some("n1"), &[0, 1]), None);
        assert_eq!(heard(Some("n1"), &[60, 1]), None, "one of three is away");
        assert_eq!(heard(Some("n1"), &[7, 6]), Some(Duration::from_secs(6)));
        assert_eq!(heard(Some("n1"), &[1, 1, 9, 9]), None);
        assert_eq!(heard(Some("n1"), &[1, 8, 9, 9]), Some(Duration::from_secs(8)));
        assert_eq!(heard(None, &[0, 0]), Some(Duration::ZERO));
        assert_eq!(heard(Some("n1"), &[]), None, "alone by itself");
        assert_eq!(cut_off_for(None), None);
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
