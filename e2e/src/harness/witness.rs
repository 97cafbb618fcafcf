//! Watches for what is true at the end and was a lie meanwhile: a success in Bitrix24 of what otmechalka does not hold yet.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use runtime::CancellationToken;
use schemas::problem::SUCCESS;
use serde_json::Value;

use super::people::STATUS;
use crate::School;
use crate::simulator::Admin;

/// Somebody who looks at both CRMs all the time.
pub struct Witness {
    leave: CancellationToken,
    watching: tokio::task::JoinHandle<anyhow::Result<Testimony>>,
}

/// What a witness saw of successes. The oracle knows which of it is a lie.
#[derive(Debug, Default)]
pub struct Testimony {
    /// Records whose success was shown while otmechalka did not hold them, as `contact` or `deal` with the id. What need not
    /// be in otmechalka at all is among them.
    pub suspects: BTreeSet<(String, u64)>,
    /// Successes of contacts: the id, the number of the write that brought it, and that of the last call of otmechalka that
    /// can have come before.
    pub successes: Vec<(u64, u64, u64)>,
}

impl Witness {
    /// Begins to watch.
    pub fn of(school: &School) -> Witness {
        let (bitrix24, otmechalka) = (school.bitrix24.admin.clone(), school.otmechalka.admin.clone());
        let leave = CancellationToken::new();
        let watching = tokio::spawn(watch(bitrix24, otmechalka, leave.clone()));
        Witness { leave, watching }
    }

    /// Looks a last time, and tells what was seen.
    pub async fn tell(self) -> anyhow::Result<Testimony> {
        self.leave.cancel();
        self.watching.await.context("the witness failed")?
    }
}

async fn watch(bitrix24: Admin, otmechalka: Admin, leave: CancellationToken) -> anyhow::Result<Testimony> {
    let mut testimony = Testimony::default();
    let mut seen = 0;
    loop {
        let is_last = leave.is_cancelled();
        // Bitrix24 is read first: whatever otmechalka got before the status was written is there by now.
        let history = bitrix24.get(&format!("history?after={seen}&origin=rest")).await?;
        for write in history["history"].as_array().context("a history")? {
            seen = seen.max(write["seq"].as_u64().context("a number")?);
            let Some((entity, id)) = success_of(write) else { continue };
            if entity == "contact" {
                let calls = otmechalka.get(&format!("history?since={}", u64::MAX)).await?;
                testimony.successes.push((id, seen, calls["last_seq"].as_u64().context("a number")?));
            }
            if !is_held(&otmechalka, &entity, id).await? {
                testimony.suspects.insert((entity, id));
            }
        }
        if is_last {
            return Ok(testimony);
        }
        tokio::select! {
            () = leave.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
}

fn success_of(write: &Value) -> Option<(String, u64)> {
    let is_success = write["applied"] == true && write["fields"][STATUS] == SUCCESS;
    is_success.then(|| Some((write["entity"].as_str()?.to_owned(), write["id"].as_u64()?)))?
}

async fn is_held(otmechalka: &Admin, entity: &str, id: u64) -> anyhow::Result<bool> {
    let held = otmechalka.get(&format!("state?origin_id={id}")).await?;
    let list = if entity == "contact" { "clients" } else { "tickets" };
    Ok(held[list].as_array().is_some_and(|list| !list.is_empty()))
}
