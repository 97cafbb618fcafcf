//! Malformed records and answers that are none: an answer to each, and nobody else affected.

use std::collections::BTreeSet;

use anyhow::Context;
use e2e::harness::{Tally, judge};
use e2e::{PATIENCE, School, Stage, eventually};
use futures::TryStreamExt;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use schemas::problem::STATUS_MAX_CHARS;
use serde_json::{Value, json};

use crate::flow::{client, good_contact, good_deal, good_rows, status_of, ticket};
use crate::harness::seed;

/// Contacts, and as many deals, of which two of five are malformed, each in another way; `ROLLCALL_RECORDS` asks for more.
const RECORDS: usize = 105;

/// Most memory of a stage: 64 MiB, and the 16 MiB of the longest answer that is read.
const MOST_KIB: u64 = (64 + 16) << 10;

const SURNAME: &str = "UF_CRM_57AD7FAF7E6C4";
const FIRST_NAME: &str = "UF_CRM_1608028374";

/// Names that look like something else to somebody, and have to arrive as they are.
const HOSTILE_NAMES: [&str; 12] = [
    "<script>alert(1)</script>",
    "Роберт'); DROP TABLE clients;--",
    "{{7*7}}",
    "${jndi:ldap://x}",
    "%s%n",
    "sync.>.*",
    "$result[0][ID]",
    "А=Б&ID=1#x+y",
    "100 %",
    "👨\u{200d}👩\u{200d}👧",
    "𝓐𝓷𝓷𝓪",
    "Андреи\u{306}",
];

/// Values of one field of a contact that a form, an import or another program may leave there.
fn odd_contact_fields() -> Vec<(&'static str, Vec<Value>)> {
    let phone = |text: &str| json!([{"VALUE": text, "VALUE_TYPE": "MOBILE"}]);
    vec![
        (
            "PHONE",
            vec![
                json!([]),
                json!(false),
                phone("позвонить маме"),
                phone("1234567"),
                phone("+7"),
                phone("8 (926) 555-01-02 доб. 7"),
                phone("+7\u{a0}926\u{a0}555–01–03"),
                phone("+44 20 7946 0958"),
                json!({"1": {"VALUE": "89265550104", "VALUE_TYPE": "WORK"}}),
                json!([{"VALUE": "", "VALUE_TYPE": "WORK"}, {"VALUE": "89265550105", "VALUE_TYPE": "WORK"}]),
            ],
        ),
        (
            "EMAIL",
            vec![
                json!([{"VALUE": " "}]),
                json!([{"VALUE": "a@example.ru, b@example.ru"}]),
                json!([{"VALUE": "нет"}]),
            ],
        ),
        (
            SURNAME,
            vec![
                json!(null),
                json!(""),
                json!(false),
                json!("\u{a0} \u{2003}"),
                json!("Б\r\nX-Evil: 1"),
                json!("Ку\u{0}ш\u{7}ак\u{1b}[2J"),
                json!("\u{202e}вонаВИ\u{200b}\u{2028}"),
                json!("я".repeat(256)),
                json!("я".repeat(20_000)),
            ],
        ),
        ("LAST_NAME", vec![json!(""), json!("\u{feff}"), json!("Ж".repeat(1_000))]),
        (
            "UF_CRM_58D15BB9CA8F4",
            vec![json!(false), json!([]), json!("404"), json!([9_999]), json!([404, 410, 7])],
        ),
        (
            "UF_CRM_1607943642",
            vec![
                json!(""),
                json!("31.02.2010"),
                json!("0000-00-00"),
                json!("2012-05-17T00:00:00+03:00"),
                json!("2012-05-17T03:00:00+04:00"),
                json!(1_337_205_600),
            ],
        ),
    ]
}

