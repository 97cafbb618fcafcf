//! The connection to PostgreSQL.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use runtime::SecretFile;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Longest wait for a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What makes each layout of the one before; the first makes the tables. A newer one found in the schema is left alone.
const LAYOUTS: [&str; 2] = [include_str!("layout.sql"), include_str!("layout-2.sql")];

/// Key of the lock under which tables and views are made; any number that nobody else is likely to take.
const LOCK: i64 = 0x0072_6f6c_6c63_616c;

/// How to reach the database.
#[derive(Clone)]
pub struct Database {
    config: Config,
    /// Read again for every connection, so that the password can be replaced without a restart.
    password_file: Option<SecretFile>,
    schema: String,
    tls: MakeRustlsConnect,
}

/// Leaves the address out, which may hold a password.
impl fmt::Debug for Database {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Database").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// Tells whether a text is an address of a database.
pub fn is_address(text: &str) -> bool {
    text.parse::<Config>().is_ok_and(|config| !config.get_hosts().is_empty())
}

/// Tells whether a text may name the schema, without being quoted anywhere.
pub fn is_schema_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (1..=40).contains(&text.len())
        && text.chars().all(fits)
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.starts_with("pg_")
}

impl Database {
    /// Takes an address and perhaps a password that does not stand in it.
    pub fn new(
        address: &SecretString,
        password: Option<&SecretString>,
        ca_file: Option<&str>,
        schema: String,
    ) -> anyhow::Result<Database> {
        // The parser's error may quote the address.
        let mut config: Config = address
            .expose_secret()
            .parse()
            .map_err(|_| anyhow::anyhow!("the database address is malformed"))?;
        config.connect_timeout(CONNECT_TIMEOUT).application_name("rollcall-warehouse");
        if let Some(password) = password {
            config.password(password.expose_secret());
        }
        Ok(Database { config, password_file: None, schema, tls: MakeRustlsConnect::new(tls(ca_file)?) })
    }

    /// Takes the password of every further connection from a file, where one can be read.
    pub fn renewed_by(self, password_file: Option<SecretFile>) -> Database {
        Database { password_file, ..self }
    }

    /// Connects, and makes the tables where there are none.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let mut config = self.config.clone();
        if let Some(password) = self.password_file.as_ref().and_then(SecretFile::read) {
            config.password(password.expose_secret());
        }
        let (mut client, connection) = config.connect(self.tls.clone()).await.map_err(told)?;
        // Ends by itself with the client; why it ended the client's next request says.
        tokio::spawn(connection);
        // A server or a role may have other defaults for these.
        let settings = format!(
            "SET search_path TO \"{}\"; SET standard_conforming_strings TO on; SET statement_timeout TO '5min'; \
             SET client_min_messages TO warning",
            self.schema
        );
        client.batch_execute(&settings).await.map_err(told)?;
        self.make_tables(&mut client).await?;
        Ok(client)
    }

    async fn make_tables(&self, client: &mut Client) -> anyhow::Result<()> {
        let transaction = client.transaction().await.map_err(told)?;
        transaction
            .execute_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)])
            .await
            .map_err(told)?;
        let schema = self.schema.as_str();
        let row = transaction
            .query_typed_one(
                "SELECT to_regnamespace($1) IS NOT NULL, to_regclass($1 || '.layout') IS NOT NULL",
                &[(&schema, Type::TEXT)],
            )
            .await
            .map_err(told)?;
        // Asked for first: who may not make schemas may still use one that somebody else made.
        if !row.get::<_, bool>(0) {
            transaction.batch_execute(&format!("CREATE SCHEMA \"{schema}\"")).await.map_err(told)?;
        }
        let found = match row.get(1) {
            true => layout(&transaction).await?,
            false => 0,
        };
        let missing = LAYOUTS.get(found..).with_context(|| {
            let known = LAYOUTS.len();
            format!(
                "schema {schema} has layout {found} and this program needs {known}; see warehouse/README.md"
            )
        })?;
        for step in missing {
            transaction.batch_execute(step).await.map_err(told)?;
        }
        transaction.commit().await.map_err(told)?;
        if !missing.is_empty() {
            tracing::info!("Schema {schema} has layout {} now, after {found}", LAYOUTS.len());
        }
        Ok(())
    }
}

/// Returns the number of the layout that is there.
async fn layout(transaction: &tokio_postgres::Transaction<'_>) -> anyhow::Result<usize> {
    let row = transaction.query_typed_one("SELECT version FROM layout", &[]).await.map_err(told)?;
    let found: i32 = row.try_get(0).map_err(told)?;
    Ok(usize::try_from(found)?)
}

/// Takes the lock under which tables and views are made, until the transaction ends.
pub async fn lock(transaction: &tokio_postgres::Transaction<'_>) -> Result<(), Error> {
    transaction.execute_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
    Ok(())
}

/// Says what went wrong without quoting a value, which may be a personal datum.
pub fn told(error: Error) -> anyhow::Error {
    match error.as_db_error() {
        Some(refused) => {
            let code = refused.code().code();
            // What the values are at fault for is told with the values.
            if ["22", "23"].iter().any(|class| code.starts_with(class)) {
                return anyhow::anyhow!("PostgreSQL refuses a value (SQLSTATE {code})");
            }
            anyhow::anyhow!("PostgreSQL: {} (SQLSTATE {code})", refused.message())
        }
        None => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            anyhow::anyhow!("PostgreSQL: {error}{}", source.unwrap_or_default())
        }
    }
}

fn tls(ca_file: Option<&str>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    // Those of the system that cannot be read are left out: whoever needs one finds its server refused.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = ca_file {
        let pem = CertificateDer::pem_file_iter(file).with_context(|| format!("read {file}"))?;
        let certificates: Vec<_> = pem.collect::<Result<_, _>>().with_context(|| format!("read {file}"))?;
        anyhow::ensure!(!certificates.is_empty(), "{file} holds no certificate");
        for certificate in certificates {
            roots.add(certificate).with_context(|| format!("take a certificate of {file}"))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_schemas_are_checked() {
        assert!(is_address("postgres://rollcall@127.0.0.1/rollcall"));
        assert!(is_address("host=/run/postgresql user=rollcall dbname=rollcall"));
        for bad in ["", "nonsense", "https://postgres/rollcall", "postgres://"] {
            assert!(!is_address(bad), "{bad}");
        }
        assert!(is_schema_name("rollcall") && is_schema_name("school_2"));
        for bad in ["", "Rollcall", "a\"b", "a b", "a.b", "2a", "pg_catalog", "ы"] {
            assert!(!is_schema_name(bad), "{bad}");
        }
    }

    #[test]
    fn no_form_of_it_shows_a_password() {
        let address = SecretString::from("postgres://rollcall:hunter2@127.0.0.1:1/rollcall");
        let database = Database::new(&address, None, None, "rollcall".into()).unwrap();
        assert!(!format!("{database:?}").contains("hunter2"));
        let error = Database::new(&"postgres://x:hunter2@h:port/".into(), None, None, "rollcall".into());
        assert!(!format!("{:?}", error.unwrap_err()).contains("hunter2"));
    }
}
