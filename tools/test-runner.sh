#!/usr/bin/env bash
# Starts one program of tests for cargo, with as many tests at once as suit it: they mostly wait, for polls and for pauses
# on a portal clock that runs 120 times as fast. The latter want a core when they end, so fewer of them run at once.
# Where LANE is set, only the programs of that lane are started, as two runs of cargo go side by side then.
case "${CARGO_PKG_NAME:-}/${1##*/}" in
e2e/it-*) lane=end-to-end threads=$(($(nproc) * 4)) ;;
e2e/*) lane=rooms threads=$(nproc) ;;
*) lane=rooms threads=$(($(nproc) * 2)) ;;
esac
[ "${LANE:-$lane}" = "$lane" ] || exit 0
export RUST_TEST_THREADS=$threads
exec "$@"
