//! Looks at the portal: the webhook, its rights, the status fields, what the mapping reads.

use std::collections::BTreeSet;

use bitrix24::{Client, Error, ErrorClass, Lane};
use chrono::{TimeDelta, Utc};
use runtime::Broker;
use runtime::budget::{self, SharedBudget};
use schemas::Entity;
use serde_json::{Map, Value, json};

use super::canary;
use super::mapping::{self, Fields};
use super::settings::PortalSettings;
use crate::answer::Finding;

/// A person waits for the answers.
const LANE: Lane = Lane::Live;

/// Any one of these lets `user.get` tell a seller's name.
const USER_SCOPES: [&str; 3] = ["user_brief", "user_basic", "user"];

/// Difference between clocks that is nothing to worry about.
const MOST_SKEW_SECONDS: i64 = 30;

/// Label of the status fields in the portal's forms.
const STATUS_LABEL: &str = "Статус синхронизации";

/// What to do about a status field that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Name it.
    No,
    /// Create it.
    Yes,
    /// Tell that it would be created.
    Tell,
}

/// Looks at everything, and creates status fields that are missing where it is to.
pub async fn look(settings: &PortalSettings, broker: Option<&Broker>, fix: Fix) -> Vec<Finding> {
    let client = match client(settings, broker).await {
        Ok(client) => client,
        Err(why) => {
            let remedy = "Put BITRIX24_WEBHOOK_URL or BITRIX24_CA_FILE right";
            return vec![Finding::error("bitrix24.webhook", "Bitrix24", why, remedy)];
        }
    };
    let look = Look { client, settings };
    let mut findings = Vec::new();
    // Each of these is needed for all that follow.
    for part in [look.webhook().await, look.scope().await] {
        let goes_on = part.is_ok();
        findings.push(part.unwrap_or_else(|finding| finding));
        if !goes_on {
            return findings;
        }
    }
    findings.extend(look.clock());
    for entity in Entity::ALL {
        findings.extend(look.entity(entity, fix).await);
    }
    findings.push(look.stages().await);
    findings
}

/// Makes a client that asks the budget of all processes, where there is one.
async fn client(settings: &PortalSettings, broker: Option<&Broker>) -> Result<Client, String> {
    let mut builder = settings.builder();
    if let Some(budget) = shared_budget(settings, broker).await {
        let overrun = budget.clone();
        builder = builder.refused(move || {
            let overrun = overrun.clone();
            Box::pin(async move { overrun.overrun().await })
        });
        builder = builder.budget(move |_| {
            let budget = budget.clone();
            Box::pin(async move {
                // Without NATS nobody else asks the portal either.
                let _stopping = budget.acquire(budget::Lane::Live).await;
            })
        });
    }
    builder.build().map_err(|error| error.to_string())
}

async fn shared_budget(settings: &PortalSettings, broker: Option<&Broker>) -> Option<SharedBudget> {
    let broker = broker?;
    // Opening waits for the bucket; before `bootstrap` there is none.
    broker.jetstream().get_key_value(schemas::streams::BUDGET.name).await.ok()?;
    SharedBudget::open(broker, settings.bucket).await.ok()
}

struct Look<'l> {
    client: Client,
    settings: &'l PortalSettings,
}

