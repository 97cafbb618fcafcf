#!/usr/bin/env bash
# Prints the path of cargo-deny: the one on PATH, or else the pinned one, built once into .tools.
set -euo pipefail
if command -v cargo-deny; then exit 0; fi
version=0.20.2
folder=$(cd "$(dirname "$0")/.." && pwd)/.tools/cargo-deny-$version
if [ ! -x "$folder/bin/cargo-deny" ]; then
    echo "Building cargo-deny $version ..." >&2
    # What it builds in between would be larger than all of ours.
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cargo install --debug --locked --quiet --root "$folder" --target-dir "$work" "cargo-deny@$version" >&2
fi
echo "$folder/bin/cargo-deny"
