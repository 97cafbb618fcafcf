#!/usr/bin/env bash
# Checks the alert rules and runs their tests, where there is a promtool or Debian's can be had.
set -euo pipefail
tools=$(cd "$(dirname "$0")" && pwd)
promtool=$("$tools/from-debian.sh" PROMTOOL prometheus usr/bin/promtool promtool)
[ -n "$promtool" ] || exit 0
cd "$tools/../deploy/observe"
"$promtool" check rules rules.yml
"$promtool" test rules rules.test.yml
