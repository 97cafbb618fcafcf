//! Every switch of the portal, readable and changeable while it runs.

use std::collections::BTreeMap;

use chrono::Offset;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::clock::Zone;
use super::limits::{Leak, RateLimit};
use super::schema::Entity;

/// Which method the seconds of a batch are counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Accounting {
    /// For each inner method, as documented.
    Inner,
    /// For the method `batch`, as measured on a portal.
    Batch,
}

/// What `crm.item.productrow.list` does with several owners in one filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerArrays {
    Supported,
    MatchNothing,
    Refused,
}

/// Which keys the `time` of an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeKeys {
    All,
    /// The resource counter is switched off, as on many self-hosted portals.
    NoOperating,
    None,
}

/// How times in filters are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterDates {
    /// ISO 8601 with its offset, and the portal's own forms.
    #[default]
    Iso,
    /// `2026-01-10 10:00:00` and the portal's own form; with a `T` it is no time and matches nothing.
    NoT,
    /// An offset is passed over: the hours are taken for the portal's own.
    NoOffset,
}

/// What becomes of the commands of a batch beyond the fiftieth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchOverflow {
    /// Each ends with an error of its own.
    PerCommand,
    /// The whole call is refused.
    Refused,
}

/// The seconds that calls take on the portal's clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// By method or glob; the most specific entry wins.
    pub seconds: BTreeMap<String, f64>,
    /// Added to a list call that counts its matches.
    pub count_base: f64,
    /// Added for every match counted.
    pub count_per_match: f64,
}

impl Costs {
    /// Returns the seconds of one call without counting.
    pub fn of(&self, method: &str) -> f64 {
        if let Some(seconds) = self.seconds.get(method) {
            return *seconds;
        }
        let matching = self.seconds.iter().filter(|(pattern, _)| glob(pattern, method));
        matching.max_by_key(|(pattern, _)| pattern.len()).map_or(0.0, |(_, seconds)| *seconds)
    }
}

/// Codes of the text fields whose updates are counted as status updates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusFields {
    pub contact: String,
    pub deal: String,
}

/// How unset and typed values appear in answers; anything but the default is a disturbance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// What an unset multiple custom field is: `false`, `[]`, `null` or `""`.
    pub unset_multiple: Value,
    /// What an unset PHONE or EMAIL is when selected; `null` leaves the key out.
    pub unset_multifield: Value,
    /// Prints numbers of product rows as strings and the ids of classic rows as numbers.
    pub swap_numbers_and_strings: bool,
    /// Prints lists inside records as objects with numbered keys.
    pub lists_as_objects: bool,
    /// Prints the rows of a classic list as an object with numbered keys.
    pub rows_as_object: bool,
    /// Keys that no client knows, added to every record.
    pub unknown_keys: bool,
    /// Leaves out `total` and `next` of lists.
    pub no_total_and_next: bool,
}

/// The portal's switches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The code in the webhook's address.
    pub secret: String,
    /// The employee in whose name the webhook acts.
    pub webhook_user: u64,
    pub scopes: Vec<String>,
    /// `+03:00` or a zone name; all times are printed in it.
    pub zone: String,
    pub rate_limit: RateLimit,
    /// Seconds per method in ten minutes; `null` switches the limit off.
    pub operating_limit: Option<f64>,
    pub accounting: Accounting,
    pub costs: Costs,
    /// Longest run of one request; what is left goes on unseen behind a 504.
    pub max_request_seconds: f64,
    pub item_owner_arrays: OwnerArrays,
    /// Lists without a complete order come in another order every time.
    pub shuffle_unordered: bool,
    /// A classic update that changes nothing still moves `DATE_MODIFY`.
    pub unchanged_bumps: bool,
    /// Setting product rows moves the deal's `DATE_MODIFY`.
    pub rows_bump: bool,
    /// Seconds from a write until lists can read it.
    pub list_delay_seconds: f64,
    /// Classic lists refuse unknown filter keys instead of ignoring them.
    pub strict_classic_filters: bool,
    /// How times in filters are read; a portal that was kept before there was this switch has none.
    #[serde(default)]
    pub filter_dates: FilterDates,
    pub time_keys: TimeKeys,
    pub batch_overflow: BatchOverflow,
    pub status_fields: StatusFields,
    pub shape: Shape,
}

