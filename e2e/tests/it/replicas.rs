//! Every stage in several replicas, which come, go, hang and come back with work half done.

use std::collections::BTreeMap;
use std::time::Instant;

use e2e::harness::curves::{self, Peaks};
use e2e::harness::witness::Witness;
use e2e::harness::{Mended, Tally, judge};
use e2e::{PATIENCE, Program, School, Stage, eventually};
use runtime::lease::Lease;
use schemas::streams::ACK_WAIT;
use serde_json::{Value, json};

use crate::flow::{good_contact, good_deal, good_rows};

const CONTACTS: usize = 8;

/// Replicas of each stage, in the order of the flow.
const REPLICAS: [(Stage, usize); 4] =
    [(Stage::Producer, 2), (Stage::Mapper, 3), (Stage::Pusher, 3), (Stage::StatusWriter, 2)];

struct Crowd {
    school: School,
    witness: Witness,
    replicas: BTreeMap<(Stage, usize), Program>,
    contacts: Vec<u64>,
    deals: Vec<u64>,
    round: usize,
    peaks: Peaks,
}

impl Crowd {
    async fn start() -> anyhow::Result<Crowd> {
        let school = School::builder().otmechalka(&["--latency-ms", "30"]).open().await?;
        let witness = Witness::of(&school);
        let mut replicas = BTreeMap::new();
        for (stage, count) in REPLICAS {
            for number in 0..count {
                let program = school.replica(stage, &format!("{}-{number}", stage.program()))?;
                replicas.insert((stage, number), program);
            }
        }
        let (mut contacts, mut deals) = (Vec::new(), Vec::new());
        for _ in 0..CONTACTS {
            let contact = school.bitrix24.create_contact(good_contact()).await?;
            contacts.push(contact);
            deals.push(school.bitrix24.create_deal(good_deal(contact), good_rows()).await?);
        }
        Ok(Crowd { school, witness, replicas, contacts, deals, round: 0, peaks: Peaks::default() })
    }

    fn replica(&mut self, stage: Stage, number: usize) -> &mut Program {
        self.replicas.get_mut(&(stage, number)).unwrap()
    }

    async fn kill_and_replace(&mut self, stage: Stage, number: usize) -> anyhow::Result<()> {
        self.measure();
        self.replica(stage, number).kill().await?;
        let program = self.school.replica(stage, &format!("{}-{number}", stage.program()))?;
        self.replicas.insert((stage, number), program);
        Ok(())
    }

    /// Notes memory and open files of every replica.
    fn measure(&mut self) {
        let running = self.replicas.values();
        let running = running.filter_map(|program| Some((program.name().to_owned(), program.process_id()?)));
        self.peaks.note(&curves::measure_these(running));
    }

    /// Judges everything that was seen, `mended` being when the last of them was replaced.
    async fn judge(mut self, mended: Mended) -> anyhow::Result<()> {
        self.measure();
        let Crowd { school, witness, peaks, .. } = self;
        let testimony = witness.tell().await?;
        let mended = Some(mended);
        judge::judge(&school, &Tally { testimony, peaks, mended, ..Tally::default() }).await
    }

    /// Edits every contact, and has a deal change its pupil.
    async fn edit(&mut self) -> anyhow::Result<()> {
        self.round += 1;
        for contact in &self.contacts {
            let phone = json!([{"VALUE": phone(self.round), "VALUE_TYPE": "MOBILE"}]);
            self.school.bitrix24.edit("contact", *contact, json!({"PHONE": phone})).await?;
        }
        let deal = self.deals[self.round % CONTACTS];
        let pupil = self.contacts[(self.round + 3) % CONTACTS];
        self.school.bitrix24.edit("deal", deal, json!({"CONTACT_ID": pupil.to_string()})).await?;
        Ok(())
    }

    /// Returns the phones that were written of each client, in the order in which they were.
    async fn written(&self) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
        let mut written = BTreeMap::<String, Vec<String>>::new();
        let history = self.school.otmechalka.history().await?;
        for call in history["history"].as_array().into_iter().flatten() {
            let is_write = call["applied"] == json!(true) && call["method"] == "POST";
            if let (true, Some(id), Some(phone)) =
                (is_write, call["origin_id"].as_str(), call["body"]["phone"].as_str())
            {
                written.entry(id.to_owned()).or_default().push(phone.to_owned());
            }
        }
        Ok(written)
    }

    /// Waits until the newest edit of some contact has arrived.
    async fn moves(&self) -> anyhow::Result<()> {
        let newest = phone(self.round);
        eventually("an edit to arrive", PATIENCE, || async {
            Ok(self.written().await?.values().flatten().any(|written| *written == newest).then_some(()))
        })
        .await
    }

    async fn at_work(&self, stage: Stage) -> anyhow::Result<Value> {
        Ok(serde_json::to_value(Lease::look(&self.school.broker, stage.program()).await?)?)
    }
}

fn phone(round: usize) -> String {
    format!("7926555{round:04}")
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_may_die_hang_and_come_back_and_every_record_stays_in_order() -> anyhow::Result<()> {
    let mut crowd = Crowd::start().await?;
    crowd.edit().await?;
    crowd.moves().await?;

    // One of each hangs, and with it whatever it has in hand: the others go on.
    let hung = Instant::now();
    for stage in Stage::ALL {
        crowd.replica(stage, 0).freeze()?;
    }
    crowd.edit().await?;
    crowd.moves().await?;
    eventually("the end of every delivery to those that hang", PATIENCE, || async {
        Ok((hung.elapsed() > ACK_WAIT).then_some(()))
    })
    .await?;
    crowd.edit().await?;
    crowd.moves().await?;

    // They come back while others die under new edits.
    for stage in Stage::ALL {
        crowd.replica(stage, 0).thaw()?;
    }
    crowd.edit().await?;
    for stage in Stage::ALL {
        crowd.kill_and_replace(stage, 1).await?;
    }
    crowd.edit().await?;
    crowd.kill_and_replace(Stage::Pusher, 2).await?;
    let mended = Mended::now(&crowd.school).await?;
    crowd.moves().await?;

    crowd.school.caught_up().await?;
    for (id, phones) in crowd.written().await? {
        assert!(phones.is_sorted(), "client {id}: {phones:?}");
        assert_eq!(phones.last(), Some(&phone(crowd.round)), "client {id}");
    }
    for stage in Stage::ALL {
        for number in [0, 1] {
            assert!(!crowd.replica(stage, number).has_ended()?, "{stage:?} {number}");
        }
    }
    crowd.judge(mended).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_to_stop_hands_its_lease_over() -> anyhow::Result<()> {
    let mut crowd = Crowd::start().await?;
    crowd.edit().await?;
    crowd.moves().await?;
    crowd.school.caught_up().await?;
    for stage in [Stage::Producer, Stage::StatusWriter] {
        let before = crowd.at_work(stage).await?;
        for number in [0, 1] {
            assert_eq!(crowd.replica(stage, number).stop().await?, 0);
            crowd.kill_and_replace(stage, number).await?;
        }
        assert_ne!(crowd.at_work(stage).await?, before);
    }
    let mended = Mended::now(&crowd.school).await?;
    crowd.edit().await?;
    crowd.school.caught_up().await?;
    crowd.judge(mended).await
}
