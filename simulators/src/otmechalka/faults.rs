//! Faults on demand: rules that pick calls and say how each is spoiled.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a call is spoiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    #[serde(rename = "down_503")]
    Down503,
    #[serde(rename = "internal_500")]
    Internal500,
    #[serde(rename = "bad_gateway_502")]
    BadGateway502,
    #[serde(rename = "too_many_429")]
    TooMany429,
    #[serde(rename = "unauthorized_401")]
    Unauthorized401,
    #[serde(rename = "forbidden_403")]
    Forbidden403,
    #[serde(rename = "not_found_404")]
    NotFound404,
    #[serde(rename = "validation_400")]
    Validation400,
    #[serde(rename = "error_200")]
    Error200,
    #[serde(rename = "html_200")]
    Html200,
    Garbage,
    Truncated,
    EmptyBody,
    Bom,
    TrailingBytes,
    LoneSurrogate,
    HugeNumber,
    DuplicateKeys,
    DeepNesting,
    EndlessBody,
    GzipBomb,
    ResetBefore,
    ResetAfterApply,
    NoAnswer,
    Slow,
    Drip,
}

impl Kind {
    /// Tells whether the call is carried out although its answer is spoiled.
    pub fn applies(self) -> bool {
        matches!(
            self,
            Self::Garbage
                | Self::Truncated
                | Self::EmptyBody
                | Self::Bom
                | Self::TrailingBytes
                | Self::LoneSurrogate
                | Self::HugeNumber
                | Self::DuplicateKeys
                | Self::DeepNesting
                | Self::EndlessBody
                | Self::GzipBomb
                | Self::ResetAfterApply
                | Self::Slow
                | Self::Drip
        )
    }
}

/// A rule as an administrator writes it, with what is left of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Given by the double.
    #[serde(default)]
    pub id: u64,
    pub kind: Kind,
    /// `GET` or `POST`; any without it.
    #[serde(default)]
    pub method: Option<String>,
    /// A path in which `*` stands for any characters.
    #[serde(default)]
    pub path: Option<String>,
    /// Only calls about this record.
    #[serde(default)]
    pub origin_id: Option<String>,
    /// How many calls are still to be spoiled; without it all of them.
    #[serde(default)]
    pub count: Option<u64>,
    /// How many calls are let pass first.
    #[serde(default)]
    pub skip: u64,
    /// How long `slow` and `no_answer` take, on the double's clock; real seconds between the bytes of `drip`.
    #[serde(default)]
    pub seconds: Option<f64>,
    /// Value of the header `Retry-After`: a number or a date.
    #[serde(default)]
    pub retry_after: Option<Value>,
    /// Carries the call out, or not, against what the kind would do.
    #[serde(default)]
    pub apply: Option<bool>,
    /// Body of the answer instead of the kind's own.
    #[serde(default)]
    pub body: Option<Value>,
    /// How many calls were spoiled so far.
    #[serde(default)]
    pub fired: u64,
}

impl Rule {
    /// Tells whether a spoiled call is carried out all the same.
    pub fn applies(&self) -> bool {
        self.apply.unwrap_or(self.kind.applies())
    }

    fn matches(&self, method: &str, path: &str, origin_id: Option<&str>) -> bool {
        self.count != Some(0)
            && self.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
            && self.path.as_deref().is_none_or(|pattern| glob(pattern, path))
            && self.origin_id.as_deref().is_none_or(|wanted| Some(wanted) == origin_id)
    }
}

/// All rules, in the order in which they were set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Faults {
    rules: Vec<Rule>,
    last_id: u64,
}

impl Faults {
    /// Adds a rule and returns it with its id.
    pub fn add(&mut self, mut rule: Rule) -> Rule {
        self.last_id += 1;
        rule.id = self.last_id;
        self.rules.push(rule.clone());
        rule
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// Removes one rule and tells whether it was there.
    pub fn remove(&mut self, id: u64) -> bool {
        let before = self.rules.len();
        self.rules.retain(|rule| rule.id != id);
        self.rules.len() < before
    }

    /// Tells whether any rule can still fire.
    pub fn is_idle(&self) -> bool {
        self.rules.iter().all(|rule| rule.count == Some(0))
    }

    /// Picks the first rule for a call and counts it.
    pub fn pick(&mut self, method: &str, path: &str, origin_id: Option<&str>) -> Option<Rule> {
        for rule in self.rules.iter_mut().filter(|rule| rule.matches(method, path, origin_id)) {
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.count = rule.count.map(|count| count - 1);
            rule.fired += 1;
            return Some(rule.clone());
        }
        None
    }
}

/// Matches a path against a pattern in which `*` stands for any characters.
fn glob(pattern: &str, path: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == path };
    let Some(rest) = path.strip_prefix(before) else { return false };
    (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| glob(after, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(rules: Value) -> Faults {
        let mut faults = Faults::default();
        for rule in rules.as_array().expect("a list") {
            faults.add(serde_json::from_value(rule.clone()).expect("a rule"));
        }
        faults
    }

    fn kinds(faults: &mut Faults, calls: usize) -> Vec<Option<Kind>> {
        (0..calls).map(|_| faults.pick("POST", "/api/clients/", Some("5")).map(|rule| rule.kind)).collect()
    }

    #[test]
    fn rule_skips_then_counts_then_rests() {
        let mut faults = faults(json!([{"kind": "internal_500", "skip": 1, "count": 2}]));
        let hit = Some(Kind::Internal500);
        assert_eq!(kinds(&mut faults, 5), [None, hit, hit, None, None]);
        assert!(faults.is_idle());
        assert_eq!(faults.rules()[0].fired, 2);
    }

    #[test]
    fn rule_picks_by_method_path_and_record() {
        for (rule, fires) in [
            (json!({"kind": "slow"}), true),
            (json!({"kind": "slow", "method": "post"}), true),
            (json!({"kind": "slow", "method": "GET"}), false),
            (json!({"kind": "slow", "path": "/api/clients/*"}), true),
            (json!({"kind": "slow", "path": "/api/tickets/*"}), false),
            (json!({"kind": "slow", "path": "*clients*"}), true),
            (json!({"kind": "slow", "origin_id": "5"}), true),
            (json!({"kind": "slow", "origin_id": "6"}), false),
        ] {
            assert_eq!(kinds(&mut faults(json!([rule])), 1)[0].is_some(), fires, "{rule}");
        }
    }

    #[test]
    fn unknown_kinds_and_keys_are_refused() {
        for rule in [json!({"kind": "melted"}), json!({"kind": "slow", "times": 3}), json!({})] {
            assert!(serde_json::from_value::<Rule>(rule.clone()).is_err(), "{rule}");
        }
    }
}
