//! Encrypted, and only with a server whose certificate can be trusted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use e2e::eventually;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::bench::{Bench, PATIENCE, value};

/// The client's wish for TLS: length 8, then the number that stands for it.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Speaks TLS in front of a PostgreSQL that was built without. Counts the connections that were let through.
async fn stand_before(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    postgres: (&'static str, u16),
    passed: Arc<AtomicUsize>,
) {
    while let Ok((mut socket, _)) = listener.accept().await {
        let (acceptor, passed) = (acceptor.clone(), Arc::clone(&passed));
        tokio::spawn(async move {
            let mut wish = [0; 8];
            socket.read_exact(&mut wish).await?;
            if wish != SSL_REQUEST {
                return Err(std::io::Error::other("not encrypted"));
            }
            socket.write_all(b"S").await?;
            let mut outside = acceptor.accept(socket).await?;
            passed.fetch_add(1, Ordering::Relaxed);
            let mut inside = TcpStream::connect(postgres).await?;
            copy_bidirectional(&mut outside, &mut inside).await
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_authority_is_refused_and_a_named_one_is_trusted() -> anyhow::Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(["127.0.0.1".to_owned()])?.self_signed(&key)?;
    let private_key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private_key)?;
    let folder = tempfile::tempdir()?;
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, certificate.pem())?;

    let mut bench = Bench::open().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("postgres://rollcall@{}/postgres?sslmode=require", listener.local_addr()?);
    let url = ("WAREHOUSE_DATABASE_URL", url);
    let passed = Arc::new(AtomicUsize::new(0));
    let (acceptor, address) = (Arc::new(config).into(), bench.postgres.address());
    tokio::spawn(stand_before(listener, acceptor, address, Arc::clone(&passed)));

    bench.start_warehouse_with(std::slice::from_ref(&url)).await?;
    eventually("every reader has failed", PATIENCE, || async {
        let told = bench.metrics.render();
        let failures = told.lines().filter(|line| line.starts_with("rollcall_warehouse_failures_total{"));
        Ok((failures.filter(|line| !line.ends_with(" 0")).count() == 3).then_some(()))
    })
    .await?;
    bench.stop_warehouse().await?;
    assert_eq!(passed.load(Ordering::Relaxed), 0);
    let client = bench.postgres.connect().await?;
    assert_eq!(value(&client, "SELECT to_regnamespace('rollcall')").await?, None);

    bench.start_warehouse_with(&[url, ("WAREHOUSE_DATABASE_CA_FILE", ca_file.display().to_string())]).await?;
    bench.caught_up().await?;
    // One for each of the three streams.
    assert!(passed.load(Ordering::Relaxed) >= 3);
    Ok(())
}
