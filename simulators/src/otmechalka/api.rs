//! The five calls, as a function from the state and a request to an answer.

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::state::{Entity, Fields, State};
use super::validation::{self, Complaints};

/// A request of the API, recognised by method and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Get(Entity, String),
    Create(Entity),
    UpdateClient(String),
    /// A known path with another method.
    WrongMethod,
    UnknownPath,
}

impl Call {
    /// Recognises a request; the slash at the end belongs to the path.
    pub fn parse(method: &str, path: &str) -> Self {
        let Some(path) = path.strip_prefix("/api/").and_then(|path| path.strip_suffix('/')) else {
            return Self::UnknownPath;
        };
        let (collection, origin_id) =
            path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let entity = match collection {
            "clients" => Entity::Client,
            "tickets" => Entity::Ticket,
            _ => return Self::UnknownPath,
        };
        match (method, entity, origin_id) {
            (_, _, Some(id)) if id.is_empty() || id.contains('/') => Self::UnknownPath,
            ("GET", _, Some(id)) => Self::Get(entity, decoded(id)),
            ("POST", _, None) => Self::Create(entity),
            ("POST", Entity::Client, Some(id)) => Self::UpdateClient(decoded(id)),
            _ => Self::WrongMethod,
        }
    }

    /// Names the call for the counters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Get(Entity::Client, _) => "GET /api/clients/{origin_id}/",
            Self::Get(Entity::Ticket, _) => "GET /api/tickets/{origin_id}/",
            Self::Create(Entity::Client) => "POST /api/clients/",
            Self::Create(Entity::Ticket) => "POST /api/tickets/",
            Self::UpdateClient(_) => "POST /api/clients/{origin_id}/",
            Self::WrongMethod => "wrong method",
            Self::UnknownPath => "unknown path",
        }
    }

    /// Returns the record the request is about.
    pub fn record(&self, body: Option<&Value>) -> Option<(Entity, String)> {
        match self {
            Self::Get(entity, id) => Some((*entity, id.clone())),
            Self::UpdateClient(id) => Some((Entity::Client, id.clone())),
            Self::Create(entity) => {
                let id = body?.get("origin_id")?;
                Some((*entity, id.as_str().map_or_else(|| id.to_string(), str::to_owned)))
            }
            Self::WrongMethod | Self::UnknownPath => None,
        }
    }
}

fn decoded(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

/// What a call comes to.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub status: u16,
    pub body: Value,
    /// Whether a record was created or changed.
    pub applied: bool,
}

/// A request with what its checks need.
pub struct Request<'a> {
    pub call: &'a Call,
    pub authorization: Option<&'a str>,
    pub is_json: bool,
    /// The body, when it could be read as JSON.
    pub body: Option<&'a Value>,
}

/// Carries a request out.
pub fn answer(state: &mut State, request: &Request) -> Outcome {
    match refuse_early(state, request) {
        Some(refusal) => refusal,
        None => carry_out(state, request),
    }
}

fn refuse_early(state: &State, request: &Request) -> Option<Outcome> {
    match request.call {
        Call::UnknownPath => return Some(refused(404, detail("Страница не найдена."))),
        Call::WrongMethod => return Some(refused(405, detail("Метод не разрешен."))),
        _ => {}
    }
    let expected = state.settings.token.as_ref().map(|token| format!("Token {token}"));
    match (expected, request.authorization) {
        (Some(_), None) => Some(refused(401, detail("Учетные данные не были предоставлены."))),
        (Some(expected), Some(sent)) if expected != sent => Some(refused(401, detail("Недопустимый токен."))),
        _ => None,
    }
}

