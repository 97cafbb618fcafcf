//! Walking lists on a portal that really filters, and really resolves references.

use axum::response::Response;
use bitrix24::error::ListingFault;
use bitrix24::{ChainLength, Error, Lane, Listing, RowSource};
use serde_json::{Map, Value, json};

use crate::portal::{Call, Portal, success};

/// Contacts with every third ID.
fn contacts(after: u64, count: u64) -> Vec<Value> {
    let ids = (1..=count).map(|n| 3 * n).filter(|id| *id > after);
    ids.take(50).map(|id| json!({"ID": id.to_string(), "NAME": "x".repeat(200)})).collect()
}

/// Runs the commands of a chain. A reference that leads nowhere is no bound at all.
fn run_chain(call: &Call, count: u64) -> Response {
    let mut results: Map<String, Value> = Map::new();
    let mut commands = call.commands();
    commands.sort_by_key(|(id, _)| id[1..].parse::<usize>().expect("a number"));
    for (id, command) in commands {
        let bound = command.split('&').find_map(|pair| pair.split("filter[%3EID]=").nth(1)).expect("a bound");
        let after = match bound.strip_prefix("%24result%5B") {
            None => bound.parse().expect("a number"),
            Some(rest) => {
                let command = rest.split("%5D").next().expect("a name");
                let id = results[command].get(49).and_then(|row| row["ID"].as_str());
                id.map_or(0, |id| id.parse().expect("a number"))
            }
        };
        results.insert(id, Value::from(contacts(after, count)));
    }
    success(json!({"result": results, "result_error": []}))
}

async fn walk(portal: &Portal, length: ChainLength) -> Result<Vec<u64>, Error> {
    let client = portal.client();
    let listing = Listing::classic("crm.contact.list", Map::new(), &["ID", "NAME"]);
    let (mut ids, mut cursor) = (Vec::new(), Some(0));
    while let Some(after) = cursor {
        let page = client.list_page(&listing, after, length, Lane::Backfill).await?;
        ids.extend(page.rows.iter().map(|row| row.id));
        cursor = page.next;
    }
    Ok(ids)
}

#[tokio::test]
async fn ten_thousand_contacts_take_five_requests() {
    let portal = Portal::start(|_, call| run_chain(call, 10_000)).await;
    let ids = walk(&portal, ChainLength::LONGEST).await.expect("IDs");
    assert!(ids.into_iter().eq((1..=10_000).map(|n| 3 * n)));
    // The last page is full, so one request more finds the end.
    assert_eq!(portal.calls().len(), 5);
}

#[tokio::test]
async fn every_length_of_chain_finds_the_same_rows() {
    for (count, pages) in [(0, 1), (49, 1), (50, 1), (51, 2), (100, 2), (101, 2), (149, 3), (260, 4)] {
        let portal = Portal::start(move |_, call| run_chain(call, count)).await;
        let length = ChainLength::try_new(pages).expect("1 to 50");
        let ids = walk(&portal, length).await.expect("IDs");
        assert!(ids.into_iter().eq((1..=count).map(|n| 3 * n)), "{count} by {pages}");
    }
}

#[tokio::test]
async fn a_chain_too_large_for_one_answer_is_shortened() {
    let portal = Portal::start(|_, call| run_chain(call, 1_000)).await;
    let client = portal.builder().max_body_bytes(40_000).build().expect("a client");
    let listing = Listing::classic("crm.contact.list", Map::new(), &[]);
    let page = client.list_page(&listing, 0, ChainLength::LONGEST, Lane::Live).await.expect("a page");
    assert_eq!((page.rows.len(), page.next), (150, Some(450)));
}

#[tokio::test]
async fn a_portal_that_ignores_the_filter_is_found_out() {
    let portal = Portal::start(|_, call| {
        let page = Value::from(contacts(0, 1_000));
        let results: Map<String, Value> =
            call.commands().into_iter().map(|(id, _)| (id, page.clone())).collect();
        success(json!({ "result": results }))
    })
    .await;
    let error = walk(&portal, ChainLength::SINGLE).await.expect_err("an error");
    assert!(matches!(error, Error::Listing { fault: ListingFault::OutOfBounds, .. }), "{error:?}");
    let error = walk(&portal, ChainLength::LONGEST).await.expect_err("an error");
    assert!(matches!(error, Error::Listing { fault: ListingFault::Stuck, .. }), "{error:?}");
}

