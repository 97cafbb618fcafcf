#!/usr/bin/env python3
"""Plays a school in the containers of docker-compose.yml: replicas, the status page, little memory and hardly any CPU.

    docker compose build && tools/test-containers.py
    tools/test-containers.py --cluster    # with three NATS servers, one of which dies and comes back

Starts a project of its own, with both doubles over TLS, and removes it with its volumes. Exit code 1: something is not as
it should be; 75: there is no Docker, or the images are not built.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A name of its own for each run: what an earlier one left would pass for the work of this one.
PROJECT = f"rollcall-test-{os.getpid()}"
LABEL = "label=com.docker.compose"
SCALE = {"producer": 2, "mapper": 2, "pusher": 4, "status-writer": 2}
RECORDS = 200
MEMORY, CPUS = "96m", "0.05"
# A start under 5 % of a CPU takes its time.
PATIENCE = 600
BITRIX24, OTMECHALKA, PAGE = (f"http://127.0.0.1:{port}" for port in (8080, 8081, 8088))
STATUS, SUCCESS = "UF_CRM_SYNC_STATUS", "Успешно"

SETTINGS = {
    "BITRIX24_WEBHOOK_URL": "https://bitrix24-sim:8443/rest/1/test-of-containers/",
    "BITRIX24_CA_FILE": "/tls/ca.pem",
    "OTMECHALKA_URL": "https://otmechalka-sim:8443",
    "OTMECHALKA_CA_FILE": "/tls/ca.pem",
    "CONTACT_SYNC_INTERVAL": "2s",
    "DEAL_SYNC_INTERVAL": "2s",
}


class Wrong(Exception):
    """Something is not as it should be."""


def run(*words, **more):
    return subprocess.run(words, check=True, capture_output=True, text=True, **more).stdout


def require(holds, what):
    if not holds:
        raise Wrong(what)


def until(what, look):
    """Waits until something holds; returns it."""
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        require(time.monotonic() < end, f"{what} did not come about within {PATIENCE} s")
        time.sleep(1)
    return found


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"} if data else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.read().decode()
    except OSError as error:
        raise Wrong(f"{url}: {error}") from error


def certificates(folder):
    """Makes an authority, and a certificate that it signed for both doubles."""
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    run(*openssl, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test", cwd=folder)
    run(*openssl, "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=doubles", "-CA", "ca.pem", "-CAkey", "ca.key",
        "-addext", "subjectAltName=DNS:bitrix24-sim,DNS:otmechalka-sim",
        "-addext", "basicConstraints=critical,CA:FALSE", cwd=folder)
    (folder / "ca.key").unlink()
    for path in [folder, *folder.iterdir()]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def overrides(folder):
    """Returns what differs from docker-compose.yml."""
    mount = [f"{folder}:/tls:ro"]
    tls = ["--tls-listen", "0.0.0.0:8443", "--tls-cert", "/tls/cert.pem", "--tls-key", "/tls/key.pem"]
    kept = ["--state-dir", "/var/lib/rollcall", *tls]
    portal = ["--listen", "0.0.0.0:8080", "--secret", "test-of-containers", "--dataset", "plain", "--update-seconds",
              "0.001", "--contacts", str(RECORDS), "--deals", str(RECORDS), *kept]
    services = {
        "bitrix24-sim": {"command": portal, "volumes": mount},
        "otmechalka-sim": {"command": ["--listen", "0.0.0.0:8081", "--latency-ms", "50", *kept], "volumes": mount},
    }
    services |= {stage: {"volumes": mount} for stage in ["bootstrap", *SCALE]}
    return {"services": services}


class Compose:
    def __init__(self, folder, is_cluster):
        self.servers = ["nats", "nats-2", "nats-3"] if is_cluster else ["nats"]
        program = ["docker", "compose"]
        if subprocess.run([*program, "version"], capture_output=True, check=False).returncode:
            program = ["docker-compose"]
        (folder / "override.json").write_text(json.dumps(overrides(folder / "tls")))
        (folder / "empty.env").write_text("")
        files = ["-f", ROOT / "docker-compose.yml"]
        if is_cluster:
            files += ["-f", ROOT / "docker-compose.cluster.yml"]
        files += ["-f", folder / "override.json"]
        self.words = [*program, "-p", PROJECT, "--env-file", folder / "empty.env", "--project-directory", ROOT, *files]
        # Neither the settings of a real school nor those of whoever runs this.
        self.environment = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ}

    def __call__(self, *words):
        return run(*map(str, self.words), *words, env=self.environment | SETTINGS)

    def remove(self):
        """Removes all of it. Docker may hold on to a network whose containers are gone; that is left then."""
        for listing, removal in [("ps --all", "rm --force --volumes"), ("volume ls", "volume rm"),
                                 ("network ls", "network rm")]:
            ids = run("docker", *listing.split(), "--quiet", "--filter", f"{LABEL}.project={PROJECT}").split()
            if ids:
                removed = subprocess.run(["docker", *removal.split(), *ids], capture_output=True, text=True, check=False)
                print(removed.stderr, end="", file=sys.stderr)

    def containers(self, service):
        ids = run("docker", "ps", "--all", "--quiet", "--filter", f"{LABEL}.project={PROJECT}",
                  "--filter", f"{LABEL}.service={service}").split()
        return json.loads(run("docker", "inspect", *ids)) if ids else []

    def stages(self):
        return [(stage, container) for stage in SCALE for container in self.containers(stage)]


def statuses():
    state = json.loads(ask(f"{BITRIX24}/admin/state"))
    return [record.get(STATUS) for kind in ("contacts", "deals") for record in state[kind]]


def until_all_succeed(more=0):
    def done():
        found = statuses()
        return len(found) >= 2 * RECORDS + more and all(status == SUCCESS for status in found)
    until("the success of all records", done)


def no_doubles():
    calls = json.loads(ask(f"{OTMECHALKA}/admin/state"))
    for kind in ("clients", "tickets"):
        ids = [record["origin_id"] for record in calls[kind]]
        require(len(ids) == len(set(ids)), f"{kind} are there twice")
        require(len(ids) >= RECORDS, f"{len(ids)} {kind} of {RECORDS}")


def address(container):
    return next(network["IPAddress"] for network in container["NetworkSettings"]["Networks"].values())


def handled(container):
    """Returns how many messages a replica has handled."""
    lines = ask(f"http://{address(container)}:9464/metrics").splitlines()
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("rollcall_messages_total{")))


def replicas_work_or_stand_ready(compose):
    found = compose.stages()
    for stage, count in SCALE.items():
        require(sum(name == stage for name, _ in found) == count, f"{count} of {stage}")
    done = {}
    for stage, container in found:
        # Fails unless it is ready.
        ask(f"http://{address(container)}:9464/healthz")
        done.setdefault(stage, []).append(handled(container))
    for stage in ("mapper", "pusher"):
        require(sum(done[stage]) >= 2 * RECORDS, f"{stage}: {done[stage]}")
    require(sum(count > 0 for count in done["pusher"]) > 1, f"one pusher did everything: {done['pusher']}")
    print("messages handled by each replica:", done)


def page_answers():
    page = ask(f"{PAGE}/")
    require("<html" in page.lower() and "Rollcall" in page, f"the page: {page[:200]}")
    record = json.loads(ask(f"{BITRIX24}/admin/state"))["contacts"][0]
    story = ask(f"{PAGE}/history?entity=contact&id={record['ID']}")
    require(str(record["ID"]) in story, "the page tells no story")
    require(record["LAST_NAME"] not in story, "the page shows a name")


def nothing_refused(compose):
    log = compose("logs", "--no-color", *compose.servers).lower()
    require("violation" not in log, "NATS refused something: " + next(
        (line for line in log.splitlines() if "violation" in line), ""))


def peak_memory(container):
    """Returns the most memory that a container held, in MiB, where this machine tells it."""
    places = [f"/sys/fs/cgroup/memory/docker/{container['Id']}/memory.max_usage_in_bytes",
              f"/sys/fs/cgroup/docker/{container['Id']}/memory.peak",
              f"/sys/fs/cgroup/system.slice/docker-{container['Id']}.scope/memory.peak"]
    return next((int(pathlib.Path(place).read_text()) >> 20 for place in places if pathlib.Path(place).exists()), None)


def new_contacts(count):
    state = json.loads(ask(f"{BITRIX24}/admin/state"))
    fields = {name: value for name, value in state["contacts"][0].items() if name not in ("ID", STATUS)}
    for _ in range(count):
        ask(f"{BITRIX24}/admin/contacts", {"fields": fields})


def each_server_may_die(compose):
    """Kills one server after the other, and makes pupils while it is away."""
    for done, server in enumerate(compose.servers):
        (container,) = compose.containers(server)
        run("docker", "kill", container["Id"])
        new_contacts(10)
        begun = time.monotonic()
        until_all_succeed(more=10 * (done + 1))
        print(f"{server} killed: 10 new pupils in {time.monotonic() - begun:.0f} s")
        run("docker", "start", container["Id"])
        until_healthy(compose)
    no_doubles()


def until_healthy(compose):
    until("health of all containers", lambda: all(
        container["State"].get("Health", {}).get("Status", "healthy") == "healthy"
        for service in (*SCALE, "page", *compose.servers) for container in compose.containers(service)))


def starve(compose):
    """Gives every replica little, also while it starts, and more work."""
    ids = [container["Id"] for _, container in compose.stages()]
    run("docker", "update", "--memory", MEMORY, "--memory-swap", MEMORY, "--cpus", CPUS, *ids)
    run("docker", "restart", *ids)
    state = json.loads(ask(f"{BITRIX24}/admin/state"))
    for contact in state["contacts"][:20]:
        ask(f"{BITRIX24}/admin/contacts/{contact['ID']}", {"fields": {"NAME": "Тимофей", STATUS: ""}})
    new_contacts(20)
    begun = time.monotonic()
    until_all_succeed(more=20)
    took = time.monotonic() - begun
    peaks = {}
    for stage, container in compose.stages():
        name, life = container["Name"], container["State"]
        require(life["Running"] and not life["OOMKilled"], f"{name} ran out of memory")
        require(container["RestartCount"] == 0, f"{name} ended by itself")
        limits = container["HostConfig"]["Memory"], container["HostConfig"]["NanoCpus"]
        require(limits == (96 << 20, 50_000_000), f"{name} is limited to {limits}")
        peaks.setdefault(stage, []).append(peak_memory(container))
    print(f"under {MEMORY} and {CPUS} CPUs: 40 records in {took:.0f} s, most memory in MiB {peaks}")


def play(compose):
    scale = [word for stage, count in SCALE.items() for word in ("--scale", f"{stage}={count}")]
    compose("up", "--detach", "--no-build", "bitrix24-sim", "otmechalka-sim")
    compose("--profile", "page", "up", "--detach", "--no-build", *scale)
    until_all_succeed()
    no_doubles()
    # The page may be the last to start, and Docker takes its connections before it does.
    until_healthy(compose)
    replicas_work_or_stand_ready(compose)
    page_answers()
    print(run(sys.executable, ROOT / "tools/check-containers.py", PROJECT), end="")
    if len(compose.servers) > 1:
        each_server_may_die(compose)
    else:
        starve(compose)
    no_doubles()
    page_answers()
    nothing_refused(compose)


def skip(why):
    print(f"NOT TESTED: containers. {why}", file=sys.stderr)
    sys.exit(75)


def main():
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        skip("No Docker answers here")
    images = ["rollcall", "nats", *SCALE, "bitrix24-sim", "otmechalka-sim"]
    for image in images:
        told = subprocess.run(["docker", "image", "inspect", f"rollcall/{image}"], capture_output=True, check=False)
        if told.returncode:
            skip(f"There is no image rollcall/{image}: docker compose build")
        print(f"rollcall/{image} of", json.loads(told.stdout)[0]["Created"][:19])
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        (folder / "tls").mkdir()
        certificates(folder / "tls")
        compose = Compose(folder, "--cluster" in sys.argv[1:])
        try:
            play(compose)
        except (Wrong, OSError, subprocess.CalledProcessError) as error:
            # What the servers say comes first, where it is cut: it is the most.
            log = [line[:300] for line in compose("logs", "--no-color", "--tail", "12").splitlines()]
            log.sort(key=lambda line: not line.startswith("nats"))
            print("\n".join(log)[-40_000:], getattr(error, "stderr", ""), file=sys.stderr)
            sys.exit(f"{error}")
        finally:
            compose.remove()
    print("All is as it should be.")


if __name__ == "__main__":
    main()
