#!/usr/bin/env bash
# Starts one program of tests for cargo, with as many tests at once as suit it.
# End-to-end tests mostly wait for polls, so three times as many as there are cores; those of the other rooms measure
# pauses on a portal clock that runs 120 times as fast, which wants a free core.
[ "${CARGO_PKG_NAME:-}" != e2e ] || export RUST_TEST_THREADS=$(($(nproc) * 3))
exec "$@"