/// Deal n has n rows, the first with the ID 100 n.
fn rows_of(deal: u64) -> impl Iterator<Item = u64> {
    (0..deal).map(move |n| 100 * deal + n)
}

/// Tells the deals a command asks for, and where its page starts.
fn asked(command: &str) -> (Vec<u64>, usize) {
    let pairs = command.split(['?', '&']).filter_map(|pair| pair.split_once('='));
    let (mut deals, mut start) = (Vec::new(), 0);
    for (name, value) in pairs {
        match name {
            "start" => start = value.parse().expect("a number"),
            "id" => deals.push(value.parse().expect("a number")),
            name if name.starts_with("filter[%3DownerId]") => deals.push(value.parse().expect("a number")),
            _ => {}
        }
    }
    (deals, start)
}

fn product_rows(call: &Call, takes_lists: bool) -> Response {
    let (mut results, mut next, mut total) = (Map::new(), Map::new(), Map::new());
    for (id, command) in call.commands() {
        let (mut deals, start) = asked(&command);
        if command.starts_with("crm.deal.productrows.get") {
            let rows = deals.iter().flat_map(|deal| {
                rows_of(*deal).map(move |row| json!({"ID": row.to_string(), "OWNER_ID": deal.to_string()}))
            });
            results.insert(id, rows.collect());
            continue;
        }
        deals.truncate(if takes_lists { usize::MAX } else { 1 });
        let all: Vec<Value> = deals
            .iter()
            .flat_map(|deal| {
                rows_of(*deal).map(move |row| json!({"id": row, "ownerId": deal, "priceBrutto": 9000.5}))
            })
            .collect();
        let page: Vec<Value> = all.iter().skip(start).take(50).cloned().collect();
        if all.len() > start + 50 {
            next.insert(id.clone(), json!(start + 50));
        }
        total.insert(id.clone(), json!(all.len()));
        results.insert(id, json!({ "productRows": page }));
    }
    success(json!({"result": results, "result_next": next, "result_total": total}))
}

#[tokio::test]
async fn product_rows_are_the_same_by_either_way() {
    let portal = Portal::start(|_, call| product_rows(call, true)).await;
    let client = portal.client();
    let deals: Vec<u64> = (0..=60).collect();
    for source in [RowSource::Items, RowSource::Classic] {
        let rows = client.product_rows(&deals, source, Lane::Backfill).await.expect("rows");
        assert_eq!(rows.len(), 61);
        for (deal, rows) in rows {
            let ids: Vec<u64> = rows.expect("rows").iter().map(|row| id_of(row.get())).collect();
            assert!(ids.into_iter().eq(rows_of(deal)), "deal {deal} by {source:?}");
        }
    }
}

fn id_of(row: &str) -> u64 {
    let row: Value = serde_json::from_str(row).expect("JSON");
    row["ID"].as_u64().or_else(|| row["ID"].as_str()?.parse().ok()).expect("an ID")
}

#[tokio::test]
async fn two_thousand_deals_with_a_row_each_take_one_request() {
    let portal = Portal::start(|_, call| {
        let (mut results, mut total) = (Map::new(), Map::new());
        for (id, command) in call.commands() {
            let (deals, _) = asked(&command);
            let rows: Vec<Value> = deals.iter().map(|deal| json!({"id": deal, "ownerId": deal})).collect();
            total.insert(id.clone(), json!(rows.len()));
            results.insert(id, json!({ "productRows": rows }));
        }
        success(json!({"result": results, "result_total": total}))
    })
    .await;
    let deals: Vec<u64> = (1..=2_000).collect();
    let rows = portal.client().product_rows(&deals, RowSource::Items, Lane::Backfill).await.expect("rows");
    assert_eq!((rows.len(), portal.calls().len()), (2_000, 1));
}

#[tokio::test]
async fn a_probe_tells_which_way_a_portal_goes() {
    for (takes_lists, expected) in [(true, RowSource::Items), (false, RowSource::Classic)] {
        let portal = Portal::start(move |_, call| product_rows(call, takes_lists)).await;
        let client = portal.client();
        let source = client.probe_row_source(&[2, 3], Lane::Live).await.expect("a verdict");
        assert_eq!(source, Some(expected));
        assert_eq!(portal.calls().len(), 1);
        assert_eq!(client.probe_row_source(&[], Lane::Live).await.expect("a verdict"), None);
    }
}
