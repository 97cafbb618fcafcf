//! The mapper as a stage: one mapped record goes out for each changed record that comes in.

use std::collections::BTreeSet;
use std::path::Path;

use runtime::{Context, Delivery, Handler, Outgoing, Reader, Stage, Verdict, consume, letters};
use schemas::streams::{ATTEMPTS, COMMANDS, DEAD_LETTERS, RAW, RUNNING_MAPPING, mapper_consumer};
use schemas::{
    Entity, Envelope, EnvelopeError, RecordChanged, RecordId, RecordMapped, Shown, Version, subjects,
};

use crate::metrics::MapperMetrics;
use crate::{DEFAULT_MAPPING, Rules, map_record};

/// Setting that names the mapping file; without it the customer's own is used.
pub const MAPPING_FILE: &str = "MAPPING_FILE";

/// Setting that names the stages that the producer asks for.
const DEAL_STAGES: &str = "DEAL_STAGES";

/// The stage.
pub struct Mapper;

impl Stage for Mapper {
    const NAME: &'static str = "mapper";
    const ABOUT: &'static str = "Turns changed Bitrix24 records into otmechalka clients and tickets";
    type Config = Rules;

    fn configure(reader: &Reader<'_>) -> Option<Rules> {
        let rules = read_rules(reader);
        let status_fields = Entity::ALL.map(|entity| reader.field_code(status_setting(entity)));
        let stages = reader.list(DEAL_STAGES, &["WON"], "WON,C10:WON");
        let rules = rules?;
        // Each is looked at even where another is wrong, so that one report has them all.
        let fields_agree = Entity::ALL.into_iter().zip(&status_fields).map(|(entity, field)| {
            let field = field.as_deref()?;
            let agrees = agrees_with_file(reader, &rules, entity, field);
            Some(is_unread(reader, &rules, entity, field) && agrees)
        });
        let fields_agree: Vec<Option<bool>> = fields_agree.collect();
        let stages_agree = stages.map(|stages| agrees_on_stages(reader, &rules, &stages));
        let agree = fields_agree.into_iter().chain([stages_agree]).all(|agrees| agrees == Some(true));
        agree.then_some(rules)
    }

    async fn run(rules: Rules, context: Context) -> anyhow::Result<()> {
        context.bind(&[&RAW, &COMMANDS, &DEAD_LETTERS], &[mapper_consumer()], &[&ATTEMPTS]).await?;
        let Context { broker, .. } = context;
        broker.bucket(&ATTEMPTS).await?.put(RUNNING_MAPPING, rules.digest().to_owned().into()).await?;
        letters::keep_counting(&broker, Mapper::NAME);
        let metrics = MapperMetrics::register(broker.metrics());
        consume(&broker, Mapper::NAME, mapper_consumer(), &Mapping { rules, metrics }).await?;
        Ok(())
    }
}

fn status_setting(entity: Entity) -> &'static str {
    match entity {
        Entity::Contact => "CONTACT_STATUS_FIELD",
        Entity::Deal => "DEAL_STATUS_FIELD",
    }
}

fn read_rules(reader: &Reader<'_>) -> Option<Rules> {
    let text = match reader.optional_text(MAPPING_FILE) {
        None => DEFAULT_MAPPING.to_owned(),
        Some(path) => read_file(reader, &path)?,
    };
    Rules::parse(&text).map_err(|errors| note(reader, errors)).ok()
}

fn read_file(reader: &Reader<'_>, path: &str) -> Option<String> {
    match std::fs::read_to_string(Path::new(path)) {
        Ok(text) => Some(text),
        Err(error) => {
            let found = format!("`{path}`, which cannot be read: {}", error.kind());
            reader.problem(MAPPING_FILE, &found, "the path of a mapping file", "./mapping.toml");
            None
        }
    }
}

fn note(reader: &Reader<'_>, errors: Vec<crate::RulesError>) {
    for error in errors {
        let found = format!("{} at {} of {}", error.found, error.at, error.path);
        reader.problem(MAPPING_FILE, &found, &format!("{} there", error.expected), &error.example);
    }
}

