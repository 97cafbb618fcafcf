//! Methods about the webhook and the portal itself.

use serde_json::json;

use super::super::php::Node;
use super::{ApiError, Call, Outcome, Reply, find, names};

/// Every scope that `scope?full=true` names.
const ALL_SCOPES: [&str; 8] =
    ["crm", "user", "user_brief", "user_basic", "catalog", "task", "im", "userfieldconfig"];

/// Tells who the webhook acts for.
pub fn profile(call: &mut Call<'_>, _: &Node) -> Outcome {
    let id = call.author.user();
    let user = call.state.users.get(&id);
    let text = |name: &str, or: &str| user.and_then(|user| user.get(name)?.as_str()).unwrap_or(or).to_owned();
    Ok(Reply::of(json!({
        "ID": id.to_string(), "ADMIN": true, "NAME": text("NAME", "Интеграция"),
        "LAST_NAME": text("LAST_NAME", "Техническая"), "PERSONAL_GENDER": "", "TIME_ZONE": "",
        "TIME_ZONE_OFFSET": 0,
    })))
}

/// Returns the scopes of the webhook, or all there are.
pub fn scope(call: &mut Call<'_>, params: &Node) -> Outcome {
    let full = params.param("full").and_then(Node::text).is_some_and(|full| full == "true" || full == "1");
    Ok(Reply::of(if full { json!(ALL_SCOPES) } else { json!(call.state.settings.scopes) }))
}

/// Returns the names of the methods.
pub fn methods(_: &mut Call<'_>, _: &Node) -> Outcome {
    Ok(Reply::of(names().collect::<Vec<_>>()))
}

/// Tells whether a method exists and may be called.
pub fn method_get(call: &mut Call<'_>, params: &Node) -> Outcome {
    let name = params.param("name").and_then(Node::text).unwrap_or_default();
    if name.is_empty() {
        return Err(ApiError::new(400, "ERROR_ARGUMENT", "Argument 'name' is null or empty"));
    }
    let method = find(&name);
    let granted = |scopes: &[&str]| {
        scopes.is_empty()
            || scopes.iter().any(|scope| call.state.settings.scopes.iter().any(|own| own == scope))
    };
    let available = name == "batch" || method.is_some_and(|method| granted(method.scopes));
    Ok(Reply::of(json!({"isExisting": name == "batch" || method.is_some(), "isAvailable": available})))
}

/// Returns the portal's time.
pub fn server_time(call: &mut Call<'_>, _: &Node) -> Outcome {
    Ok(Reply::of(call.state.print(call.now)))
}

/// Tells the plan of the portal.
pub fn app_info(call: &mut Call<'_>, _: &Node) -> Outcome {
    Ok(Reply::of(json!({"SCOPE": call.state.settings.scopes, "LICENSE": "ru_pro100", "LANGUAGE_ID": "ru"})))
}

/// Tells whether a feature is part of the plan.
pub fn feature(_: &mut Call<'_>, params: &Node) -> Outcome {
    match params.param("code").and_then(Node::text).as_deref() {
        Some("rest_offline_extended" | "rest_auth_connector") => Ok(Reply::of(json!({"value": "N"}))),
        _ => Err(ApiError::new(400, "ERROR_ARGUMENT", "Argument 'CODE' is invalid")),
    }
}
