//! The REST methods. Each is a plain function over the portal's state.

mod classic;
mod item;
mod reference;
mod rows;
mod system;
mod userfield;

use serde_json::{Value, json};

use super::history::Author;
use super::php::Node;
use super::schema::Entity;
use super::state::State;

/// A call that is being carried out.
pub struct Call<'a> {
    pub state: &'a mut State,
    /// The portal's time.
    pub now: f64,
    pub author: Author,
    /// The method called, for the history.
    pub method: &'static str,
}

/// The answer of a method.
#[derive(Debug, Default)]
pub struct Reply {
    pub result: Value,
    pub next: Option<usize>,
    pub total: Option<usize>,
    /// Seconds of work beyond the method's fixed cost.
    pub extra_seconds: f64,
}

impl Reply {
    /// Wraps a result without paging.
    pub fn of(result: impl Into<Value>) -> Self {
        Self { result: result.into(), ..Self::default() }
    }
}

/// An error of one call.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    pub status: u16,
    /// A symbolic code, an empty string or a number.
    pub code: Value,
    pub description: String,
}

impl ApiError {
    /// Makes an error with this HTTP status and code.
    pub fn new(status: u16, code: impl Into<Value>, description: impl Into<String>) -> Self {
        Self { status, code: code.into(), description: description.into() }
    }

    /// Makes an error of the classic methods: status 400 and an empty code.
    pub fn classic(description: impl Into<String>) -> Self {
        Self::new(400, "", description)
    }

    /// Renders the body.
    pub fn body(&self) -> Value {
        json!({"error": self.code, "error_description": self.description})
    }
}

/// What a method comes to.
pub type Outcome = Result<Reply, ApiError>;

/// A method of the portal.
pub struct Method {
    pub name: &'static str,
    /// The scopes of which one must be granted; none for basic methods.
    pub scopes: &'static [&'static str],
    pub run: fn(&mut Call<'_>, &Node) -> Outcome,
}

const CRM: &[&str] = &["crm"];
const USER: &[&str] = &["user", "user_basic", "user_brief"];
const BASIC: &[&str] = &[];

const fn crm(name: &'static str, run: fn(&mut Call<'_>, &Node) -> Outcome) -> Method {
    Method { name, scopes: CRM, run }
}

const fn basic(name: &'static str, run: fn(&mut Call<'_>, &Node) -> Outcome) -> Method {
    Method { name, scopes: BASIC, run }
}

/// Every method but `batch`, which is carried out elsewhere.
const METHODS: &[Method] = &[
    crm("crm.contact.list", |call, params| classic::list(call, Entity::Contact, params)),
    crm("crm.contact.get", |call, params| classic::get(call, Entity::Contact, params)),
    crm("crm.contact.fields", |call, _| classic::fields(call, Entity::Contact)),
    crm("crm.contact.add", |call, params| classic::add(call, Entity::Contact, params)),
    crm("crm.contact.update", |call, params| classic::update(call, Entity::Contact, params)),
    crm("crm.contact.delete", |call, params| classic::delete(call, Entity::Contact, params)),
    crm("crm.contact.userfield.list", |call, params| userfield::list(call, Entity::Contact, params)),
    crm("crm.contact.userfield.add", |call, params| userfield::add(call, Entity::Contact, params)),
    crm("crm.deal.list", |call, params| classic::list(call, Entity::Deal, params)),
    crm("crm.deal.get", |call, params| classic::get(call, Entity::Deal, params)),
    crm("crm.deal.fields", |call, _| classic::fields(call, Entity::Deal)),
    crm("crm.deal.add", |call, params| classic::add(call, Entity::Deal, params)),
    crm("crm.deal.update", |call, params| classic::update(call, Entity::Deal, params)),
    crm("crm.deal.delete", |call, params| classic::delete(call, Entity::Deal, params)),
    crm("crm.deal.userfield.list", |call, params| userfield::list(call, Entity::Deal, params)),
    crm("crm.deal.userfield.add", |call, params| userfield::add(call, Entity::Deal, params)),
    crm("crm.deal.productrows.get", rows::get),
    crm("crm.deal.productrows.set", rows::set),
    crm("crm.deal.contact.items.get", rows::contacts),
    crm("crm.item.productrow.list", rows::list),
    crm("crm.item.list", item::list),
    crm("crm.item.get", item::get),
    crm("crm.item.update", item::update),
    crm("crm.item.fields", item::fields),
    crm("crm.status.list", reference::statuses),
    crm("crm.category.list", reference::categories),
    crm("crm.stagehistory.list", reference::stage_history),
    Method { name: "user.get", scopes: USER, run: reference::users },
    basic("profile", system::profile),
    basic("scope", system::scope),
    basic("methods", system::methods),
    basic("method.get", system::method_get),
    basic("server.time", system::server_time),
    basic("app.info", system::app_info),
    basic("feature.get", system::feature),
];

/// Finds a method by its lower-case name.
pub fn find(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.name == name)
}

/// Returns the names of all methods.
pub fn names() -> impl Iterator<Item = &'static str> {
    METHODS.iter().map(|method| method.name).chain(["batch"])
}

/// Reads the `id` of a record.
fn required_id(params: &Node) -> Result<u64, ApiError> {
    let id = params.param("id").and_then(Node::integer).and_then(|id| u64::try_from(id).ok());
    id.filter(|id| *id > 0).ok_or_else(|| ApiError::classic("ID is not defined or invalid."))
}

/// Reads a parameter that has to be an array when it is there.
fn optional_array<'a>(params: &'a Node, name: &str) -> Result<Option<&'a Node>, ApiError> {
    match params.param(name) {
        Some(node @ Node::Array(_)) => Ok(Some(node)),
        None | Some(Node::Null) => Ok(None),
        Some(_) => Err(ApiError::classic(format!("Parameter '{name}' must be array."))),
    }
}

/// Reads `start`: an offset, or `None` for "do not count".
fn read_start(params: &Node) -> Option<usize> {
    match params.param("start").and_then(Node::integer).unwrap_or(0) {
        -1 => None,
        start => Some(usize::try_from(start).unwrap_or(0)),
    }
}

/// Returns what a list says about paging: `next` and `total`.
fn paging(start: Option<usize>, shown: usize, counted: Option<usize>) -> (Option<usize>, Option<usize>) {
    match (start, counted) {
        (Some(start), Some(total)) => {
            (Some(start + shown).filter(|next| *next < total && shown > 0), Some(total))
        }
        // Uncounted: `total` is there and means nothing.
        _ => (None, Some(0)),
    }
}
