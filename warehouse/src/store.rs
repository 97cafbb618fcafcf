//! Changing the tables: one transaction for a batch, and nothing replaced by what is not newer.
//!
//! Rows travel as one JSON text for each table, which the database takes apart by the types of its columns. So a batch
//! costs a handful of statements, and no value is ever part of a statement.

use serde::Serialize;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, GenericClient, Transaction};

use crate::batch::{Batch, LeftOut, Said};
use crate::rows::{Contact, Deal, Erased, Outcome, PRODUCT_ROW_COLUMNS, ProductRow, Status, User, Versioned};

/// What became of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Messages that the tables show, or newer ones of the same records.
    pub messages: usize,
    /// Messages that no row was made of.
    pub left_out: Vec<LeftOut>,
    /// Whether a field was seen for the first time.
    pub has_new_fields: bool,
}

/// Stores what messages say. After an error nothing of it is stored, or some of it, and all may be tried again.
///
/// Should the database refuse values, the messages go one by one and those at fault are left out.
pub async fn store(client: &mut Client, messages: &[Said]) -> Result<Stored, Error> {
    let batch = Batch::of(messages);
    match apply(client, &batch).await {
        Ok(has_new_fields) => {
            let messages = messages.len() - batch.left_out.len();
            Ok(Stored { messages, left_out: batch.left_out, has_new_fields })
        }
        Err(error) if is_about_values(&error) => one_by_one(client, messages).await,
        Err(error) => Err(error),
    }
}

async fn one_by_one(client: &mut Client, messages: &[Said]) -> Result<Stored, Error> {
    let mut stored = Stored::default();
    for message in messages {
        let mut batch = Batch::of([message]);
        match apply(client, &batch).await {
            Ok(has_new_fields) => stored.has_new_fields |= has_new_fields,
            Err(error) if is_about_values(&error) => {
                // The database's own words quote the value.
                let code = error.code().map_or("unknown", |code| code.code());
                let reason = format!("PostgreSQL refuses a value (SQLSTATE {code})");
                batch = Batch { left_out: vec![message.left_out(reason)], ..Batch::default() };
                apply(client, &batch).await?;
            }
            Err(error) => return Err(error),
        }
        stored.messages += 1 - batch.left_out.len();
        stored.left_out.append(&mut batch.left_out);
    }
    Ok(stored)
}

/// Tells whether an error is about what was to be stored, and will be the same the next time.
///
/// Classes of SQLSTATE: data exception, integrity violation, program limit exceeded.
fn is_about_values(error: &Error) -> bool {
    error.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.code().starts_with(class)))
}

/// Applies a batch in one transaction, and tells whether it brought a field never seen.
async fn apply(client: &mut Client, batch: &Batch) -> Result<bool, Error> {
    let transaction = client.transaction().await?;
    forget(&transaction, batch).await?;
    // The same order of tables and rows everywhere, so that two processes do not wait for each other.
    upsert::<Contact>(&transaction, batch.contacts.values()).await?;
    let fresh = upsert::<Deal>(&transaction, batch.deals.values().map(|(deal, _)| deal)).await?;
    let rows = batch.deals.values().flat_map(|(_, rows)| rows);
    replace_product_rows(&transaction, &fresh, rows).await?;
    upsert::<User>(&transaction, batch.users.values()).await?;
    upsert::<Outcome>(&transaction, batch.outcomes.values()).await?;
    upsert::<Status>(&transaction, batch.statuses.values()).await?;
    let stages = batch.stages.values();
    add(&transaction, "stages", &["stage_id"], &["category_id", "semantics"], stages).await?;
    let fields = batch.fields.iter().map(|(entity, code)| Seen { entity, code });
    let new_fields = add(&transaction, "fields", &["entity", "code"], &[], fields).await?;
    let left_out = batch.left_out.iter();
    add(&transaction, "left_out", &["stream", "sequence"], &["subject", "reason"], left_out).await?;
    transaction.commit().await?;
    Ok(new_fields > 0)
}

/// Deletes what is erased, and notes up to where, so that no older version comes back.
///
/// Two readers store beside each other. Whoever erases waits for those who have looked already at what is erased, and
/// those who come later see it.
async fn forget(transaction: &Transaction<'_>, batch: &Batch) -> Result<(), Error> {
    if batch.erased.is_empty() {
        return transaction.batch_execute("LOCK TABLE erased IN ROW SHARE MODE").await;
    }
    transaction.batch_execute("LOCK TABLE erased IN EXCLUSIVE MODE").await?;
    upsert::<Erased>(transaction, batch.erased.values()).await?;
    let erased: Vec<&Erased> = batch.erased.values().collect();
    let erased = json(&erased);
    let statements = [
        forget_statement::<Contact>(),
        forget_statement::<Deal>(),
        forget_statement::<Outcome>(),
        forget_statement::<Status>(),
    ];
    for sql in statements {
        // The product rows go with their deals.
        transaction.execute_typed(&sql, &[(&erased, Type::TEXT)]).await?;
    }
    Ok(())
}

fn forget_statement<T: Versioned>() -> String {
    format!(
        "DELETE FROM {} AS known USING json_populate_recordset(NULL::erased, $1::json) AS erased WHERE {}",
        T::TABLE,
        is_erased::<T>(),
    )
}

