//! Many commands in one request.

use std::fmt;

use serde::Deserialize;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::clock::to_utc;
use crate::envelope::{self, Answer, Envelope, Reply, Success, Time, api_error};
use crate::error::{AnswerFault, ApiError, Error, RequestFault};
use crate::php::{Entries, present, whole_number};
use crate::query;

/// Commands one batch may hold; the portal is ambiguous about what happens to a 51st.
pub const MAX_COMMANDS: usize = 50;

/// The name of a command inside its batch.
///
/// Never a number: PHP turns a map with numeric keys into a list, and the answers to a batch with
/// failures can then not be matched to its commands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(Box<str>);

impl CommandId {
    /// Reads a name: a letter, then up to 39 letters, digits and underscores.
    pub fn parse(name: &str) -> Option<Self> {
        let starts_well = name.starts_with(|first: char| first.is_ascii_alphabetic());
        let goes_on_well = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        (starts_well && goes_on_well && name.len() <= 40).then(|| Self(name.into()))
    }

    /// Returns the name of the command at an index.
    pub(crate) fn numbered(index: usize) -> Self {
        Self(format!("c{index}").into())
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A value in the result of an earlier command, such as the ID of its last row.
#[derive(Debug, Clone)]
pub struct Reference(String);

impl Reference {
    /// Returns a reference to what the path leads to in the result of a command.
    pub fn new(command: &CommandId, path: &[&str]) -> Self {
        let steps: String = path.iter().map(|step| format!("[{step}]")).collect();
        Self(format!("$result[{command}]{steps}"))
    }
}

/// One call inside a batch.
#[derive(Clone)]
pub struct Command {
    method: Box<str>,
    query: String,
}

impl Command {
    /// Returns a command with its parameters encoded.
    pub fn new(method: &str, params: &Value) -> Result<Self, Error> {
        check_method(method)?;
        let query = query::encode(params).map_err(|fault| refuse(method, fault))?;
        Ok(Self { method: method.into(), query })
    }

    /// Sets the parameter at a path to a value of an earlier command.
    pub fn with_reference(mut self, path: &[&str], reference: &Reference) -> Result<Self, Error> {
        query::push_text(&mut self.query, path, &reference.0).map_err(|fault| refuse(&self.method, fault))?;
        Ok(self)
    }

    /// Returns the method called.
    pub fn method(&self) -> &str {
        &self.method
    }

    fn wire(&self) -> String {
        if self.query.is_empty() {
            self.method.to_string()
        } else {
            format!("{}?{}", self.method, self.query)
        }
    }
}

/// Leaves the parameters out, for they hold somebody's data.
impl fmt::Debug for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Command({})", self.method)
    }
}

pub(crate) fn check_method(method: &str) -> Result<(), Error> {
    let well_formed = !method.is_empty()
        && method.len() <= 100
        && method.split('.').all(|part| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        });
    match method {
        "batch" => Err(refuse(method, RequestFault::NestedBatch)),
        _ if well_formed => Ok(()),
        // The text may be anything, even the webhook, so it is not repeated.
        _ => Err(refuse("a method", RequestFault::Method)),
    }
}

pub(crate) fn refuse(method: &str, fault: RequestFault) -> Error {
    Error::Request { method: method.into(), fault }
}

/// Up to 50 commands, run in order; not a transaction.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    commands: Vec<(CommandId, Command)>,
    halt: bool,
}

impl Batch {
    /// Returns an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the portal stop at the first command that fails.
    pub fn halting(mut self) -> Self {
        self.halt = true;
        self
    }

    /// Adds a command under a name of its own and returns that name.
    pub fn push(&mut self, command: Command) -> Result<CommandId, Error> {
        let id = CommandId::numbered(self.commands.len());
        self.push_as(id.clone(), command)?;
        Ok(id)
    }

    /// Adds a command under a given name.
    pub fn push_as(&mut self, id: CommandId, command: Command) -> Result<(), Error> {
        if self.commands.len() == MAX_COMMANDS {
            return Err(refuse(command.method(), RequestFault::Full));
        }
        if self.commands.iter().any(|(known, _)| *known == id) {
            return Err(refuse(command.method(), RequestFault::DuplicateCommand));
        }
        self.commands.push((id, command));
        Ok(())
    }

    /// Returns the number of commands.
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Tells whether there is no command.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Tells whether there is no room for another command.
    pub fn is_full(&self) -> bool {
        self.commands.len() == MAX_COMMANDS
    }

