//! What lies around the programs: where they listen, and how containers shut them in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use e2e::{eventually, program_path};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::Command;

const CLUSTER_CONF: &str = include_str!("../../../deploy/nats-cluster.conf");

const PATIENCE: Duration = Duration::from_secs(120);

/// A socket that listens: its address as /proc writes it, and its inode.
struct Listening {
    address: String,
    inode: String,
}

/// Reads the listening sockets of a table such as /proc/net/tcp.
fn listening(table: &str) -> Vec<Listening> {
    const LISTEN: &str = "0A";
    let rows = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (address, state, inode) = (columns.get(1)?, columns.get(3)?, columns.get(9)?);
        let row = Listening { address: (*address).to_owned(), inode: (*inode).to_owned() };
        (*state == LISTEN).then_some(row)
    });
    rows.collect()
}

/// Tells whether an address of /proc/net/tcp or tcp6, in hexadecimal words of the machine's order, is loopback.
fn is_loopback(address: &str) -> bool {
    let host = address.split(':').next().unwrap_or_default();
    match host.len() {
        8 => host.ends_with("7F"),
        // ::1, and 127.0.0.0/8 written as an IPv6 address.
        32 => {
            host == "00000000000000000000000001000000"
                || (host.starts_with("0000000000000000FFFF0000") && host.ends_with("7F"))
        }
        _ => false,
    }
}

#[test]
fn loopback_is_told_from_the_rest() {
    for address in
        ["0100007F:1F90", "00000000000000000000000001000000:1", "0000000000000000FFFF00000100007F:1"]
    {
        assert!(is_loopback(address), "{address}");
    }
    for address in ["00000000:1F90", "0101A8C0:1", "00000000000000000000000000000000:1"] {
        assert!(!is_loopback(address), "{address}");
    }
}

/// Returns a process and all that it started.
fn family(root: u32) -> anyhow::Result<BTreeSet<u32>> {
    let mut parents = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end while we look.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        parents.insert(id, parent.unwrap_or(0));
    }
    let mut family = BTreeSet::from([root]);
    while let Some(child) =
        parents.iter().find(|(id, parent)| family.contains(parent) && !family.contains(id))
    {
        family.insert(*child.0);
    }
    Ok(family)
}

/// Returns the inodes of a process's sockets.
fn sockets(process: u32) -> BTreeSet<String> {
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    let inode = |link: PathBuf| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
    links.filter_map(inode).collect()
}

