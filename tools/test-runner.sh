#!/usr/bin/env bash
# Starts one program of tests for cargo, with as many tests at once as suit it: they mostly wait, for polls and for pauses
# on a portal clock that runs 120 times as fast. The latter want a core when they end, so fewer of them run at once. With four
# for each core those from end to end left nearly half of two cores idle (530 s), with six less than a third (350 s).
case "${CARGO_PKG_NAME:-}" in
e2e) export RUST_TEST_THREADS=$(($(nproc) * 6)) ;;
pusher) export RUST_TEST_THREADS=$(($(nproc) * 4)) ;;
*) export RUST_TEST_THREADS=$(($(nproc) * 2)) ;;
esac
# A test that hangs would be seen only when everything is stopped from outside. Not at a terminal, where it would outlive ^C.
limit=()
if [ -n "${CI:-}" ] && command -v timeout >/dev/null; then limit=(timeout --kill-after=10s 25m); fi
exec ${limit[@]+"${limit[@]}"} "$@"
