//! A small otmechalka in memory: it stores whatever it is sent, also twice, and may lose its answer.

use std::collections::{BTreeMap, BTreeSet};

use otmechalka::simulated::Reply;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::chance::Chance;

/// A call that changed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Whether it is about a ticket, not a client.
    pub is_ticket: bool,
    /// The record's id in Bitrix24.
    pub origin: u64,
    /// Whether it made one.
    pub is_create: bool,
    /// The surname of a client, the final price of a ticket.
    pub says: String,
    /// The pupil of a ticket.
    pub client: Option<u64>,
}

/// What is wrong with it just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Illness {
    /// Nothing is answered but 503.
    Down,
    /// Calls are carried out, and many answers get lost or are 500.
    Deaf,
    /// Many calls are answered with 429.
    Busy,
    /// One record alone fails.
    Sick(u64),
    /// The token is refused.
    Unauthorized,
    /// What belongs to the token is blocked.
    Forbidden,
}

/// What is there.
#[derive(Default)]
pub struct Shop {
    /// What is wrong with it.
    pub illness: Option<Illness>,
    /// Surnames that it does not take.
    pub unwanted: BTreeSet<String>,
    /// What each client says now, by origin id.
    pub clients: BTreeMap<u64, String>,
    /// What each ticket says, by origin id.
    pub tickets: BTreeMap<u64, String>,
    /// Everything that was changed, in order.
    pub writes: Vec<Write>,
    /// How often writes of records failed alone.
    pub was_sick: BTreeMap<u64, usize>,
}

/// What a call came to.
pub enum Came {
    /// An answer.
    Reply(Reply),
    /// None; it may have been carried out.
    Lost,
}

impl Shop {
    /// Carries a call out, or does not.
    pub fn answer(&mut self, method: &Method, path: &str, body: Option<&[u8]>, chance: &Chance) -> Came {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let api = parts.iter().position(|part| *part == "api").unwrap_or(0);
        let kind = parts.get(api + 1).copied().unwrap_or_default();
        let is_ticket = kind == "tickets";
        let body: Value = body.and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
        let named = parts.get(api + 2).and_then(|id| id.parse().ok());
        let origin = named.unwrap_or_else(|| number(&body["origin_id"]));
        let is_write = *method == Method::POST;
        match self.illness {
            Some(Illness::Down) => return reply(503, json!({})),
            Some(Illness::Unauthorized) => return reply(401, json!({"detail": "Invalid token."})),
            Some(Illness::Forbidden) => return reply(403, json!({"detail": "No permission."})),
            Some(Illness::Busy) if chance.one_in(2) => return busy(chance.between(1, 5)),
            Some(Illness::Sick(sick)) if sick == origin && is_write => {
                *self.was_sick.entry(sick).or_default() += 1;
                return reply(500, json!({}));
            }
            Some(Illness::Deaf) if chance.one_in(4) => return Came::Lost,
            _ => {}
        }
        let answer = match is_write {
            true => self.write(is_ticket, named.is_none(), origin, &body),
            false => self.read(is_ticket, origin),
        };
        match self.illness {
            Some(Illness::Deaf) if chance.one_in(3) => Came::Lost,
            Some(Illness::Deaf) if chance.one_in(4) => reply(500, json!({})),
            _ => answer,
        }
    }

    fn read(&self, is_ticket: bool, origin: u64) -> Came {
        let found = if is_ticket { self.tickets.get(&origin) } else { self.clients.get(&origin) };
        match found {
            Some(says) => {
                reply(200, json!({"id": origin + 1_000, "origin_id": origin.to_string(), "says": says}))
            }
            None => reply(404, json!({"detail": "Not found."})),
        }
    }

    fn write(&mut self, is_ticket: bool, is_create: bool, origin: u64, body: &Value) -> Came {
        let says = if is_ticket { text(&body["price_final"]) } else { text(&body["last_name"]) };
        let client = is_ticket.then(|| number(&body["client_origin_id"]));
        if self.unwanted.contains(&says) {
            return reply(400, json!({"last_name": ["Такого ученика не принимаем."]}));
        }
        if client.is_some_and(|client| !self.clients.contains_key(&client)) {
            return reply(400, json!({"client_origin_id": ["Клиент не найден."]}));
        }
        if !is_create && !self.clients.contains_key(&origin) {
            return reply(404, json!({"detail": "Not found."}));
        }
        let there = if is_ticket { &mut self.tickets } else { &mut self.clients };
        there.insert(origin, says.clone());
        self.writes.push(Write { is_ticket, origin, is_create, says, client });
        reply(
            if is_create { 201 } else { 200 },
            json!({"id": origin + 1_000, "origin_id": origin.to_string()}),
        )
    }
}

fn reply(status: u16, body: Value) -> Came {
    let status = StatusCode::from_u16(status).expect("a status");
    Came::Reply(Reply { status, headers: HeaderMap::new(), body: body.to_string().into_bytes() })
}

fn busy(seconds: u64) -> Came {
    let mut headers = HeaderMap::new();
    headers.insert(reqwest::header::RETRY_AFTER, seconds.into());
    Came::Reply(Reply { status: StatusCode::TOO_MANY_REQUESTS, headers, body: b"{}".to_vec() })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}
