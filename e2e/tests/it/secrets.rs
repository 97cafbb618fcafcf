//! What the stages tell, looked through for every secret and every personal datum: a whole run with faults and kills, and
//! the scenes of other files that are watched.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aho_corasick::AhoCorasick;
use anyhow::Context;
use async_nats::HeaderMap;
use axum::body::Bytes;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use e2e::{PATIENCE, School, SchoolBuilder, Stage, eventually, free_address};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use schemas::DeadLetter;
use serde_json::{Value, json};

use crate::flow::good_contact;

/// The field that holds a pupil's date of birth.
const BIRTHDATE: &str = "UF_CRM_1607943642";

/// The code in the webhook of a watched school.
pub const CODE: &str = "q7x2kd9v3mzt81wc";
/// The token of a watched school.
pub const TOKEN: &str = "Tk-93hf7Qz_pL0vXr55aB.8";
const KEY: &str = "cK4-vLq81Zt0eWn7Ru2y";

/// Length of the pieces of a secret that are looked for.
const PIECE: usize = 8;

/// What must not show, with the name under which it is complained about.
#[derive(Default)]
struct Forbidden(BTreeMap<String, String>);

impl Forbidden {
    fn add(&mut self, name: &str, text: &str) {
        self.0.entry(text.to_owned()).or_insert_with(|| name.to_owned());
    }

    /// Forbids a secret whole and in pieces, as it is, percent-encoded, and in base64 wherever it may begin.
    fn secret(&mut self, name: &str, secret: &str) {
        for at in 0..=secret.len().saturating_sub(PIECE) {
            self.add(name, &secret[at..at + PIECE]);
        }
        self.add(name, &utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string());
        self.encoded(name, secret);
    }

    /// Forbids a datum as it is and as URLs, JSON and base64 would have it.
    fn datum(&mut self, name: &str, datum: &str) {
        self.add(name, datum);
        self.add(name, &utf8_percent_encode(datum, NON_ALPHANUMERIC).to_string());
        let escaped = datum.encode_utf16().fold(String::new(), |mut text, unit| {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\u{unit:04x}");
            text
        });
        self.add(name, &escaped);
        self.encoded(name, datum);
    }

