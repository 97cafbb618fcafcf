//! Checks the invariants over what both simulators remember, when everything has come to rest.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use futures::TryStreamExt;
use schemas::DeadLetter;
use serde_json::{Value, json};

use super::curves::Peaks;
use super::witness::Suspects;
use crate::School;

/// Most memory of a stage, in KiB. A release may have 64 MiB; a debug build maps some 20 MiB of code besides.
const MOST_MEMORY_KIB: u64 = (64 + 32) * 1024;

/// Most files and connections that a stage has open.
const MOST_FILES: u64 = 128;

/// Requests that Bitrix24 may refuse after a stage was started, which cannot know how full the bucket is.
const REFUSALS_AFTER_START: u64 = 5;

/// Polls of a school that is left alone.
const SILENT_POLLS: u64 = 3;

/// What is known besides the histories.
#[derive(Debug, Default)]
pub struct Tally {
    /// How often stages were started anew.
    pub restarts: u64,
    /// What the witness saw.
    pub suspects: Suspects,
    /// The highest memory and numbers of open files.
    pub peaks: Peaks,
    /// Subjects of the dead letters that have to be there, and no others. What becomes of their records is not judged.
    pub letters: Vec<String>,
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
    let suspects: Vec<Value> = tally.suspects.iter().map(|(entity, id)| json!([entity, id])).collect();
    let buried: Vec<Value> = tally.letters.iter().filter_map(|subject| record_of(subject)).collect();
    let more = json!({"order": true, "suspects": suspects, "buried": buried});
    let mut findings = school.judged(more).await?;
    findings.extend(echoes(school).await?);
    findings.extend(manners(school, tally.restarts).await?);
    findings.extend(tally.peaks.above(MOST_MEMORY_KIB, MOST_FILES));
    findings.extend(letters(school, &tally.letters).await?);
    Ok(findings)
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
async fn echoes(school: &School) -> anyhow::Result<Vec<String>> {
    let stream = school.broker.jetstream().get_stream(schemas::streams::RAW.name).await?;
    let published: Vec<(String, usize)> = stream.info_with_subjects("b24.raw.>").await?.try_collect().await?;
    let made = versions(&school.bitrix24.history().await?)?;
    let too_many = published.into_iter().filter_map(|(subject, published)| {
        let record = subject.strip_prefix("b24.raw.")?.to_owned();
        // A record that nobody made by hand was there from the beginning.
        let made = made.get(&record).copied().unwrap_or(1);
        (published > made).then(|| format!("{record}: {published} versions published, {made} made"))
    });
    Ok(too_many.collect())
}

/// Counts the versions of each record that people made.
fn versions(history: &Value) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut versions: BTreeMap<String, usize> = BTreeMap::new();
    let entries = history["history"].as_array().context("a history")?;
    for write in entries.iter().filter(|write| write["origin"] == "human") {
        let record = format!("{}.{}", write["entity"].as_str().context("an entity")?, write["id"]);
        let is_made = write["method"].as_str().is_some_and(|method| method.ends_with(".add"));
        let first = usize::from(!is_made);
        versions.entry(record).and_modify(|count| *count += 1).or_insert(1 + first);
    }
    Ok(versions)
}

/// Finds requests that Bitrix24 had to refuse.
async fn manners(school: &School, restarts: u64) -> anyhow::Result<Vec<String>> {
    let requests = school.bitrix24.requests().await?;
    let spoiled = |kind: &str| requests["faults"][kind].as_u64().unwrap_or(0);
    let refused =
        requests["refused_503"].as_u64().context("refused_503")?.saturating_sub(spoiled("query_limit_503"));
    let mut findings = Vec::new();
    if refused > restarts * REFUSALS_AFTER_START {
        findings.push(format!("{refused} requests were refused after {restarts} restarts"));
    }
    if requests["refused_operating"].as_u64().context("refused_operating")? > spoiled("operating_429") {
        findings.push(format!("methods were used for too long: {}", requests["refused_operating_by_method"]));
    }
    Ok(findings)
}

/// Finds what is still done although nobody edits anything.
async fn silence(school: &School) -> anyhow::Result<Vec<String>> {
    school.bitrix24.reset_requests().await?;
    let before = calls(school).await?;
    school.after_polls(SILENT_POLLS).await?;
    let mut findings = Vec::new();
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
}