/// Refuses a status field that only the mapping file names: the stage that writes statuses does not read that file.
fn agrees_with_file(reader: &Reader<'_>, rules: &Rules, entity: Entity, effective: &str) -> bool {
    let name = status_setting(entity);
    let in_file = rules.status_field(entity);
    if reader.optional_text(name).is_some() || in_file == effective {
        return true;
    }
    let found = format!("nothing, though the mapping file names `{in_file}`");
    reader.problem(name, &found, "the field that the mapping file names", in_file);
    false
}

/// Refuses a status field that the mapping reads as something else.
fn is_unread(reader: &Reader<'_>, rules: &Rules, entity: Entity, status: &str) -> bool {
    let Err(error) = rules.check_status_field(entity, status) else { return true };
    let found = format!("{}; the mapping file has it as {} at {}", error.found, error.path, error.at);
    reader.problem(status_setting(entity), &found, &error.expected, &error.example);
    false
}

/// Refuses a mapping of other stages than those that are asked for: a deal that is read and is no ticket to the
/// mapping would be told to be a success, and one that is not read would never come.
fn agrees_on_stages(reader: &Reader<'_>, rules: &Rules, asked_for: &[String]) -> bool {
    let sorted = |stages: &[String]| stages.iter().cloned().collect::<BTreeSet<_>>();
    let (asked_for, mapped) = (sorted(asked_for), sorted(rules.deal_stages()));
    if asked_for == mapped {
        return true;
    }
    let joined = |stages: BTreeSet<String>| stages.into_iter().collect::<Vec<_>>().join(",");
    let (asked_for, mapped) = (joined(asked_for), joined(mapped));
    let found = format!("`{asked_for}`, though deal.stages of the mapping file has `{mapped}`");
    reader.problem(DEAL_STAGES, &found, "the stages that the mapping file names", &mapped);
    false
}

struct Mapping {
    rules: Rules,
    metrics: MapperMetrics,
}

impl Handler for Mapping {
    async fn handle(&self, delivery: &Delivery) -> Verdict {
        let mapped = delivery.decode::<RecordChanged>().and_then(|(envelope, changed)| {
            let (record, mapping) = (envelope.record, map_record(&self.rules, envelope.record, &changed));
            self.metrics.note(record.entity, &mapping.1);
            message(envelope, &changed, mapping, delivery.sequence())
        });
        match mapped {
            Ok(outgoing) => Verdict::Done(vec![outgoing]),
            Err(error) => Verdict::DeadLetter { reason: error.to_string() },
        }
    }
}

/// Makes the message that follows a changed record. The same input gives the same bytes.
pub fn outgoing(
    rules: &Rules,
    raw: Envelope,
    changed: &RecordChanged,
    raw_sequence: u64,
) -> Result<Outgoing, EnvelopeError> {
    let mapping = map_record(rules, raw.record, changed);
    message(raw, changed, mapping, raw_sequence)
}

fn message(
    raw: Envelope,
    changed: &RecordChanged,
    (pupil, mapping): (Option<RecordId>, schemas::Mapping),
    raw_sequence: u64,
) -> Result<Outgoing, EnvelopeError> {
    let record = raw.record;
    let shown = Shown { status: changed.status.clone(), observed: changed.observed };
    // A raw event knows its place only once it is stored; one sent round again says how often that was.
    let redrive = raw.version.map_or(0, |version| version.redrive);
    let envelope = Envelope {
        source: format!("/rollcall/{}", Mapper::NAME),
        pupil,
        version: Some(Version { raw_sequence, redrive }),
        ..raw
    };
    let encoded = envelope.encode(&RecordMapped { mapping, shown })?;
    // A deal without a readable contact has nobody to queue behind but itself.
    let subject = subjects::command(pupil.unwrap_or(record.id), record);
    let id = encoded.headers.iter().find(|(name, _)| name == "ce-id").map(|(_, id)| id.clone());
    let id = id.ok_or(EnvelopeError::Missing("ce-id"))?;
    Ok(Outgoing::new(subject, encoded, id))
}
