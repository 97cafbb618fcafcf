//! Clocks that are wrong, jump, or show another zone: the stages', and the portal's.

use e2e::harness::{Mended, Tally, judge, people};
use e2e::{School, Stage, WallClock};
use serde_json::{Value, json};

use super::{new_contact, rename, until_success};

/// Field with a pupil's date of birth.
const BORN: &str = "UF_CRM_1607943642";

const HOUR: i64 = 3_600;

struct Scene {
    school: School,
    pupil: u64,
    deal: u64,
    edits: u32,
}

impl Scene {
    /// Edits what is there and makes something new, and waits until all of it has arrived.
    async fn goes_on(&mut self, what: &str) -> anyhow::Result<()> {
        self.edits += 1;
        let school = &self.school;
        let started = tokio::time::Instant::now();
        rename(school, self.pupil, self.edits).await?;
        school.bitrix24.edit("deal", self.deal, json!({"COMMENTS": what})).await?;
        // A create that fails has its command put aside, until a time that is NATS'.
        let once = json!({"kind": "internal_500", "method": "POST", "path": "/api/clients/", "count": 1});
        school.otmechalka.fault(once).await?;
        let second = school.bitrix24.create_contact(born_pupil()).await?;
        let sold = school.bitrix24.create_deal(people::deal(second, true), people::rows(8_700)).await?;
        until_success(school, "contact", second).await.map_err(|error| error.context(what.to_owned()))?;
        until_success(school, "deal", sold).await?;
        println!("{what}: {:.0} s", started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Sets the portal's clock on to a moment.
    async fn advance_to(&self, moment: &str) -> anyhow::Result<()> {
        let now = chrono::DateTime::parse_from_rfc3339(&self.school.bitrix24.now().await?)?;
        let wanted = chrono::DateTime::parse_from_rfc3339(moment)?;
        self.school.bitrix24.advance_clock((wanted - now).num_seconds() as f64).await
    }
}

fn born_pupil() -> Value {
    let mut contact = people::contact(0);
    contact[BORN] = json!("2012-05-17T03:00:00+03:00");
    contact
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_may_be_wrong_jump_and_show_another_zone() -> anyhow::Result<()> {
    let mut school = School::builder().bitrix24(&["--zone", "+03:00"]).open().await?;
    let folder = school.folder();
    let mut clocks = Vec::new();
    for (stage, hours) in Stage::ALL.into_iter().zip([1, -1, 1, -1]) {
        let clock = WallClock::right(&folder, stage.program())?;
        clock.shift(hours * HOUR)?;
        let variables = clock.variables();
        school.start_with(stage, &variables.each_ref().map(|(name, value)| (*name, value.as_str())))?;
        clocks.push(clock);
    }
    let pupil = school.bitrix24.create_contact(born_pupil()).await?;
    let deal = school.bitrix24.create_deal(people::deal(pupil, true), people::rows(8_700)).await?;
    let mut scene = Scene { school, pupil, deal, edits: 0 };
    scene.goes_on("clocks of stages two hours apart").await?;

    for (clock, hours) in clocks.iter().zip([-1, 1, -1, 1]) {
        clock.shift(hours * HOUR)?;
    }
    scene.goes_on("clocks of stages set back and on by two hours").await?;

    scene.school.bitrix24.advance_clock(HOUR as f64).await?;
    scene.goes_on("the portal's clock an hour ahead").await?;
    scene.school.bitrix24.advance_clock(-2.0 * HOUR as f64).await?;
    scene.goes_on("the portal's clock set back by two hours").await?;

    scene.school.bitrix24.set(json!({"zone": "+04:00"})).await?;
    scene.goes_on("the portal moved to +04:00").await?;

    // Berlin's clocks are set on and back at one o'clock of UTC.
    scene.school.bitrix24.set(json!({"zone": "Europe/Berlin"})).await?;
    for change in ["2031-03-30T00:59:55Z", "2031-10-26T00:59:55Z"] {
        scene.advance_to(change).await?;
        scene.goes_on(&format!("over {change}")).await?;
        scene.goes_on("and after it").await?;
    }

    let school = scene.school;
    clocks.iter().try_for_each(|clock| clock.shift(0))?;
    let mended = Some(Mended::now(&school).await?);
    new_contact(&school).await?;
    school.caught_up().await?;
    let history = school.otmechalka.history().await?;
    let bodies = || history["history"].as_array().into_iter().flatten().map(|call| &call["body"]);
    let dates = |name: &str| bodies().filter_map(|body| body[name].as_str()).collect::<Vec<_>>();
    assert!(dates("birthdate").len() >= 16 && dates("selling_date").len() >= 8, "{history}");
    assert!(dates("birthdate").iter().all(|date| *date == "2012-05-17"), "{:?}", dates("birthdate"));
    assert!(dates("selling_date").iter().all(|date| *date == "2026-01-13"), "{:?}", dates("selling_date"));
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}
