# Every program in an image of its own, without a shell, run by nobody in particular.
#
# The tags below move. tools/pin-images.sh prints the digests that they have now, as lines for .env; from then on
# `docker compose build` takes exactly those.
ARG BUILDER_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot
ARG NATS_IMAGE=nats:2.15-scratch

FROM ${BUILDER_IMAGE} AS build
WORKDIR /source
COPY . .
RUN cargo build --locked --release --bins \
        -p producer -p mapper -p pusher -p status-writer -p simulators -p ops -p warehouse \
    && mkdir -p /out/bin /out/state \
    && for user in server producer mapper pusher status-writer page ops consumers consumers/warehouse; do \
        mkdir -p /out/credentials/$user; done \
    && cp target/release/producer target/release/mapper target/release/pusher target/release/status-writer \
        target/release/rollcall target/release/bitrix24-sim target/release/otmechalka-sim target/release/warehouse /out/bin/

FROM ${RUNTIME_IMAGE} AS base
USER 65532:65532
# A named volume takes its owner from here when it is made.
COPY --from=build --chown=65532:65532 /out/state /var/lib/rollcall
ENV STATE_DIR=/var/lib/rollcall
WORKDIR /var/lib/rollcall

FROM base AS producer
COPY --from=build /out/bin/producer /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/producer"]

FROM base AS mapper
COPY --from=build /out/bin/mapper /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/mapper"]

FROM base AS pusher
COPY --from=build /out/bin/pusher /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/pusher"]

FROM base AS status-writer
COPY --from=build /out/bin/status-writer /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/status-writer"]

FROM base AS warehouse
COPY --from=build /out/bin/warehouse /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/warehouse"]

# The doctor lets every stage check its own settings, so all of them are here.
FROM base AS rollcall
COPY --from=build /out/bin/ /usr/local/bin/
COPY --from=build --chown=65532:65532 /out/credentials /var/lib/credentials
ENTRYPOINT ["/usr/local/bin/rollcall"]

FROM base AS bitrix24-sim
COPY --from=build /out/bin/bitrix24-sim /out/bin/rollcall /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/bitrix24-sim"]

FROM base AS otmechalka-sim
COPY --from=build /out/bin/otmechalka-sim /out/bin/rollcall /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/otmechalka-sim"]

FROM ${NATS_IMAGE} AS nats-server

# The server's own image has nothing that could ask after its health.
FROM base AS nats
COPY --from=nats-server /nats-server /usr/local/bin/
COPY --from=build /out/bin/rollcall /usr/local/bin/
COPY --from=build --chown=65532:65532 /out/state /data
COPY deploy/nats.conf deploy/nats-cluster.conf /etc/rollcall/
ENTRYPOINT ["/usr/local/bin/nats-server", "--config", "/etc/rollcall/nats.conf"]
