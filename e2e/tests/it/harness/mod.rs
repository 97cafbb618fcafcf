//! The fault harness at work: what holds whatever breaks, and that the harness would tell if it did not.

mod broker;
mod builds;
mod clocks;
mod crms;
mod disks;
mod kills;
mod mistakes;
mod network;
mod oracle;
mod poison;
mod polls;
mod seeds;
mod starts;
mod stores;
mod zombies;

use std::time::Duration;

use anyhow::Context;
use e2e::harness::people;
use e2e::{PATIENCE, School, SchoolBuilder, eventually};
use schemas::problem::SUCCESS;
use serde_json::json;

use crate::flow::status_of;

/// Returns the seed that is asked for with `ROLLCALL_SEED`, or the one that is played at every run of the tests.
pub fn seed(usual: u64) -> anyhow::Result<u64> {
    match std::env::var("ROLLCALL_SEED") {
        Ok(seed) => seed.parse().context("ROLLCALL_SEED is no number"),
        Err(_) => Ok(usual),
    }
}

/// Opens a school with a portal and an otmechalka that take the time for their work that they take in earnest.
async fn ordinary(school: SchoolBuilder) -> anyhow::Result<School> {
    let school = school.otmechalka(&["--latency-ms", "50"]).open().await?;
    school.bitrix24.set(json!({"costs": {"seconds": {"crm.*.update": 0.04}}})).await?;
    Ok(school)
}

/// Sooner than in earnest, so that nobody need wait long for what a killed stage held.
const SHORT_ACK_WAIT: Duration = Duration::from_secs(3);

/// Makes a contact without a mistake.
async fn new_contact(school: &School) -> anyhow::Result<u64> {
    school.bitrix24.create_contact(people::contact(0)).await
}

/// Gives a pupil another surname.
async fn rename(school: &School, pupil: u64, number: u32) -> anyhow::Result<()> {
    school.bitrix24.edit("contact", pupil, json!({people::SURNAME: people::surname(number)})).await
}

/// Waits until a contact shows the success.
async fn until_success(school: &School, entity: &str, id: u64) -> anyhow::Result<()> {
    eventually(&format!("the success of {entity} {id}"), PATIENCE, || async {
        Ok((status_of(school, entity, id).await? == SUCCESS).then_some(()))
    })
    .await
}

/// Waits until a stream holds so many messages.
async fn until_messages(school: &School, stream: &str, count: u64) -> anyhow::Result<()> {
    eventually(&format!("{count} messages in {stream}"), PATIENCE, || async {
        Ok((school.messages(stream).await? >= count).then_some(()))
    })
    .await
}

/// Waits until every planned fault has struck as often as it was to.
async fn until_struck(
    what: &str,
    faults: impl AsyncFn() -> anyhow::Result<serde_json::Value>,
) -> anyhow::Result<()> {
    let left = async || {
        let planned = faults().await?;
        let rules = planned["faults"].as_array().into_iter().flatten();
        let left = rules.filter(|rule| rule["count"] != 0).map(|rule| format!("{}", rule["method"]));
        anyhow::Ok(left.collect::<Vec<_>>())
    };
    let struck = eventually(&format!("the faults of {what}"), PATIENCE, || async {
        Ok(left().await?.is_empty().then_some(()))
    })
    .await;
    match struck {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(format!("left: {}", left().await?.join(", ")))),
    }
}
