#!/usr/bin/env python3
"""Prints a software bill of materials of the shipped programs: CycloneDX 1.6, JSON.

Usage: tools/sbom.py [FILE]

It is made from Cargo.lock and the crates' own manifests, without development dependencies. The same lock file gives the
same bytes.
"""

import json
import pathlib
import subprocess
import sys
import tomllib
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Rooms that are neither shipped nor part of what is shipped.
NOT_SHIPPED = {"e2e", "benches", "examples", "fuzz"}

# Namespace of the serial numbers.
SERIALS = uuid.UUID("d1c3a3f2-5b0e-4b8e-9a55-0f9d2c7a6e41")


def metadata():
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def checksums():
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    return {(package["name"], package["version"]): package.get("checksum") for package in lock["package"]}


def shipped(data):
    """Returns the packages that shipped programs are built from, each with what it depends on."""
    members = set(data["workspace_members"])
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    names = {package["id"]: package["name"] for package in data["packages"]}
    wanted, seen = [id for id in sorted(members) if names[id] not in NOT_SHIPPED], {}
    while wanted:
        id = wanted.pop()
        if id in seen:
            continue
        is_needed = lambda dep: any(kind["kind"] != "dev" for kind in dep["dep_kinds"])
        seen[id] = sorted(dep["pkg"] for dep in nodes[id]["deps"] if is_needed(dep))
        wanted.extend(seen[id])
    return seen


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def clarified():
    """Returns the licences of crates that name none themselves, as deny.toml has them."""
    deny = tomllib.loads((ROOT / "deny.toml").read_text())
    return {entry["crate"]: entry["expression"] for entry in deny["licenses"].get("clarify", [])}


LICENCES = clarified()


def component(package, sums, is_own):
    found = {
        "type": "application" if is_own else "library",
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
        "purl": reference(package),
    }
    if package.get("description"):
        found["description"] = " ".join(package["description"].split())
    licence = package.get("license") or LICENCES.get(package["name"])
    if licence:
        # The old way to write "or".
        found["licenses"] = [{"expression": licence.replace("/", " OR ")}]
    checksum = sums.get((package["name"], package["version"]))
    if checksum:
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if (package.get("repository") or "").startswith("https://"):
        found["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return found


def bill():
    data, sums = metadata(), checksums()
    packages = {package["id"]: package for package in data["packages"]}
    needed, members = shipped(data), set(data["workspace_members"])
    order = sorted(needed, key=lambda id: reference(packages[id]))
    components = [component(packages[id], sums, id in members) for id in order]
    version = next(packages[id]["version"] for id in sorted(members))
    rollcall = {"type": "application", "bom-ref": "rollcall", "name": "rollcall", "version": version}
    dependencies = [
        {"ref": reference(packages[id]), "dependsOn": sorted(reference(packages[dep]) for dep in needed[id])}
        for id in order
    ]
    own = [reference(packages[id]) for id in order if id in members]
    dependencies.insert(0, {"ref": "rollcall", "dependsOn": own})
    serial = uuid.uuid5(SERIALS, json.dumps(components, sort_keys=True))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": rollcall},
        "components": components,
        "dependencies": dependencies,
    }


def main():
    text = json.dumps(bill(), indent=2, ensure_ascii=False) + "\n"
    if len(sys.argv) > 1:
        pathlib.Path(sys.argv[1]).write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
