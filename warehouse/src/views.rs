//! Views with a column for each custom field, named by the portal's own labels.
//!
//! Labels are what anybody with the right to make fields typed in. They stand only inside quoted identifiers; codes are
//! letters, digits and underscores or their field has no column.

use std::collections::BTreeSet;

use schemas::Entity;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use crate::database;

/// Longest name that PostgreSQL keeps, in bytes.
const LONGEST_NAME: usize = 63;

/// Most custom fields that a view shows; PostgreSQL has room for 1600 columns.
const MOST_COLUMNS: usize = 1500;

/// A custom field and what people call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its code, such as `UF_CRM_57AD7FAF7E6C4`.
    pub code: String,
    /// Its label, where the portal told one.
    pub label: Option<String>,
}

/// A view over the records of an entity.
struct View {
    name: &'static str,
    table: &'static str,
    /// Columns, with blanks between them.
    columns: &'static str,
}

fn view(entity: Entity) -> View {
    match entity {
        Entity::Contact => View {
            name: "contacts_labelled",
            table: "contacts",
            columns: "id last_name name second_name birthdate phones emails type_id source_id assigned_by_id \
             date_create date_modify",
        },
        Entity::Deal => View {
            name: "deals_labelled",
            table: "deals",
            columns: "id title category_id stage_id contact_id opportunity currency_id begindate closedate \
             assigned_by_id date_create date_modify",
        },
    }
}

/// Returns the query that a view is.
fn query(entity: Entity, fields: &[Field]) -> String {
    let view = view(entity);
    let mut columns: Vec<String> = view.columns.split(' ').map(|column| format!("record.{column}")).collect();
    let mut taken: BTreeSet<String> = view.columns.split(' ').map(str::to_owned).collect();
    for field in fields.iter().filter(|field| is_plain(&field.code)).take(MOST_COLUMNS) {
        let name = column_name(field, &taken);
        columns.push(format!(
            "shown(record.custom -> '{code}', (SELECT options FROM fields WHERE entity = '{entity}' AND code = '{code}')) \
             AS {name}",
            code = field.code,
            name = quoted(&name),
        ));
        taken.insert(name);
    }
    format!("SELECT {} FROM {} AS record", columns.join(", "), view.table)
}

