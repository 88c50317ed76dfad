# `make demo` and `make test` are all that a newcomer needs: each does the set-up first, which is quick when nothing is
# missing. After it plain `cargo leptos serve`, `cargo leptos watch` and `cargo test` work too.
.PHONY: help setup build install check-windows serve demo check test lint absences doc dependencies msrv openapi test-unit test-python test-rust test-installed test-api test-attacks test-browser soak bench fuzz fuzz-corpus wasm-size
.DEFAULT_GOAL := help

# What a browser on a slow line (4 Mbit/s) loads in 1.2 s.
WASM_LIMIT_BYTES := 600000
WASM := target/site/pkg/fedlearn.wasm
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := container safetensors header
# Its flags are those of a nightly compiler; with the variable the stable one takes them too. An input of 4 KiB at most must
# not make us take 64 MiB at once, or 10 seconds.
CARGO_FUZZ := RUSTC_BOOTSTRAP=1 cargo fuzz
FUZZ_LIMITS := -max_len=4096 -timeout=10 -malloc_limit_mb=64 -rss_limit_mb=1024

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## install what is missing; says what it does
	@.ci/setup

build: setup ## release build of coordinator, agent and page
	cargo leptos build --release
	@$(MAKE) --no-print-directory wasm-size

PREFIX ?= /usr/local
INSTALLED = $(DESTDIR)$(PREFIX)
install: ## copy program, libtorch and page into DESTDIR/PREFIX (after `make build`): for any user, and the folder may be moved
	@[ -x target/release/fedlearn ] || { echo "install: target/release/fedlearn is missing; run \`make build\` first" >&2; exit 1; }
	install -d "$(INSTALLED)/bin" "$(INSTALLED)/lib/fedlearn" "$(INSTALLED)/share/fedlearn"
	install -m 755 target/release/fedlearn "$(INSTALLED)/bin"
	install -m 644 .tools/libtorch/lib/*.so* "$(INSTALLED)/lib/fedlearn"
	rm -rf "$(INSTALLED)/share/fedlearn/site"
	cp -R target/site "$(INSTALLED)/share/fedlearn/site"
	chmod -R u=rwX,go=rX "$(INSTALLED)/share/fedlearn"

check-windows: ## type-check the agent for Windows: all of it but the calls into libtorch, whose C++ needs Microsoft's compiler
	@.ci/setup windows
	cargo check --target x86_64-pc-windows-gnu --no-default-features --features agent,tch/doc-only

serve: build ## the coordinator alone, on http://127.0.0.1:3000
	target/release/fedlearn serve

demo: build ## coordinator and three agents on Fashion-MNIST, ten rounds; Ctrl-C ends it
	@exec target/release/fedlearn demo

check: setup lint absences test-unit ## the short loop: formatting, clippy, unit and property tests, forbidden dependencies

test: setup lint absences doc dependencies msrv test-python test-rust test-browser test-installed test-api test-attacks ## everything that must pass

lint:
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p app --no-default-features --features hydrate --target wasm32-unknown-unknown -- -D warnings

absences: ## what must not be reachable from where
	.ci/absences

doc: ## the documentation of the code, without warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

dependencies: ## none unused, none with another licence or origin, and both lock files are up to date
	@.ci/setup dependencies
	cargo machete
	cargo deny --locked check bans licenses sources
	cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null

msrv: ## compile with the oldest compiler that Cargo.toml promises
	.ci/msrv

openapi: ## write docs/openapi.json anew, after a change to the API
	UPDATE_OPENAPI=1 cargo test --locked --test it description::the_committed

test-unit: # a tenth of the random schedules that `make test` tries, which would take longer than all the rest
	ROUND_SCHEDULES=1000 cargo test --locked --workspace --lib

test-python: # the client in another language, and the bodies that both ends must read alike
	PYTHONPATH=.tools/python:clients/python python3 -m unittest discover --start-directory clients/python/tests

test-rust:
	cargo test --locked --workspace
	cargo test --locked --release --no-default-features --test simulation -- --nocapture

test-api: build # the description is valid, the coordinator keeps to it, and a client generated from it works
	PYTHONPATH=.tools/api python3 tests/api/conformance.py target/release/fedlearn
	PYTHONPATH=.tools/api python3 tests/api/generated.py target/release/fedlearn

ATTACK = PYTHONPATH=.tools/python python3 tests/attacks
test-attacks: build # credentials, hostile bodies, hostile texts and floods
	$(ATTACK)/auth.py --binary target/release/fedlearn
	$(ATTACK)/bodies.py --binary target/release/fedlearn
	$(ATTACK)/poison.py --binary target/release/fedlearn

test-installed: build
	tests/installed.sh

test-browser: build
	cd end2end && node --test --test-concurrency=1

SOAK_MINUTES ?= 10
CHAOS := CHAOS_AGENTS=8 CHAOS_ROUNDS=30 CHAOS_COORDINATOR_KILLS=20 CHAOS_AGENT_KILLS=40 CHAOS_PAUSES=10
soak: setup ## random schedules for SOAK_MINUTES (10), then the real program killed 60 times in 30 rounds; CHAOS_SEED=N again
	SIM_MINUTES=$(SOAK_MINUTES) cargo test --release --no-default-features --test simulation -- --nocapture
	$(CHAOS) cargo test --release --test chaos -- --nocapture

# CIFAR-10, where you have it: make bench SIZES="--dataset cifar10 --data PATH"
SIZES ?=
BENCH := target/release/fedlearn-bench
bench: build ## what docs/measured.md shows: sizes, convergence, speed, exchange, memory, load (25 minutes)
	cargo build --release -p fedlearn-bench
	$(BENCH) sizes $(SIZES)
	$(BENCH) convergence
	cargo bench -p fedlearn-bench --no-default-features
	$(BENCH) exchange --encoding bf16,bf16-delta,q8,q4,topk,f32
	$(BENCH) memory
	$(BENCH) load

fuzz: ## each fuzz target for FUZZ_SECONDS (60), from its corpus; ends at the first failure
	@.ci/setup fuzz
	@set -e; for target in $(FUZZ_TARGETS); do \
	  mkdir -p fuzz/found/$$target; log=fuzz/found/$$target.log; \
	  $(CARGO_FUZZ) build $$target; \
	  echo "fuzz: $$target for $(FUZZ_SECONDS) s, told in $$log"; \
	  $(CARGO_FUZZ) run $$target fuzz/found/$$target fuzz/corpus/$$target -- $(FUZZ_LIMITS) \
	    -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 >$$log 2>&1 || { \
	      grep -m 3 -A 1 -E 'panicked at|ERROR: |error' $$log || true; \
	      echo "fuzz: $$target failed; the input is in fuzz/artifacts/$$target, the rest in $$log" >&2; exit 1; }; \
	  grep -E 'DONE|number_of_executed|average_exec|peak_rss' $$log; \
	done

fuzz-corpus: ## add to the corpus what `make fuzz` found and what reaches code that nothing in it does
	@set -e; for target in $(FUZZ_TARGETS); do \
	  $(CARGO_FUZZ) run $$target fuzz/corpus/$$target fuzz/found/$$target -- $(FUZZ_LIMITS) -merge=1 -use_counters=0 \
	    >fuzz/found/merge.log 2>&1 || { tail -n 60 fuzz/found/merge.log; exit 1; }; \
	  echo "fuzz-corpus: $$target has $$(ls fuzz/corpus/$$target | wc -l) inputs"; \
	done

wasm-size:
	@bytes=$$(gzip -9c $(WASM) | wc -c); echo "WASM: $$(stat -c %s $(WASM)) bytes, $$bytes gzipped (limit $(WASM_LIMIT_BYTES))"; \
	  [ $$bytes -le $(WASM_LIMIT_BYTES) ] || { echo "the page's WASM is too large" >&2; exit 1; }
