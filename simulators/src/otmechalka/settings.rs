//! What an administrator of otmechalka can set, and what this double adds.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dataset::TICKET_TYPES;

/// Everything that can be changed while the double runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Expected after `Authorization: Token `; without one every caller is let in.
    pub token: Option<String>,
    /// How long every call takes, on the double's clock.
    pub latency_ms: u64,
    /// Most clients that are not archived.
    pub max_visitors: usize,
    /// Whether a second record of one origin id is refused.
    pub unique_origin: bool,
    /// Ids and titles taken in `courses`.
    pub courses: Vec<String>,
    /// Ids and titles taken in `branchoffices` and `selling_branchoffice`.
    pub branchoffices: Vec<String>,
    /// Titles taken in `ticket_type`.
    pub ticket_types: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let strings = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        Self {
            token: None,
            latency_ms: 0,
            max_visitors: 5000,
            unique_origin: false,
            courses: strings(&[
                "10985",
                "10986",
                "Он-лайн Групповое",
                "Он-лайн индивидуальные",
                "Групповые занятия",
                "Индивидуальные занятия",
            ]),
            branchoffices: strings(&["2633", "+Он-лайн `МСК", "+ ЦДШ `МСК", "+ СКОЛКОВО `МСК *"]),
            ticket_types: TICKET_TYPES.iter().map(|(title, _)| (*title).to_owned()).collect(),
        }
    }
}

impl Settings {
    /// Returns these settings with the given ones changed.
    pub fn patched(&self, changes: &Value) -> Result<Self, String> {
        let Value::Object(changes) = changes else { return Err("expected an object".to_owned()) };
        let mut whole = serde_json::to_value(self).map_err(|error| error.to_string())?;
        if let Value::Object(fields) = &mut whole {
            fields.extend(changes.clone());
        }
        serde_json::from_value(whole).map_err(|error| error.to_string())
    }

    /// Shows the settings without the token.
    pub fn shown(&self) -> Value {
        let mut whole = serde_json::to_value(self).unwrap_or_default();
        whole["token"] = Value::Bool(self.token.is_some());
        whole
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_change_one_by_one_and_typos_are_refused() {
        let settings = Settings::default();
        let changed = settings.patched(&json!({"latency_ms": 50, "token": "t0ken"})).expect("good settings");
        assert_eq!((changed.latency_ms, changed.max_visitors), (50, 5000));
        assert_eq!(changed.shown()["token"], true);
        assert!(settings.patched(&json!({"latency": 50})).is_err());
        assert!(settings.patched(&json!({"latency_ms": "soon"})).is_err());
        assert!(settings.patched(&json!([])).is_err());
    }
}
