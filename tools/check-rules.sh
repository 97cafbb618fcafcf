#!/usr/bin/env bash
# Checks the alert rules and runs their tests, where there is a promtool (Debian's package `prometheus` has one).
# Without one it says so; with CI set, that is a failure.
set -euo pipefail
cd "$(dirname "$0")/../deploy/observe"
promtool=${PROMTOOL:-$(command -v promtool || true)}
if [ -z "$promtool" ]; then
    echo "The alert rules are not tested: there is no promtool here (apt-get install prometheus)." >&2
    [ -z "${CI:-}" ]
    exit
fi
"$promtool" check rules rules.yml
"$promtool" test rules rules.test.yml
