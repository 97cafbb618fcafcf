//! The stage: settings, and messages through a real nats-server.

use std::time::Duration;

use chrono::DateTime;
use mapper::{MAPPING_FILE, Mapper, Rules, outgoing};
use runtime::bootstrap::{self, Mode};
use runtime::broker::NatsSettings;
use runtime::health::Health;
use runtime::local_nats::LocalNats;
use runtime::stage::{Context, Settings, Stage, configure};
use runtime::{Broker, CancellationToken, Outgoing, SettingsError, Source};
use schemas::streams::{COMMANDS, DEAD_LETTERS};
use schemas::{Envelope, Mapping, RecordChanged, RecordId, RecordMapped, RecordRef, Version, subjects};
use serde_json::{Value, json};

fn source(changes: &[(&str, &str)]) -> Source {
    let environment = [("NATS_URL", "nats://127.0.0.1:4222")].iter().chain(changes);
    Source::new(environment.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn configured(changes: &[(&str, &str)]) -> Result<(Settings, Rules), SettingsError> {
    configure::<Mapper>(&source(changes))
}

fn refusal(changes: &[(&str, &str)]) -> String {
    configured(changes).map(|_| ()).expect_err("wrong settings were taken").to_string()
}

#[test]
fn the_customers_mapping_is_used_unless_another_file_is_named() {
    let (_, rules) = configured(&[]).unwrap();
    assert_eq!(rules.deal_stages(), ["WON"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mapping.toml");
    std::fs::write(&path, mapper::DEFAULT_MAPPING.replace("[\"WON\"]", "[\"C2:WON\"]")).unwrap();
    let file = (MAPPING_FILE, path.to_str().unwrap());
    let (_, rules) = configured(&[file, ("DEAL_STAGES", "C2:WON")]).unwrap();
    assert_eq!(rules.deal_stages(), ["C2:WON"]);
}

#[test]
fn stages_that_are_asked_for_and_are_no_tickets_to_the_mapping_are_refused() {
    // Their deals would be told to be a success, and no ticket would be made.
    let told = refusal(&[("DEAL_STAGES", "WON, C10:WON")]);
    assert!(told.contains("DEAL_STAGES") && told.contains("`C10:WON,WON`, though deal.stages"), "{told}");
    assert!(refusal(&[("DEAL_STAGES", "C10:WON")]).contains("has `WON`"));
}

#[test]
fn every_mistake_of_the_mapping_file_is_told_with_the_settings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mapping.toml");
    std::fs::write(&path, mapper::DEFAULT_MAPPING.replace("id = 48", "id = 0").replace("\"PHONE\"", "5"))
        .unwrap();
    let told = refusal(&[(MAPPING_FILE, path.to_str().unwrap()), ("CONTACT_STATUS_FIELD", "status")]);
    for words in ["3 settings", "contact.branches[0].id", "contact.fields.phone.code", "CONTACT_STATUS_FIELD"]
    {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(refusal(&[(MAPPING_FILE, "/nowhere/mapping.toml")]).contains("cannot be read"));
}

#[test]
fn a_status_field_that_would_destroy_data_is_refused() {
    let told = refusal(&[("CONTACT_STATUS_FIELD", "UF_CRM_57AD7FAF7E6C4")]);
    for words in ["CONTACT_STATUS_FIELD", "also the status field", "pupil_last_name"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(!told.contains(MAPPING_FILE), "{told}");
}

#[test]
fn a_status_field_that_only_the_mapping_file_names_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mapping.toml");
    let text = mapper::DEFAULT_MAPPING.replace("deal = \"UF_CRM_SYNC_STATUS\"", "deal = \"UF_CRM_OWN\"");
    std::fs::write(&path, text).unwrap();
    let file = (MAPPING_FILE, path.to_str().unwrap());
    assert!(refusal(&[file]).contains("DEAL_STATUS_FIELD"));
    assert!(configured(&[file, ("DEAL_STATUS_FIELD", "UF_CRM_OWN")]).is_ok());
}

fn raw(record: RecordRef, fields: &Value) -> (Envelope, RecordChanged) {
    let modified = DateTime::parse_from_rfc3339("2020-12-21T10:19:34+03:00").unwrap();
    let envelope = Envelope {
        record,
        source: "/rollcall/producer".into(),
        pupil: None,
        modified,
        fingerprint: "ab12".into(),
        version: None,
        attempt: 0,
    };
    let changed = RecordChanged {
        observed: modified,
        status: Some("Успешно".into()),
        record: serde_json::value::to_raw_value(fields).unwrap(),
        product_rows: None,
        seller: None,
        trimmed: Vec::new(),
    };
    (envelope, changed)
}

fn read(message: &Outgoing) -> (Envelope, RecordMapped) {
    let header = |name: &str| {
        message.encoded.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    };
    Envelope::decode(header, &message.encoded.payload).unwrap()
}

#[test]
fn a_mapped_record_queues_behind_its_pupil_and_is_the_same_each_time() {
    let rules = Rules::parse(mapper::DEFAULT_MAPPING).unwrap();
    let deal = RecordRef::deal(RecordId::try_new(96_038).unwrap());
    let (envelope, changed) =
        raw(deal, &json!({"STAGE_ID": "WON", "CONTACT_ID": "39910", "UF_CRM_1470852549": [348]}));
    let message = outgoing(&rules, envelope.clone(), &changed, 17).unwrap();
    let pupil = RecordId::try_new(39_910).unwrap();
    assert_eq!(message.subject, subjects::command(pupil, deal));
    let (mapped_envelope, mapped) = read(&message);
    assert_eq!(mapped_envelope.version, Some(Version { raw_sequence: 17, redrive: 0 }));
    assert_eq!((mapped_envelope.pupil, mapped_envelope.source.as_str()), (Some(pupil), "/rollcall/mapper"));
    assert_eq!(mapped.mapping, Mapping::OutOfScope);
    assert_eq!((mapped.shown.status.as_deref(), mapped.shown.observed), (Some("Успешно"), changed.observed));
    let again = outgoing(&rules, envelope, &changed, 17).unwrap();
    assert_eq!((again.message_id, again.encoded), (message.message_id, message.encoded));
}

#[test]
fn a_deal_without_a_contact_queues_behind_itself() {
    let rules = Rules::parse(mapper::DEFAULT_MAPPING).unwrap();
    let deal = RecordRef::deal(RecordId::try_new(96_038).unwrap());
    let (envelope, changed) = raw(deal, &json!({"STAGE_ID": "WON", "UF_CRM_1470852549": [186]}));
    let message = outgoing(&rules, envelope, &changed, 1).unwrap();
    assert_eq!(message.subject, subjects::command(deal.id, deal));
    let (envelope, mapped) = read(&message);
    assert!(envelope.pupil.is_none() && matches!(mapped.mapping, Mapping::Refused(_)));
}

async fn stored(broker: &Broker, stream: &str) -> u64 {
    broker.jetstream().get_stream(stream).await.unwrap().cached_info().state.messages
}

async fn until_stored(broker: &Broker, stream: &str, count: u64) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while stored(broker, stream).await < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{stream} never came to hold {count} messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_goes_out_for_each_that_comes_in_and_an_unreadable_one_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalNats::start(folder.path()).await.unwrap();
    let stopping = CancellationToken::new();
    let nats = NatsSettings::plain(&server.url()).unwrap();
    let health = Health::default();
    let broker = Broker::connect("mapper", &nats, health.clone(), stopping.clone()).await.unwrap();
    bootstrap::apply(&broker, 1, Mode::Make).await.unwrap();

    let contact = RecordRef::contact(RecordId::try_new(39_910).unwrap());
    let (envelope, changed) = raw(contact, &json!({"ID": "39910"}));
    let encoded = envelope.encode(&changed).unwrap();
    let mut unreadable = encoded.clone();
    unreadable.payload = b"not JSON".to_vec();
    for (encoded, id) in [(unreadable, "a"), (encoded.clone(), "b"), (encoded, "c")] {
        broker.publish(&Outgoing::new(subjects::raw(contact), encoded, id.into())).await.unwrap();
    }
    let (settings, rules) = configured(&[("NATS_URL", &server.url())]).unwrap();
    let context = Context { broker: broker.clone(), settings, health, stopping: stopping.clone() };
    let running = tokio::spawn(Mapper::run(rules, context));
    until_stored(&broker, COMMANDS.name, 2).await;
    until_stored(&broker, DEAD_LETTERS.name, 1).await;
    assert_eq!((stored(&broker, COMMANDS.name).await, stored(&broker, DEAD_LETTERS.name).await), (2, 1));
    stopping.cancel();
    running.await.unwrap().unwrap();
}