    /// Returns the commands in order.
    pub fn commands(&self) -> impl Iterator<Item = (&CommandId, &Command)> {
        self.commands.iter().map(|(id, command)| (id, command))
    }
}

/// The body of the request. A map that keeps its order, because references only look back.
impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Commands<'a>(&'a [(CommandId, Command)]);
        impl Serialize for Commands<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|(id, command)| (id.as_str(), command.wire())))
            }
        }
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("halt", &u8::from(self.halt))?;
        map.serialize_entry("cmd", &Commands(&self.commands))?;
        map.end()
    }
}

/// What became of each command, in the order they were added.
#[derive(Debug)]
pub struct BatchAnswer {
    outcomes: Vec<(CommandId, Result<Answer, ApiError>)>,
    /// What the portal says about the time of the whole batch.
    pub time: Time,
}

impl BatchAnswer {
    /// Reads the answer to a batch as it came over HTTP, for those with a transport of their own.
    pub fn from_http(batch: &Batch, status: u16, body: &[u8]) -> Result<Self, Error> {
        let reply = Reply { status, body: body.to_vec() };
        Self::read(batch, envelope::read("batch", &reply)?)
    }

    /// Returns what became of a command; a name that is not of this batch counts as missing.
    pub fn take(&mut self, id: &CommandId) -> Result<Answer, ApiError> {
        match self.outcomes.iter().position(|(known, _)| known == id) {
            Some(index) => self.outcomes.remove(index).1,
            None => Err(ApiError::missing("batch")),
        }
    }

    /// Returns the outcomes in the order of the commands.
    pub fn iter(&self) -> impl Iterator<Item = (&CommandId, Result<&Answer, &ApiError>)> {
        self.outcomes.iter().map(|(id, outcome)| (id, outcome.as_ref()))
    }

    /// Returns the outcomes in the order of the commands.
    pub fn into_outcomes(self) -> impl Iterator<Item = (CommandId, Result<Answer, ApiError>)> {
        self.outcomes.into_iter()
    }

    /// Passes every error through a function.
    pub(crate) fn map_errors(&mut self, mut change: impl FnMut(ApiError) -> ApiError) {
        for (_, outcome) in &mut self.outcomes {
            if let Err(error) = outcome {
                *error = change(error.clone());
            }
        }
    }

    /// Reads the answer to a batch from the envelope around it.
    pub(crate) fn read(batch: &Batch, envelope: Envelope<'_>) -> Result<Self, Error> {
        let Success { result, .. } = envelope.outcome?;
        let wire = wire(result)?;
        let outcomes =
            batch.commands().map(|(id, command)| (id.clone(), wire.outcome(id, command))).collect();
        Ok(Self { outcomes, time: envelope.time })
    }
}

fn shape(expected: &'static str) -> Error {
    Error::Answer { method: "batch".into(), fault: AnswerFault::Shape(expected) }
}

fn wire(result: &RawValue) -> Result<Wire<'_>, Error> {
    if !result.get().starts_with('{') {
        return Err(shape("an object of maps by command"));
    }
    serde_json::from_str(result.get()).map_err(|_| shape("an object of maps by command"))
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    result: Entries<&'a RawValue>,
    #[serde(borrow, default)]
    result_error: Entries<&'a RawValue>,
    #[serde(borrow, default)]
    result_total: Entries<&'a RawValue>,
    #[serde(borrow, default)]
    result_next: Entries<&'a RawValue>,
    #[serde(borrow, default)]
    result_time: Entries<&'a RawValue>,
}

impl Wire<'_> {
    fn outcome(&self, id: &CommandId, command: &Command) -> Result<Answer, ApiError> {
        let time = Time::read(find(&self.result_time, id));
        if let Some(error) = find(&self.result_error, id) {
            let reset_at = time.operating_reset_at.and_then(to_utc);
            return Err(command_error(command.method(), error).with_reset_at(reset_at));
        }
        match find(&self.result, id) {
            None => Err(ApiError::missing(command.method())),
            Some(result) if result.get() == "null" => Err(ApiError::no_result(command.method())),
            Some(result) => Ok(Answer {
                result: result.to_owned(),
                next: find(&self.result_next, id).and_then(whole_number),
                total: find(&self.result_total, id).and_then(whole_number),
                time,
                method: command.method.clone(),
            }),
        }
    }
}

