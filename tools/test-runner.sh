#!/usr/bin/env bash
# Starts one program of tests for cargo, with as many tests at once as suit it: they mostly wait, for polls and for pauses
# on a portal clock that runs 120 times as fast. The latter want a core when they end, so fewer of them run at once. Those from
# end to end take 550 s with four for each core, beside all others on two cores, and 445 s with six.
room=${CARGO_PKG_NAME:-}
# `./test` starts two lanes beside each other: those from end to end, and all others.
case "${TEST_LANE:-}/$room" in
end-to-end/e2e) ;;
end-to-end/* | others/e2e) exit ;;
esac
case "$room" in
e2e) export RUST_TEST_THREADS=$(($(nproc) * 6)) ;;
pusher) export RUST_TEST_THREADS=$(($(nproc) * 4)) ;;
*) export RUST_TEST_THREADS=$(($(nproc) * 2)) ;;
esac
# A test that hangs would be seen only when everything is stopped from outside. Not at a terminal, where it would outlive ^C.
limit=()
if [ -n "${CI:-}" ] && command -v timeout >/dev/null; then limit=(timeout --kill-after=10s 25m); fi
exec ${limit[@]+"${limit[@]}"} "$@"
