//! The network between any two.

use e2e::harness::{Tally, judge};
use e2e::{Link, School, Stage, Weather};

use super::{new_contact, rename};

#[tokio::test(flavor = "multi_thread")]
async fn any_stretch_of_network_may_fall_silent_and_break() -> anyhow::Result<()> {
    let school = School::builder().env("OTMECHALKA_TIMEOUT", "5s").networked().start().await?;
    let pupil = new_contact(&school).await?;
    school.caught_up().await?;
    let links = Stage::ALL.map(Link::Nats).into_iter().chain([Link::Bitrix24, Link::Otmechalka]);
    for (number, link) in links.enumerate() {
        let number = number as u32 * 2;
        school.weather(link, Weather::Silent)?;
        rename(&school, pupil, number).await?;
        new_contact(&school).await?;
        if !matches!(link, Link::Nats(Stage::Producer) | Link::Bitrix24) {
            // Time enough for work to arrive at the silence.
            school.after_polls(2).await?;
        }
        school.weather(link, Weather::Cut)?;
        rename(&school, pupil, number + 1).await?;
        school.weather(link, Weather::Clear)?;
    }
    school.caught_up().await?;
    judge::judge(&school, &Tally::default()).await
}