/// Returns the condition that a row called `known` is erased.
fn is_erased<T: Versioned>() -> String {
    let entity = T::ENTITY.unwrap_or("NULL");
    let redrive = if T::VERSION.contains(&"redrive") { "known.redrive" } else { "0" };
    format!(
        "(erased.entity, erased.id) = ({entity}, known.id) \
         AND (known.raw_sequence, {redrive}) <= (erased.raw_sequence, erased.redrive)"
    )
}

/// A field that a record has.
#[derive(Serialize)]
struct Seen<'b> {
    entity: &'b str,
    code: &'b str,
}

/// Inserts rows that are not erased, or replaces older versions of them. Returns the ids of those that are new now.
async fn upsert<'r, T: Versioned + Serialize + 'r>(
    transaction: &Transaction<'_>,
    rows: impl Iterator<Item = &'r T>,
) -> Result<Vec<i64>, Error> {
    let rows: Vec<&T> = rows.collect();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let changed = transaction.query_typed(&upsert_statement::<T>(), &[(&json(&rows), Type::TEXT)]).await?;
    changed.iter().map(|row| row.try_get(0)).collect()
}

fn upsert_statement<T: Versioned>() -> String {
    let (table, key) = (T::TABLE, T::KEY.join(", "));
    let columns = T::columns().join(", ");
    let assign = |column: &str| format!("{column} = excluded.{column}");
    let assigned: Vec<String> = T::VERSION.iter().copied().chain(T::others()).map(assign).collect();
    let of = |prefix: &str| {
        let columns: Vec<String> = T::VERSION.iter().map(|column| format!("{prefix}.{column}")).collect();
        columns.join(", ")
    };
    let kept = match T::ENTITY {
        Some(_) => format!("NOT EXISTS (SELECT FROM erased WHERE {})", is_erased::<T>()),
        None => "true".to_owned(),
    };
    format!(
        "INSERT INTO {table} ({columns}) \
         SELECT {columns} FROM json_populate_recordset(NULL::{table}, $1::json) AS known WHERE {kept} \
         ON CONFLICT ({key}) DO UPDATE SET {}, stored_at = now() WHERE ({}) > ({}) \
         RETURNING id",
        assigned.join(", "),
        of("excluded"),
        of(table),
    )
}

/// Puts the product rows of deals in place of those that were there.
async fn replace_product_rows<'r>(
    transaction: &Transaction<'_>,
    deals: &[i64],
    rows: impl Iterator<Item = &'r ProductRow>,
) -> Result<(), Error> {
    if deals.is_empty() {
        return Ok(());
    }
    let sql = "DELETE FROM product_rows WHERE deal_id = ANY($1)";
    transaction.execute_typed(sql, &[(&deals, Type::INT8_ARRAY)]).await?;
    // Deals whose version was known already keep their rows.
    let rows: Vec<&ProductRow> = rows.filter(|row| deals.contains(&row.deal_id)).collect();
    let sql = format!(
        "INSERT INTO product_rows ({PRODUCT_ROW_COLUMNS}) \
         SELECT {PRODUCT_ROW_COLUMNS} FROM json_populate_recordset(NULL::product_rows, $1::json)"
    );
    if !rows.is_empty() {
        transaction.execute_typed(&sql, &[(&json(&rows), Type::TEXT)]).await?;
    }
    Ok(())
}

/// Inserts rows whose keys are not there yet; the others stay as they are. Returns how many were inserted.
async fn add<T: Serialize>(
    transaction: &Transaction<'_>,
    table: &str,
    key: &[&str],
    more_columns: &[&str],
    rows: impl Iterator<Item = T>,
) -> Result<u64, Error> {
    let rows: Vec<T> = rows.collect();
    if rows.is_empty() {
        return Ok(0);
    }
    let columns = [key, more_columns].concat().join(", ");
    let same: Vec<String> = key.iter().map(|column| format!("known.{column} = new.{column}")).collect();
    // Looked up first: nearly all are known, and each conflict would take a number from a sequence.
    let sql = format!(
        "INSERT INTO {table} ({columns}) \
         SELECT {columns} FROM json_populate_recordset(NULL::{table}, $1::json) AS new \
         WHERE NOT EXISTS (SELECT FROM {table} AS known WHERE {}) ORDER BY {} ON CONFLICT DO NOTHING",
        same.join(" AND "),
        key.join(", "),
    );
    transaction.execute_typed(&sql, &[(&json(&rows), Type::TEXT)]).await
}

/// Writes rows as one JSON text.
pub fn json<T: Serialize>(rows: &[T]) -> String {
    serde_json::to_string(rows).unwrap_or_else(|_| unreachable!("rows have text keys only"))
}

/// Returns up to where a stream is stored.
pub async fn position(client: &impl GenericClient, stream: &str) -> Result<u64, Error> {
    let sql = "SELECT sequence FROM positions WHERE stream = $1";
    let row = client.query_typed(sql, &[(&stream, Type::TEXT)]).await?;
    let sequence: i64 = row.first().map_or(Ok(0), |row| row.try_get(0))?;
    Ok(sequence.unsigned_abs())
}

/// Notes up to where a stream is stored.
pub async fn set_position(client: &impl GenericClient, stream: &str, sequence: u64) -> Result<(), Error> {
    let sql = "INSERT INTO positions (stream, sequence) VALUES ($1, $2) \
               ON CONFLICT (stream) DO UPDATE SET sequence = excluded.sequence";
    let sequence = i64::try_from(sequence).unwrap_or(i64::MAX);
    client.execute_typed(sql, &[(&stream, Type::TEXT), (&sequence, Type::INT8)]).await?;
    Ok(())
}
