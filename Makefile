# `make demo` and `make test` are all that a newcomer needs: each does the set-up first, which is quick when nothing is
# missing. After it plain `cargo leptos serve`, `cargo leptos watch` and `cargo test` work too.
.PHONY: help setup build serve demo test lint absences test-python test-rust test-browser bench wasm-size
.DEFAULT_GOAL := help

WASM_LIMIT_BYTES := 400000
WASM := target/site/pkg/fedlearn.wasm

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## install what is missing; says what it does
	@.ci/setup

build: setup ## release build of coordinator, agent and page
	cargo leptos build --release
	@$(MAKE) --no-print-directory wasm-size

serve: build ## the coordinator alone, on http://127.0.0.1:3000
	target/release/fedlearn serve

demo: build ## coordinator and three agents on Fashion-MNIST, ten rounds; Ctrl-C ends it
	@exec target/release/fedlearn demo

test: setup lint absences test-python test-rust test-browser ## everything that must pass

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy -p app --no-default-features --features hydrate --target wasm32-unknown-unknown -- -D warnings

absences: ## what must not be reachable from where
	.ci/absences

test-python: # the client in another language, and the bodies that both ends must read alike
	PYTHONPATH=.tools/python:clients/python python3 -m unittest discover --start-directory clients/python/tests

test-rust:
	cargo test --workspace

test-browser: build
	cd end2end && node --test --test-concurrency=1

bench: ## how fast bodies are written and read
	cargo bench --bench wire --no-default-features

wasm-size:
	@bytes=$$(gzip -9c $(WASM) | wc -c); echo "WASM: $$(stat -c %s $(WASM)) bytes, $$bytes gzipped (limit $(WASM_LIMIT_BYTES))"; \
	  [ $$bytes -le $(WASM_LIMIT_BYTES) ] || { echo "the page's WASM is too large" >&2; exit 1; }