/// Returns the addresses at which a process and all that it started listen.
fn addresses(root: u32) -> anyhow::Result<Vec<String>> {
    let inodes: BTreeSet<String> = family(root)?.into_iter().flat_map(sockets).collect();
    let mut found = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        let ours = listening(&text).into_iter().filter(|row| inodes.contains(&row.inode));
        found.extend(ours.map(|row| row.address));
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_listens_beyond_this_machine() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut up = Command::new(program_path("rollcall")?)
        .args(["up", "--contacts", "5", "--deals", "5"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("NATS_SERVER_BIN", std::env::var_os("NATS_SERVER_BIN").context("NATS_SERVER_BIN; run ./test")?)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let root = up.id().context("it has ended")?;
    let found = eventually("everything runs", PATIENCE, || async {
        anyhow::ensure!(up_runs(root), "rollcall up has ended");
        let names: BTreeSet<String> = family(root)?.into_iter().filter_map(name_of).collect();
        let stages = ["producer", "mapper", "pusher", "status-writer"];
        let found = addresses(root)?;
        // NATS and both doubles listen; the stages do not.
        let is_complete = stages.iter().all(|stage| names.contains(*stage)) && found.len() >= 3;
        Ok(is_complete.then_some(found))
    })
    .await?;
    kill(Pid::from_raw(root as i32), Signal::SIGTERM)?;
    let outside: Vec<&String> = found.iter().filter(|address| !is_loopback(address)).collect();
    assert!(outside.is_empty(), "{outside:?} of {found:?}");
    let ended = tokio::time::timeout(PATIENCE, up.wait()).await??;
    assert!(ended.success(), "{ended}");
    Ok(())
}

fn name_of(process: u32) -> Option<String> {
    Some(std::fs::read_to_string(format!("/proc/{process}/comm")).ok()?.trim().to_owned())
}

fn up_runs(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

/// Reads a compose file with all its anchors and merges put together.
async fn compose() -> anyhow::Result<Value> {
    compose_file("docker-compose.yml").await
}

async fn compose_file(name: &str) -> anyhow::Result<Value> {
    let python = std::env::var("ROLLCALL_PYTHON").context("ROLLCALL_PYTHON names no Python; run ./test")?;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    let script = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let output = Command::new(python).args(["-c", script]).arg(file).output().await?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[tokio::test]
async fn every_container_is_shut_in_and_published_on_this_machine_only() -> anyhow::Result<()> {
    let file = compose().await?;
    let services = file["services"].as_object().context("services")?;
    assert!(services.len() >= 14, "{:?}", services.keys());
    for (name, service) in services {
        assert_shut_in(name, service);
    }
    Ok(())
}

#[tokio::test]
async fn secrets_from_files_stand_in_nobodys_environment() -> anyhow::Result<()> {
    let (whole, more) = (compose().await?, compose_file("deploy/secrets.yml").await?);
    for secret in ["BITRIX24_WEBHOOK_URL", "OTMECHALKA_TOKEN"] {
        let file = secret.to_lowercase();
        let mut holders = BTreeSet::new();
        for (name, service) in whole["services"].as_object().context("services")? {
            if service["environment"][secret].is_null() {
                continue;
            }
            holders.insert(name.as_str());
            let service = &more["services"][name];
            assert_eq!(service["environment"][secret], "", "{name} keeps {secret} in its environment");
            let path = format!("/run/secrets/{file}");
            assert_eq!(service["environment"][format!("{secret}_FILE")], path, "{name}");
            assert!(texts(&service["secrets"]).contains(&file.as_str()), "{name} cannot read {path}");
        }
        assert!(holders.len() > 1, "{holders:?}");
        // Nobody else gets to see it.
        for (name, service) in more["services"].as_object().context("services")? {
            let is_let_in = texts(&service["secrets"]).contains(&file.as_str());
            assert_eq!(is_let_in, holders.contains(name.as_str()), "{name}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn subscribers_reach_nats_from_this_machine_only() -> anyhow::Result<()> {
    let (whole, more) = (compose().await?, compose_file("deploy/subscribers.yml").await?);
    let services = more["services"].as_object().context("services")?;
    assert_eq!(services.keys().collect::<Vec<_>>(), ["nats"]);
    let mut server = whole["services"]["nats"].clone();
    assert!(server["ports"].is_null(), "without this file nothing is published");
    for (key, value) in services["nats"].as_object().context("nats")? {
        assert_eq!(key, "ports", "it changes nothing else");
        server[key] = value.clone();
    }
    assert_shut_in("nats", &server);
    let [port] = texts(&server["ports"])[..] else { anyhow::bail!("{}", server["ports"]) };
    let (outside, inside) = port.rsplit_once(':').context("a port inside")?;
    assert_eq!((outside, inside), ("127.0.0.1:${NATS_PORT:-4222}", "4222"));
    // What the page tells subscribers is this address.
    let page = include_str!("../../../docs/subscribing.md");
    assert!(page.contains("deploy/subscribers.yml") && page.contains("--server nats://127.0.0.1:4222"));
    Ok(())
}

fn assert_shut_in(name: &str, service: &Value) {
    let user = service["user"].as_str().unwrap_or_default();
    assert!(!user.is_empty() && user != "root" && !user.starts_with('0'), "{name} runs as {user:?}");
    assert_eq!(service["read_only"], true, "{name}");
    assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
    assert_eq!(texts(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
    assert_eq!(service["ulimits"]["core"], 1, "{name}");
    for forbidden in ["privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"] {
        assert!(service[forbidden].is_null(), "{name} has {forbidden}");
    }
    assert_ne!(service["network_mode"], "host", "{name}");
    for port in texts(&service["ports"]) {
        assert!(port.starts_with("127.0.0.1:"), "{name} publishes {port}");
    }
    assert!(service["ports"].as_array().is_none_or(|ports| ports.iter().all(Value::is_string)), "{name}");
    for volume in service["volumes"].as_array().into_iter().flatten() {
        assert!(!volume.to_string().contains("docker.sock"), "{name} mounts {volume}");
        // What comes from the host is only looked at.
        match volume {
            Value::String(volume) => {
                assert!(!volume.starts_with(['.', '/']) || volume.ends_with(":ro"), "{name} mounts {volume}");
            }
            volume => {
                assert!(volume["type"] == "bind" && volume["read_only"] == true, "{name} mounts {volume}");
            }
        }
    }
}

#[tokio::test]
async fn the_three_servers_are_shut_in_apart_and_known_to_every_program() -> anyhow::Result<()> {
    let (single, cluster) = (compose().await?, compose_file("docker-compose.cluster.yml").await?);
    let services = cluster["services"].as_object().context("services")?;
    let servers: Vec<&String> = services.keys().filter(|name| name.starts_with("nats")).collect();
    assert_eq!(servers, ["nats", "nats-2", "nats-3"]);
    let mut stores = BTreeSet::new();
    for name in servers {
        // Of the first it says only what is other than for a server alone.
        let mut server = services[name].clone();
        if name == "nats" {
            let alone = single["services"]["nats"].as_object().context("the single server")?;
            let server = server.as_object_mut().context("the first server")?;
            for (key, value) in alone {
                server.entry(key).or_insert_with(|| value.clone());
            }
        }
        let server = &server;
        assert_shut_in(name, server);
        assert_eq!(texts(&server["entrypoint"]).last(), Some(&"/etc/rollcall/nats-cluster.conf"));
        for same in ["image", "user", "healthcheck", "depends_on"] {
            let (ours, theirs) = (&server[same], &single["services"]["nats"][same]);
            assert!(!ours.is_null() && ours == theirs, "{name} has another {same}");
        }
        assert!(server["ports"].is_null(), "{name} publishes a port");
        let routes = texts(&server["networks"]["routes"]["aliases"]).concat();
        assert_eq!(server["environment"]["NATS_ROUTES_LISTEN"], format!("{routes}:6222"));
        assert!(CLUSTER_CONF.contains(&format!("nats://{routes}:6222")), "{routes}");
        stores.insert(texts(&server["volumes"])[0].to_owned());
    }
    assert_eq!(stores.len(), 3, "{stores:?}");
    assert!(CLUSTER_CONF.contains("sync_interval: always"));
    assert_eq!(cluster["networks"]["routes"]["internal"], true);

    // Whoever asks the single server knows all three, and nobody else is on their network.
    for (name, service) in single["services"].as_object().context("services")? {
        if service["environment"]["NATS_URL"].is_null() {
            continue;
        }
        let url = services.get(name).and_then(|service| service["environment"]["NATS_URL"].as_str());
        let url = url.with_context(|| format!("{name} knows one server only"))?;
        assert!(url.contains("nats://nats:4222,nats://nats-2:4222,nats://nats-3:4222"), "{name}: {url}");
        assert!(services[name]["networks"].is_null(), "{name}");
    }
    for name in ["bootstrap", "rollcall"] {
        assert_eq!(services[name]["environment"]["NATS_REPLICAS"], "${NATS_REPLICAS:-3}");
    }
    Ok(())
}

#[tokio::test]
async fn each_container_sees_the_secrets_of_its_own_program_only() -> anyhow::Result<()> {
    let file = compose().await?;
    let services = file["services"].as_object().context("services")?;
    let sees = |service: &Value, name: &str| {
        service["environment"].as_object().is_some_and(|set| set.contains_key(name))
    };
    let who = |name: &str| -> BTreeSet<&str> {
        services.iter().filter(|(_, service)| sees(service, name)).map(|(name, _)| name.as_str()).collect()
    };
    let portal = BTreeSet::from(["bootstrap", "producer", "rollcall", "status-writer", "warehouse"]);
    assert_eq!(who("BITRIX24_WEBHOOK_URL"), portal);
    assert_eq!(who("OTMECHALKA_TOKEN"), BTreeSet::from(["pusher", "rollcall"]));
    for user in ["producer", "mapper", "pusher", "status-writer", "page"] {
        let mount = format!("nats-{user}:/run/nats:ro");
        let mounted =
            services.iter().filter(|(_, service)| texts(&service["volumes"]).contains(&mount.as_str()));
        assert_eq!(mounted.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [user]);
    }
    // A volume that the image has no folder for would be root's, and nobody could write to it.
    let dockerfile = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Dockerfile"))?;
    let (_, made) = dockerfile.split_once("for user in ").context("the folders of the credentials")?;
    let made: Vec<&str> = made.split(';').next().unwrap_or_default().split_whitespace().collect();
    let written: Vec<&str> = texts(&services["credentials"]["volumes"])
        .into_iter()
        .filter_map(|volume| volume.split_once(":/var/lib/credentials/").map(|(_, folder)| folder))
        .collect();
    assert_eq!(made, written);
    Ok(())
}

#[tokio::test]
async fn every_image_from_elsewhere_can_be_pinned() -> anyhow::Result<()> {
    let dockerfile = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Dockerfile"))?;
    let (mut variables, mut stages) = (Vec::new(), Vec::new());
    for line in dockerfile.lines() {
        if let Some(variable) = line.strip_prefix("ARG ").and_then(|rest| rest.split_once('=')) {
            variables.push(variable);
        }
        let Some((from, stage)) = line.strip_prefix("FROM ").and_then(|rest| rest.split_once(" AS ")) else {
            assert!(!line.starts_with("FROM"), "{line}");
            continue;
        };
        let is_variable = variables.iter().any(|(name, _)| from == format!("${{{name}}}"));
        assert!(is_variable || stages.contains(&from), "{line}");
        stages.push(stage);
    }
    assert_eq!(variables.len(), 3);
    let file = compose().await?;
    for (name, service) in file["services"].as_object().context("services")? {
        let image = service["image"].as_str().unwrap_or_default();
        assert!(image.starts_with("rollcall/") || image.contains("_IMAGE:-"), "{name} is {image}");
        if let Some(build) = service["build"].as_object() {
            for (variable, default) in &variables {
                let expected = format!("${{{variable}:-{default}}}");
                assert_eq!(build["args"][variable], expected.as_str(), "{name}");
            }
            assert!(stages.contains(&build["target"].as_str().unwrap_or_default()), "{name}");
        }
    }
    Ok(())
}
