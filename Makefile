# Every command a contributor needs. Nothing here but a Rust toolchain, make and a POSIX shell.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run test traces alarms attack rot soak sim mutants fuzz bench verify fix

# What `make run` feeds in, a record a line. Empty: a text of this machine, else our own sources.
INPUT ?=
# What `make bench` hands on; see `ferrolog bench --help`.
BENCH_ARGS ?=
export INPUT
# How long `make fuzz` runs each target. A run goes on from the corpus of the one before.
FUZZ_SECONDS ?= 900
FUZZ_TARGETS := recovery raft_frames manifests
# What cargo-fuzz passes: coverage for libFuzzer, and AddressSanitizer, which a released compiler hides.
FUZZ_FLAGS := --cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cdebuginfo=1 -Zsanitizer=address \
	-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares

TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CARGO_BUILD_TARGET_DIR),target)
FERROLOG := "$(TARGET_DIR)/release/ferrolog"

# rust-toolchain.toml pins a toolchain. Where it is missing and cannot be fetched, any other one will
# do that is not older than `rust-version` in Cargo.toml, which cargo checks: a clone must build.
ifeq ($(RUSTUP_TOOLCHAIN),)
ifneq ($(shell cargo --version >/dev/null 2>&1 && echo ok),ok)
OTHER_TOOLCHAIN := $(firstword $(shell cd / && rustup show active-toolchain 2>/dev/null))
ifneq ($(OTHER_TOOLCHAIN),)
$(warning the pinned toolchain is not to be had: using $(OTHER_TOOLCHAIN))
export RUSTUP_TOOLCHAIN := $(OTHER_TOOLCHAIN)
endif
endif
endif

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

run: ## three nodes over mTLS: write INPUT=, read it back, kill the leader, write and read again
	cargo build --release --locked
	@input="$$INPUT"; \
	if [ -z "$$input" ]; then \
		for text in /usr/share/dict/words /usr/share/common-licenses/GPL-3; do \
			if [ -z "$$input" ] && [ -f "$$text" ] && [ -r "$$text" ] && [ -s "$$text" ]; then input="$$text"; fi; \
		done; \
	fi; \
	if [ -z "$$input" ]; then \
		input="$(TARGET_DIR)/own-sources.txt"; \
		find Cargo.toml proto src -type f -exec cat {} + > "$$input" || exit 1; \
	fi; \
	echo $(FERROLOG) trial --input "$$input"; \
	exec $(FERROLOG) trial --input "$$input"

# Without CI, a machine with no Python skips the one test that drives a foreign gRPC client, and says so.
test: ## every test, tidy among them
	@if [ -z "$$CI" ] && ! python3 -c 'import venv, ensurepip' >/dev/null 2>&1; then \
		echo 'make test: SKIPPED: tests/processes/api/foreign_client.rs (it needs python3 with venv)' >&2; \
		FERROLOG_SKIP_FOREIGN=1; export FERROLOG_SKIP_FOREIGN; \
	fi; \
	echo cargo test --locked -- --show-output; \
	cargo test --locked -- --show-output
	cargo check --locked --lib --no-default-features --features client
	cargo check --locked --lib --features otlp

# A build of its own: who does not ask for it has nothing of it, and the tests of that are the others.
traces: ## a build that tells a collector of traced calls, and what a collector is told
	cargo test --locked --features otlp --lib -- --show-output spans::
	cargo test --locked --features otlp --test nodes -- --show-output traces::

alarms: ## the alert rules over recorded values; needs promtool, of Debian's package prometheus
	cd deploy/prometheus && promtool check rules ferrolog.rules.yml && promtool test rules ferrolog.rules.test.yml

attack: ## every attack on a cluster at its full length, beside a client whose calls must go on
	FERROLOG_ATTACK=full cargo test --locked --test attacks -- --show-output --test-threads=1

rot: ## a table: each kind of rot in each kind of file, and what a node makes of it
	cargo test --locked --test nodes -- bit_rot --show-output

