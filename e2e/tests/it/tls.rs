//! TLS to both CRMs and to NATS: an own authority is accepted, an impostor is told nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::stream::Config as StreamConfig;
use bitrix24::{Lane, TlsFault as PortalFault};
use e2e::{Bitrix24, Link, Otmechalka, Program, Proxy, School, Stage, eventually, program_path};
use otmechalka::TlsFault;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use runtime::local_nats::{Access, LocalNats, Routes};
use secrecy::SecretString;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::flow::{client, good_contact, status_of};

const PATIENCE: Duration = Duration::from_secs(90);

/// A certificate authority of a school's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// The files of a server's certificate.
struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
}

impl Authority {
    fn make() -> anyhow::Result<Authority> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Ok(Authority(CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn write(&self, folder: &Path, name: &str) -> anyhow::Result<String> {
        let path = folder.join(name);
        std::fs::write(&path, self.pem())?;
        Ok(path.display().to_string())
    }

    /// Signs a certificate for a host, good until the given year.
    fn sign(&self, folder: &Path, host: &str, good_until: i32) -> anyhow::Result<Certificate> {
        let mut parameters = CertificateParams::new([host.to_owned()])?;
        parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(good_until, 1, 1);
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.0)?;
        let path = |kind: &str| folder.join(format!("{host}-{good_until}.{kind}.pem"));
        std::fs::write(path("certificate"), certificate.pem())?;
        std::fs::write(path("key"), key.serialize_pem())?;
        Ok(Certificate { certificate: path("certificate"), key: path("key") })
    }
}

impl Certificate {
    fn arguments(&self) -> [String; 6] {
        let [certificate, key] = [&self.certificate, &self.key].map(|path| path.display().to_string());
        [
            "--tls-listen".into(),
            "127.0.0.1:0".into(),
            "--tls-cert".into(),
            certificate,
            "--tls-key".into(),
            key,
        ]
    }
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

const GOOD_UNTIL: i32 = 4000;
const EXPIRED: i32 = 2001;

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_over_tls_and_an_impostor_is_told_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::make()?;
    let ours = authority.write(folder.path(), "ours.pem")?;
    let others = Authority::make()?.write(folder.path(), "others.pem")?;
    let arguments = authority.sign(folder.path(), "127.0.0.1", GOOD_UNTIL)?.arguments();
    let mut school = School::builder()
        .bitrix24(&words(&arguments))
        .otmechalka(&words(&arguments))
        .env("BITRIX24_CA_FILE", &ours)
        .env("OTMECHALKA_CA_FILE", &others)
        .start()
        .await?;
    assert!(school.bitrix24.webhook_url.starts_with("https://"), "the stages go by TLS");
    let pupil = school.bitrix24.create_contact(good_contact()).await?;

    // The pusher takes otmechalka for an impostor and says what to do.
    let log_says = async |school: &School, stage: Stage, words: [&str; 2]| {
        let path = school.log_file(stage);
        let what = format!("{words:?} in the log of {stage:?}");
        eventually(&what, PATIENCE, || async {
            let log = std::fs::read_to_string(&path)?;
            Ok(log.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(()))
        })
        .await
    };
    log_says(&school, Stage::Pusher, ["authority unknown here", "OTMECHALKA_CA_FILE"]).await?;
    assert_eq!(school.otmechalka.requests().await?["total"], 0);
    assert_eq!(status_of(&school, "contact", pupil).await?, "");

    // So do both stages that talk to Bitrix24.
    for stage in [Stage::Producer, Stage::StatusWriter, Stage::Pusher] {
        school.stage(stage)?.kill().await?;
    }
    school.bitrix24.reset_requests().await?;
    school.set_env("BITRIX24_CA_FILE", &others);
    school.set_env("OTMECHALKA_CA_FILE", &ours);
    for stage in [Stage::Producer, Stage::StatusWriter, Stage::Pusher] {
        school.start(stage)?;
    }
    log_says(&school, Stage::Producer, ["authority unknown here", "BITRIX24_CA_FILE"]).await?;
    log_says(&school, Stage::StatusWriter, ["authority unknown here", "BITRIX24_CA_FILE"]).await?;
    assert_eq!(school.bitrix24.requests().await?["requests"], 0);

