#!/usr/bin/env python3
"""Asks Docker and the kernel how the containers of a compose project are shut in, and names what is not as it should be.

    docker compose up -d && tools/check-containers.py [PROJECT]

PROJECT is the name that compose gave the set, by default that of this folder. Exit code 1: something was found.
"""

import io
import json
import pathlib
import re
import subprocess
import sys
import tarfile

SHELLS = {"sh", "ash", "bash", "dash", "busybox"}


def docker(*words):
    return subprocess.run(["docker", *words], check=True, capture_output=True).stdout


def configured(container):
    """Yields what Docker was told wrongly."""
    config, host = container["Config"], container["HostConfig"]
    if config["User"].split(":")[0] in ("", "0", "root"):
        yield f"runs as {config['User'] or 'root'}"
    if not host["ReadonlyRootfs"]:
        yield "may write to its root"
    if host["CapDrop"] != ["ALL"] or host["CapAdd"]:
        yield "keeps capabilities"
    if "no-new-privileges:true" not in (host["SecurityOpt"] or []):
        yield "may gain privileges"
    if host["Privileged"] or "host" in (host["NetworkMode"], host["PidMode"], host["IpcMode"]):
        yield "shares the host's own"
    for port, places in (host["PortBindings"] or {}).items():
        for place in places:
            if place["HostIp"] not in ("127.0.0.1", "::1"):
                yield f"publishes {port} at {place['HostIp'] or 'every address'}"
    for mount in container["Mounts"]:
        if "docker.sock" in mount["Source"] or mount["Type"] == "bind" and mount["RW"]:
            yield f"may change {mount['Source']} of the host"
    if container["State"].get("Health", {}).get("Status", "healthy") != "healthy":
        yield f"is {container['State']['Health']['Status']}"


def running(container):
    """Yields what the kernel says of the main process, where this machine is the one it runs on."""
    status = pathlib.Path("/proc", str(container["State"]["Pid"]), "status")
    if not container["State"]["Running"] or not status.exists():
        return
    fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
    if "0" in fields["Uid"].split():
        yield "is root to the kernel"
    if int(fields["CapEff"], 16) or int(fields["CapBnd"], 16):
        yield f"has capabilities {fields['CapEff']} and may have {fields['CapBnd']}"
    if fields["NoNewPrivs"] != "1" or fields["Seccomp"] != "2":
        yield "lacks no-new-privileges or the filter of system calls"
    limits = pathlib.Path("/proc", str(container["State"]["Pid"]), "limits").read_text()
    core = next(line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size"))
    if core != ["1", "1"]:
        yield f"may leave core dumps: the limits are {' and '.join(core)} bytes, not one"


def shells(container):
    """Returns the shells in the image of a container."""
    files = tarfile.open(fileobj=io.BytesIO(docker("export", container["Id"])))
    found = (name.rsplit("/", 1) for name in files.getnames())
    return sorted("/".join(parts) for parts in found if parts[-1] in SHELLS and parts[0].endswith("bin"))


def main():
    folder = pathlib.Path(__file__).resolve().parent.parent.name.lower()
    project = sys.argv[1] if len(sys.argv) > 1 else re.sub("[^a-z0-9_-]", "", folder)
    ids = docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={project}").split()
    if not ids:
        sys.exit(f"No containers of a project called {project}")
    trouble, looked_into = False, {}
    for container in json.loads(docker("inspect", *(name.decode() for name in ids))):
        found = [*configured(container), *running(container)]
        image = container["Config"]["Image"]
        if image.startswith("rollcall/"):
            if image not in looked_into:
                looked_into[image] = shells(container)
            found += [f"has the shell {path}" for path in looked_into[image]]
        print(container["Name"].lstrip("/"), "; ".join(found) or "as it should be", sep=": ")
        trouble = trouble or bool(found)
    sys.exit(trouble)


if __name__ == "__main__":
    main()