# For so long; a failure prints the seed that FERROLOG_SEED= runs again.
SOAK_SECONDS ?= 600
# Calls to ten logs at once under kills, cuts and snapshots; records of a thousand logs at SOAK_RATE a second beside a
# reader that is broken off all the time; and a command that prints what comes, which is killed so often. Together they take
# about ten minutes on two cores.
SOAK_CALLS ?= 200000
SOAK_RECORDS ?= 40000000
SOAK_RATE ?= 200000
SOAK_KILLS ?= 100
# Power cuts of one node, and as many of all, on each filesystem.
SOAK_CUTS ?= 25
soak: ## crash points of histories that no test has run, for SOAK_SECONDS; then many logs under faults, then power cuts
	FERROLOG_SOAK_SECONDS=$(SOAK_SECONDS) cargo test --release --locked --lib log::tests::crash -- --nocapture
	FERROLOG_CALLS=$(SOAK_CALLS) FERROLOG_RECORDS=$(SOAK_RECORDS) FERROLOG_RECORDS_PER_SECOND=$(SOAK_RATE) \
		FERROLOG_ROUNDS=$(SOAK_KILLS) cargo test --release --locked --test processes many:: -- --nocapture --test-threads=1
	FERROLOG_ROUNDS=$(SOAK_CUTS) cargo test --release --locked --test processes power_cut:: -- --nocapture --test-threads=1

# A seed is a world: nodes, network, disks, clocks, clients, faults. One that fails prints how to run it again.
SEEDS ?= 1..1001
# No seed is begun after so long.
SIM_SECONDS ?= 3600
sim: ## whole clusters from seeds, SEEDS=A..B, on all cores: what failed, what happened, how often
	cargo test --profile sim --locked --test sim -- --seeds $(SEEDS) --seconds $(SIM_SECONDS)

# A planted fault that no seed catches is a hole in the world. ONLY= takes those whose name holds it.
ONLY ?=
mutants: ## a copy of the sources with planted faults, and the seed that catches each
	cargo test --profile sim --locked --test sim -- --mutants "$(ONLY)"

# The storage engine first, for about a minute: FERROLOG_BENCH_DIR= is where, FERROLOG_BENCH_RECORDS= how much.
bench: ## the log beside the bare disk, then three nodes under load, acks after a majority's sync: BENCH_ARGS=
	cargo bench --locked --bench storage
	cargo build --release --locked
	$(FERROLOG) bench $(BENCH_ARGS)

# With --target, the flags leave build scripts and macros alone. An input that fails is left in
# $(TARGET_DIR)/fuzz/corpus/TARGET/: put it into fuzz/seeds/TARGET/ and mend what it found.
fuzz: ## hostile bytes for the storage under libFuzzer, FUZZ_SECONDS= a target
	@host="$$(rustc -vV | sed -n 's/^host: //p')"; \
	RUSTC_BOOTSTRAP=1 RUSTFLAGS='$(FUZZ_FLAGS)' CARGO_TARGET_DIR="$(TARGET_DIR)/fuzz" \
		cargo build --locked --release --manifest-path fuzz/Cargo.toml --target "$$host" || exit 1; \
	for target in $(FUZZ_TARGETS); do \
		corpus="$(TARGET_DIR)/fuzz/corpus/$$target"; \
		mkdir -p "$$corpus" || exit 1; \
		echo "$$target: $(FUZZ_SECONDS) s"; \
		"$(TARGET_DIR)/fuzz/$$host/release/$$target" "$$corpus" "fuzz/seeds/$$target" \
			-max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=20 -rss_limit_mb=2048 \
			-artifact_prefix="$$corpus/" -print_final_stats=1 -verbosity=1 || exit 1; \
	done

verify: ## what a change must pass: format, lints, docs, tests, tidy; writes nothing
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items
	@$(MAKE) --no-print-directory test

fix: ## rewrite what the tools can: format and lints
	cargo clippy --fix --allow-dirty --allow-staged --all-targets
	cargo fmt --all