/// Fifty entries at most, so a walk is as good as a table.
fn find<'a>(entries: &Entries<&'a RawValue>, id: &CommandId) -> Option<&'a RawValue> {
    entries.0.iter().rev().find(|(key, _)| key == id.as_str()).map(|(_, value)| *value)
}

fn command_error(method: &str, error: &RawValue) -> ApiError {
    #[derive(Deserialize)]
    struct Nested<'a> {
        #[serde(borrow, default, deserialize_with = "present")]
        error: Option<&'a RawValue>,
        #[serde(borrow, default, deserialize_with = "present")]
        error_description: Option<&'a RawValue>,
    }
    if error.get().starts_with('{')
        && let Ok(Nested { error: Some(code), error_description }) = serde_json::from_str(error.get())
    {
        return api_error(method, code, error_description, None);
    }
    api_error(method, error, None, None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::ErrorClass;

    fn command(method: &str) -> Command {
        Command::new(method, &json!({})).expect("a command")
    }

    fn three() -> (Batch, Vec<CommandId>) {
        let mut batch = Batch::new();
        let ids = (0..3).map(|_| batch.push(command("crm.deal.get")).expect("room")).collect();
        (batch, ids)
    }

    fn answer(batch: &Batch, result: Value) -> Result<BatchAnswer, Error> {
        let reply = Reply { status: 200, body: json!({ "result": result }).to_string().into_bytes() };
        BatchAnswer::read(batch, envelope::read("batch", &reply)?)
    }

    #[test]
    fn commands_keep_their_order_on_the_wire() {
        let mut batch = Batch::new().halting();
        for name in ["z", "a", "m"] {
            batch.push_as(CommandId::parse(name).expect("a name"), command("profile")).expect("room");
        }
        let wire = serde_json::to_string(&batch).expect("JSON");
        assert_eq!(wire, r#"{"halt":1,"cmd":{"z":"profile","a":"profile","m":"profile"}}"#);
    }

    #[test]
    fn names_are_never_numbers() {
        assert!(CommandId::parse("p0").is_some());
        for name in ["", "0", "0p", "a-b", "a[0]", "ю"] {
            assert!(CommandId::parse(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_batch_takes_fifty_commands_and_no_batch() {
        let mut batch = Batch::new();
        for _ in 0..MAX_COMMANDS {
            batch.push(command("profile")).expect("room");
        }
        assert!(matches!(
            batch.push(command("profile")),
            Err(Error::Request { fault: RequestFault::Full, .. })
        ));
        assert!(Command::new("batch", &json!({})).is_err());
        assert!(Command::new("crm.deal.get?x", &json!({})).is_err());
    }

    #[test]
    fn each_command_has_its_own_outcome() {
        let (batch, ids) = three();
        let mut answer = answer(
            &batch,
            json!({
                "result": {"c0": {"ID": "1"}},
                "result_error": {"c1": {"error": "", "error_description": "Not found"}},
                "result_total": [], "result_next": [], "result_time": {"c0": {"operating": 1.5}},
            }),
        )
        .expect("an answer");
        assert_eq!(answer.take(&ids[0]).expect("a result").time.operating, Some(1.5));
        assert_eq!(answer.take(&ids[1]).expect_err("an error").class(), ErrorClass::NotFound);
        assert!(answer.take(&ids[2]).expect_err("an error").is_missing());
    }

    #[test]
    fn an_error_outranks_a_result_and_null_is_no_result() {
        let (batch, ids) = three();
        let mut answer =
            answer(&batch, json!({"result": {"c0": true, "c1": null}, "result_error": {"c0": "ERROR_CORE"}}))
                .expect("an answer");
        assert_eq!(answer.take(&ids[0]).expect_err("an error").code(), "ERROR_CORE");
        assert_eq!(answer.take(&ids[1]).expect_err("an error").class(), ErrorClass::Transient);
    }

    #[test]
    fn a_batch_whose_commands_all_fail_is_still_an_answer() {
        let (batch, _) = three();
        let answer = answer(&batch, json!({"result": [], "result_error": {"c0": {"error": 100}}}));
        assert_eq!(answer.expect("an answer").iter().filter(|(_, outcome)| outcome.is_err()).count(), 3);
    }

    #[test]
    fn an_answer_that_cannot_be_matched_to_commands_is_an_error() {
        let (batch, _) = three();
        for result in [json!([]), json!(true), json!({}), json!({"result": [1, 2]}), json!({"result": "x"})] {
            assert!(answer(&batch, result.clone()).is_err(), "{result}");
        }
    }
}