    /// Within a longer text in base64 something begins at one of three places; its first and last letters then mix
    /// with the neighbours'.
    fn encoded(&mut self, name: &str, text: &str) {
        for before in 0..3 {
            let bytes = [vec![0; before], text.as_bytes().to_vec()].concat();
            for base64 in [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)] {
                let inner = &base64[(before * 8).div_ceil(6)..bytes.len() * 8 / 6];
                if inner.len() >= PIECE {
                    self.add(name, inner);
                }
            }
        }
    }

    /// Begins with the secrets of a watched school.
    fn secrets(school: &School) -> anyhow::Result<Forbidden> {
        let mut forbidden = Forbidden::default();
        forbidden.secret("the webhook's code", CODE);
        forbidden.add("the webhook's address", &format!("/rest/1/{}", &CODE[..2]));
        forbidden.secret("the token", TOKEN);
        for user in ["producer", "mapper", "pusher", "status-writer", "page", "ops"] {
            let seed = school.seed(user);
            if seed.is_file() {
                forbidden.secret("an nkey's seed", std::fs::read_to_string(seed)?.trim());
            }
        }
        Ok(forbidden)
    }

    /// Forbids all that the portal knows of people.
    fn people(&mut self, state: &Value) {
        let is_name = |text: &&str| {
            text.chars().filter(|c| ('а'..='ё').contains(&c.to_lowercase().next().unwrap_or(*c))).count() > 3
        };
        let rows = |kind: &str| state[kind].as_array().cloned().unwrap_or_default();
        for contact in rows("contacts") {
            for field in ["NAME", "SECOND_NAME", "LAST_NAME", "UF_CRM_57AD7FAF7E6C4", "UF_CRM_1608028374"] {
                if let Some(name) = contact[field].as_str().map(str::trim).filter(is_name) {
                    self.datum(field, name);
                }
            }
            if let Some(date) = contact[BIRTHDATE].as_str().and_then(|date| date.get(..10)) {
                self.datum(BIRTHDATE, date);
            }
            // Where a comment is repeated its beginning tells.
            if let Some(comment) = contact["COMMENTS"].as_str().filter(is_name) {
                self.datum("COMMENTS", comment.get(..60).unwrap_or(comment));
            }
            for (kind, least) in [("PHONE", 7), ("EMAIL", 6)] {
                let values = contact[kind].as_array().cloned().unwrap_or_default();
                for value in values.iter().filter_map(|value| value["VALUE"].as_str()) {
                    let digits: String = value.chars().filter(char::is_ascii_digit).collect();
                    if value.len() >= least && (kind == "EMAIL" || digits.len() >= 7) {
                        self.datum(kind, value);
                    }
                    // However it is written: the last ten digits are the subscriber's.
                    if kind == "PHONE" && digits.len() >= 10 {
                        self.datum("digits of PHONE", &digits[digits.len() - 10..]);
                    }
                }
            }
        }
        for user in rows("users") {
            if let Some(name) = user["LAST_NAME"].as_str().filter(is_name) {
                self.datum("name of an employee", name);
            }
        }
    }

    /// Looks through a text; complains with the place and the kind, and does not repeat what it found.
    fn search(&self, place: &str, text: &[u8], automaton: &AhoCorasick, names: &[&str]) -> Vec<String> {
        let mut hits = Vec::new();
        for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            let Some(found) = automaton.find(line) else { continue };
            // Time, level and who logged it.
            let head = String::from_utf8_lossy(line);
            let head: Vec<&str> = head.split_whitespace().take(3).collect();
            let name = names[found.pattern().as_usize()];
            hits.push(format!("{name} in {place}, line {number}: {}", head.join(" ")));
        }
        hits
    }

    /// Looks through all places; fails with what was found.
    fn assert_none(&self, places: &[(String, Vec<u8>)]) -> anyhow::Result<()> {
        let hits = self.hits(places)?;
        anyhow::ensure!(hits.is_empty(), "{} hits: {:#?}", hits.len(), &hits[..hits.len().min(20)]);
        Ok(())
    }

    fn hits(&self, places: &[(String, Vec<u8>)]) -> anyhow::Result<Vec<String>> {
        let (words, names): (Vec<&str>, Vec<&str>) =
            self.0.iter().map(|(word, name)| (word.as_str(), name.as_str())).unzip();
        let automaton = AhoCorasick::new(words)?;
        Ok(places.iter().flat_map(|(place, text)| self.search(place, text, &automaton, &names)).collect())
    }
}

/// Gives a school secrets that are looked for, and has its stages tell all that they can.
pub fn watched(school: SchoolBuilder) -> SchoolBuilder {
    school
        .observed()
        .env("RUST_LOG", "trace")
        .env("RUST_BACKTRACE", "1")
        .env("OTMECHALKA_TOKEN", TOKEN)
        .otmechalka(&["--token", TOKEN])
        .bitrix24(&["--secret", CODE])
}

/// Looks through what a watched school told for its secrets, for some more, and for everybody whom its portal knows.
pub async fn assert_told_no_secret(school: &School, more: &[&str]) -> anyhow::Result<()> {
    let mut forbidden = Forbidden::secrets(school)?;
    for secret in more {
        forbidden.secret("a secret of this scene", secret);
    }
    forbidden.people(&school.bitrix24.state().await?);
    let mut places = told(school).await?;
    places.extend(dead_letters(school).await?);
    forbidden.assert_none(&places)
}

/// Looks through something that others were told for the secrets of a watched school.
pub fn assert_no_secret_in(school: &School, place: &str, text: Vec<u8>) -> anyhow::Result<()> {
    Forbidden::secrets(school)?.assert_none(&[(place.to_owned(), text)])
}

