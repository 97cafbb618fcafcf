//! Looks one client or ticket up and prints what otmechalka knows about it.

use anyhow::{Context, bail};
use otmechalka::Client;
use secrecy::SecretString;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(kind), Some(origin_id)) = (arguments.next(), arguments.next()) else {
        bail!("usage: lookup client|ticket ORIGIN_ID");
    };
    let url = std::env::var("OTMECHALKA_URL").context("OTMECHALKA_URL is not set")?;
    let token = std::env::var("OTMECHALKA_TOKEN").unwrap_or_default();
    let client =
        Client::builder(url.parse().context("OTMECHALKA_URL")?).token(SecretString::from(token)).build()?;
    let found = match kind.as_str() {
        "client" => client.get_client(&origin_id).await?,
        "ticket" => client.get_ticket(&origin_id).await?,
        other => bail!("{other} is neither client nor ticket"),
    };
    match found {
        Some(record) => println!("{:#}", record.body),
        None => println!("otmechalka has no {kind} {origin_id}"),
    }
    Ok(())
}
