# syntax=docker/dockerfile:1

FROM rust:1.95-bookworm AS build
# libprotobuf-dev has Google's own .proto files, which Lance's import.
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
# No HEALTHCHECK: the image has no HTTP client, and orchestrators ask GET /healthz and GET /readyz themselves.
ENTRYPOINT ["tiltyard"]
CMD ["serve", "--listen", "0.0.0.0:2333"]
