//! Checks the invariants over what both simulators remember, when everything has come to rest.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use chrono::{DateTime, FixedOffset};
use futures::TryStreamExt;
use schemas::DeadLetter;
use serde_json::{Value, json};

use super::curves::{self, Peaks};
use super::witness::Testimony;
use crate::School;

/// Most memory of a stage, in KiB. A release may have 64 MiB; a debug build maps some 20 MiB of code besides.
const MOST_MEMORY_KIB: u64 = (64 + 32) * 1024;

/// Most files and connections that a stage has open.
const MOST_FILES: u64 = 128;

/// Requests that Bitrix24 may refuse after a stage was started, which cannot know how full the bucket is.
const REFUSALS_AFTER_START: u64 = 5;

/// Polls of a school that is left alone.
const SILENT_POLLS: u64 = 10;

/// Longest time, in seconds, until everything is as it should be once all is mended and there is nothing to catch up with.
/// No school here polls so seldom that two of its polls took longer.
const COMES_BACK_WITHIN: f64 = 30.0;

/// What catching up with a backlog takes at most, in seconds: 0.04 s of the portal's for each status and half a second for
/// the request that carries it, shared with a few others; and a call of otmechalka after the other. Half as much again is
/// allowed.
const PER_STATUS: f64 = 0.1;
const PER_CALL: f64 = 0.05;
const ALLOWED: f64 = 1.5;

/// How much slower a busy machine may be than one that has nothing else to do. It also covers a call over a connection that
/// died unnoticed: that ends after 75 s.
const SLOW_MACHINE: f64 = 3.0;

/// What is known besides the histories.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many versions an operator sent round again, of any record.
    pub sent_again: usize,
    /// What the witness saw.
    pub testimony: Testimony,
    /// The highest memory and numbers of open files.
    pub peaks: Peaks,
    /// The largest body that a CRM sent, in KiB: up to a limit it is read, and may be in memory besides.
    pub largest_body_kib: u64,
    /// Subjects of the dead letters that have to be there, and no others. What becomes of their records is not judged.
    pub letters: Vec<String>,
    /// When everything was mended; from then on it has to come back by itself, and soon.
    pub mended: Option<Mended>,
}

/// The moment in which everything was mended, as both CRMs see it.
#[derive(Debug)]
pub struct Mended {
    portal: Moment,
    otmechalka: Moment,
}

/// A moment in the history of a CRM.
#[derive(Debug)]
struct Moment {
    /// By its own clock.
    time: DateTime<FixedOffset>,
    /// Its seconds in one of ours.
    speed: f64,
    /// Number of its last entry.
    entry: u64,
}

impl Mended {
    /// Takes the moment.
    pub async fn now(school: &School) -> anyhow::Result<Mended> {
        let (portal, otmechalka) = (school.bitrix24.clock().await?, school.otmechalka.clock().await?);
        Ok(Mended {
            portal: Moment::of(&portal, &school.bitrix24.history().await?)?,
            otmechalka: Moment::of(&otmechalka, &school.otmechalka.history().await?)?,
        })
    }
}

impl Moment {
    fn of(clock: &Value, history: &Value) -> anyhow::Result<Moment> {
        let entries = history["history"].as_array().context("a history")?;
        Ok(Moment {
            time: time_in(&clock["now"])?,
            speed: clock["speed"].as_f64().context("a speed")?,
            entry: entries.iter().filter_map(|entry| entry["seq"].as_u64()).max().unwrap_or(0),
        })
    }

    /// Returns how much was done since by other than people's hands, and how many of our seconds later the last of it was.
    fn since(&self, history: &Value) -> anyhow::Result<(usize, f64)> {
        let entries = history["history"].as_array().context("a history")?;
        let is_ours = |entry: &&Value| {
            entry["seq"].as_u64() > Some(self.entry) && entry["origin"] != "human" && entry["admin"] != true
        };
        let times = entries.iter().filter(is_ours).map(|entry| time_in(&entry["time"]));
        let times: Vec<DateTime<FixedOffset>> = times.collect::<anyhow::Result<_>>()?;
        let last = times.iter().max().map_or(0.0, |last| {
            last.signed_duration_since(self.time).num_milliseconds() as f64 / 1_000.0 / self.speed
        });
        Ok((times.len(), last.max(0.0)))
    }
}

