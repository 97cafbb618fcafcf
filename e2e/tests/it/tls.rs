//! TLS to both CRMs and to NATS: an own authority is accepted, an impostor is told nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::stream::Config as StreamConfig;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bitrix24::{Lane, TlsFault as PortalFault};
use e2e::harness::{Mended, Tally, judge};
use e2e::{Bitrix24, Link, Otmechalka, Program, Proxy, School, Stage, eventually, program_path};
use otmechalka::TlsFault;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use runtime::local_nats::{Access, LocalNats, Routes};
use secrecy::SecretString;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::flow::{client, good_contact, status_of};
use crate::secrets::{assert_no_secret_in, assert_told_no_secret, collector, watched};

const PATIENCE: Duration = Duration::from_secs(90);

/// A certificate authority of a school's own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// The files of a server's certificate.
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// Makes one.
    pub fn make() -> anyhow::Result<Authority> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Ok(Authority(CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?))
    }

    /// Returns its own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Writes its own certificate; returns the file.
    pub fn write(&self, folder: &Path, name: &str) -> anyhow::Result<String> {
        let path = folder.join(name);
        std::fs::write(&path, self.pem())?;
        Ok(path.display().to_string())
    }

    /// Signs a certificate for a host, good until the given year.
    pub fn sign(&self, folder: &Path, host: &str, good_until: i32) -> anyhow::Result<Certificate> {
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
    /// Returns what a simulator is to be started with.
    pub fn arguments(&self) -> [String; 6] {
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

/// Returns arguments as they are passed on.
pub fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// The year until which a certificate is good.
pub const GOOD_UNTIL: i32 = 4000;
const EXPIRED: i32 = 2001;

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_over_tls_and_an_impostor_is_told_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::make()?;
    let ours = authority.write(folder.path(), "ours.pem")?;
    let others = Authority::make()?.write(folder.path(), "others.pem")?;
    let arguments = authority.sign(folder.path(), "127.0.0.1", GOOD_UNTIL)?.arguments();
    let mut school = watched(School::builder())
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
    assert_told_no_secret(&school, &[]).await?;
    judge::judge(&school, &Tally::default()).await
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

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_two_authorities_takes_servers_of_either() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (old, new) = (Authority::make()?, Authority::make()?);
    let both = format!("{}{}", old.pem(), new.pem());
    for authority in [old, new] {
        let arguments = authority.sign(folder.path(), "127.0.0.1", GOOD_UNTIL)?.arguments();
        let mut portal = vec!["--dataset", "empty"];
        portal.extend(words(&arguments));
        let portal = Bitrix24::started(Program::start("bitrix24-sim", &portal, [], folder.path())?).await?;
        let webhook = SecretString::from(portal.webhook_url.clone());
        bitrix24::Client::builder(webhook)
            .root_certificates(both.clone())
            .build()?
            .profile(Lane::Live)
            .await?;
        let started = Program::start("otmechalka-sim", &words(&arguments), [], folder.path())?;
        let target = Otmechalka::started(started).await?;
        let asking = otmechalka::Client::builder(target.url.parse()?)
            .token("school-token".into())
            .root_certificates_pem(both.clone().into_bytes())
            .build()?;
        assert!(asking.get_client("1").await?.is_none());
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
        (&good, &others, before, "PEM file in NATS_CA_FILE"),
        (&misnamed, &ours, 0, "put the host in NATS_URL right"),
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
    says("PEM file in NATS_CA_FILE", 1).await?;
    assert_eq!(changed.told().await?, 0, "nothing is told to a server that changed");
    way.lead_to(right);
    says("Connected to NATS", 2).await
}

/// What somebody logs into the proxy with.
const LOGIN: [&str; 2] = ["school", "pr0xy-Wd81mZq4Tt"];

/// A proxy that carries TLS connections for whoever logs in, while it is open. Keeps all that it is told.
struct HttpProxy {
    address: std::net::SocketAddr,
    is_open: Arc<AtomicBool>,
    told: Arc<Mutex<Vec<u8>>>,
}

impl HttpProxy {
    async fn start() -> anyhow::Result<HttpProxy> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (is_open, told) = (Arc::new(AtomicBool::new(true)), Arc::<Mutex<Vec<u8>>>::default());
        let (open, kept) = (is_open.clone(), told.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, open.load(Ordering::SeqCst), kept.clone()));
            }
        });
        Ok(HttpProxy { address, is_open, told })
    }

    fn told(&self) -> Vec<u8> {
        self.told.lock().expect("nobody panics with it").clone()
    }

    fn url(&self) -> String {
        format!("http://{}:{}@{}", LOGIN[0], LOGIN[1], self.address)
    }
}

