#!/usr/bin/env bash
# Prints the path of a program that the tests need and that Debian has, while crates.io and PyPI have not:
#   tools/from-debian.sh VARIABLE PACKAGE PATH-IN-PACKAGE NAME...
# Takes what the variable names, or the first of the names on PATH. Otherwise it fetches the package and what that depends
# on, once, and unpacks them into .tools: nothing is installed, so it takes no root. Where there is no apt-get it says
# so and prints nothing; with CI set, that is a failure.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
variable=$1 package=$2 path=$3
shift 3
if [ -n "${!variable:-}" ]; then echo "${!variable}"; exit 0; fi
for name in "$@"; do
    if command -v "$name" >/dev/null 2>&1; then command -v "$name"; exit 0; fi
done
folder="$top/.tools/debian-$package"
program="$folder/run-$(basename "$path")"

fetch() {
    local work=$1 root="$1/root"
    mkdir -p "$root" "$work"/state/lists/partial "$work"/cache/archives/partial
    # Own folders for the lists and archives, and the system's own record of what is installed.
    local apt=(apt-get -qq -o "Dir::State=$work/state" -o Dir::State::status=/var/lib/dpkg/status
        -o "Dir::Cache=$work/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User=root)
    "${apt[@]}" update
    "${apt[@]}" install --yes --download-only --no-install-recommends "$package"
    # What is installed already is not fetched again, but for the package itself.
    (cd "$work/cache/archives" && ls "$package"_*.deb >/dev/null 2>&1 || "${apt[@]}" download "$package")
    for archive in "$work"/cache/archives/*.deb; do dpkg-deb -x "$archive" "$root"; done
    [ -x "$root/$path" ]
    rm -rf "$work/state" "$work/cache"
}

# Writes the script that starts the program with the libraries that came along.
wrap() {
    local libraries
    libraries=$(find "$folder/root" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
    {
        echo '#!/bin/sh'
        echo "export LD_LIBRARY_PATH='$libraries'"
        if [ -d "$folder/root/etc/fonts" ]; then echo "export FONTCONFIG_SYSROOT='$folder/root'"; fi
        echo "exec '$folder/root/$path' \"\$@\""
    } >"$program"
    chmod 755 "$program"
}

if [ ! -x "$folder/root/$path" ]; then
    fresh="$top/.tools/fetch-$package"
    rm -rf "$fresh" "$folder"
    if ! command -v apt-get >/dev/null || ! { echo "Getting $package ..." >&2; (fetch "$fresh") >&2; }; then
        rm -rf "$fresh"
        echo "NOT TESTED: what needs $1. Install it, or name it in $variable (Debian's package is $package)." >&2
        [ -z "${CI:-}" ]
        exit
    fi
    mv "$fresh" "$folder"
fi
[ -x "$program" ] || wrap
echo "$program"
