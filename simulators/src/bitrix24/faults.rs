//! Faults on demand: which requests they hit and how often.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::php::Node;
use super::settings::glob;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    // Refusals: the request is not carried out.
    #[serde(rename = "html_502")]
    Html502,
    #[serde(rename = "html_504")]
    Html504,
    #[serde(rename = "html_403")]
    Html403,
    #[serde(rename = "php_fatal_500")]
    PhpFatal500,
    #[serde(rename = "internal_500")]
    Internal500,
    #[serde(rename = "unexpected_answer_500")]
    UnexpectedAnswer500,
    #[serde(rename = "query_limit_503")]
    QueryLimit503,
    #[serde(rename = "overload_503")]
    Overload503,
    #[serde(rename = "operating_429")]
    Operating429,
    #[serde(rename = "portal_deleted_500")]
    PortalDeleted500,
    #[serde(rename = "unauthorized_401")]
    Unauthorized401,
    #[serde(rename = "expired_401")]
    Expired401,
    #[serde(rename = "forbidden_403")]
    Forbidden403,
    #[serde(rename = "access_denied_403")]
    AccessDenied403,
    #[serde(rename = "error_under_200")]
    ErrorUnder200,
    #[serde(rename = "empty_code_200")]
    EmptyCode200,
    ResultNull,
    ResultEmpty,
    EmptyBody,
    #[serde(rename = "html_200")]
    Html200,
    LoginRedirect,
    DomainRedirect,
    Garbage,
    HugeBody,
    EndlessBody,
    GzipBomb,
    DeepNesting,
    NoAnswer,
    ResetBefore,
    // Disturbed answers: the request is carried out.
    Cp1251,
    Bom,
    PhpWarning,
    Truncated,
    TruncatedTransfer,
    BadGzip,
    TrailingBytes,
    LoneSurrogate,
    HugeNumber,
    DuplicateKeys,
    Drip,
    Slow,
    AnswerLost,
    ResetAfterApply,
    NoTime,
    NoOperating,
    // Inside a request.
    #[serde(rename = "half_batch_then_504")]
    HalfBatchThen504,
    CommandError,
    SlowCommand,
}

impl Kind {
    /// Tells whether the fault hits one command rather than the whole request.
    pub fn is_per_command(self) -> bool {
        matches!(self, Self::CommandError | Self::SlowCommand)
    }

    /// Tells whether the request is carried out in spite of the fault.
    pub fn lets_request_through(self) -> bool {
        matches!(
            self,
            Self::Cp1251
                | Self::Bom
                | Self::PhpWarning
                | Self::Truncated
                | Self::TruncatedTransfer
                | Self::BadGzip
                | Self::TrailingBytes
                | Self::LoneSurrogate
                | Self::HugeNumber
                | Self::DuplicateKeys
                | Self::Drip
                | Self::Slow
                | Self::AnswerLost
                | Self::ResetAfterApply
                | Self::NoTime
                | Self::NoOperating
                | Self::HalfBatchThen504
                | Self::SlowCommand
        )
    }
}

/// A fault and the requests it hits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub kind: Kind,
    /// Glob over the method called and, for a batch, over the methods of its commands; all when absent.
    #[serde(default)]
    pub method: Option<String>,
    /// How many requests it still hits; `null` for all.
    #[serde(default)]
    pub count: Option<u64>,
    /// How many matching requests pass unharmed first.
    #[serde(default)]
    pub skip: u64,
    /// Chance of hitting a matching request.
    #[serde(default = "always")]
    pub probability: f64,
    /// Delay in portal seconds of `slow` and `slow_command`; real seconds between the bytes of `drip`.
    #[serde(default)]
    pub seconds: Option<f64>,
    /// Size of `huge_body`.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Error code of `command_error`.
    #[serde(default)]
    pub error: Option<String>,
    /// The record that a call has to name, by its ID or in a list's filter; any when absent.
    #[serde(default)]
    pub id: Option<i64>,
    /// Error text of `command_error`.
    #[serde(default)]
    pub description: Option<String>,
    /// Other portal for `domain_redirect`; this one when absent.
    #[serde(default)]
    pub location: Option<String>,
    /// How many requests it has hit so far.
    #[serde(default)]
    pub hits: u64,
}

/// What a fault may be about: a call, or a command of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    pub method: String,
    /// IDs of the records that it names.
    pub ids: Vec<i64>,
}

impl Called {
    /// Reads which records a call names: by `id`, or in a filter by `ID` or `@ID`.
    pub fn of(method: &str, params: &Node) -> Called {
        let mut ids: Vec<i64> = params.param("id").and_then(Node::integer).into_iter().collect();
        for (key, value) in params.param("filter").and_then(Node::as_array).into_iter().flatten() {
            if key.trim_start_matches(['@', '=']).eq_ignore_ascii_case("id") {
                let several = value.as_array().into_iter().flatten().map(|(_, id)| id);
                ids.extend(several.chain([value]).filter_map(Node::integer));
            }
        }
        Called { method: method.to_lowercase(), ids }
    }
}

fn always() -> f64 {
    1.0
}

/// The rules in force.
pub struct Faults {
    rules: Vec<Rule>,
    dice: ChaCha8Rng,
}

