# Overlane's commands. `make demo` and `make test` need root and the Rust toolchain, and install the rest themselves.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# The same packages and features everywhere: else every command builds the dependencies anew.
ALL := --workspace --all-features
# Static binaries: the CNI plugin must run in any node's root file system, and starts faster without a dynamic linker.
# Without this machine's paths: the same commit gives the same bytes wherever it is built.
CARGO_DIR := $(or $(CARGO_HOME),$(HOME)/.cargo)
RELEASE_FLAGS := -C target-feature=+crt-static --remap-path-prefix=$(CURDIR)=/overlane --remap-path-prefix=$(CARGO_DIR)=/cargo
RELEASE := env RUSTFLAGS="$(RELEASE_FLAGS)" cargo build --locked --release --target $(HOST)
IMAGE = target/image/overlane-$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)-amd64.tar
PROGRAMS := -p overlane-cli -p overlane-agent -p overlane-controller -p overlane-cni
RELEASE_BIN := $(TARGET_DIR)/$(HOST)/release

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

.PHONY: demo
demo: setup build ## bring up a lab of three nodes, prove what it does, leave it running
	$(TARGET_DIR)/debug/overlane lab demo --name demo

.PHONY: setup
setup: ## install the Debian packages that the commands below use
	@scripts/setup.sh

.PHONY: build
build: ## build all programs
	cargo build --locked $(ALL) --bins

.PHONY: release
release: ## static release binaries
	$(RELEASE) --workspace --bins

PREFIX ?= /usr/local
.PHONY: install-cli
install-cli: ## build the command line, and put it into PREFIX/bin (/usr/local/bin), for kubectl too
	$(RELEASE) -p overlane-cli --bins
	install -D -m 755 $(RELEASE_BIN)/overlane $(DESTDIR)$(PREFIX)/bin/overlane
	ln -sf overlane $(DESTDIR)$(PREFIX)/bin/kubectl-overlane

.PHONY: image
image: setup ## the container image, without a container engine: target/image
	$(RELEASE) $(PROGRAMS) --bins
	scripts/image.sh $(RELEASE_BIN) amd64

ARM64 := aarch64-unknown-linux-gnu
.PHONY: image-arm64
image-arm64: setup ## the same for arm64, cross-built
	scripts/setup-arm64.sh
	env RUSTFLAGS="$(RELEASE_FLAGS)" CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	  cargo build --locked --release --target $(ARM64) $(PROGRAMS) --bins
	scripts/image.sh $(TARGET_DIR)/$(ARM64)/release arm64

.PHONY: chart
chart: ## write deploy/helm/overlane from the types
	cargo run --locked --quiet -p overlane-install --example chartgen deploy/helm/overlane

.PHONY: test
test: setup build test-crates test-root ## every test; root

.PHONY: test-rootless
test-rootless: ## tests that need no privileges
	cargo test --locked --workspace

.PHONY: test-crates
test-crates: ## the crates' own tests, those that need root among them
	cargo test --locked $(ALL) --exclude overlane-suites

.PHONY: test-root
test-root: build ## suites with real namespaces and real binaries; root
	scripts/test-root.sh

.PHONY: test-hundred
test-hundred: build ## a lab of a hundred nodes; root
	OVERLANE_NODES=100 scripts/test-root.sh labs -- many_nodes

.PHONY: test-policy-full
test-policy-full: build ## policies by 10,000 random packets, 200 changes and 500 starts; OVERLANE_POLICY_SEED=N: those of a run before; root
	OVERLANE_POLICY_PROBES=10000 OVERLANE_POLICY_STARTS=500 OVERLANE_POLICY_CHANGES=200 \
	  OVERLANE_POLICY_SEED=$${OVERLANE_POLICY_SEED:-$$(date +%s)} scripts/test-root.sh policy

.PHONY: kubernetes-parts
kubernetes-parts: ## build the real API of `overlane lab up --api kubernetes`: target/kubernetes/bin
	tests/kubernetes/setup.sh
	tests/kubernetes/build.sh kube-apiserver kube-controller-manager

.PHONY: test-lab-kubernetes
test-lab-kubernetes: build kubernetes-parts ## the lab's suites against a real API server; root
	scripts/test-lab-kubernetes.sh

.PHONY: test-kubernetes
test-kubernetes: build image ## the short suite against a real Kubernetes of namespaces; root
	scripts/test-image.sh $(RELEASE_BIN) $(IMAGE)
	scripts/test-kubernetes.sh $(RELEASE_BIN) $(IMAGE)

.PHONY: test-kubernetes-full
test-kubernetes-full: build image ## every network specification of Kubernetes, all families, failures; hours, resumable
	scripts/test-kubernetes-full.sh $(RELEASE_BIN) $(IMAGE)

.PHONY: test-kubernetes-upgrade
test-kubernetes-upgrade: build image ## from an older release to this and back: OLD_BINARIES=DIR OLD_IMAGE=FILE; root
	scripts/test-kubernetes-upgrade.sh $(OLD_BINARIES) $(OLD_IMAGE) $(RELEASE_BIN) $(IMAGE)

.PHONY: fuzz
fuzz: setup ## a minute of fuzzing for each target
	scripts/fuzz.sh

.PHONY: test-mutants
test-mutants: build image ## plant faults in the product; fails if a suite lets one through
	scripts/test-mutants.sh

.PHONY: check
check: ## format, lints, documentation, generated files, dependency rules
	cargo fmt --all --check
	cargo clippy --locked $(ALL) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
	scripts/check-deps.sh
	scripts/check-tree.sh
	cargo test --locked $(ALL) --test crds --test chart
	CARGO_TARGET_DIR=$(TARGET_DIR)/fuzz cargo check --locked --manifest-path fuzz/Cargo.toml

.PHONY: crds
crds: ## write deploy/crds from the types
	cargo run --locked --quiet -p overlane-api --example crdgen > deploy/crds/overlane.io.yaml

.PHONY: bench
bench: setup release ## all benchmarks: a table, and JSON in target/bench
	OVERLANE_BIN=$(RELEASE_BIN) scripts/bench.sh

.PHONY: clean-labs
clean-labs: build ## end every lab on this machine
	$(TARGET_DIR)/debug/overlane lab down --all
