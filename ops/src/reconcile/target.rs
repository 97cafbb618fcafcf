//! Asks otmechalka, at a gentle pace.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use otmechalka::{Client, Error, ErrorClass};
use schemas::{Entity, RecordId, RecordRef};
use serde_json::Value;
use tokio::time::Instant;

use super::judge::Target;
use crate::exit::Failure;

/// Tries about one record.
const TRIES: u32 = 5;

/// First pause between two of them; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Longest pause that otmechalka may ask for before it is given up.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// No contact has this id.
const NOBODY: &str = "0";

/// otmechalka, asked so many times a second at most.
pub struct Otmechalka {
    client: Client,
    interval: Duration,
    next: Mutex<Instant>,
    /// Which clients it has, as far as it was asked: a bit for each pupil.
    clients: Mutex<HashMap<RecordId, bool>>,
}

impl Otmechalka {
    /// Takes a client and a pace.
    pub fn new(client: Client, per_second: f64) -> Otmechalka {
        let interval = Duration::from_secs_f64(1.0 / per_second);
        Otmechalka { client, interval, next: Mutex::new(Instant::now()), clients: Mutex::default() }
    }

    /// Asks about a record; `None` where it answers about others and not about this one.
    pub async fn ask(&self, record: RecordRef) -> Result<Option<Target>, Failure> {
        let mut pause = FIRST_PAUSE;
        for _ in 0..TRIES {
            let error = match self.try_ask(record.entity, &record.id.to_string()).await {
                Ok(target) => {
                    if record.entity == Entity::Contact {
                        self.note(record.id, target != Target::Absent);
                    }
                    return Ok(Some(target));
                }
                Err(error) => error,
            };
            let wait = match error.class() {
                ErrorClass::Unauthorized => {
                    return Err(Failure::trouble(format!("{error}; nothing was changed"))
                        .remedy("Put OTMECHALKA_TOKEN right; `rollcall doctor` tries it"));
                }
                ErrorClass::RateLimited { retry_after } => retry_after.unwrap_or(pause).min(LONGEST_PAUSE),
                ErrorClass::Transient | ErrorClass::NotFound | ErrorClass::Refused { .. } => pause,
            };
            tokio::time::sleep(wait).await;
            pause *= 2;
        }
        match self.try_ask(Entity::Contact, NOBODY).await {
            Ok(_) => Ok(None),
            Err(error) => Err(Failure::environment(error)
                .remedy("Run the same command once otmechalka is well: it goes on where it was")),
        }
    }

    /// Tells whether it has a client; `None` where it does not say.
    pub async fn has_client(&self, contact: RecordId) -> Result<Option<bool>, Failure> {
        let known = self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(&contact).copied();
        match known {
            Some(known) => Ok(Some(known)),
            None => Ok(self.ask(RecordRef::contact(contact)).await?.map(|target| target != Target::Absent)),
        }
    }

    fn note(&self, contact: RecordId, is_there: bool) {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).insert(contact, is_there);
    }

    async fn try_ask(&self, entity: Entity, id: &str) -> Result<Target, Error> {
        self.turn().await;
        let answer = match entity {
            Entity::Contact => self.client.get_client(id).await?,
            Entity::Deal => self.client.get_ticket(id).await?,
        };
        Ok(match answer.map(|record| record.body) {
            Some(Value::Object(fields)) => Target::Present(fields),
            Some(_) => Target::Present(serde_json::Map::new()),
            None => Target::Absent,
        })
    }

    async fn turn(&self) {
        let mine = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let mine = (*next).max(Instant::now());
            *next = mine + self.interval;
            mine
        };
        tokio::time::sleep_until(mine).await;
    }
}
