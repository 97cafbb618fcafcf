//! `rollcall bootstrap` against a real server.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{Either, select};
use runtime::local_nats::{LocalNats, Routes};
use schemas::streams::{RAW, STATUSES};

use crate::support::{Nats, rollcall};

#[tokio::test]
async fn bootstrapping_twice_makes_everything_once() {
    let nats = Nats::start().await;
    let first = rollcall(nats.folder(), &nats.settings(), &["bootstrap"]).await;
    assert_eq!(first.code, Some(0), "{}{}", first.out, first.err);
    assert!(first.out.contains("made     stream B24_RAW"), "{}", first.out);
    assert!(first.out.contains("made     consumer pusher-15 of stream CRM_CMD"), "{}", first.out);
    let second = rollcall(nats.folder(), &nats.settings(), &["bootstrap"]).await;
    assert_eq!(second.code, Some(0));
    assert!(!second.out.contains("made"), "{}", second.out);
    assert!(second.out.contains("30 of 30 were there as they are to be."), "{}", second.out);
}

#[tokio::test]
async fn a_dry_run_makes_nothing_and_names_what_is_missing() {
    let nats = Nats::start().await;
    let dry = rollcall(nats.folder(), &nats.settings(), &["bootstrap", "--dry-run"]).await;
    assert_eq!(dry.code, Some(1));
    assert!(dry.out.contains("missing  stream B24_RAW"), "{}", dry.out);
    assert!(nats.broker().await.jetstream().get_stream(RAW.name).await.is_err());
}

#[tokio::test]
async fn a_drift_is_named_and_left_as_it_is() {
    let nats = Nats::start().await;
    rollcall(nats.folder(), &nats.settings(), &["bootstrap"]).await;
    let jetstream = nats.broker().await.jetstream().clone();
    let mut config = jetstream.get_stream(STATUSES.name).await.unwrap().cached_info().config.clone();
    config.max_age = Duration::from_secs(7 * 24 * 60 * 60);
    jetstream.update_stream(config).await.unwrap();
    let drifted = rollcall(nats.folder(), &nats.settings(), &["bootstrap"]).await;
    assert_eq!(drifted.code, Some(1));
    assert!(drifted.out.contains("differs  stream B24_STATUS: max_age is 604800s"), "{}", drifted.out);
    let kept = jetstream.get_stream(STATUSES.name).await.unwrap().cached_info().config.max_age;
    assert_eq!(kept, Duration::from_secs(7 * 24 * 60 * 60));
}

#[tokio::test]
async fn bad_settings_and_an_absent_server_have_exit_codes_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let without = rollcall(folder.path(), &Vec::new(), &["bootstrap"]).await;
    assert_eq!(without.code, Some(2));
    assert!(without.err.contains("NATS_URL: found nothing"), "{}", without.err);
    let nobody = vec![("NATS_URL", "nats://127.0.0.1:1".to_owned())];
    let absent = rollcall(folder.path(), &nobody, &["bootstrap"]).await;
    assert_eq!(absent.code, Some(3), "{}", absent.err);
}

#[tokio::test]
async fn servers_that_have_no_leader_yet_are_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let routes = Routes::direct().unwrap();
    let mut servers = LocalNats::start_cluster(folder.path(), None, &routes).await.unwrap();
    for server in &mut servers {
        server.kill().await.unwrap();
    }
    servers[0].revive().unwrap();
    let url = servers[0].url();
    let client = async_nats::ConnectOptions::new().retry_on_initial_connect().connect(&url).await.unwrap();
    let mut questions = client.subscribe("$JS.API.INFO").await.unwrap();
    client.flush().await.unwrap();

    let settings = vec![("NATS_URL", url)];
    let bootstrap = pin!(rollcall(folder.path(), &settings, &["bootstrap", "--replicas", "3"]));
    let others = async {
        questions.next().await.expect("a first question");
        questions.next().await.expect("another, as nobody answered that");
        servers[1].revive().unwrap();
        servers[2].revive().unwrap();
    };
    let bootstrap = match select(bootstrap, pin!(others)).await {
        Either::Left((gave_up, _)) => panic!("{}{}", gave_up.out, gave_up.err),
        Either::Right(((), bootstrap)) => bootstrap,
    };
    let made = bootstrap.await;
    assert_eq!(made.code, Some(0), "{}{}", made.out, made.err);
    assert!(made.out.contains("made     consumer pusher-15 of stream CRM_CMD"), "{}", made.out);
}

#[tokio::test]
async fn streams_of_one_portal_are_never_given_to_another() {
    let nats = Nats::start().await;
    let portal = |host: &str| {
        let mut settings = nats.settings();
        settings.push(("BITRIX24_WEBHOOK_URL", format!("https://{host}/rest/1/hunter2hunter2/")));
        settings
    };
    let (first, second) = (portal("first.example"), portal("second.example"));
    assert_eq!(rollcall(nats.folder(), &first, &["bootstrap"]).await.code, Some(0));
    assert_eq!(rollcall(nats.folder(), &first, &["bootstrap"]).await.code, Some(0));
    let refused = rollcall(nats.folder(), &second, &["bootstrap"]).await;
    assert_eq!(refused.code, Some(2), "{}", refused.out);
    assert!(refused.err.contains("first.example") && !refused.err.contains("hunter2"), "{}", refused.err);
    let looks = rollcall(nats.folder(), &second, &["bootstrap", "--portal-renamed", "--dry-run"]).await;
    assert_eq!(looks.code, Some(0), "{}", looks.err);
    assert!(looks.out.contains("would rename  the streams' portal, first.example, to second.example"));
    assert_eq!(
        rollcall(nats.folder(), &second, &["bootstrap"]).await.code,
        Some(2),
        "a look renames nothing"
    );
    let renamed = rollcall(nats.folder(), &second, &["bootstrap", "--portal-renamed"]).await;
    assert!(
        renamed.code == Some(0) && renamed.out.contains("renamed  the streams' portal"),
        "{}",
        renamed.out
    );
    assert_eq!(rollcall(nats.folder(), &second, &["bootstrap"]).await.code, Some(0));
    assert_eq!(rollcall(nats.folder(), &first, &["bootstrap"]).await.code, Some(2));
}