fn odd_deal_fields() -> Vec<(&'static str, Vec<Value>)> {
    vec![
        ("CONTACT_ID", vec![json!(null), json!("0"), json!("9000000")]),
        ("ASSIGNED_BY_ID", vec![json!("99999"), json!("12288 ")]),
        ("UF_CRM_58D1057919A6F", vec![json!(""), json!("2026-01-13T00:00:00+03:00"), json!("вчера")]),
        (
            "UF_CRM_1470852549",
            vec![json!(false), json!([186, 12706]), json!("186"), json!([348]), json!([348, 186])],
        ),
        ("UF_CRM_1490347942", vec![json!(null), json!("450"), json!(450), json!("0")]),
        ("CURRENCY_ID", vec![json!("USD"), json!("")]),
    ]
}

fn odd_row_fields() -> Vec<(&'static str, Vec<Value>)> {
    vec![
        (
            "PRODUCT_NAME",
            vec![
                json!("  6 КМС индивидуальные 45 мин "),
                json!("<b>нет такого</b>"),
                json!(""),
                json!("Я".repeat(300)),
            ],
        ),
        ("QUANTITY", vec![json!(2), json!("1.0000"), json!(0.5)]),
        (
            "PRICE",
            vec![
                json!(-8700),
                json!("NaN"),
                json!(1e21),
                json!(null),
                json!("8700.00"),
                json!(8_700.000_000_000_001),
            ],
        ),
        ("DISCOUNT_SUM", vec![json!(900), json!("300.00")]),
        ("PRICE_BRUTTO", vec![json!(8_000), json!("9000"), json!(0), json!("0.00")]),
    ]
}