/// Carries one connection; `is_open` or not, it hears what is asked for first.
async fn carry(mut near: TcpStream, is_open: bool, told: Arc<Mutex<Vec<u8>>>) -> anyhow::Result<()> {
    let keep = |part: &[u8]| told.lock().expect("nobody panics with it").extend_from_slice(part);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(near.read_u8().await?);
    }
    keep(&head);
    let head = String::from_utf8(head)?;
    let login = format!("Basic {}", STANDARD.encode(LOGIN.join(":")));
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let (Some(target), true) = (target, is_open && head.contains(&login)) else {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n";
        return Ok(near.write_all(refusal).await?);
    };
    let far = TcpStream::connect(target).await?;
    near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
    let out = async {
        let mut part = vec![0; 16 << 10];
        while let Ok(length @ 1..) = near_in.read(&mut part).await {
            keep(&part[..length]);
            far_out.write_all(&part[..length]).await?;
        }
        far_out.shutdown().await
    };
    let _ended = tokio::join!(out, tokio::io::copy(&mut far_in, &mut near_out));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_carries_tls_alone_and_learns_no_secret() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::make()?;
    let ours = authority.write(folder.path(), "ours.pem")?;
    let arguments = authority.sign(folder.path(), "127.0.0.1", GOOD_UNTIL)?.arguments();
    let proxy = HttpProxy::start().await?;
    let mut school = watched(School::builder())
        .bitrix24(&words(&arguments))
        .bitrix24(&["--clock-speed", "60"])
        .env("PORTAL_CLOCK_SPEED", "60")
        .otmechalka(&words(&arguments))
        .env("BITRIX24_CA_FILE", &ours)
        .env("OTMECHALKA_CA_FILE", &ours)
        .env("HTTPS_PROXY", &proxy.url())
        .env("HTTP_PROXY", &proxy.url())
        .start()
        .await?;
    let pupil = school.bitrix24.create_contact(good_contact()).await?;
    school.caught_up().await?;
    let told = String::from_utf8_lossy(&proxy.told()).into_owned();
    for url in [&school.bitrix24.webhook_url, &school.otmechalka.url] {
        assert!(told.contains(&format!("CONNECT {} HTTP/1.1", address_of(url)?)), "{url} by the proxy");
    }

    // It lets nobody in, with its connections gone as when it is started anew; then it does again.
    proxy.is_open.store(false, Ordering::SeqCst);
    for stage in [Stage::Producer, Stage::Pusher, Stage::StatusWriter] {
        school.kill_and_start(stage).await?;
    }
    let second = school.bitrix24.create_contact(good_contact()).await?;
    let path = school.log_file(Stage::Producer);
    eventually("word of the producer", PATIENCE, || async {
        Ok(std::fs::read_to_string(&path)?.contains("the proxy wants another login").then_some(()))
    })
    .await?;
    let told = school.rollcall(&["doctor"]).await?;
    assert!(told.out.contains("the proxy wants another login"), "{told:?}");
    let told = format!("{told:?}");
    assert!(!told.contains(LOGIN[1]), "the doctor shows the proxy's password");
    assert_no_secret_in(&school, "what the doctor said", told.into_bytes())?;
    assert_eq!(status_of(&school, "contact", second).await?, "");
    proxy.is_open.store(true, Ordering::SeqCst);
    school.caught_up().await?;

    // Whom NO_PROXY names is asked without it.
    let before = proxy.told().len();
    school.set_env("NO_PROXY", "127.0.0.1");
    for stage in [Stage::Producer, Stage::Pusher, Stage::StatusWriter] {
        school.kill_and_start(stage).await?;
    }
    let third = school.bitrix24.create_contact(good_contact()).await?;
    school.caught_up().await?;
    assert_eq!(proxy.told().len(), before);
    for pupil in [pupil, second, third] {
        assert_eq!(status_of(&school, "contact", pupil).await?, "Успешно");
    }
    assert_no_secret_in(&school, "what the proxy was told", proxy.told())?;
    assert_told_no_secret(&school, &[LOGIN[1]]).await?;
    judge::judge(&school, &Tally::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_proxy_is_asked_to_carry_what_is_not_tls() -> anyhow::Result<()> {
    let spans = collector(Arc::default()).await?;
    let proxy = HttpProxy::start().await?;
    let url = proxy.url();
    let school = School::builder()
        .env("HTTP_PROXY", &url)
        .env("http_proxy", &url)
        .env("ALL_PROXY", &url)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &spans)
        .env("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret-k3y")
        .start()
        .await?;
    school.bitrix24.create_contact(good_contact()).await?;
    school.caught_up().await?;
    assert_eq!(String::from_utf8_lossy(&proxy.told()), "", "the proxy was asked");
    // Nor does a proxy make plain HTTP to elsewhere any better.
    for (stage, name, address) in [
        ("producer", "BITRIX24_WEBHOOK_URL", "http://portal.example/rest/1/s3cretc0de/"),
        ("pusher", "OTMECHALKA_URL", "http://otmechalka.example"),
    ] {
        let folder = tempfile::tempdir()?;
        let settings = [("HTTP_PROXY", url.as_str()), (name, address)];
        let (code, told) = check_without_authorities(stage, &settings, folder.path()).await?;
        assert!(code == Some(64) && told.contains(name) && !told.contains("s3cretc0de"), "{code:?}: {told}");
        assert!(!told.contains(LOGIN[1]), "{told}");
    }
    Ok(())
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
    let school = watched(School::builder())
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
    let mended = Some(Mended::now(&school).await?);
    school.caught_up().await?;
    for id in [pupil, second] {
        assert_eq!(status_of(&school, "contact", id).await?, "Успешно");
    }
    assert_told_no_secret(&school, &[]).await?;
    judge::judge(&school, &Tally { mended, ..Tally::default() }).await
}

/// A server that says in its first words that it speaks TLS 1.1 and nothing newer. Returns what it was told.
async fn old_server(listener: tokio::net::TcpListener) -> anyhow::Result<Vec<u8>> {
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
