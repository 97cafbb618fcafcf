//! `rollcall serve`: the page over real HTTP, from a real NATS.

use async_nats::HeaderMap;
use schemas::{Envelope, Outcome, Problem, RecordProcessed, RecordRef, Shown, Version, subjects};

use crate::support::{Nats, Running, command, http, rollcall};

/// A status text as it is: with what somebody typed into the field.
const TEXT: &str = "В поле «Телефон» не номер телефона: «позвонить Анне».";

async fn refuse(nats: &Nats, record: RecordRef) {
    let observed = chrono::DateTime::parse_from_rfc3339("2026-01-10T10:00:00+03:00").unwrap();
    let envelope = Envelope {
        record,
        source: "/rollcall/pusher".into(),
        pupil: None,
        modified: observed,
        fingerprint: "f".into(),
        version: Some(Version { raw_sequence: 1, redrive: 0 }),
        attempt: 0,
    };
    let processed = RecordProcessed {
        outcome: Outcome::Refused,
        status: TEXT.into(),
        problems: vec![Problem::new("phone.invalid", TEXT)],
        target_id: None,
        body_digest: None,
        shown: Shown { status: None, observed },
    };
    let encoded = envelope.encode(&processed).unwrap();
    let mut headers = HeaderMap::new();
    encoded.headers.iter().for_each(|(name, value)| headers.insert(name.as_str(), value.as_str()));
    let jetstream = nats.broker().await.jetstream().clone();
    let publishing =
        jetstream.publish_with_headers(subjects::result(record), headers, encoded.payload.into());
    publishing.await.unwrap().await.unwrap();
}

#[tokio::test]
async fn the_page_shows_problem_records_without_what_people_typed() {
    let nats = Nats::start().await;
    let mut settings = nats.settings();
    rollcall(nats.folder(), &settings, &["bootstrap"]).await;
    refuse(&nats, RecordRef::parse("contact.39910").unwrap()).await;
    settings.push(("BITRIX24_WEBHOOK_URL", "https://school.example/rest/1/hunter2/".to_owned()));
    settings.push(("SERVE_LISTEN", "127.0.0.1:0".to_owned()));
    let mut serving = command("rollcall", nats.folder());
    serving.args(["serve"]).envs(settings.iter().map(|(name, value)| (name, value)));
    let mut serving = Running::start(serving);
    let said = serving.hears("The status page is at").await;
    let address = said.split_whitespace().find(|word| word.starts_with("http")).unwrap();

    let page = http().get(address).send().await.unwrap();
    assert_eq!(page.status(), 200);
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let page = page.text().await.unwrap();
    assert!(page.contains(r#"<html lang="ru">"#), "{page}");
    assert!(page.contains(r#"href="https://school.example/crm/contact/details/39910/""#), "{page}");
    assert!(page.contains("Вместо телефона что-то другое (phone.invalid)"), "{page}");
    assert!(!page.contains("Анне") && !page.contains("hunter2"), "{page}");
    // Nobody has read anything yet, which `rollcall status` says as well.
    assert!(page.contains("Контакты: ещё не читались"), "{page}");

    assert!(page.contains(r#"http-equiv="refresh""#) && page.contains("Не обновлять"), "{page}");
    let still = http().get(format!("{address}?still=1")).send().await.unwrap().text().await.unwrap();
    assert!(!still.contains(r#"http-equiv="refresh""#) && still.contains("Обновлять каждые 15 с"), "{still}");

    let foreign = http().get(address).header("host", "evil.example").send().await.unwrap();
    assert_eq!(foreign.status(), 421);
    assert!(foreign.text().await.unwrap().contains("SERVE_HOSTS"));

    let english = http().get(format!("{address}?lang=en&entity=deal")).send().await.unwrap();
    let english = english.text().await.unwrap();
    assert!(english.contains("Records to be corrected: 0"), "{english}");

    let story = http().get(format!("{address}history?lang=en&entity=contact&id=39910")).send().await.unwrap();
    assert_eq!(story.status(), 200);
    let story = story.text().await.unwrap();
    assert!(story.contains("Refused; nothing was sent to otmechalka"), "{story}");
    assert!(story.contains(r#"href="https://school.example/crm/contact/details/39910/""#), "{story}");
    assert!(!story.contains("Анне") && !story.contains("hunter2"), "{story}");
    let nobody = http().get(format!("{address}history?lang=en&entity=deal&id=1")).send().await.unwrap();
    assert!(nobody.text().await.unwrap().contains("Nothing is known of this record"));
    for senseless in ["history", "history?entity=lead&id=1", "history?entity=deal&id=x"] {
        let answer = http().get(format!("{address}{senseless}")).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{senseless}");
    }

    let status: serde_json::Value =
        http().get(format!("{address}status.json")).send().await.unwrap().json().await.unwrap();
    assert_eq!(status["outcomes"]["last_day"]["refused"], 1, "{status}");
    let posted = http().post(address).send().await.unwrap();
    assert_eq!(posted.status(), 405);

    serving.signal(nix::sys::signal::Signal::SIGINT);
    serving.ends().await;
}
