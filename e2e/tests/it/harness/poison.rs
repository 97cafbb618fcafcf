//! A record that kills its stage each time.

use std::time::Duration;

use e2e::{PATIENCE, School, Stage};

use super::{new_contact, until_success};
use crate::flow::status_of;

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_kills_the_pusher_each_time_is_buried_and_its_neighbours_pass() -> anyhow::Result<()> {
    let mut school = School::builder().start().await?;
    school.shorten_ack_wait(Duration::from_secs(3)).await?;
    let poison = new_contact(&school).await?;
    let place = format!("message-received@contact.{poison}");
    school.doom(Stage::Pusher, &place).await?;
    let mut deaths = 0;
    let mut neighbours = Vec::new();
    let started = tokio::time::Instant::now();
    while school.messages("DLQ").await? == 0 {
        assert!(started.elapsed() < PATIENCE, "{deaths} deaths and no dead letter");
        if school.stage(Stage::Pusher)?.has_ended()? {
            school.until_dead(Stage::Pusher).await?;
            deaths += 1;
            neighbours.push(new_contact(&school).await?);
            school.doom(Stage::Pusher, &place).await?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!((1..=5).contains(&deaths), "{deaths} deaths");
    for neighbour in neighbours {
        until_success(&school, "contact", neighbour).await?;
    }
    assert_eq!(status_of(&school, "contact", poison).await?, "");
    school.caught_up().await
}