impl Look<'_> {
    async fn webhook(&self) -> Result<Finding, Finding> {
        match self.client.profile(LANE).await {
            Ok(profile) => {
                let rights = if profile.is_admin { "an administrator" } else { "no administrator" };
                let found = format!("the webhook works and acts for employee {}, {rights}", profile.id);
                Ok(Finding::ok("bitrix24.webhook", "Bitrix24", found))
            }
            Err(error) => Err(failed("bitrix24.webhook", "Bitrix24", &error)),
        }
    }

    async fn scope(&self) -> Result<Finding, Finding> {
        let (check, what) = ("bitrix24.scope", "Scopes of the webhook");
        let scopes = self.client.scope(LANE).await.map_err(|error| failed(check, what, &error))?;
        let missing = missing_scopes(&scopes);
        if missing.is_empty() {
            return Ok(Finding::ok(check, what, "crm and users are there"));
        }
        let remedy = "Tick it in the webhook's settings in Bitrix24 (the address may change when somebody else \
                      than its owner does)";
        let finding = Finding::error(check, what, format!("{} is missing", missing.join(" and ")), remedy);
        // Without users, all about records can still be looked at.
        if missing.contains(&"crm") { Err(finding) } else { Ok(finding) }
    }

    async fn entity(&self, entity: Entity, fix: Fix) -> Vec<Finding> {
        let fields = match self.client.fields(in_portal(entity), LANE).await {
            Ok(fields) => fields,
            Err(error) => return vec![failed("bitrix24.fields", &format!("Fields of {entity}s"), &error)],
        };
        let mut findings = vec![self.status_field(entity, &fields, fix).await];
        if let Some(rules) = &self.settings.rules {
            findings.extend(mapping::look(rules, entity, &fields));
        }
        findings.push(self.records(entity).await);
        findings.extend(canary::look(&self.client, entity).await);
        findings
    }

    /// Says how far this machine's clock is from the portal's, once that has answered.
    fn clock(&self) -> Option<Finding> {
        let is_fast = self.settings.bucket.clock_speed != 1.0;
        let portal = self.client.portal_now().filter(|_| !is_fast)?;
        Some(of_clock(Utc::now().signed_duration_since(portal)))
    }

    async fn status_field(&self, entity: Entity, fields: &Fields, fix: Fix) -> Finding {
        let code = self.status_code(entity);
        match fix {
            Fix::Yes if !fields.contains_key(code) => self.create_status_field(entity).await,
            _ => of_status_field(entity, code, fields, fix),
        }
    }

    fn status_code(&self, entity: Entity) -> &str {
        let [contact, deal] = &self.settings.status_fields;
        match entity {
            Entity::Contact => contact,
            Entity::Deal => deal,
        }
    }

    async fn create_status_field(&self, entity: Entity) -> Finding {
        let code = self.status_code(entity);
        let (check, what) = ("bitrix24.status_field", status_what(entity, code));
        let created = self.client.add_user_field(in_portal(entity), &new_field(code), LANE).await;
        if let Err(error) = created {
            let remedy = "Only a CRM administrator may create fields: create a field of the type \"string\" by hand, \
                          or use a webhook of an administrator";
            return Finding::error(check, what, format!("cannot be created: {error}"), remedy);
        }
        match self.client.fields(in_portal(entity), LANE).await {
            Ok(fields) if fields.contains_key(code) => {
                Finding::ok(check, what, "was missing and is created now")
            }
            Ok(_) => {
                let remedy = "Look for the field in Bitrix24 and put its code into the settings";
                Finding::error(check, what, "was created, but not under this code", remedy)
            }
            Err(error) => failed(check, &what, &error),
        }
    }

    /// Missing rights hide records without any error.
    async fn records(&self, entity: Entity) -> Finding {
        let (check, what) = ("bitrix24.rights", format!("Right to read {entity}s"));
        let params = json!({"select": ["ID"], "order": {"ID": "ASC"}, "start": -1});
        let answer = self.client.call(&in_portal(entity).method("list"), &params, LANE).await;
        match answer.and_then(|answer| answer.parse::<Vec<Value>>("a list of rows")) {
            Ok(rows) if rows.is_empty() => Finding::warning(
                check,
                what,
                format!("the webhook sees no {entity} at all"),
                "If the portal has some, give the webhook's owner the right to read and change all of them",
            ),
            Ok(_) => Finding::ok(check, what, "the webhook sees some"),
            Err(error) => failed(check, &what, &error),
        }
    }

    async fn stages(&self) -> Finding {
        let wanted = &self.settings.deal_stages;
        let pipelines: BTreeSet<String> = wanted.iter().map(|stage| directory(stage)).collect();
        let mut known = BTreeSet::new();
        for pipeline in pipelines {
            let params = json!({"filter": {"ENTITY_ID": pipeline}});
            match self.client.call("crm.status.list", &params, LANE).await.and_then(|answer| codes(&answer)) {
                Ok(codes) => known.extend(codes),
                Err(error) => return failed("bitrix24.stages", "Stages of deals", &error),
            }
        }
        of_stages(wanted, &known)
    }
}

