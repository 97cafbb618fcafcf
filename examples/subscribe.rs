//! Prints what came of every record, from the beginning and then live: `subscribe NAME`.
//!
//! `NATS_URL` says where, `NATS_NKEY_SEED_FILE` holds the secret that `rollcall credentials --consumer NAME` made;
//! without it the server is expected to let everybody in, as that of `./run` does.

use std::collections::HashMap;

use anyhow::Context;
use async_nats::ConnectOptions;
use async_nats::jetstream::consumer::{DeliverPolicy, PullConsumer, pull};
use async_nats::{HeaderValue, jetstream};
use futures::StreamExt;
use schemas::{Envelope, RecordProcessed, RecordRef, Version};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name = std::env::args().nth(1).context("usage: subscribe NAME")?;
    let (options, prefix) = match std::env::var("NATS_NKEY_SEED_FILE") {
        Ok(file) => (ConnectOptions::with_nkey(std::fs::read_to_string(file)?.trim().to_owned()), "rollcall"),
        Err(_) => (ConnectOptions::new(), "$JS.API"),
    };
    let options = options.custom_inbox_prefix(format!("_INBOX_{name}"));
    let client = options.connect(std::env::var("NATS_URL").context("NATS_URL")?).await?;

    // Durable: after a restart it goes on where it stopped. `DeliverPolicy` says where it begins the first time.
    let config = pull::Config {
        durable_name: Some(name),
        filter_subject: "crm.result.>".into(),
        deliver_policy: DeliverPolicy::All,
        ..pull::Config::default()
    };
    let jetstream = jetstream::with_prefix(client, prefix);
    let consumer: PullConsumer = jetstream.create_consumer_on_stream(config, "CRM_RESULT").await?;
    let mut messages = consumer.messages().await?;
    let mut newest: HashMap<RecordRef, Version> = HashMap::new();
    while let Some(message) = messages.next().await {
        let message = message?;
        let header = |name: &str| message.headers.as_ref()?.get(name).map(HeaderValue::as_str);
        match Envelope::decode::<RecordProcessed>(header, &message.payload) {
            // A message may come twice: what is not newer than what is known of its record is old news.
            Ok((Envelope { record, version: Some(version), .. }, _))
                if newest.get(&record).is_some_and(|known| *known >= version) => {}
            Ok((envelope, processed)) => {
                println!("{} {:?}: {}", envelope.record, processed.outcome, processed.status);
                newest.extend(envelope.version.map(|version| (envelope.record, version)));
            }
            // A type of a later version: leave it out, or stop here, but do not guess.
            Err(error) => eprintln!("{}: {error}", message.subject),
        }
        // Only now: before this line a crash brings the message again.
        message.ack().await.map_err(anyhow::Error::from_boxed)?;
    }
    Ok(())
}
