//! The password of the database is replaced during a run.

use serde_json::json;

use crate::bench::{Bench, value};

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_replaced_by_its_file_alone() -> anyhow::Result<()> {
    let mut bench = Bench::open().await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("password");
    std::fs::write(&file, "old-password")?;
    let client = bench.postgres.connect().await?;
    client.batch_execute("CREATE ROLE writer LOGIN SUPERUSER PASSWORD 'old-password'").await?;
    let (host, port) = bench.postgres.address();
    bench
        .start_warehouse_with(&[
            ("WAREHOUSE_DATABASE_URL", format!("postgres://writer@{host}:{port}/postgres")),
            ("WAREHOUSE_DATABASE_PASSWORD", String::new()),
            ("WAREHOUSE_DATABASE_PASSWORD_FILE", file.display().to_string()),
        ])
        .await?;
    bench.contact(7, json!({})).await?;
    bench.caught_up().await?;

    // Connections that are there stay as they are; these would end with a restart of the server.
    client.batch_execute("ALTER ROLE writer PASSWORD 'new-password'").await?;
    std::fs::write(&file, "new-password")?;
    client
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'writer'", &[])
        .await?;
    bench.contact(8, json!({})).await?;
    let client = bench.caught_up().await?;
    assert_eq!(value(&client, "SELECT count(*) FROM contacts").await?.as_deref(), Some("2"));
    Ok(())
}