fn of_clock(ahead: TimeDelta) -> Finding {
    let (check, what) = ("bitrix24.clock", "Clock of this machine");
    let seconds = ahead.num_seconds();
    if seconds.abs() <= MOST_SKEW_SECONDS {
        return Finding::ok(check, what, "agrees with the portal's");
    }
    let direction = if seconds > 0 { "ahead of" } else { "behind" };
    let found = format!("{} s {direction} the portal's", seconds.abs());
    let action = "Switch time synchronisation (NTP) on. Nothing is missed, as windows go by the portal's clock, but pauses \
                  and ages are wrong";
    Finding::warning(check, what, found, action)
}

pub(super) fn in_portal(entity: Entity) -> bitrix24::Entity {
    match entity {
        Entity::Contact => bitrix24::Entity::Contact,
        Entity::Deal => bitrix24::Entity::Deal,
    }
}

/// Tells why the portal gave no answer, and what to do.
pub(super) fn failed(check: &'static str, what: &str, error: &Error) -> Finding {
    let remedy = match error.class() {
        // These say themselves what to do.
        ErrorClass::Refused if matches!(error, Error::Untrusted { .. } | Error::Redirect { .. }) => {
            "Until then the portal is told nothing, the webhook least of all"
        }
        ErrorClass::Refused => {
            "Make a new inbound webhook in Bitrix24, as a person who may read and change all contacts and deals, and \
             put its address into BITRIX24_WEBHOOK_URL"
        }
        ErrorClass::RateLimited { .. } | ErrorClass::OperatingLimit { .. } => {
            "Wait some minutes and try again; another program may use the portal's limits up"
        }
        ErrorClass::Transient => "Check that this machine reaches the portal, and try again",
        ErrorClass::NotFound | ErrorClass::Permanent => {
            "Check the webhook's scopes and its owner's rights in Bitrix24"
        }
    };
    Finding::error(check, what, error.to_string(), remedy)
}

fn missing_scopes(scopes: &BTreeSet<String>) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if !scopes.contains("crm") {
        missing.push("crm");
    }
    if !USER_SCOPES.iter().any(|scope| scopes.contains(*scope)) {
        missing.push(USER_SCOPES[0]);
    }
    missing
}

fn status_what(entity: Entity, code: &str) -> String {
    format!("Status field {code} of {entity}s")
}

fn of_status_field(entity: Entity, code: &str, fields: &Fields, fix: Fix) -> Finding {
    let (check, what) = ("bitrix24.status_field", status_what(entity, code));
    let by_hand =
        "Name another field in the settings, or remove this one in Bitrix24 and run `rollcall doctor --fix`";
    match fields.get(code) {
        None => {
            let found = "the portal has no such field, and would accept statuses without keeping them";
            let action = match fix {
                Fix::Tell => "`--fix` without `--dry-run` creates it as a field of the type \"string\"",
                _ => "Run `rollcall doctor --fix`, or put the setting right",
            };
            Finding::error(check, what, found, action)
        }
        Some(field) if field.kind != "string" || field.is_multiple => {
            let kind =
                if field.is_multiple { format!("a list of {}", field.kind) } else { field.kind.clone() };
            Finding::error(check, what, format!("its type is {kind}, it has to be a single string"), by_hand)
        }
        Some(field) if field.is_read_only => Finding::error(check, what, "it cannot be written", by_hand),
        Some(_) => Finding::ok(check, what, "is there and takes text"),
    }
}