/// What is odd about a deal.
enum OddDeal {
    /// A field of it.
    Field(&'static str, Value),
    /// A field of its product row.
    Row(&'static str, Value),
    /// How many rows it has.
    Rows(usize),
}

fn values(fields: Vec<(&'static str, Vec<Value>)>) -> impl Iterator<Item = (&'static str, Value)> {
    fields.into_iter().flat_map(|(field, values)| values.into_iter().map(move |value| (field, value)))
}

/// Odd values in an order that a seed chooses: each comes once before any comes again, so that which of them a run of a
/// given length tries does not depend on the seed.
struct Deck<T> {
    values: Vec<T>,
    dealt: usize,
}

impl<T> Deck<T> {
    fn of(values: impl Iterator<Item = T>) -> Self {
        Self { values: values.collect(), dealt: 0 }
    }

    fn next(&mut self, rng: &mut ChaCha8Rng) -> &T {
        let place = self.dealt % self.values.len();
        if place == 0 {
            self.values.shuffle(rng);
        }
        self.dealt += 1;
        &self.values[place]
    }
}

/// Fills the portal with contacts and their deals; returns their ids.
async fn fill(school: &School, seed: u64, records: usize) -> anyhow::Result<Vec<u64>> {
    let mut contacts = Deck::of(values(odd_contact_fields()));
    let fields = values(odd_deal_fields()).map(|(field, value)| OddDeal::Field(field, value));
    let rows = values(odd_row_fields()).map(|(field, value)| OddDeal::Row(field, value));
    let mut deals = Deck::of(fields.chain(rows).chain([0, 2, 60].map(OddDeal::Rows)));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let odd = |rng: &mut ChaCha8Rng| {
        let mut odd: Vec<bool> = (0..records).map(|number| number % 5 < 2).collect();
        odd.shuffle(rng);
        odd
    };
    let mut pupils = Vec::new();
    for (odd_contact, odd_deal) in odd(&mut rng).into_iter().zip(odd(&mut rng)) {
        let mut contact = good_contact();
        if odd_contact {
            let (field, value) = contacts.next(&mut rng);
            contact[*field] = value.clone();
        }
        let pupil = school.bitrix24.create_contact(contact).await?;
        let (mut deal, mut product) = (good_deal(pupil), good_rows());
        if odd_deal {
            match deals.next(&mut rng) {
                OddDeal::Field(field, value) => deal[*field] = value.clone(),
                OddDeal::Row(field, value) => product[0][*field] = value.clone(),
                OddDeal::Rows(count) => product = Value::Array(vec![product[0].clone(); *count]),
            }
        }
        school.bitrix24.create_deal(deal, product).await?;
        pupils.push(pupil);
    }
    let is_short = |odd: usize| odd > records * 2 / 5;
    anyhow::ensure!(
        !is_short(contacts.values.len()) && !is_short(deals.values.len()),
        "too few for each oddity"
    );
    Ok(pupils)
}

/// Creates contacts and a deal that bring far more with them than anybody needs; returns them.
async fn heavy_records(school: &School) -> anyhow::Result<(Vec<u64>, u64)> {
    let with = |extra: Value| {
        let mut contact = good_contact();
        for (name, value) in extra.as_object().into_iter().flatten() {
            contact[name] = value.clone();
        }
        contact
    };
    let many: serde_json::Map<String, Value> =
        (0..500).map(|number| (format!("UF_CRM_EXTRA_{number}"), json!("x".repeat(200)))).collect();
    let mut contacts = Vec::new();
    for extra in [
        json!({"COMMENTS": "ы".repeat(1 << 20)}),
        json!({"COMMENTS": "\u{7}".repeat(200 << 10)}),
        Value::Object(many),
    ] {
        contacts.push(school.bitrix24.create_contact(with(extra)).await?);
    }
    let mut deal = good_deal(contacts[0]);
    deal["ADDITIONAL_INFO"] =
        json!("a:1:{s:4:\"TEXT\";s:200000:\"".to_owned() + &"x".repeat(200_000) + "\";}");
    let deal = school.bitrix24.create_deal(deal, good_rows()).await?;
    Ok((contacts, deal))
}

fn assert_bounded(school: &mut School) -> anyhow::Result<()> {
    for stage in Stage::ALL {
        let kib = school.stage(stage)?.peak_memory_kib()?;
        anyhow::ensure!(kib <= MOST_KIB, "{stage:?} took {kib} KiB");
    }
    Ok(())
}

/// Returns the subjects of a stream.
async fn subjects(school: &School, stream: &str) -> anyhow::Result<Vec<String>> {
    let stream = school.broker.jetstream().get_stream(stream).await?;
    let subjects: Vec<(String, usize)> = stream.info_with_subjects(">").await?.try_collect().await?;
    Ok(subjects.into_iter().map(|(subject, _)| subject).collect())
}

fn acts(character: char) -> bool {
    character.is_control() && character != '\n'
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{200b}')
}

#[tokio::test(flavor = "multi_thread")]
async fn a_school_with_malformed_records_ends_as_the_oracle_says() -> anyhow::Result<()> {
    let seed = seed(rand::random())?;
    let records = match std::env::var("ROLLCALL_RECORDS") {
        Ok(records) => records.parse().context("ROLLCALL_RECORDS is no number")?,
        Err(_) => RECORDS,
    };
    let commit = e2e::commit();
    let replay = format!("commit {commit}; replay: ROLLCALL_SEED={seed} ROLLCALL_RECORDS={records}");
    // A failed assertion does not come back as an error.
    println!("{replay}");
    malformed_school(seed, records).await.context(replay)
}

async fn malformed_school(seed: u64, records: usize) -> anyhow::Result<()> {
    // Each status that is written is read again for two minutes, by every poll.
    let interval = if records > RECORDS { "15s" } else { "1s" };
    let mut school = School::builder().env("RUST_LOG", "debug").polled_each(interval).open().await?;
    // Computing time for thousands of statuses.
    school.bitrix24.set(json!({"costs": {"seconds": {"crm.*.update": 0.04}}})).await?;
    let pupils = fill(&school, seed, records).await?;
    let (heavy, heavy_deal) = heavy_records(&school).await?;
    let mut named = Vec::new();
    for name in HOSTILE_NAMES {
        let mut contact = good_contact();
        contact[FIRST_NAME] = json!(name);
        let pupil = school.bitrix24.create_contact(contact).await?;
        named.push((pupil, name));
    }
    let turned = school.bitrix24.create_contact(good_contact()).await?;
    for stage in Stage::ALL {
        school.start(stage)?;
    }
    eventually("its first status", PATIENCE, || async {
        Ok((!status_of(&school, "contact", turned).await?.is_empty()).then_some(()))
    })
    .await?;
    school.bitrix24.edit("contact", turned, json!({SURNAME: "\u{202e}вона\u{1b}[2JВИ"})).await?;
    school.caught_up().await?;
    school.assert_consistent().await?;

    for (pupil, name) in &named {
        let held = client(&school, *pupil).await?;
        assert_eq!(held.map(|client| client["first_name"].clone()), Some(json!(name)), "contact {pupil}");
    }
    for pupil in &heavy {
        assert_eq!(status_of(&school, "contact", *pupil).await?, "Успешно", "contact {pupil}");
    }
    assert!(ticket(&school, heavy_deal).await?.is_some());
    let mut texts = BTreeSet::new();
    for pupil in &pupils {
        let status = status_of(&school, "contact", *pupil).await?;
        assert!(status.chars().count() <= STATUS_MAX_CHARS && !status.contains(acts), "{status:?}");
        texts.insert(status);
    }
    assert!(texts.len() > 5 && texts.contains("Успешно"), "statuses of all sorts: {texts:?}");

    for stream in ["B24_RAW", "CRM_CMD", "CRM_RESULT", "B24_STATUS"] {
        for subject in subjects(&school, stream).await? {
            let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.';
            assert!(subject.chars().all(is_plain), "{subject}");
        }
    }
    assert!(subjects(&school, "DLQ").await.unwrap_or_default().is_empty(), "nothing became a dead letter");
    let logs = school.logs()?;
    assert!(!logs.contains(acts), "a log line holds what others wrote");
    for name in HOSTILE_NAMES.iter().filter(|name| name.chars().count() > 8) {
        assert!(!logs.contains(name), "a name in the logs: {name}");
    }
    let turned = turned.to_string();
    for arguments in [
        vec!["history", "contact", &turned, "--reveal"],
        vec!["history", "contact", &turned, "--reveal", "--json"],
        vec!["preview", "contact", &turned, "--reveal"],
    ] {
        let told = school.rollcall(&arguments).await?;
        assert!(told.out.contains("вона"), "{arguments:?}: {told:?}");
        assert!(!told.out.contains(acts) && !told.err.contains(acts), "{arguments:?}: {told:?}");
    }
    assert_bounded(&mut school)?;
    judge::judge(&school, &Tally::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_none_harm_nobody() -> anyhow::Result<()> {
    let mut school = School::builder().start().await?;
    let mut pupil = school.bitrix24.create_contact(good_contact()).await?;
    school.caught_up().await?;
    for kind in ["endless_body", "gzip_bomb", "deep_nesting", "lone_surrogate", "duplicate_keys"] {
        let before = school.bitrix24.faults_hit().await?;
        school.bitrix24.fault(json!({"kind": kind, "count": 1})).await?;
        eventually("a spoiled poll", PATIENCE, || async {
            Ok((school.bitrix24.faults_hit().await? > before).then_some(()))
        })
        .await?;
    }
    school.bitrix24.edit("contact", pupil, json!({FIRST_NAME: "Тимур"})).await?;
    school.caught_up().await?;
    school.assert_consistent().await?;
    // Creates are carried out and answered with what nobody can read: looked up, never made twice.
    for kind in ["endless_body", "gzip_bomb", "deep_nesting", "huge_number", "trailing_bytes"] {
        school.otmechalka.fault(json!({"kind": kind, "method": "POST", "count": 1})).await?;
        pupil = school.bitrix24.create_contact(good_contact()).await?;
    }
    school.caught_up().await?;
    assert_eq!(status_of(&school, "contact", pupil).await?, "Успешно");
    assert_bounded(&mut school)?;
    judge::judge(&school, &Tally::default()).await
}
