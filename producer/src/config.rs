//! The producer's settings.

use std::time::Duration;

use bitrix24::Client;
use chrono::NaiveTime;
use chrono_tz::Tz;
use runtime::Reader;
use runtime::budget::BucketSize;
use runtime::settings::SecretFile;
use secrecy::SecretString;

use crate::entity::{EntitySettings, Plan};
use crate::walk::Spans;

/// What the producer is told.
pub struct Config {
    /// `BITRIX24_WEBHOOK_URL`: inbound webhook, a secret.
    pub webhook_url: SecretString,
    /// The file that the webhook comes from, read again when the portal refuses it.
    pub webhook_file: Option<SecretFile>,
    /// `BITRIX24_CA_FILE`: certificate authorities to trust besides those of the system, PEM.
    pub authorities: Option<Vec<u8>>,
    /// `PORTAL_TIME_ZONE`: counts until the portal has told its own offset.
    pub zone: Tz,
    /// Contacts: `SYNC_CONTACTS_LAST_MODIFY_TIMESTAMP`, `CONTACT_SYNC_INTERVAL` (60s), `CONTACT_STATUS_FIELD`.
    pub contacts: Plan,
    /// Deals: `SYNC_DEAL_LAST_MODIFY_TIMESTAMP`, `DEAL_SYNC_INTERVAL` (60s), `DEAL_STATUS_FIELD`, `DEAL_STAGES` (WON).
    pub deals: Plan,
    /// `SYNC_LAG` (2s) and `SYNC_OVERLAP` (120s), both in portal time.
    pub spans: Spans,
    /// `BITRIX24_BUCKET` (50), `BITRIX24_LEAK` (2 per second) and `PORTAL_CLOCK_SPEED` (1).
    pub bucket: BucketSize,
    /// `BITRIX24_OPERATING_LIMIT`: seconds of computing time per method in ten minutes (480).
    pub operating_limit: f64,
    /// `SELLER_CACHE`: how long a seller's name is remembered (1h).
    pub seller_cache: Duration,
    /// `RECONCILE_AT`: time of day, in portal time, of the daily run (none).
    pub reconcile_at: Option<NaiveTime>,
}

impl Config {
    /// Reads the settings. Gives `None` after noting a problem with the reader.
    pub fn read(reader: &Reader<'_>) -> Option<Config> {
        let webhook = read_webhook(reader);
        let zone = reader.zone();
        // Without a zone nothing starts, but what depends on it is looked at all the same: one report tells everything.
        let plans = read_plans(reader, zone.unwrap_or(Tz::UTC));
        let spans = read_spans(reader);
        let bucket = read_bucket(reader);
        let operating_limit = positive(reader, "BITRIX24_OPERATING_LIMIT", 480.0, "480");
        let seller_cache = reader.duration("SELLER_CACHE", Duration::from_secs(60 * 60), "1h");
        let reconcile_at = read_time_of_day(reader);
        let (contacts, deals) = plans?;
        let (webhook_url, authorities) = webhook?;
        Some(Config {
            webhook_url,
            webhook_file: reader.secret_file(WEBHOOK),
            authorities,
            zone: zone?,
            contacts,
            deals,
            spans: spans?,
            bucket: bucket?,
            operating_limit: operating_limit?,
            seller_cache: seller_cache?,
            reconcile_at: reconcile_at?,
        })
    }

    /// Tells how much of what the portal gives back polls take, from 0 to 1 and above: one request each, at the least.
    pub(crate) fn share_of_polls(&self) -> f64 {
        let a_second: f64 =
            [&self.contacts, &self.deals].map(|plan| 1.0 / plan.interval.as_secs_f64()).iter().sum();
        a_second / (self.bucket.leak_per_second * self.bucket.clock_speed)
    }
}

/// Share of polls above which little is left for statuses and for `rollcall`.
pub(crate) const SHARE_THAT_STARVES: f64 = 0.25;

const WEBHOOK: &str = "BITRIX24_WEBHOOK_URL";

fn read_webhook(reader: &Reader<'_>) -> Option<(SecretString, Option<Vec<u8>>)> {
    let expected = "the address of an inbound webhook, https unless on this machine";
    let example = "https://portal.example/rest/1/secret/";
    let authorities = reader.authorities("BITRIX24_CA_FILE");
    let url = reader.required_secret(WEBHOOK, expected, example, |_| true)?;
    let builder = Client::builder(url.clone());
    let built = match authorities.as_ref().and_then(Option::as_ref) {
        Some(pem) => builder.root_certificates(pem.clone()).build(),
        None => builder.build(),
    };
    if let Err(error) = built {
        reader.problem(
            WEBHOOK,
            &format!("a value that does not fit (not shown): {error}"),
            expected,
            example,
        );
        return None;
    }
    Some((url, authorities?))
}

fn read_plans(reader: &Reader<'_>, zone: Tz) -> Option<(Plan, Plan)> {
    let created_from = reader.moment("SYNC_START_DATE", zone, "2020-12-22");
    let contacts = read_entity(
        reader,
        zone,
        ["SYNC_CONTACTS_LAST_MODIFY_TIMESTAMP", "CONTACT_SYNC_INTERVAL", "CONTACT_STATUS_FIELD"],
    );
    let deals = read_entity(
        reader,
        zone,
        ["SYNC_DEAL_LAST_MODIFY_TIMESTAMP", "DEAL_SYNC_INTERVAL", "DEAL_STATUS_FIELD"],
    );
    let deal_stages = reader.list("DEAL_STAGES", &["WON"], "WON,C10:WON");
    let created_from = created_from?;
    Some((Plan::contacts(created_from, contacts?), Plan::deals(created_from, deal_stages?, deals?)))
}

