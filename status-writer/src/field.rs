//! The status field of an entity: is it there, and can texts be written to it?

use std::fmt;

use bitrix24::{Client, Error, Field, Lane};
use schemas::Entity;

/// Why a field cannot hold statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The entity has no such field.
    Missing,
    /// It is of another type.
    NotText {
        /// The type it is of.
        kind: String,
    },
    /// It holds a list of texts.
    Multiple,
    /// It cannot be written.
    ReadOnly,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::Missing => f.write_str("there is no such field: make it, or set its right code"),
            Unusable::NotText { kind } => write!(f, "it is of type {kind}: a text field (string) is needed"),
            Unusable::Multiple => f.write_str("it holds several values: a field with one value is needed"),
            Unusable::ReadOnly => f.write_str("it is read-only: allow the webhook's employee to change it"),
        }
    }
}

/// Asks the portal about the field.
pub async fn check(client: &Client, entity: Entity, code: &str) -> Result<Result<(), Unusable>, Error> {
    let fields = client.fields(portal_entity(entity), Lane::Live).await?;
    Ok(judge(fields.get(code)))
}

fn judge(field: Option<&Field>) -> Result<(), Unusable> {
    let field = field.ok_or(Unusable::Missing)?;
    match () {
        () if field.kind != "string" => {
            let kind = field.kind.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
            Err(Unusable::NotText { kind })
        }
        () if field.is_multiple => Err(Unusable::Multiple),
        () if field.is_read_only => Err(Unusable::ReadOnly),
        () => Ok(()),
    }
}

/// Returns the client's word for an entity.
pub fn portal_entity(entity: Entity) -> bitrix24::Entity {
    match entity {
        Entity::Contact => bitrix24::Entity::Contact,
        Entity::Deal => bitrix24::Entity::Deal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(kind: &str, is_multiple: bool, is_read_only: bool) -> Field {
        Field { kind: kind.into(), is_multiple, is_read_only, label: None, options: Default::default() }
    }

    #[test]
    fn only_a_single_writable_text_will_do() {
        assert_eq!(judge(Some(&field("string", false, false))), Ok(()));
        assert_eq!(judge(None), Err(Unusable::Missing));
        assert_eq!(judge(Some(&field("string", true, false))), Err(Unusable::Multiple));
        assert_eq!(judge(Some(&field("string", false, true))), Err(Unusable::ReadOnly));
        assert_eq!(
            judge(Some(&field("enumeration", false, false))),
            Err(Unusable::NotText { kind: "enumeration".into() })
        );
    }
}
