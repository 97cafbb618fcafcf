//! Lists the IDs of all contacts of a portal:
//! `BITRIX24_WEBHOOK_URL=https://PORTAL/rest/USER/CODE/ cargo run -p bitrix24 --example list_contacts`

use std::error::Error;

use bitrix24::{ChainLength, Client, Lane, Listing};
use secrecy::SecretString;
use serde_json::Map;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let webhook_url = SecretString::from(std::env::var("BITRIX24_WEBHOOK_URL")?);
    let client = Client::builder(webhook_url).build()?;
    let contacts = Listing::classic("crm.contact.list", Map::new(), &["ID"]);
    let mut cursor = Some(0);
    while let Some(after) = cursor {
        let page = client.list_page(&contacts, after, ChainLength::LONGEST, Lane::Live).await?;
        for row in &page.rows {
            println!("{}", row.id);
        }
        cursor = page.next;
    }
    eprintln!("{:?}", client.stats());
    Ok(())
}