fn time_in(value: &Value) -> anyhow::Result<DateTime<FixedOffset>> {
    Ok(DateTime::parse_from_rfc3339(value.as_str().context("a time")?)?)
}

/// Fails with everything that should not be.
pub async fn judge(school: &School, tally: &Tally) -> anyhow::Result<()> {
    let mut findings = standing(school, tally).await?;
    findings.extend(silence(school).await?);
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{} findings:\n{}", findings.len(), findings.join("\n"))
}

/// Returns everything that should not be, but for what shows only as time goes by.
pub async fn standing(school: &School, tally: &Tally) -> anyhow::Result<Vec<String>> {
    let buried: Vec<Value> = tally.letters.iter().filter_map(|subject| record_of(subject)).collect();
    let Testimony { suspects, successes } = &tally.testimony;
    let more = json!({
        "order": true, "suspects": suspects, "successes": successes, "buried": buried, "sent_again": tally.sent_again,
    });
    let mut findings = school.judged(more).await?;
    findings.extend(echoes(school, tally.sent_again).await?);
    findings.extend(manners(school).await?);
    let mut peaks = tally.peaks.clone();
    peaks.note(&curves::measure(school));
    findings.extend(peaks.above(MOST_MEMORY_KIB + tally.largest_body_kib, MOST_FILES));
    findings.extend(letters(school, &tally.letters).await?);
    if let Some(mended) = &tally.mended {
        findings.extend(late_return(school, mended).await?);
    }
    Ok(findings)
}

/// Finds that it took too long to come to rest once all was mended.
async fn late_return(school: &School, mended: &Mended) -> anyhow::Result<Option<String>> {
    let (statuses, portal) = mended.portal.since(&school.bitrix24.history().await?)?;
    let (calls, otmechalka) = mended.otmechalka.since(&school.otmechalka.history().await?)?;
    let took = portal.max(otmechalka);
    let backlog = statuses as f64 * PER_STATUS + calls as f64 * PER_CALL;
    let bound = (COMES_BACK_WITHIN + backlog * ALLOWED) * SLOW_MACHINE;
    println!("came back within {took:.0} s of {bound:.0}, with {statuses} statuses and {calls} calls");
    Ok((took > bound).then(|| {
        format!(
            "came back after {took:.0} s, for {statuses} statuses and {calls} calls; {bound:.0} s are allowed"
        )
    }))
}

/// Finds dead letters that nobody expected, and misses those that were expected.
async fn letters(school: &School, expected: &[String]) -> anyhow::Result<Vec<String>> {
    let mut missing = expected.to_vec();
    let mut findings = Vec::new();
    for letter in school.dead_letters().await? {
        match missing.iter().position(|subject| *subject == letter.subject) {
            Some(place) => drop(missing.swap_remove(place)),
            None => {
                let DeadLetter { reason, deliveries, .. } = letter.letter;
                findings.push(format!(
                    "a dead letter that nobody expected: {} after {deliveries} deliveries: {reason}",
                    letter.subject
                ));
            }
        }
    }
    findings.extend(missing.into_iter().map(|subject| format!("no dead letter {subject}")));
    Ok(findings)
}

/// Returns entity and id of the record that a dead letter is about.
fn record_of(subject: &str) -> Option<Value> {
    let record = schemas::subjects::record_of(subject)?;
    Some(json!([record.entity.token(), record.id.to_string()]))
}

/// Finds versions on the stream that nobody made: our own write-backs come back as edits.
async fn echoes(school: &School, sent_again: usize) -> anyhow::Result<Vec<String>> {
    let stream = school.broker.jetstream().get_stream(schemas::streams::RAW.name).await?;
    let published: Vec<(String, usize)> = stream.info_with_subjects("b24.raw.>").await?.try_collect().await?;
    let made = versions(&school.bitrix24.history().await?)?;
    let mut findings = Vec::new();
    for (subject, published) in published {
        let Some(record) = subject.strip_prefix("b24.raw.") else { continue };
        // A record that nobody made by hand was there from the beginning.
        let made = made.get(record).copied().unwrap_or(1) + sent_again;
        if published > made {
            let readings = readings(school, &subject).await?;
            findings.push(format!(
                "{record}: {published} versions published, {made} made; read as of {readings}"
            ));
        }
    }
    Ok(findings)
}

