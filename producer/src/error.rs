//! Why a poll ended early, and when to try again.

use std::time::Duration;

use bitrix24::ErrorClass;
use runtime::outside;
use runtime::{BrokerError, PublishError};
use schemas::{Entity, RecordRef};

use crate::record::Ignored;

/// Why a poll ended early. Nothing is lost by it: the checkpoint stays, the next poll resumes.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// The portal did not give what was asked for.
    #[error(transparent)]
    Portal(#[from] bitrix24::Error),
    /// The portal gave something else than was asked for.
    #[error("the portal ignores our filter of {method}: {fault}")]
    Ignored {
        /// The list method.
        method: &'static str,
        /// What shows it.
        fault: Ignored,
    },
    /// Neither this answer nor an earlier one tells the portal's time.
    #[error("the portal's answers do not tell its time")]
    NoTime,
    /// NATS did not do what was asked.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The stored checkpoint is none.
    #[error("the checkpoint stored for {0} is none that this version can read")]
    Checkpoint(Entity),
    /// A record cannot be made into an event.
    #[error("{0} cannot be made into an event")]
    Unencodable(RecordRef),
    /// Somebody else publishes about a record all the time.
    #[error("another writer keeps publishing about {0}")]
    Contention(RecordRef),
    /// Another producer published about a record after this one had read it.
    #[error("another producer published about {0} meanwhile")]
    Overtaken(RecordRef),
    /// The lease is no longer held: another producer may be at work.
    #[error("this replica is no longer the one at work")]
    NotAtWork,
    /// The stage is stopping.
    #[error("the stage is stopping")]
    Stopping,
}

impl From<PublishError> for PollError {
    fn from(_: PublishError) -> PollError {
        PollError::Stopping
    }
}

impl PollError {
    /// Tells whether a method has no computing time left.
    pub fn is_want_of_operating(&self) -> bool {
        matches!(self, PollError::Portal(error) if matches!(error.class(), ErrorClass::OperatingLimit { .. }))
    }

    /// Tells whether the portal did not give what was asked for, so that another question may fare better: it is there, takes
    /// the webhook, and asks for no pause.
    pub fn is_about_what_was_asked(&self) -> bool {
        match self {
            PollError::Portal(bitrix24::Error::Connect { .. }) => false,
            PollError::Portal(error) => {
                !matches!(error.class(), ErrorClass::Refused | ErrorClass::RateLimited { .. })
            }
            PollError::Ignored { .. } => true,
            _ => false,
        }
    }

    /// Tells whether asking for less may fare better: for computing time it would only wait.
    pub fn may_be_too_much(&self) -> bool {
        self.is_about_what_was_asked() && !self.is_want_of_operating()
    }

    /// Tells whether an answer was longer than is read.
    pub fn is_too_large(&self) -> bool {
        matches!(self, PollError::Portal(bitrix24::Error::TooLarge { .. }))
    }
}

/// What to do about a poll that ended early.
#[derive(Clone, Debug, PartialEq)]
pub struct Setback {
    /// How long to leave the portal alone.
    pub pause: Duration,
    /// What a person has to put right, where nothing else helps.
    pub remedy: Option<&'static str>,
}

/// First pause after a failure; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause, and the pause while the portal turns us away.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Longest pause while it is NATS that fails: it is ours and near.
const LONGEST_BROKER_PAUSE: Duration = Duration::from_secs(2);

/// Longest wait for computing time: the portal forgets what was used after ten minutes.
const LONGEST_OPERATING_PAUSE: Duration = Duration::from_secs(600);