fn carry_out(state: &mut State, request: &Request) -> Outcome {
    if let Call::Get(entity, origin_id) = request.call {
        return match state.table(*entity).get(origin_id) {
            Some(fields) => Outcome { status: 200, body: Value::Object(fields.clone()), applied: false },
            None => absent(),
        };
    }
    if !request.is_json {
        return refused(415, detail("Неподдерживаемый тип данных в запросе: нужен application/json."));
    }
    let Some(body) = request.body else { return refused(400, detail("Ошибка разбора JSON.")) };
    let Some(fields) = body.as_object() else {
        let mut complaints = Complaints::default();
        complaints.add("non_field_errors", "Недопустимые данные. Ожидался объект.");
        return refused(400, complaints.into_json());
    };
    match request.call {
        Call::Create(entity) => create(state, *entity, fields),
        Call::UpdateClient(origin_id) => update_client(state, origin_id, fields),
        _ => refused(404, detail("Страница не найдена.")),
    }
}

fn create(state: &mut State, entity: Entity, fields: &Fields) -> Outcome {
    let mut complaints = match entity {
        Entity::Client => validation::client(fields, &state.settings),
        Entity::Ticket => {
            validation::ticket(fields, &state.settings, |client| state.clients.get(client).is_some())
        }
    };
    let origin_id = fields.get("origin_id").and_then(Value::as_str).unwrap_or_default();
    if state.settings.unique_origin && state.table(entity).get(origin_id).is_some() {
        complaints.add("origin_id", format!("Запись с внешним ID «{origin_id}» уже существует."));
    }
    if entity == Entity::Client && is_full(state) {
        let limit = state.settings.max_visitors;
        complaints.add("non_field_errors", format!("Достигнут предел: {limit} активных посетителей."));
    }
    if !complaints.is_empty() {
        return refused(400, complaints.into_json());
    }
    Outcome { status: 200, body: Value::Object(state.create(entity, fields.clone())), applied: true }
}

fn is_full(state: &State) -> bool {
    // Counting them all is only worth it when there are many.
    state.clients.len() >= state.settings.max_visitors
        && state.clients.active() >= state.settings.max_visitors
}

fn update_client(state: &mut State, origin_id: &str, fields: &Fields) -> Outcome {
    let Some(stored) = state.clients.get(origin_id) else { return absent() };
    let kept: Vec<(String, Value)> = ["id", "archived"]
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), stored.get(key)?.clone())))
        .collect();
    let mut complaints = validation::client(fields, &state.settings);
    if fields.get("origin_id").and_then(Value::as_str).is_some_and(|sent| sent != origin_id) {
        complaints.add("origin_id", "Внешний ID в адресе и в теле запроса различаются.");
    }
    if !complaints.is_empty() {
        return refused(400, complaints.into_json());
    }
    let mut fields = fields.clone();
    fields.extend(kept);
    state.put(Entity::Client, fields.clone());
    Outcome { status: 200, body: Value::Object(fields), applied: true }
}

fn absent() -> Outcome {
    refused(404, detail("Не найдено."))
}

fn refused(status: u16, body: Value) -> Outcome {
    Outcome { status, body, applied: false }
}

/// Writes an error that concerns no field.
pub fn detail(text: &str) -> Value {
    json!({"detail": text})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_recognised_by_method_and_path() {
        let id = || "39558".to_owned();
        for (method, path, call) in [
            ("POST", "/api/clients/", Call::Create(Entity::Client)),
            ("POST", "/api/clients/39558/", Call::UpdateClient(id())),
            ("GET", "/api/clients/39558/", Call::Get(Entity::Client, id())),
            ("POST", "/api/tickets/", Call::Create(Entity::Ticket)),
            ("GET", "/api/tickets/3955%38/", Call::Get(Entity::Ticket, id())),
            ("POST", "/api/tickets/39558/", Call::WrongMethod),
            ("GET", "/api/clients/", Call::WrongMethod),
            ("DELETE", "/api/clients/39558/", Call::WrongMethod),
            ("GET", "/api/clients/39558", Call::UnknownPath),
            ("GET", "/api/clients//", Call::UnknownPath),
            ("GET", "/api/clients/1/2/", Call::UnknownPath),
            ("GET", "/", Call::UnknownPath),
        ] {
            assert_eq!(Call::parse(method, path), call, "{method} {path}");
        }
    }
}