/// Tells whether a code may stand in a statement as it is.
fn is_plain(code: &str) -> bool {
    (1..=LONGEST_NAME).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Returns a name that is not taken: the label, the label with the code, or the code.
fn column_name(field: &Field, taken: &BTreeSet<String>) -> String {
    let label = field.label.as_deref().map(printable).filter(|label| !label.is_empty());
    let Field { code, .. } = field;
    let with_code = label.as_deref().map(|label| {
        let tail = format!(" ({code})");
        let head = cut(label, LONGEST_NAME.saturating_sub(tail.len()));
        cut(&format!("{head}{tail}"), LONGEST_NAME).to_owned()
    });
    let fits = |label: &String| label.len() <= LONGEST_NAME;
    let wanted = [label.filter(fits), with_code, Some(code.clone())];
    let free = wanted.into_iter().flatten().find(|name| !taken.contains(name));
    free.unwrap_or_else(|| numbered(code, taken))
}

/// Only for who gives one field the code of another as its label.
fn numbered(code: &str, taken: &BTreeSet<String>) -> String {
    let name = |number: usize| format!("{}_{number}", cut(code, LONGEST_NAME - 6));
    (2..=MOST_COLUMNS + 2).map(name).find(|name| !taken.contains(name)).unwrap_or_else(|| code.to_owned())
}

/// Leaves out what nobody sees in a name: control characters, and blanks at both ends.
fn printable(label: &str) -> String {
    label.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// Writes an identifier so that nothing in it ends it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Makes both views anew where their columns changed.
pub async fn refresh(client: &mut Client) -> Result<(), Error> {
    for entity in Entity::ALL {
        let fields = fields(client, entity).await?;
        make(client, view(entity).name, &query(entity, &fields)).await?;
    }
    Ok(())
}

async fn fields(client: &Client, entity: Entity) -> Result<Vec<Field>, Error> {
    // In the order in which they were first seen, so that a new one becomes the last column.
    let sql = "SELECT code, label FROM fields WHERE entity = $1 ORDER BY ordinal";
    let rows = client.query(sql, &[&entity.token()]).await?;
    let fields = rows.iter().map(|row| Ok(Field { code: row.try_get(0)?, label: row.try_get(1)? }));
    let fields: Vec<Field> = fields.collect::<Result<_, Error>>()?;
    Ok(fields.into_iter().filter(|field| crate::rows::is_custom(&field.code)).collect())
}

/// Replaces a view; rights on it and views over it stay as long as columns are only added.
async fn make(client: &mut Client, name: &str, query: &str) -> Result<(), Error> {
    let replaced = create(client, &format!("CREATE OR REPLACE VIEW {name} AS {query}")).await;
    match replaced {
        // A column has another name now.
        Err(error) if error.code() == Some(&SqlState::INVALID_TABLE_DEFINITION) => {}
        other => return other,
    }
    match create(client, &format!("DROP VIEW {name}; CREATE VIEW {name} AS {query}")).await {
        Err(error) if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
            tracing::warn!("View {name} keeps its old labels: something else in the database is built on it");
            Ok(())
        }
        other => other,
    }
}

/// Whoever reads a view queues behind us as long as we wait for somebody who reads it already, and PostgreSQL breaks off
/// one of two who wait for each other after a second: it must be us, who come again.
const WAIT_BRIEFLY: &str = "SET LOCAL lock_timeout = '500ms'";

async fn create(client: &mut Client, statements: &str) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    database::lock(&transaction).await?;
    transaction.batch_execute(&format!("{WAIT_BRIEFLY}; {statements}")).await?;
    transaction.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(code: &str, label: &str) -> Field {
        Field { code: code.into(), label: Some(label.into()) }
    }

    fn names(fields: &[Field]) -> Vec<String> {
        let mut taken = BTreeSet::from(["name".to_owned()]);
        fields
            .iter()
            .map(|field| {
                let name = column_name(field, &taken);
                taken.insert(name.clone());
                name
            })
            .collect()
    }

    #[test]
    fn labels_name_columns_and_codes_tell_equal_ones_apart() {
        let long = "Ж".repeat(40);
        let fields = [
            field("UF_1", "Филиал"),
            field("UF_2", "Филиал"),
            field("UF_3", "name"),
            field("UF_4", " \u{0}\n"),
            field("UF_5", &long),
            field("UF_6", "UF_7"),
            field("UF_7", "UF_7"),
            Field { code: "UF_8".into(), label: None },
        ];
        let cut = format!("{} (UF_5)", "Ж".repeat(28));
        let expected =
            ["Филиал", "Филиал (UF_2)", "name (UF_3)", "UF_4", &cut, "UF_7", "UF_7 (UF_7)", "UF_8"];
        assert_eq!(names(&fields), expected);
    }

    #[test]
    fn what_is_no_plain_code_has_no_column() {
        let fields = [field("UF_1' OR 1", "a"), field("UF_2", "b\" FROM secrets; --")];
        let query = query(Entity::Contact, &fields);
        assert!(!query.contains("OR 1"), "{query}");
        assert!(query.contains(r#"AS "b"" FROM secrets; --" FROM contacts"#), "{query}");
    }

    proptest! {
        #[test]
        fn every_column_has_a_name_of_its_own_that_fits(labels in proptest::collection::vec("(\\PC|[\"\\\\\\s]){0,90}", 1..20)) {
            let fields: Vec<Field> =
                labels.iter().enumerate().map(|(n, label)| field(&format!("UF_{}", n / 2), label)).collect();
            let names = names(&fields);
            let distinct: BTreeSet<&String> = names.iter().collect();
            prop_assert_eq!(distinct.len(), names.len());
            for name in &names {
                prop_assert!(!name.is_empty() && name.len() <= LONGEST_NAME && !name.contains('\0'), "{}", name);
            }
        }
    }
}
