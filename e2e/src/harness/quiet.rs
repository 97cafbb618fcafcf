//! A school that runs for long under light faults, to see what grows: no process of it is ever started anew.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tokio::time::Instant;

use super::curves::{self, Sample};
use super::judge::{self, Tally};
use super::people::{self, SURNAME};
use crate::school::School;

/// Portal seconds in one of ours: an hour is two and a half days.
const SPEED: &str = "60";

/// Chance of each light fault, of each request.
const CHANCE: f64 = 0.01;

/// Time between two edits, which makes 200 in an hour of the portal's.
const EDITS: Duration = Duration::from_millis(300);

/// Edits between two measurements.
const MEASURED_EVERY: u32 = 10;

/// Pupils that are edited.
const PUPILS: u32 = 50;

/// Runs a school until `end`, then has it come to rest and judges it. Returns how many edits were made.
pub async fn live(seed: u64, end: Instant, mut note: impl FnMut(&[Sample])) -> anyhow::Result<u32> {
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let school = School::builder()
        .demo(200, 200, seed)
        .bitrix24(&["--clock-speed", SPEED])
        .env("PORTAL_CLOCK_SPEED", SPEED)
        .otmechalka(&["--clock-speed", SPEED])
        .env("OTMECHALKA_CLOCK_SPEED", SPEED)
        .env("OTMECHALKA_TIMEOUT", "2s")
        .start()
        .await?;
    let mut pupils = Vec::new();
    for number in 0..PUPILS {
        pupils.push(school.bitrix24.create_contact(people::contact(number)).await?);
    }
    school.caught_up().await?;
    for kind in ["html_502", "reset_before", "truncated", "reset_after_apply", "error_under_200"] {
        school.bitrix24.fault(json!({"kind": kind, "probability": CHANCE})).await?;
    }
    let mut edits = 0;
    let mut beat = tokio::time::interval(EDITS);
    while Instant::now() < end {
        beat.tick().await;
        edits += 1;
        let pupil = pupils[dice.random_range(0..pupils.len())];
        let change = json!({SURNAME: people::surname(edits % 8_000)});
        school.bitrix24.edit("contact", pupil, change).await?;
        if dice.random_bool(CHANCE) {
            let kind = ["internal_500", "reset_after_apply", "garbage"][dice.random_range(0..3)];
            school.otmechalka.fault(json!({"kind": kind, "count": 1})).await?;
        }
        if edits % MEASURED_EVERY == 0 {
            note(&curves::measure(&school));
        }
    }
    school.bitrix24.heal().await?;
    school.otmechalka.heal().await?;
    school.caught_up().await?;
    judge::judge(&school, &Tally::default()).await?;
    Ok(edits)
}