/// Decides what to do after so many failures in a row; `chance` from 0 to 1 spreads the tries of many processes.
pub fn setback(
    error: &PollError,
    failures: u32,
    clock_speed: f64,
    portal_now: Option<chrono::DateTime<chrono::FixedOffset>>,
    chance: f64,
) -> Setback {
    let doubled = FIRST_PAUSE * 2_u32.saturating_pow(failures.saturating_sub(1).min(10));
    let backoff = doubled.min(LONGEST_PAUSE).mul_f64(0.75 + 0.25 * chance);
    let after = |pause: Duration| Setback { pause, remedy: None };
    match error {
        PollError::Portal(error) => match error.class() {
            ErrorClass::RateLimited { retry_after } => after(backoff.max(retry_after)),
            ErrorClass::OperatingLimit { reset_at, .. } => {
                let now = portal_now.unwrap_or_else(|| outside::now().fixed_offset());
                let wait = reset_at.and_then(|reset_at| (reset_at - now).to_std().ok()).unwrap_or_default();
                after(backoff.max(wait.min(LONGEST_OPERATING_PAUSE).div_f64(clock_speed)))
            }
            ErrorClass::Refused if says_what_to_do(error) => Setback {
                pause: LONGEST_PAUSE.div_f64(clock_speed),
                remedy: Some("what it says; then nothing needs restarting unless a setting was changed"),
            },
            ErrorClass::Refused => Setback {
                pause: LONGEST_PAUSE.div_f64(clock_speed),
                remedy: Some(
                    "check that the webhook exists and is not expired, that its employee is active and may read the \
                     CRM, that its scopes are crm and user_brief, and that the portal is paid for; then nothing needs \
                     restarting",
                ),
            },
            ErrorClass::Permanent | ErrorClass::NotFound => Setback {
                pause: backoff,
                remedy: Some(
                    "check the rights of the webhook and the settings of the producer, or report this as a bug",
                ),
            },
            ErrorClass::Transient => after(backoff),
        },
        PollError::Ignored { .. } => Setback {
            pause: backoff,
            remedy: Some(
                "nothing of these is published before the portal filters as documented; run `rollcall doctor`",
            ),
        },
        PollError::Checkpoint(_) => Setback {
            pause: backoff,
            remedy: Some("delete that key of the bucket `checkpoint` to begin at the configured time again"),
        },
        PollError::Broker(_) => after(backoff.min(LONGEST_BROKER_PAUSE)),
        PollError::NoTime
        | PollError::Unencodable(_)
        | PollError::Contention(_)
        | PollError::Overtaken(_)
        | PollError::NotAtWork
        | PollError::Stopping => after(backoff),
    }
}

fn says_what_to_do(error: &bitrix24::Error) -> bool {
    matches!(error, bitrix24::Error::Untrusted { .. } | bitrix24::Error::Redirect { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(failures: u32) -> Duration {
        setback(&PollError::NoTime, failures, 1.0, None, 1.0).pause
    }

    #[test]
    fn the_pause_doubles_up_to_a_minute() {
        let pauses: Vec<u64> = [1, 2, 3, 6, 7, 1_000].map(|failures| pause(failures).as_secs()).into();
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60]);
        assert_eq!(setback(&PollError::NoTime, 1, 1.0, None, 0.0).pause, Duration::from_millis(750));
    }

    #[test]
    fn a_portal_that_turns_us_away_is_asked_once_a_minute_and_a_person_is_called() {
        for status in [401, 403, 404] {
            let refused = PollError::Portal(bitrix24::Error::Status { method: "batch".into(), status });
            let setback = setback(&refused, 1, 30.0, None, 0.0);
            assert_eq!(setback.pause, Duration::from_secs(2), "by the portal's clock");
            assert!(setback.remedy.unwrap().contains("webhook"));
        }
    }

    #[test]
    fn used_up_computing_time_is_waited_for_by_the_portals_clock() {
        let now = chrono::DateTime::parse_from_rfc3339("2026-01-10T10:00:00+03:00").unwrap();
        let pause = |seconds: i64, clock_speed| {
            let reset_at = Some(now + chrono::Duration::seconds(seconds));
            let error = bitrix24::Error::OperatingBudget { method: "crm.deal.list".into(), reset_at };
            setback(&PollError::Portal(error), 1, clock_speed, Some(now), 1.0).pause.as_secs()
        };
        assert_eq!(
            (pause(300, 1.0), pause(300, 10.0), pause(-5, 1.0), pause(90_000, 1.0)),
            (300, 30, 1, 600)
        );
    }

    #[test]
    fn nats_is_asked_again_soon_and_stored_nonsense_names_its_remedy() {
        let broker = PollError::Broker(BrokerError::Stopping);
        assert_eq!(setback(&broker, 50, 1.0, None, 1.0).pause, LONGEST_BROKER_PAUSE);
        assert!(setback(&PollError::Checkpoint(Entity::Deal), 1, 1.0, None, 1.0).remedy.is_some());
    }
}