    // Put right, everything arrives.
    school.set_env("BITRIX24_CA_FILE", &ours);
    for stage in [Stage::Producer, Stage::StatusWriter] {
        school.kill_and_start(stage).await?;
    }
    school.caught_up().await?;
    assert_eq!(status_of(&school, "contact", pupil).await?, "Успешно");
    assert!(client(&school, pupil).await?.is_some());
    school.assert_consistent().await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_tells_a_secret_to_a_server_that_does_not_prove_its_name() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::make()?;
    let good = authority.sign(folder.path(), "127.0.0.1", GOOD_UNTIL)?;
    let misnamed = authority.sign(folder.path(), "portal.example", GOOD_UNTIL)?;
    let expired = authority.sign(folder.path(), "127.0.0.1", EXPIRED)?;
    let stranger = Authority::make()?.pem();
    let cases = [
        (&good, stranger, PortalFault::UnknownAuthority, TlsFault::UnknownAuthority),
        (&misnamed, authority.pem(), PortalFault::WrongName, TlsFault::WrongName),
        (&expired, authority.pem(), PortalFault::Expired, TlsFault::Expired),
    ];
    for (certificate, pem, portal_fault, fault) in cases {
        let arguments = certificate.arguments();
        let mut portal = vec!["--dataset", "empty"];
        portal.extend(words(&arguments));
        let portal = Bitrix24::started(Program::start("bitrix24-sim", &portal, [], folder.path())?).await?;
        let webhook = SecretString::from(portal.webhook_url.clone());
        let asking = bitrix24::Client::builder(webhook).root_certificates(pem.clone()).build()?;
        let error = asking.profile(Lane::Live).await.expect_err("no trust");
        assert!(
            matches!(error, bitrix24::Error::Untrusted { fault, .. } if fault == portal_fault),
            "{error:?}"
        );
        assert_eq!(portal.requests().await?["requests"], 0, "{portal_fault:?}");

        let started = Program::start("otmechalka-sim", &words(&arguments), [], folder.path())?;
        let target = Otmechalka::started(started).await?;
        let asking = otmechalka::Client::builder(target.url.parse()?)
            .token("school-token".into())
            .root_certificates_pem(pem.into_bytes())
            .build()?;
        let error = asking.get_client("1").await.expect_err("no trust");
        assert!(
            matches!(error, otmechalka::Error::Untrusted { fault: found, .. } if found == fault),
            "{error:?}"
        );
        assert_eq!(target.requests().await?["total"], 0, "{fault:?}");
    }
    Ok(())
}

/// A nats-server that speaks TLS only.
struct TlsNats {
    url: String,
    monitor: String,
    _server: Child,
}

impl TlsNats {
    async fn start(folder: &Path, certificate: &Certificate) -> anyhow::Result<TlsNats> {
        let program = std::env::var_os("NATS_SERVER_BIN").context("NATS_SERVER_BIN; run ./test")?;
        let free = || -> anyhow::Result<u16> {
            Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
        };
        let (port, monitor) = (free()?, free()?);
        let store = tempfile::tempdir_in(folder)?.keep();
        let server = Command::new(program)
            .args(["--addr=127.0.0.1", "--jetstream", "--tls"])
            .arg(format!("--port={port}"))
            .arg(format!("--http_port={monitor}"))
            .arg(format!("--store_dir={}", store.display()))
            .arg(format!("--tlscert={}", certificate.certificate.display()))
            .arg(format!("--tlskey={}", certificate.key.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let nats = TlsNats {
            url: format!("tls://127.0.0.1:{port}"),
            monitor: format!("http://127.0.0.1:{monitor}"),
            _server: server,
        };
        eventually("nats-server answers", PATIENCE, || async { Ok(nats.told().await.ok()) }).await?;
        Ok(nats)
    }

    fn address(&self) -> anyhow::Result<std::net::SocketAddr> {
        Ok(self.url.strip_prefix("tls://").context("tls")?.parse()?)
    }

    /// Returns how many messages it was told.
    async fn told(&self) -> anyhow::Result<u64> {
        // A second installation in one process keeps the first.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let text = reqwest::get(format!("{}/varz", self.monitor)).await?.text().await?;
        let state: serde_json::Value = serde_json::from_str(&text)?;
        state["in_msgs"].as_u64().context("in_msgs")
    }
}

/// Starts a cluster of three whose servers know each other by certificates, as deploy/nats-cluster.conf proposes.
async fn start_cluster(
    folder: &Path,
    authority: &Authority,
    certificate: &Certificate,
    routes: &Routes,
) -> anyhow::Result<Vec<LocalNats>> {
    const PROPOSAL: &str = include_str!("../../../deploy/nats-cluster.conf");
    std::fs::create_dir_all(folder)?;
    authority.write(folder, "ca.pem")?;
    std::fs::copy(&certificate.certificate, folder.join("cert.pem"))?;
    std::fs::copy(&certificate.key, folder.join("key.pem"))?;
    let block =
        PROPOSAL.lines().find_map(|line| line.trim().strip_prefix("# tls {")).context("a proposal")?;
    let block = block.replace("/etc/rollcall/routes", &folder.display().to_string());
    let config = folder.join("nats.conf");
    std::fs::write(&config, format!("cluster {{\n tls {{{block}\n}}"))?;
    let access = Access { config, seed: None };
    Ok(LocalNats::start_cluster(folder, Some(&access), routes).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_a_cluster_know_each_other_by_certificates_and_let_no_other_in() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (authority, other) = (Authority::make()?, Authority::make()?);
    let ours = authority.sign(folder.path(), "127.0.0.1", 2100)?;
    let routes = Routes::direct()?;
    let three = folder.path().join("three");
    let servers = start_cluster(&three, &authority, &ours, &routes).await?;
    let jetstream = async_nats::jetstream::new(async_nats::connect(servers[0].url()).await?);
    let config = StreamConfig { name: "COPIES".into(), num_replicas: 3, ..StreamConfig::default() };
    eventually("a stream on all three", PATIENCE, || async {
        Ok(jetstream.create_stream(config.clone()).await.ok().map(drop))
    })
    .await?;

    // Whoever comes without TLS, or with a certificate of another authority, stays outside.
    let mut stranger = BufReader::new(TcpStream::connect(("127.0.0.1", routes.listen[0])).await?);
    let mut greeting = String::new();
    stranger.read_line(&mut greeting).await?;
    assert_eq!(greeting, "", "who speaks no TLS is told nothing");
    let theirs = other.sign(folder.path(), "127.0.0.1", 2101)?;
    let impostor = Routes { listen: Routes::direct()?.listen, ways: [routes.listen; 3] };
    let others = folder.path().join("others");
    tokio::select! {
        joined = start_cluster(&others, &other, &theirs, &impostor) => {
            anyhow::bail!("servers of another authority have joined: {:?}", joined.map(|_| ()));
        }
        refused = eventually("a refusal", PATIENCE, || async {
            let log = std::fs::read_to_string(three.join("n1/nats-server.log"))?;
            Ok(log.contains("TLS route handshake error").then_some(()))
        }) => refused,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_is_known_by_its_certificate_and_an_impostor_is_told_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::make()?;
    let ours = authority.write(folder.path(), "ours.pem")?;
    let others = Authority::make()?.write(folder.path(), "others.pem")?;
    let good =
        TlsNats::start(folder.path(), &authority.sign(folder.path(), "127.0.0.1", GOOD_UNTIL)?).await?;
    let environment = |nats: &TlsNats, ca: &str| {
        let state = folder.path().join("state").display().to_string();
        [
            ("NATS_URL", nats.url.clone()),
            ("NATS_CA_FILE", ca.to_owned()),
            ("STATE_DIR", state),
            ("RUST_LOG", "debug".to_owned()),
        ]
    };
    let bootstrap = Command::new(program_path("rollcall")?)
        .arg("bootstrap")
        .env_clear()
        .envs(environment(&good, &ours))
        .current_dir(folder.path())
        .output()
        .await?;
    assert!(bootstrap.status.success(), "{}", String::from_utf8_lossy(&bootstrap.stderr));

    let (misnamed, expired) = (
        TlsNats::start(folder.path(), &authority.sign(folder.path(), "nats.example", GOOD_UNTIL)?).await?,
        TlsNats::start(folder.path(), &authority.sign(folder.path(), "127.0.0.1", EXPIRED)?).await?,
    );
    let before = good.told().await?;
    for (nats, ca, quiet, why) in [
        (&good, &others, before, "another authority than those in NATS_CA_FILE"),
        (&misnamed, &ours, 0, "another host than NATS_URL names"),
        (&expired, &ours, 0, "has expired"),
    ] {
        let logs = tempfile::tempdir_in(folder.path())?;
        let mut mapper = Program::start("mapper", &[], environment(nats, ca), logs.path())?;
        eventually("the mapper says what to do", PATIENCE, || async {
            Ok(mapper.log()?.contains(why).then_some(()))
        })
        .await?;
        assert_eq!(nats.told().await?, quiet, "nothing is told to {}", nats.url);
        assert_eq!(mapper.stop().await?, 0);
    }

    // The certificate changes under a mapper that is connected, and is put right.
    let stranger = tempfile::tempdir_in(folder.path())?;
    let changed = Authority::make()?.sign(stranger.path(), "127.0.0.1", GOOD_UNTIL)?;
    let changed = TlsNats::start(folder.path(), &changed).await?;
    let way = Proxy::to(good.address()?).await?;
    let mut settings = environment(&good, &ours);
    settings[0].1 = format!("tls://{}", way.address());
    let mapper = Program::start("mapper", &[], settings, folder.path())?;
    let says = async |words: &str, times: usize| {
        eventually(&format!("{words} {times} times"), PATIENCE, || async {
            Ok((mapper.log()?.matches(words).count() >= times).then_some(()))
        })
        .await
    };
    says("Connected to NATS", 1).await?;
    let right = way.lead_to(changed.address()?);
    says("another authority than those in NATS_CA_FILE", 1).await?;
    assert_eq!(changed.told().await?, 0, "nothing is told to a server that changed");
    way.lead_to(right);
    says("Connected to NATS", 2).await
}

/// Returns the address of a simulator's way in by TLS.
fn address_of(url: &str) -> anyhow::Result<std::net::SocketAddr> {
    let rest = url.strip_prefix("https://").context("https")?;
    Ok(rest.split('/').next().unwrap_or_default().parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crms_certificate_that_changes_in_mid_run_stops_the_work_until_it_is_put_right()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::make()?;
    let ours = authority.write(folder.path(), "ours.pem")?;
    let arguments = authority.sign(folder.path(), "127.0.0.1", GOOD_UNTIL)?.arguments();
    let school = School::builder()
        .networked()
        .bitrix24(&words(&arguments))
        .bitrix24(&["--clock-speed", "60"])
        .env("PORTAL_CLOCK_SPEED", "60")
        .otmechalka(&words(&arguments))
        .env("BITRIX24_CA_FILE", &ours)
        .env("OTMECHALKA_CA_FILE", &ours)
        .start()
        .await?;
    let pupil = school.bitrix24.create_contact(good_contact()).await?;
    school.caught_up().await?;
    let says = async |stage: Stage| {
        let path = school.log_file(stage);
        eventually(&format!("word of {stage:?}"), PATIENCE, || async {
            Ok(std::fs::read_to_string(&path)?.contains("authority unknown here").then_some(()))
        })
        .await
    };

    // The same addresses, and certificates that nobody here knows.
    let stranger = tempfile::tempdir()?;
    let arguments = Authority::make()?.sign(stranger.path(), "127.0.0.1", GOOD_UNTIL)?.arguments();
    let started = Program::start("otmechalka-sim", &words(&arguments), [], stranger.path())?;
    let other_otmechalka = Otmechalka::started(started).await?;
    let right_otmechalka = school.lead(Link::Otmechalka, address_of(&other_otmechalka.url)?)?;
    let edit = serde_json::json!({"PHONE": [{"VALUE": "8 (926) 555-77-88", "VALUE_TYPE": "MOBILE"}]});
    school.bitrix24.edit("contact", pupil, edit).await?;
    says(Stage::Pusher).await?;
    let mut portal = vec!["--dataset", "empty"];
    portal.extend(words(&arguments));
    let other_portal =
        Bitrix24::started(Program::start("bitrix24-sim", &portal, [], stranger.path())?).await?;
    let right_portal = school.lead(Link::Bitrix24, address_of(&other_portal.webhook_url)?)?;
    says(Stage::Producer).await?;
    let second = school.bitrix24.create_contact(good_contact()).await?;
    assert_eq!(other_portal.requests().await?["requests"], 0);
    assert_eq!(other_otmechalka.requests().await?["total"], 0);
    assert_eq!(status_of(&school, "contact", second).await?, "");

    school.lead(Link::Otmechalka, right_otmechalka)?;
    school.lead(Link::Bitrix24, right_portal)?;
    school.caught_up().await?;
    for id in [pupil, second] {
        assert_eq!(status_of(&school, "contact", id).await?, "Успешно");
    }
    school.assert_consistent().await
}

/// A server that says in its first words that it speaks TLS 1.1 and nothing newer. Returns what it was told.
async fn old_server(listener: tokio::net::TcpListener) -> anyhow::Result<Vec<u8>> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut stream, _) = listener.accept().await?;
    let mut header = [0; 5];
    stream.read_exact(&mut header).await?;
    let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    stream.read_exact(&mut hello).await?;
    // A record of a handshake; its server hello: version, random, no session, an old cipher, no compression.
    let mut answer = vec![22, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    answer.extend([7; 32]);
    answer.extend([0, 0, 0x2f, 0]);
    stream.write_all(&answer).await?;
    let mut told = Vec::new();
    // However the other side ends it.
    let _ended = stream.read_to_end(&mut told).await;
    Ok(told)
}

#[tokio::test]
async fn a_server_that_speaks_tls_1_1_at_most_is_told_nothing() -> anyhow::Result<()> {
    const ALERT: u8 = 21;
    for is_portal in [true, false] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(old_server(listener));
        let pem = Authority::make()?.pem();
        if is_portal {
            let webhook = SecretString::from(format!("https://{address}/rest/1/s3cretc0de/"));
            let asking = bitrix24::Client::builder(webhook).root_certificates(pem).build()?;
            asking.profile(Lane::Live).await.expect_err("no common version");
        } else {
            let asking = otmechalka::Client::builder(format!("https://{address}/").parse()?)
                .token("school-token".into())
                .root_certificates_pem(pem.into_bytes())
                .build()?;
            asking.get_client("1").await.expect_err("no common version");
        }
        let told = server.await??;
        // Two bytes of an alert behind a header of five, and nothing else.
        assert!(told.is_empty() || (told[0] == ALERT && told.len() == 7), "{told:?}");
    }
    Ok(())
}

/// Lets a stage check its settings on a machine without any CA certificates.
async fn check_without_authorities(
    stage: &str,
    settings: &[(&str, &str)],
    folder: &Path,
) -> anyhow::Result<(Option<i32>, String)> {
    let empty = folder.join("no-authorities");
    std::fs::write(&empty, "")?;
    let output = Command::new(program_path(stage)?)
        .arg("check")
        .env_clear()
        .env("SSL_CERT_FILE", &empty)
        .env("NATS_URL", "nats://127.0.0.1:4222")
        .envs([
            ("SYNC_START_DATE", "2020-12-22"),
            ("SYNC_CONTACTS_LAST_MODIFY_TIMESTAMP", "2020-12-24"),
            ("SYNC_DEAL_LAST_MODIFY_TIMESTAMP", "2020-12-24"),
        ])
        .envs(settings.iter().copied())
        .current_dir(folder)
        .output()
        .await?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[tokio::test]
async fn a_machine_without_authorities_is_named_and_not_the_address() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let ours = Authority::make()?.write(folder.path(), "ours.pem")?;
    for (stage, address, ca_file) in [
        ("producer", ("BITRIX24_WEBHOOK_URL", "//127.0.0.1/rest/1/s3cretc0de/"), "BITRIX24_CA_FILE"),
        ("status-writer", ("BITRIX24_WEBHOOK_URL", "//127.0.0.1/rest/1/s3cretc0de/"), "BITRIX24_CA_FILE"),
        ("pusher", ("OTMECHALKA_URL", "//127.0.0.1/"), "OTMECHALKA_CA_FILE"),
    ] {
        let (name, rest) = address;
        let (secure, plain) = (format!("https:{rest}"), format!("http:{rest}"));
        let (code, text) = check_without_authorities(stage, &[(name, &secure)], folder.path()).await?;
        assert_eq!(code, Some(64), "{stage}: {text}");
        assert!(text.contains("no CA certificates") && text.contains(ca_file), "{stage}: {text}");
        assert!(!text.contains("s3cret"), "{text}");
        // With an authority of its own, or without TLS on loopback, none of the system is needed.
        let own = [(name, secure.as_str()), (ca_file, ours.as_str())];
        for settings in [&own[..], &[(name, plain.as_str())]] {
            let (code, text) = check_without_authorities(stage, settings, folder.path()).await?;
            assert_eq!(code, Some(0), "{stage}: {text}");
        }
        // Plain HTTP to anywhere else is refused whatever certificates there are.
        let elsewhere = plain.replace("127.0.0.1", "portal.example");
        let (code, text) = check_without_authorities(stage, &[(name, &elsewhere)], folder.path()).await?;
        assert!(code == Some(64) && text.contains(name) && text.contains("https"), "{stage}: {text}");
    }
    Ok(())
}
