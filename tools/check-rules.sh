#!/usr/bin/env bash
# Checks Prometheus' settings and the alert rules, and runs the rules' tests, where there is a promtool or Debian's can be had.
set -euo pipefail
tools=$(cd "$(dirname "$0")" && pwd)
promtool=$("$tools/from-debian.sh" PROMTOOL prometheus usr/bin/promtool promtool)
[ -n "$promtool" ] || exit 0
cd "$tools/../deploy/observe"
"$promtool" check rules rules.yml
"$promtool" test rules rules.test.yml
# The settings name the rules where they are in the container: here, on a copy, where they are beside them.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp rules.yml "$copy"
sed "s|/etc/prometheus/|$copy/|" prometheus.yml >"$copy/prometheus.yml"
"$promtool" check config --lint=all --lint-fatal "$copy/prometheus.yml"
