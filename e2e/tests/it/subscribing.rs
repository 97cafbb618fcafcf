//! The commands that `docs/subscribing.md` gives for the `nats` command line, done on the wire as that program does them:
//! read from the page, put into requests, and sent with the consumer's own credentials.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::{Client, ConnectOptions, Subscriber};
use e2e::School;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::credentials::{Guest, publish_outcome};

const PAGE: &str = include_str!("../../../docs/subscribing.md");

const PATIENCE: Duration = Duration::from_secs(60);

/// A documented command, taken apart.
struct Command {
    words: Vec<String>,
    flags: BTreeMap<String, String>,
}

/// Finds the command of the page that begins with these words.
fn documented(begin: &str) -> anyhow::Result<Command> {
    let text = PAGE.replace("\\\n", " ");
    let line = text.lines().map(str::trim).find(|line| line.starts_with(begin));
    let line = line.with_context(|| format!("no `{begin}` in the page"))?;
    let line = line.split(" #").next().unwrap_or(line);
    let mut rest = line.split_whitespace().map(|word| word.trim_matches('\'').to_owned()).peekable();
    let (mut words, mut flags) = (Vec::new(), BTreeMap::new());
    while let Some(word) = rest.next() {
        let Some(flag) = word.strip_prefix("--") else {
            words.push(word);
            continue;
        };
        let value = rest.next_if(|next| !next.starts_with("--")).unwrap_or_default();
        flags.insert(flag.to_owned(), value);
    }
    Ok(Command { words, flags })
}

/// Returns what the page's table says `--deliver` takes.
fn documented_beginnings() -> Vec<String> {
    let table = PAGE.lines().skip_while(|line| !line.starts_with("| Begin |")).skip(2);
    let rows = table.take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| row.split('`').nth(1)).map(str::to_owned).collect()
}

/// Puts `nats consumer add` into the request that it makes.
fn add_request(command: &Command, deliver: &str) -> anyhow::Result<(String, Value)> {
    let [.., stream, name] = command.words.as_slice() else { anyhow::bail!("no stream and no name") };
    ensure!(command.flags.contains_key("pull") && command.flags["ack"] == "explicit");
    let mut config = json!({
        "durable_name": name, "name": name, "filter_subject": command.flags["filter"],
        "ack_policy": "explicit", "replay_policy": "instant", "max_deliver": -1,
    });
    match deliver {
        "all" | "new" => config["deliver_policy"] = json!(deliver),
        "subject" => config["deliver_policy"] = json!("last_per_subject"),
        ago => {
            let ago: i64 = ago.strip_suffix('h').context("a number of hours")?.parse()?;
            let start = chrono::Utc::now() - chrono::TimeDelta::hours(ago);
            config["deliver_policy"] = json!("by_start_time");
            config["opt_start_time"] = json!(start.to_rfc3339());
        }
    }
    let body = json!({"stream_name": stream, "config": config, "action": "create"});
    Ok((format!("CONSUMER.DURABLE.CREATE.{stream}.{name}"), body))
}

async fn ask(client: &Client, subject: String, body: &Value) -> anyhow::Result<Value> {
    let payload = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
    let answer = tokio::time::timeout(PATIENCE, client.request(subject.clone(), payload.into())).await;
    let answer: Value = serde_json::from_slice(&answer.context(subject.clone())??.payload)?;
    ensure!(answer.get("error").is_none(), "{subject}: {answer}");
    Ok(answer)
}

async fn next(subscriber: &mut Subscriber) -> anyhow::Result<async_nats::Message> {
    tokio::time::timeout(PATIENCE, subscriber.next()).await.context("nothing came")?.context("it ended")
}

