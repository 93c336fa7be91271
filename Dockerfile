# syntax=docker/dockerfile:1

FROM rust:1.95-bookworm AS build
# libprotobuf-dev has Google's own .proto files, which Lance's import. No versions of packages: Debian keeps the newest
# of a release only.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends protobuf-compiler libprotobuf-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches stay out of the image; that is why the binary is copied out of the target folder in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target \
    CARGO_TARGET_DIR=/target cargo build --release --locked \
    && cp /target/release/tiltyard /usr/local/bin/tiltyard

FROM debian:bookworm-slim
# Object stores are reached over TLS, checked against the system's certificates.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/tiltyard tiltyard
COPY --from=build /usr/local/bin/tiltyard /usr/local/bin/tiltyard
COPY LICENSE /usr/share/doc/tiltyard/LICENSE
USER 10001:10001
# The defaults for the database and the storage are relative, so both come to lie in the volume.
WORKDIR /var/lib/tiltyard
VOLUME /var/lib/tiltyard
EXPOSE 2333
# Whoever calls says who they are: the first start prints a key for the first admin.
ENV TILTYARD_LISTEN=0.0.0.0:2333 TILTYARD_AUTH=true
# Asks GET /healthz where the same variables let the server listen, with or without TLS.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --start-interval=1s CMD ["tiltyard", "health"]
ENTRYPOINT ["tiltyard"]
CMD ["serve"]