/// Returns what the stages and NATS have told: their logs, and what they answer whoever asks.
async fn told(school: &School) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut places: Vec<(String, Vec<u8>)> = Vec::new();
    for stage in Stage::ALL {
        let log = std::fs::read_to_string(school.log_file(stage))?;
        anyhow::ensure!(log.contains("Starting"), "{stage:?} logged nothing");
        places.push((format!("the log of {stage:?}"), log.into_bytes()));
        for path in ["/metrics", "/healthz", "/livez"] {
            places.push((format!("{path} of {stage:?}"), school.ask(stage, path).await?.1.into_bytes()));
        }
    }
    places.push(("the log of NATS".into(), school.nats_log()?.into_bytes()));
    Ok(places)
}

#[test]
fn the_search_finds_what_it_is_to_find() {
    let mut forbidden = Forbidden::default();
    forbidden.secret("code", CODE);
    forbidden.datum("name", "Подорожникова");
    let leaks = [
        format!("POST /rest/1/{CODE}/batch"),
        format!("…{}…", &CODE[5..13]),
        STANDARD_NO_PAD.encode(format!("Basic x:{CODE}")),
        STANDARD_NO_PAD.encode(format!("Basic xy:{CODE}")),
        URL_SAFE_NO_PAD.encode(format!("Basic xyz:{CODE}")),
        "имя Подорожникова".to_owned(),
        format!("?q={}", utf8_percent_encode("Подорожникова", NON_ALPHANUMERIC)),
        serde_json::to_string("\\u043f\\u043e\\u0434").unwrap().replace("\\\\", "\\")
            + &"Подорожникова".encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<String>(),
    ];
    for leak in leaks {
        assert!(!forbidden.hits(&[("here".into(), leak.clone().into_bytes())]).unwrap().is_empty(), "{leak}");
    }
    let clean = format!("POST /rest/1/***/batch {}", &CODE[..7]);
    assert_eq!(forbidden.hits(&[("here".into(), clean.into_bytes())]).unwrap(), Vec::<String>::new());
}