/// Takes the next message as the program does, one at a time, which is to be of this version.
async fn take(client: &Client, ask_next: &str, version: &str) -> anyhow::Result<()> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    let request = serde_json::to_vec(&json!({"batch": 1, "expires": 60_000_000_000_u64}))?;
    client.publish_with_reply(ask_next.to_owned(), inbox, request.into()).await?;
    let message = next(&mut answers).await?;
    let headers = message.headers.context("headers")?;
    assert_eq!(headers.get("ce-rawsequence").map(async_nats::HeaderValue::as_str), Some(version));
    assert!(message.subject.starts_with("crm.result."), "{}", message.subject);
    // Confirmed, so that nothing is in doubt afterwards.
    let confirmed = client.request(message.reply.context("where to ack")?, "+ACK".into());
    tokio::time::timeout(PATIENCE, confirmed).await.context("the ack is not confirmed")??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_an_extra_consumer_is_replaced_and_its_place_stays() -> anyhow::Result<()> {
    const NAME: &str = "report";
    let add = documented("nats consumer add")?;
    let stream = &add.words[3];
    let prefix = documented("nats context save")?.flags["js-api-prefix"].clone();
    let school = School::builder().guarded(&[NAME]).open().await?;
    for version in [1, 2] {
        publish_outcome(&school, 7, version).await?;
    }
    let user = format!("consumers/{NAME}");
    let ask_next = format!("{prefix}.CONSUMER.MSG.NEXT.{stream}.{NAME}");
    let before = Guest::enter(&school, &user, NAME).await?;
    let body = json!({"stream_name": stream, "action": "create", "config": {
        "durable_name": NAME, "name": NAME, "ack_policy": "explicit", "deliver_policy": "all",
    }});
    ask(&before.client, format!("{prefix}.CONSUMER.DURABLE.CREATE.{stream}.{NAME}"), &body).await?;
    take(&before.client, &ask_next, "1").await?;

    let seed = school.seed(&user);
    let old = std::fs::read_to_string(&seed)?;
    std::fs::remove_file(&seed)?;
    school.admit(NAME).await?;
    assert_ne!(std::fs::read_to_string(&seed)?, old);
    let refused = ConnectOptions::with_nkey(old.trim().to_owned()).connect(school.nats.url()).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("authorization violation")));
    take(&Guest::enter(&school, &user, NAME).await?.client, &ask_next, "2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_commands_of_the_nats_program_work_on_the_wire() -> anyhow::Result<()> {
    let context = documented("nats context save")?;
    let add = documented("nats consumer add")?;
    let get = documented("nats consumer next")?;
    let name = add.words.last().context("the consumer's name")?.clone();
    assert_eq!(context.flags["inbox-prefix"], format!("_INBOX_{name}"));
    assert_eq!(get.words[3..], add.words[3..], "both commands are about the same consumer");
    let prefix = context.flags["js-api-prefix"].clone();
    let school = School::builder().guarded(&[&name]).open().await?;
    for (contact, version) in [(7, 1), (8, 2), (7, 3)] {
        publish_outcome(&school, contact, version).await?;
    }
    let mut guest = Guest::enter(&school, &format!("consumers/{name}"), &name).await?;
    let client = guest.client.clone();
    let stream = &add.words[3];

    // Where to begin is said when the consumer is made, which takes removing it in between.
    let beginnings = documented_beginnings();
    assert_eq!(beginnings, ["all", "24h", "new", "subject"]);
    for deliver in beginnings {
        let (subject, body) = add_request(&add, &deliver)?;
        let made = ask(&client, format!("{prefix}.{subject}"), &body).await?;
        let pending = match deliver.as_str() {
            "new" => 0,
            "subject" => 2,
            _ => 3,
        };
        assert_eq!(made["num_pending"], pending, "{deliver}: {made}");
        let gone = ask(&client, format!("{prefix}.CONSUMER.DELETE.{stream}.{name}"), &Value::Null).await?;
        assert_eq!(gone["success"], true);
    }

    ask(&client, format!("{prefix}.STREAM.INFO.{stream}"), &Value::Null).await?;
    let (subject, body) = add_request(&add, &add.flags["deliver"])?;
    ask(&client, format!("{prefix}.{subject}"), &body).await?;
    ask(&client, format!("{prefix}.CONSUMER.INFO.{stream}.{name}"), &Value::Null).await?;
    assert!(get.flags.contains_key("ack") && get.flags["count"].parse::<u32>()? >= 3);
    assert!(client.new_inbox().starts_with(&context.flags["inbox-prefix"]));
    let ask_next = format!("{prefix}.CONSUMER.MSG.NEXT.{stream}.{name}");
    for version in ["1", "2", "3"] {
        take(&client, &ask_next, version).await?;
    }
    let info = ask(&client, format!("{prefix}.CONSUMER.INFO.{stream}.{name}"), &Value::Null).await?;
    assert_eq!((&info["num_pending"], &info["num_ack_pending"]), (&json!(0), &json!(0)), "{info}");
    assert_eq!(info["ack_floor"]["stream_seq"], 3, "{info}");

    // Plain subscriptions are not for consumers with credentials, as the page says.
    let plain = documented("nats sub")?;
    guest.may_not_subscribe(&plain.words[2]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_subscription_sees_what_is_published_live_where_there_are_no_users() -> anyhow::Result<()> {
    let subject = documented("nats sub")?.words[2].clone();
    let school = School::builder().open().await?;
    publish_outcome(&school, 7, 1).await?;
    let client = ConnectOptions::new().connect(school.nats.url()).await?;
    let mut subscription = client.subscribe(subject).await?;
    client.flush().await?;
    publish_outcome(&school, 8, 2).await?;
    let message = next(&mut subscription).await?;
    assert!(
        message.subject.ends_with(".contact.8"),
        "what was there before is not seen: {}",
        message.subject
    );
    let headers = message.headers.context("headers")?;
    assert_eq!(headers.get("ce-subject").map(async_nats::HeaderValue::as_str), Some("contact/8"));
    let told: Value = serde_json::from_slice(&message.payload)?;
    assert_eq!(told["status"], "status 2");
    Ok(())
}