/// Returns modification time and fingerprint of each version under a subject.
async fn readings(school: &School, subject: &str) -> anyhow::Result<String> {
    let published = school.stored(schemas::streams::RAW.name, subject).await?;
    let read = published.iter().map(|message| {
        let [time, fingerprint] =
            ["ce-time", "ce-fingerprint"].map(|name| message.header(name).unwrap_or("?"));
        format!("{time} {fingerprint}")
    });
    Ok(read.collect::<Vec<_>>().join(", "))
}

/// Counts the versions of each record that people made.
fn versions(history: &Value) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut versions: BTreeMap<String, usize> = BTreeMap::new();
    let entries = history["history"].as_array().context("a history")?;
    for write in entries.iter().filter(|write| write["origin"] == "human") {
        let record = format!("{}.{}", write["entity"].as_str().context("an entity")?, write["id"]);
        let method = write["method"].as_str().context("a method")?;
        // Rows are read after the list with their deal: new ones beside a deal as it was before are a version of their own.
        let made = if method.ends_with(".productrows.set") { 2 } else { 1 };
        let first = usize::from(!method.ends_with(".add"));
        versions.entry(record).and_modify(|count| *count += made).or_insert(made + first);
    }
    Ok(versions)
}

/// Finds requests that Bitrix24 had to refuse.
async fn manners(school: &School) -> anyhow::Result<Vec<String>> {
    let (refused, restarts) = (school.bitrix24.refusals().await?, school.restarts());
    let mut findings = Vec::new();
    if refused.requests > restarts * REFUSALS_AFTER_START {
        findings.push(format!("{} requests were refused after {restarts} restarts", refused.requests));
    }
    if refused.methods > 0 {
        findings.push(format!("{} times a method had been used for too long", refused.methods));
    }
    Ok(findings)
}

/// Finds what is still done although nobody edits anything.
async fn silence(school: &School) -> anyhow::Result<Vec<String>> {
    school.bitrix24.reset_requests().await?;
    let before = calls(school).await?;
    school.after_polls(SILENT_POLLS).await?;
    let mut findings = manners(school).await?;
    let updates = &school.bitrix24.requests().await?["updates"];
    if *updates != 0 {
        findings.push(format!("{updates} updates though nobody edits"));
    }
    let more = calls(school).await? - before;
    if more != 0 {
        findings.push(format!("{more} calls of otmechalka though nobody edits"));
    }
    Ok(findings)
}

async fn calls(school: &School) -> anyhow::Result<usize> {
    let history = school.otmechalka.history().await?;
    Ok(history["history"].as_array().context("a history")?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_from_the_beginning_has_a_version_more() {
        let write = |id: u64, method: &str, origin: &str| json!({"entity": "contact", "id": id, "method": method, "origin": origin});
        let history = json!({"history": [
            write(1, "crm.contact.add", "human"),
            write(1, "crm.contact.update", "rest"),
            write(1, "crm.contact.update", "human"),
            write(2, "crm.contact.update", "human"),
        ]});
        let versions = versions(&history).unwrap();
        assert_eq!((versions["contact.1"], versions["contact.2"]), (2, 2));
    }

    #[test]
    fn what_comes_after_the_mend_is_counted_and_timed_in_our_seconds() {
        let entry = |seq: u64, origin: &str, time: &str| json!({"seq": seq, "origin": origin, "time": time});
        let mut history = vec![entry(1, "rest", "2026-01-10T10:00:00+03:00")];
        let clock = json!({"now": "2026-01-10T10:00:10+03:00", "speed": 5.0});
        let mended = Moment::of(&clock, &json!({"history": history})).unwrap();
        assert_eq!(mended.since(&json!({"history": history})).unwrap(), (0, 0.0));
        history.push(entry(2, "rest", "2026-01-10T07:01:00Z"));
        history.push(entry(3, "human", "2026-01-10T10:05:00+03:00"));
        assert_eq!(mended.since(&json!({"history": history})).unwrap(), (1, 10.0));
    }
}