/// Takes whatever is sent to it, as a collector of traces.
pub async fn collector(kept: Arc<Mutex<Vec<u8>>>) -> anyhow::Result<String> {
    let take = move |body: Bytes| {
        kept.lock().expect("nobody panics with it").extend_from_slice(&body);
        std::future::ready(axum::http::StatusCode::OK)
    };
    let app = axum::Router::new().route("/v1/traces", axum::routing::post(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(format!("http://{address}"))
}

/// Returns what anybody on the machine sees of the programs: their command lines.
fn command_lines(school: &mut School) -> anyhow::Result<Vec<u8>> {
    let mut ids = vec![school.nats.process_id().context("NATS does not run")?];
    for stage in Stage::ALL {
        ids.push(school.stage(stage)?.process_id().context("the stage has ended")?);
    }
    let mut lines = Vec::new();
    for id in ids {
        lines.extend(std::fs::read(format!("/proc/{id}/cmdline"))?);
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Puts a raw event into the stream that nobody can read and that has a child's data in it.
async fn poison(school: &School, id: u64) -> anyhow::Result<()> {
    let mut headers = HeaderMap::new();
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-id", "x");
    headers.insert("ce-type", "rollcall.contact.changed.v1");
    headers.insert("ce-subject", format!("contact/{id}"));
    let payload = good_contact().to_string();
    let subject = format!("b24.raw.contact.{id}");
    school.broker.jetstream().publish_with_headers(subject, headers, payload.into()).await?.await?;
    Ok(())
}

async fn suffer(school: &mut School) -> anyhow::Result<()> {
    for kind in ["html_502", "error_under_200", "garbage", "reset_before", "php_fatal_500"] {
        school.bitrix24.fault(json!({"kind": kind, "count": 1})).await?;
    }
    for kind in ["internal_500", "garbage", "validation_400", "reset_after_apply", "too_many_429"] {
        school.otmechalka.fault(json!({"kind": kind, "method": "POST", "count": 1})).await?;
    }
    for stage in Stage::ALL {
        school.start(stage)?;
    }
    for (round, stage) in (0..).zip(Stage::ALL) {
        let before = school.messages("CRM_RESULT").await?;
        // Wherever it happens to be, as long as it is in the middle of something.
        let _moved = eventually("the flow to move", Duration::from_secs(3), || async {
            Ok((school.messages("CRM_RESULT").await? > before + round).then_some(()))
        })
        .await;
        school.kill_and_start(stage).await?;
    }
    poison(school, 777_001).await?;
    school.caught_up().await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_line_holds_a_secret_or_a_personal_datum() -> anyhow::Result<()> {
    let spans = Arc::new(Mutex::new(Vec::new()));
    let mut school = watched(School::builder())
        .demo(60, 80, 9)
        .guarded(&[])
        .polled_each("3s")
        .env("OTMECHALKA_CLOCK_SPEED", "10")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector(spans.clone()).await?)
        .env("OTEL_EXPORTER_OTLP_HEADERS", &format!("api-key={KEY}"))
        .otmechalka(&["--clock-speed", "10"])
        .open()
        .await?;
    suffer(&mut school).await?;

    let mut forbidden = Forbidden::secrets(&school)?;
    forbidden.secret("the collector's key", KEY);
    let secrets = forbidden.0.len();
    forbidden.people(&school.bitrix24.state().await?);
    assert!(forbidden.0.len() > secrets + 1_000, "{} personal data", forbidden.0.len() - secrets);
    for field in [BIRTHDATE, "COMMENTS", "EMAIL"] {
        assert!(forbidden.0.values().any(|name| name == field), "nobody has {field}");
    }

    let mut places = told(&school).await?;
    places.push(("the command lines".into(), command_lines(&mut school)?));
    let spans = spans.lock().expect("nobody panics with it").clone();
    assert!(spans.len() > 10_000, "spans were sent");
    places.push(("the traces".into(), spans));
    let letters = dead_letters(&school).await?;
    assert!(!letters.is_empty(), "there are dead letters");
    places.extend(letters);
    let seed = school.seed("ops").display().to_string();
    school.set_env("NATS_NKEY_SEED_FILE", &seed);
    for arguments in [
        &["status"][..],
        &["doctor"],
        &["dead-letters", "list"],
        &["dead-letters", "show", "1"],
        &["history", "contact", "777001"],
        &["preview", "--from-stream"],
        &["reconcile", "--pace", "100"],
        &["--help"],
    ] {
        let told = school.rollcall(arguments).await?;
        places.push((format!("rollcall {arguments:?}"), format!("{}\n{}", told.out, told.err).into_bytes()));
    }
    forbidden.assert_none(&places)
}

/// Returns what dead letters say besides the message itself: their reasons, and their own headers.
async fn dead_letters(school: &School) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut stream = school.broker.jetstream().get_stream("DLQ").await?;
    let last = stream.info().await?.state.last_sequence;
    let mut places = Vec::new();
    for sequence in 1..=last {
        let message = stream.get_raw_message(sequence).await?;
        let letter: DeadLetter = serde_json::from_slice(&message.payload)?;
        let told = format!("{} {} {:?}", letter.reason, letter.subject, message.headers);
        places.push((format!("dead letter {sequence}"), told.into_bytes()));
    }
    Ok(places)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_program_leaves_an_image_of_itself_behind() -> anyhow::Result<()> {
    let school = School::builder().start().await?;
    // Each has read its settings by then.
    school.after_polls(1).await?;
    let page = school.begin(&["serve", "--listen", &free_address()?.to_string()])?;
    let own = Stage::ALL.map(Stage::program);
    let stages = school.processes().into_iter().filter(|(name, _)| own.contains(&name.as_str()));
    let programs = stages.chain([("rollcall".to_owned(), page.process_id().context("the page")?)]);
    for (name, process) in programs {
        eventually(&format!("limits of {name}"), PATIENCE, || async {
            let limits = std::fs::read_to_string(format!("/proc/{process}/limits"))?;
            let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
            let core: Vec<&str> = core.unwrap_or_default().split_whitespace().take(2).collect();
            Ok((core == ["1", "1"]).then_some(()))
        })
        .await?;
    }
    Ok(())
}
