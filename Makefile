# The words of this project; each is one line of cargo or a script in integration/tools.
.DEFAULT_GOAL := help
SHELL := /bin/bash
MNT := ./mnt
DEMO := ./.demo
CAIRN := ./target/release/cairn
SEED ?= 1
SECS ?= 60

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## build, format a small volume and mount it at ./mnt
	@integration/tools/demo $(MNT) $(DEMO)

test: ## everything, in its short form: about half an hour from a clean clone
	@integration/tools/setup test
	@integration/tools/run-tests

check: ## formatting, lints, documentation, spelling
	@integration/tools/setup check
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	target/venv/bin/typos

audit: ## licences, bans, sources, advisories, unused dependencies: takes minutes to install
	@integration/tools/setup build
	cargo install --quiet --locked --root target/tools cargo-deny cargo-machete
	target/tools/bin/cargo-deny --all-features check --config .deny.toml licenses bans sources
	target/tools/bin/cargo-deny check --config .deny.toml advisories || echo "advisories: not reachable or not clean, see above"
	target/tools/bin/cargo-machete

build: ## the release binary, target/release/cairn
	@integration/tools/setup build
	cargo build --release

quick: ## unit and property tests: no servers, no mounts, no root
	cargo test --workspace --exclude cairn-object --lib --bins --tests -- --skip integration

mount: ## one test per system call, through the kernel
	@integration/tools/setup test
	@integration/tools/run-tests mount

model: ## generated operations against the model: SEED=n SECS=n
	CAIRN_SEED=$(SEED) CAIRN_SECS=$(SECS) cargo test --test integration -- model::

sim: ## outages and power cuts in a simulated world: SEED=n SECS=n
	CAIRN_SEED=$(SEED) CAIRN_SECS=$(SECS) cargo test --test integration -- sim::

posix: ## the outside suites, whole
	@integration/tools/setup test
	CAIRN_WHOLE=1 cargo test --test integration -- posix:: --test-threads=1 --nocapture

crash: ## kill -9 and power cuts at random moments, whole: SEED=n SECS=n
	@integration/tools/setup test
	CAIRN_WHOLE=1 CAIRN_SEED=$(SEED) CAIRN_SECS=$(SECS) cargo test --test integration -- crash:: --test-threads=1 --nocapture

engines: ## every engine on its real server, whole, with its round trips
	@integration/tools/setup test
	cargo test -p cairn-meta
	CAIRN_WHOLE=1 cargo test --test integration -- engines:: --test-threads=2 --show-output
	cargo test --test integration -- compat:: --test-threads=2

bench: ## each row beside its floor, measured in the same run: ROWS="write read encryption names listing engines start memory"
	@integration/tools/setup bench
	cargo bench --bench bench -- $(ROWS)

fuzz: ## every decoder fed with mutated bytes, guided by coverage: SEED=n SECS=n
	@integration/tools/setup fuzz
	@integration/tools/fuzz $(SECS) $(SEED)

doc: ## the documentation of every crate
	cargo doc --workspace --no-deps

ci: ## what every submission must pass
	.ci/run

.PHONY: help demo test check audit build quick mount model sim posix crash engines bench fuzz doc ci
