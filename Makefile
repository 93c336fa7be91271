# Build, test and run Tiltyard. `make help` lists the targets.
# The work is in scripts/, so that each step also runs on its own.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# The target folder is outside the clone: a fresh clone then reuses what an earlier one has compiled
# (the dependencies take far longer than Tiltyard itself), and the work tree stays clean.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/tiltyard-target
# A shell that has not read rustup's profile still finds cargo; what scripts/provision compiles comes first.
export PATH := $(HOME)/.cache/tiltyard-tools/bin:$(PATH):$(HOME)/.cargo/bin
# The tests start Ray; it must not report its use to anyone.
export RAY_USAGE_STATS_ENABLED := 0

# How many cases of made-up input `make fuzz` runs of each cheap test; of costly ones it runs fewer.
CASES ?= 50000

# Arguments for the program or the benchmark: make run ARGS="--listen 127.0.0.1:8080"
ARGS ?=

.PHONY: help run test build fmt lint advisories smoke-lancedb-rust bench-upload bench-catalog bench-commits bench-scale bench-access history fuzz openapi

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: build ## build, then serve on http://127.0.0.1:2333 (ARGS="..." goes to `tiltyard serve`)
	@exec "$$CARGO_TARGET_DIR/release/tiltyard" serve $(ARGS)

build: ## make the release binary, after installing what that needs
	scripts/provision cargo cc protoc
	cargo build --release --locked

test: ## format check, lints and every test, on SQLite, on throw-away servers of PostgreSQL and S3
	scripts/provision cargo rust-tools cc protoc python postgres cargo-deny
	cargo fetch --locked --quiet
	cargo deny --locked --offline check licenses bans sources
	scripts/client-venv
	scripts/client-venv tests/s3/requirements.txt
	scripts/check-deploy
	scripts/client-node
	scripts/nginx
	cargo fmt --all -- --check
	cargo clippy --locked --all-targets -- -D warnings
	python="$$(scripts/client-venv)" && node="$$(scripts/client-node)" && nginx="$$(scripts/nginx)" && \
		TILTYARD_TEST_PYTHON="$$python" TILTYARD_TEST_NODE="$$node" TILTYARD_TEST_NGINX="$$nginx" \
		scripts/with-postgres scripts/with-s3 cargo test --locked

fuzz: ## the tests of made-up input, with many cases (CASES=50000)
	scripts/provision cargo cc protoc postgres
	PROPTEST_CASES=$(CASES) scripts/with-postgres cargo test --locked -- fuzz model::

advisories: ## look for known weaknesses in the dependencies (the list is fetched)
	scripts/provision cargo cc cargo-deny
	cargo deny --locked check advisories

smoke-lancedb-rust: ## a flow through the lancedb crate's remote mode (ARGS=http://... for a running server)
	scripts/provision cargo cc protoc
	scripts/smoke-lancedb-rust $(ARGS)

fmt: ## format the source
	cargo fmt --all

lint: ## format check and lints, as `make test` does them
	scripts/provision cargo rust-tools cc protoc
	cargo fmt --all -- --check
	cargo clippy --locked --all-targets -- -D warnings

bench-upload: build ## upload 1 GB and compare with a direct Lance write (ARGS="--rounds 3")
	scripts/provision python curl
	bench/upload $(ARGS)

bench-catalog: build ## declare and describe up to 100 000 tables, beside the reference server
	scripts/provision python
	bench/catalog $(ARGS)

bench-commits: build ## commit with one writer and with many, beside pylance (ARGS="--only 1,2", ARGS="--short")
	scripts/provision python
	bench/commits $(ARGS)

bench-scale: build ## ask a catalog of a million tables, beside one of a thousand, on SQLite and PostgreSQL
	scripts/provision python postgres wrk
	scripts/with-postgres bench/scale $(ARGS)

bench-access: build ## describe tables with authentication and 10 000 grants, beside a server without either
	scripts/provision python postgres wrk
	scripts/with-postgres bench/access $(ARGS)

history: build ## fail storage at every step, kill servers under load for a long while, check every write
	scripts/provision cargo cc protoc python postgres
	TILTYARD_TEST_LONG=1 scripts/with-postgres cargo test --locked --test it -- storage_faults
	python="$$(scripts/client-venv)" && scripts/with-postgres scripts/history "$$python" $(ARGS)

# By the binary that the tests use, so that nothing is compiled twice; through a temporary file, so
# that a failing build leaves no empty document behind.
openapi: ## write openapi/tiltyard.json anew from the code
	scripts/provision cargo cc protoc
	mkdir -p openapi
	cargo test --locked --quiet --no-run
	"$$CARGO_TARGET_DIR/debug/tiltyard" openapi > openapi/tiltyard.json.new
	mv openapi/tiltyard.json.new openapi/tiltyard.json
