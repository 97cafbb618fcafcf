//! Watches for what is true at the end and was a lie meanwhile: a success in Bitrix24 that otmechalka knows nothing of.

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
    watching: tokio::task::JoinHandle<anyhow::Result<Suspects>>,
}

/// Records whose success was shown while otmechalka did not hold them, as `contact` or `deal` with the id. What need
/// not be in otmechalka at all is among them; the oracle knows which those are.
pub type Suspects = BTreeSet<(String, u64)>;

impl Witness {
    /// Begins to watch.
    pub fn of(school: &School) -> Witness {
        let (bitrix24, otmechalka) = (school.bitrix24.admin.clone(), school.otmechalka.admin.clone());
        let leave = CancellationToken::new();
        let watching = tokio::spawn(watch(bitrix24, otmechalka, leave.clone()));
        Witness { leave, watching }
    }

    /// Looks a last time, and tells what was seen.
    pub async fn tell(self) -> anyhow::Result<Suspects> {
        self.leave.cancel();
        self.watching.await.context("the witness failed")?
    }
}

async fn watch(bitrix24: Admin, otmechalka: Admin, leave: CancellationToken) -> anyhow::Result<Suspects> {
    let mut suspects = Suspects::new();
    let mut seen = 0;
    loop {
        let is_last = leave.is_cancelled();
        // Bitrix24 is read first: whatever otmechalka got before the status was written is there by now.
        let history = bitrix24.get(&format!("history?after={seen}&origin=rest")).await?;
        for write in history["history"].as_array().context("a history")? {
            seen = seen.max(write["seq"].as_u64().context("a number")?);
            if let Some(record) = success_of(write)
                && !is_held(&otmechalka, &record).await?
            {
                suspects.insert(record);
            }
        }
        if is_last {
            return Ok(suspects);
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

async fn is_held(otmechalka: &Admin, (entity, id): &(String, u64)) -> anyhow::Result<bool> {
    let held = otmechalka.get(&format!("state?origin_id={id}")).await?;
    let list = if entity == "contact" { "clients" } else { "tickets" };
    Ok(held[list].as_array().is_some_and(|list| !list.is_empty()))
}
