//! One entity's polls beside those of the other.

use e2e::harness::{Tally, judge};
use e2e::{PATIENCE, School, eventually};
use schemas::Entity;

#[tokio::test(flavor = "multi_thread")]
async fn contacts_that_are_always_due_leave_deals_their_turn() -> anyhow::Result<()> {
    // More than a page of either lies within the overlap, so every poll is a walk; and contacts are due again before
    // their walk has ended.
    let school = School::builder().env("CONTACT_SYNC_INTERVAL", "100ms").plain(70, 70).start().await?;
    eventually("statuses of all", PATIENCE, || async {
        Ok((school.messages("B24_STATUS").await? >= 140).then_some(()))
    })
    .await?;
    let before = school.polls().await?;
    let after = eventually("polls of deals", PATIENCE, || async {
        let now = school.polls().await?;
        Ok((now[&Entity::Deal] >= before[&Entity::Deal] + 3).then_some(now))
    })
    .await?;
    let contacts = after[&Entity::Contact] - before[&Entity::Contact];
    // A poll of deals takes a few turns; without turns of their own there would be hundreds.
    assert!(contacts <= 40, "{contacts} polls of contacts while deals were polled 3 times");
    school.caught_up().await?;
    // Ten more polls of deals would take a minute beside those of contacts.
    let findings = judge::standing(&school, &Tally::default()).await?;
    assert!(findings.is_empty(), "{findings:?}");
    Ok(())
}