fn read_entity(reader: &Reader<'_>, zone: Tz, names: [&str; 3]) -> Option<EntitySettings> {
    let [first_watermark, interval, status_field] = names;
    let first_watermark = reader.moment(first_watermark, zone, "2020-12-24");
    let interval = reader.duration(interval, Duration::from_secs(60), "60s");
    let status_field = reader.field_code(status_field);
    Some(EntitySettings {
        status_field: status_field?,
        first_watermark: first_watermark?,
        interval: interval?,
    })
}

/// What becomes readable later than this after its modification time may be missed.
const SHORTEST_OVERLAP: Duration = Duration::from_secs(60);

/// No portal is that late; longer values are slips of the pen.
const LONGEST_SPAN: Duration = Duration::from_secs(24 * 60 * 60);

fn read_spans(reader: &Reader<'_>) -> Option<Spans> {
    let span = |name, default, shortest: Duration, expected, example| {
        reader.with_default(name, Duration::from_secs(default), expected, example, |text| {
            let span = humantime::parse_duration(text).ok()?;
            (shortest..=LONGEST_SPAN).contains(&span).then_some(span)
        })
    };
    let lag = span("SYNC_LAG", 2, Duration::ZERO, "a length of time up to a day", "2s");
    let overlap = span("SYNC_OVERLAP", 120, SHORTEST_OVERLAP, "a length of time from 60s to a day", "120s");
    Some(Spans {
        lag: chrono::Duration::from_std(lag?).ok()?,
        overlap: chrono::Duration::from_std(overlap?).ok()?,
    })
}

fn read_bucket(reader: &Reader<'_>) -> Option<BucketSize> {
    let capacity = reader.number("BITRIX24_BUCKET", 50, 10..=10_000, "50");
    let leak_per_second = positive(reader, "BITRIX24_LEAK", 2.0, "2");
    let clock_speed = reader.clock_speed();
    Some(BucketSize {
        capacity: capacity? as f64,
        leak_per_second: leak_per_second?,
        clock_speed: clock_speed?,
    })
}

fn read_time_of_day(reader: &Reader<'_>) -> Option<Option<NaiveTime>> {
    reader.with_default("RECONCILE_AT", None, "a time of day in the portal's time zone", "03:30", |text| {
        NaiveTime::parse_from_str(text, "%H:%M").ok().map(Some)
    })
}

fn positive(reader: &Reader<'_>, name: &str, default: f64, example: &str) -> Option<f64> {
    reader.with_default(name, default, "a number above 0", example, |text| {
        text.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::Source;

    const GOOD: [(&str, &str); 4] = [
        ("BITRIX24_WEBHOOK_URL", "https://portal.example/rest/1/hunter2secret/"),
        ("SYNC_START_DATE", "2020-12-22"),
        ("SYNC_CONTACTS_LAST_MODIFY_TIMESTAMP", "2020-12-24"),
        ("SYNC_DEAL_LAST_MODIFY_TIMESTAMP", "2020-12-25"),
    ];

    fn read(more: &[(&str, &str)]) -> Result<Config, runtime::SettingsError> {
        let pairs = GOOD.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let source = Source::new(pairs);
        let reader = Reader::new(&source);
        let config = Config::read(&reader);
        reader.finish(|| config)
    }

    #[test]
    fn four_settings_are_enough() {
        let config = read(&[]).unwrap();
        assert_eq!(config.deals.first_watermark.to_rfc3339(), "2020-12-25T00:00:00+03:00");
        assert_eq!(config.deals.restriction, Some(("STAGE_ID", vec!["WON".to_owned()])));
        assert_eq!(config.spans.overlap, chrono::Duration::seconds(120));
        assert_eq!(config.reconcile_at, None);
    }

    #[test]
    fn polls_in_quick_succession_take_what_statuses_need() {
        let share = |more: &[(&str, &str)]| read(more).unwrap().share_of_polls();
        let each_second = [("CONTACT_SYNC_INTERVAL", "1s"), ("DEAL_SYNC_INTERVAL", "1s")];
        assert!(share(&[]) < 0.02);
        assert!(share(&each_second) >= 1.0);
        assert!(share(&[&each_second[..], &[("PORTAL_CLOCK_SPEED", "60")]].concat()) < 0.02);
        assert!(share(&[("DEAL_SYNC_INTERVAL", "2s")]) > SHARE_THAT_STARVES);
    }

    #[test]
    fn every_mistake_is_named_and_the_webhook_is_not_shown() {
        let mistakes = [
            ("BITRIX24_WEBHOOK_URL", "http://portal.example/rest/1/hunter2secret/"),
            ("SYNC_START_DATE", "yesterday"),
            ("SYNC_OVERLAP", "10s"),
            ("DEAL_STAGES", "WON,,"),
            ("BITRIX24_LEAK", "0"),
            ("RECONCILE_AT", "25:00"),
            ("PORTAL_TIME_ZONE", "Moscow"),
        ];
        let error = read(&mistakes).err().unwrap();
        let names: Vec<&str> = error.0.iter().map(|problem| problem.name.as_str()).collect();
        for (name, _) in mistakes {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