impl Settings {
    /// Returns the zone; it was checked when the settings were made.
    pub fn zone(&self) -> Zone {
        Zone::parse(&self.zone).unwrap_or_else(|_| Zone::Fixed(chrono::Utc.fix()))
    }

    /// Returns the settings with some values replaced, or what is wrong with the replacement.
    pub fn patched(&self, patch: &Value) -> Result<Self, String> {
        let mut settings = json!(self);
        overlay(&mut settings, patch);
        let settings: Self = serde_json::from_value(settings).map_err(|error| error.to_string())?;
        Zone::parse(&settings.zone)?;
        Ok(settings)
    }

    /// Returns the status field of an entity.
    pub fn status_field(&self, entity: Entity) -> &str {
        match entity {
            Entity::Contact => &self.status_fields.contact,
            Entity::Deal => &self.status_fields.deal,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let status_field = || "UF_CRM_SYNC_STATUS".to_owned();
        Self {
            secret: "secret".to_owned(),
            webhook_user: 1,
            scopes: strings(&["crm", "user", "user_brief", "user_basic"]),
            zone: "+03:00".to_owned(),
            rate_limit: RateLimit {
                capacity: Some(50.0),
                leak_per_second: 2.0,
                leak: Leak::Stepwise,
                refused_fill: false,
            },
            operating_limit: Some(480.0),
            accounting: Accounting::Inner,
            costs: default_costs(0.04),
            max_request_seconds: 60.0,
            item_owner_arrays: OwnerArrays::Supported,
            shuffle_unordered: true,
            unchanged_bumps: true,
            rows_bump: true,
            list_delay_seconds: 0.0,
            strict_classic_filters: false,
            filter_dates: FilterDates::Iso,
            time_keys: TimeKeys::All,
            batch_overflow: BatchOverflow::PerCommand,
            status_fields: StatusFields { contact: status_field(), deal: status_field() },
            shape: Shape {
                unset_multiple: Value::Bool(false),
                unset_multifield: Value::Null,
                swap_numbers_and_strings: false,
                lists_as_objects: false,
                rows_as_object: false,
                unknown_keys: false,
                no_total_and_next: false,
            },
        }
    }
}

/// Returns the usual costs with this one for every method that writes.
fn default_costs(write_seconds: f64) -> Costs {
    let writes =
        ["crm.*.add", "crm.*.update", "crm.*.delete", "crm.*.set"].map(|method| (method, write_seconds));
    let reads = [("*", 0.005), ("*.list", 0.02), ("*.get", 0.01)];
    let seconds = writes.into_iter().chain(reads).map(|(method, seconds)| (method.to_owned(), seconds));
    Costs { seconds: seconds.collect(), count_base: 0.02, count_per_match: 0.000_02 }
}

/// Matches a name against a pattern in which `*` stands for anything.
pub fn glob(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(rest) = name.strip_prefix(head) else { return false };
    (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| glob(tail, &rest[at..]))
}

fn overlay(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                overlay(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_changes_only_what_it_names() {
        let settings = Settings::default();
        let patch =
            json!({"rate_limit": {"capacity": null}, "costs": {"seconds": {"crm.deal.update": 1.35}}});
        let patched = settings.patched(&patch).expect("valid settings");
        assert_eq!(patched.rate_limit.capacity, None);
        assert_eq!(patched.rate_limit.leak_per_second, 2.0);
        assert_eq!(patched.costs.of("crm.deal.update"), 1.35);
        assert_eq!(patched.costs.of("crm.contact.update"), 0.04);
    }

    #[test]
    fn unknown_names_and_zones_are_refused() {
        let settings = Settings::default();
        assert!(settings.patched(&json!({"shufle_unordered": false})).is_err());
        assert!(settings.patched(&json!({"zone": "Moscow"})).is_err());
    }

    #[test]
    fn globs_match_by_stars_only() {
        assert!(glob("crm.*.update", "crm.deal.update"));
        assert!(glob("*", "batch"));
        assert!(!glob("crm.*.update", "crm.deal.updates"));
        assert!(!glob("crm.deal.list", "crm_deal_list"));
    }

    #[test]
    fn the_most_specific_cost_counts() {
        let costs = default_costs(0.3);
        assert_eq!(costs.of("crm.contact.update"), 0.3);
        assert_eq!(costs.of("crm.contact.list"), 0.02);
        assert_eq!(costs.of("profile"), 0.005);
    }
}