impl Faults {
    /// Starts without faults; the seed decides rules with a probability.
    pub fn new(seed: u64) -> Self {
        Self { rules: Vec::new(), dice: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// Adds a rule behind the others.
    pub fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// Returns the rules with what remains of them.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Ends all faults.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// Picks the fault of a request that makes these calls, the outer one among them.
    pub fn strike_request(&mut self, calls: &[Called]) -> Option<Rule> {
        self.strike(calls, |rule| !rule.kind.is_per_command())
    }

    /// Picks the fault of one command.
    pub fn strike_command(&mut self, call: &Called) -> Option<Rule> {
        self.strike(std::slice::from_ref(call), |rule| rule.kind.is_per_command())
    }

    fn strike(&mut self, calls: &[Called], applies: impl Fn(&Rule) -> bool) -> Option<Rule> {
        let dice = &mut self.dice;
        self.rules.iter_mut().filter(|rule| applies(rule)).find_map(|rule| {
            let hit = rule.matches(calls) && rule.take_turn(dice);
            hit.then(|| rule.clone())
        })
    }
}

/// Portal seconds by which something is slow unless a rule says by how many.
const DEFAULT_DELAY: f64 = 5.0;

impl Rule {
    /// Returns by how many portal seconds it slows down.
    pub fn delay(&self) -> f64 {
        self.seconds.unwrap_or(DEFAULT_DELAY)
    }

    fn matches(&self, calls: &[Called]) -> bool {
        let pattern = self.method.as_deref().unwrap_or("*");
        let fits =
            |call: &Called| glob(pattern, &call.method) && self.id.is_none_or(|id| call.ids.contains(&id));
        self.count != Some(0) && calls.iter().any(fits)
    }

    fn take_turn(&mut self, dice: &mut ChaCha8Rng) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.probability < 1.0 && dice.random::<f64>() >= self.probability {
            return false;
        }
        self.count = self.count.map(|count| count - 1);
        self.hits += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::php::parse_query;
    use super::*;

    fn called(method: &str, id: Option<i64>) -> Called {
        Called { method: method.to_owned(), ids: id.into_iter().collect() }
    }

    fn faults(rule: serde_json::Value) -> Faults {
        let mut faults = Faults::new(1);
        faults.add(serde_json::from_value(rule).expect("a rule"));
        faults
    }

    fn hits(faults: &mut Faults, method: &str, tries: usize) -> Vec<bool> {
        (0..tries).map(|_| faults.strike_request(&[called(method, None)]).is_some()).collect()
    }

    #[test]
    fn skip_and_count_choose_the_requests() {
        let mut faults = faults(json!({"kind": "html_502", "method": "crm.*.list", "skip": 1, "count": 2}));
        assert_eq!(hits(&mut faults, "crm.deal.list", 5), [false, true, true, false, false]);
        assert_eq!(faults.rules()[0].hits, 2);
    }

    #[test]
    fn a_batch_is_hit_by_the_methods_of_its_commands() {
        let mut faults = faults(json!({"kind": "no_answer", "method": "crm.contact.update"}));
        let calls = ["batch", "crm.deal.update", "crm.contact.update"].map(|method| called(method, None));
        assert!(faults.strike_request(&calls).is_some());
        assert!(faults.strike_request(&calls[..2]).is_none());
    }

    #[test]
    fn a_batch_may_be_hit_for_one_record_in_it() {
        let mut faults = faults(json!({"kind": "php_fatal_500", "method": "crm.*.update", "id": 7}));
        let calls =
            [called("batch", None), called("crm.deal.update", Some(6)), called("crm.deal.list", Some(7))];
        assert!(faults.strike_request(&calls).is_none());
        assert!(
            faults.strike_request(&[called("batch", None), called("crm.deal.update", Some(7))]).is_some()
        );
    }

    #[test]
    fn a_call_names_records_by_its_id_and_by_its_filter() {
        let named = |query: &str| Called::of("crm.Contact.list", &parse_query(query)).ids;
        assert_eq!(named("ID=7"), [7]);
        assert_eq!(named("filter[@ID][0]=7&filter[@ID][1]=9"), [7, 9]);
        assert_eq!(named("FILTER[%3Did]=7&filter2[ID]=8"), [7]);
        assert!(named("filter[>ID]=7&filter[NAME]=7&select[]=ID").is_empty());
        assert_eq!(Called::of("crm.Contact.list", &parse_query("")).method, "crm.contact.list");
    }

    #[test]
    fn command_faults_leave_requests_alone() {
        let mut faults = faults(json!({"kind": "command_error", "method": "crm.deal.update", "count": 1}));
        assert!(faults.strike_request(&[called("crm.deal.update", None)]).is_none());
        assert!(faults.strike_command(&called("crm.deal.update", None)).is_some());
        assert!(faults.strike_command(&called("crm.deal.update", None)).is_none());
    }

    #[test]
    fn a_command_may_fail_for_one_record_alone() {
        let mut faults = faults(json!({"kind": "command_error", "id": 7}));
        assert!(faults.strike_command(&called("crm.deal.update", Some(6))).is_none());
        assert!(faults.strike_command(&called("crm.deal.list", None)).is_none());
        assert!(faults.strike_command(&called("crm.deal.update", Some(7))).is_some());
    }

    #[test]
    fn a_seed_repeats_its_chances() {
        let rule = json!({"kind": "html_502", "probability": 0.3});
        let first = hits(&mut faults(rule.clone()), "batch", 200);
        assert_eq!(first, hits(&mut faults(rule), "batch", 200));
        let count = first.iter().filter(|hit| **hit).count();
        assert!((30..=90).contains(&count), "{count} of 200");
    }
}