/// Describes the field for `crm.*.userfield.add`, which puts `UF_CRM_` before the name.
fn new_field(code: &str) -> Map<String, Value> {
    let label = json!({"ru": STATUS_LABEL, "en": "Sync status"});
    let field = json!({
        "USER_TYPE_ID": "string",
        "FIELD_NAME": code.strip_prefix("UF_CRM_").unwrap_or(code),
        "LABEL": STATUS_LABEL,
        "EDIT_FORM_LABEL": label,
        "LIST_COLUMN_LABEL": label,
        "LIST_FILTER_LABEL": label,
        "MULTIPLE": "N",
        "MANDATORY": "N",
        "SHOW_FILTER": "Y",
    });
    field.as_object().cloned().unwrap_or_default()
}

/// Returns the directory in which a stage stands: `C10:WON` is one of pipeline 10.
fn directory(stage: &str) -> String {
    let pipeline = stage.split_once(':').and_then(|(prefix, _)| prefix.strip_prefix('C'));
    pipeline.map_or_else(|| "DEAL_STAGE".to_owned(), |number| format!("DEAL_STAGE_{number}"))
}

fn codes(answer: &bitrix24::Answer) -> Result<Vec<String>, Error> {
    let rows: Vec<Value> = answer.parse("a list of stages")?;
    let code = |row: &Value| row.get("STATUS_ID").and_then(Value::as_str).map(str::to_owned);
    Ok(rows.iter().filter_map(code).collect())
}

fn of_stages(wanted: &[String], known: &BTreeSet<String>) -> Finding {
    let (check, what) = ("bitrix24.stages", "Stages of deals");
    let unknown: Vec<&str> =
        wanted.iter().map(String::as_str).filter(|stage| !known.contains(*stage)).collect();
    if unknown.is_empty() {
        return Finding::ok(check, what, format!("the portal has {}", wanted.join(", ")));
    }
    let found = format!("the portal has no stage {}", unknown.join(", "));
    Finding::error(check, what, found, "Put DEAL_STAGES right: deals in an unknown stage are never found")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Severity;
    use bitrix24::Field;

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn field(kind: &str, is_multiple: bool) -> Fields {
        let field = Field {
            kind: kind.into(),
            is_multiple,
            is_read_only: false,
            label: None,
            options: BTreeSet::new(),
        };
        Fields::from([("UF_CRM_SYNC_STATUS".to_owned(), field)])
    }

    #[test]
    fn a_wrong_clock_is_told_with_its_direction() {
        assert_eq!(of_clock(TimeDelta::seconds(30)).severity, Severity::Ok);
        assert!(of_clock(TimeDelta::seconds(95)).message.contains("95 s ahead of"));
        assert!(of_clock(TimeDelta::seconds(-40)).message.contains("40 s behind"));
    }

    #[test]
    fn each_missing_scope_is_named() {
        let missing = |scopes: &[&str]| missing_scopes(&set(scopes));
        assert!(missing(&["crm", "user_basic"]).is_empty());
        assert_eq!(missing(&["crm", "task"]), ["user_brief"]);
        assert_eq!(missing(&[]), ["crm", "user_brief"]);
    }

    #[test]
    fn a_status_field_has_to_be_one_string() {
        let of =
            |fields: &Fields| of_status_field(Entity::Deal, "UF_CRM_SYNC_STATUS", fields, Fix::No).severity;
        assert_eq!(of(&field("string", false)), Severity::Ok);
        assert_eq!(of(&field("string", true)), Severity::Error);
        assert_eq!(of(&field("enumeration", false)), Severity::Error);
        assert_eq!(of(&Fields::new()), Severity::Error);
    }

    #[test]
    fn a_new_field_is_named_without_the_prefix_the_portal_adds() {
        assert_eq!(new_field("UF_CRM_SYNC_STATUS")["FIELD_NAME"], "SYNC_STATUS");
    }

    #[test]
    fn stages_are_looked_up_in_their_pipelines() {
        assert_eq!((directory("WON"), directory("C10:WON")), ("DEAL_STAGE".into(), "DEAL_STAGE_10".into()));
        let wanted = ["WON".to_owned(), "C10:WON".to_owned()];
        assert_eq!(of_stages(&wanted, &set(&["WON", "C10:WON", "NEW"])).severity, Severity::Ok);
        assert!(of_stages(&wanted, &set(&["WON"])).message.contains("C10:WON"));
    }
}
