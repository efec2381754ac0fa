# Every target installs what it needs: the virtual environment .venv, the Rust extension, and for
# tests the Debian packages that are missing, if the user is root or has sudo. `make check` and
# `make test` skip, with one line each, what needs a package that cannot be installed.
# `make help` lists the targets.

PYTHON ?= python3
DATA ?=
LISTEN ?= 127.0.0.1:9918
PYTEST_ARGS ?=
# Tests wait as often as they compute.
WORKERS ?= $(shell echo $$(($$(nproc) + 1)))
MINUTES ?= 60
CUTS ?= 1000
SCHEDULES ?= 10000
SEED ?= 1

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DELETE_ON_ERROR:

bin := .venv/bin
lock := packaging/constraints.txt
# One build of PyO3 for maturin, clippy and cargo, rather than one for each interpreter they'd find.
export PYO3_PYTHON := $(CURDIR)/.venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# An active environment of any other kind would catch what is meant for .venv.
export VIRTUAL_ENV := $(CURDIR)/.venv
unexport CONDA_PREFIX PYTHONPATH PYTHONHOME
# What is built for others does not name directories of the machine that built it.
cargo_home := $(if $(CARGO_HOME),$(CARGO_HOME),$(HOME)/.cargo)
anonymous := --remap-path-prefix=$(cargo_home)=/cargo --remap-path-prefix=$(CURDIR)=/holdfast
# The distributions that are not installed here.
rollout := PYTHONPATH=$(CURDIR)/client:$(CURDIR)/fleet/rollout
# A prefix of commands rather than a variable of targets, which their prerequisites would inherit.
maturin = RUSTFLAGS='$(strip $(RUSTFLAGS) $(anonymous))' $(bin)/maturin
# Nothing is linked by a check: libFuzzer need not be compiled for it.
fuzz_targets = CUSTOM_LIBFUZZER_PATH=/usr/lib/libfuzzer.a
# Files of tests side by side, in the order of their names.
parallel = $(bin)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
# What the extension is built from.
sources := $(shell find rust -path rust/fuzz -prune -o -type f -print) $(wildcard Cargo.* rust-toolchain* .cargo/*)
# What the package has besides.
packed := $(shell find $(wildcard agent client systemd packaging) -name __pycache__ -prune -o -type f ! -name '*.so' -print)
lists := $(addprefix packaging/,deb-packages.txt test-packages.txt vm-packages.txt)

.PHONY: help
help: ## Show this list
	@printf 'holdfast: make TARGET [VARIABLE=value]\n\n'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | \
		while IFS=$$'\t' read -r target text; do printf '  %-12s %s\n' "$$target" "$$text"; done
	@printf '\nVariables: PYTHON (3.11 or later), DATA (a directory), LISTEN (address:port), MINUTES, CUTS, SCHEDULES, SEED, WORKERS, PYTEST_ARGS\n'

.PHONY: toolchain
toolchain:
	@packaging/check-toolchain

.PHONY: lint-toolchain
lint-toolchain:
	@packaging/check-toolchain fmt clippy

# With the client of this checkout, which holdfast depends on and no index has.
.venv/stamp: pyproject.toml $(lock) $(wildcard client/pyproject.toml) | toolchain
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'holdfast: needs Python 3.11 or later, and $(PYTHON) is not; name one: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo 'holdfast: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(bin)/python -m pip install --quiet --requirement $(lock)
	$(bin)/python -m pip install --quiet --no-deps --no-build-isolation --editable client
	@touch $@

.PHONY: build
build: .venv/built ## Make .venv and build the release extension into it: .venv/bin/holdfast

ifeq ($(wildcard agent/holdfast/_engine*.so),)
.PHONY: .venv/built
endif
.venv/built: .venv/stamp $(sources)
	PIP_QUIET=1 PIP_CONSTRAINT=$(lock) $(maturin) develop --release --extras dev
	@touch $@

# One static program for the initramfs: no libraries, and no other target directory's flags.
imager_target := $(shell uname -m)-unknown-linux-gnu
.PHONY: imager
imager: toolchain ## Build target/imager/holdfast-imager, the static program of the initramfs
	RUSTFLAGS='-C target-feature=+crt-static -C strip=symbols $(anonymous)' cargo build --locked --quiet --release \
		--package holdfast-imager --bin holdfast-imager --target $(imager_target) --target-dir target/imager
	cp target/imager/$(imager_target)/release/holdfast-imager target/imager/holdfast-imager

.PHONY: wheel
wheel: build client-wheel ## Build dist/holdfast-*.whl, which pip installs with the client's wheel
	@rm -f dist/holdfast-*.whl
	$(maturin) build --release --quiet --out dist
	@ls dist/holdfast-*.whl

.PHONY: client-wheel
client-wheel: .venv/stamp ## Build dist/holdfast_client-*.whl, the library for programs that call nodes
	@rm -f dist/holdfast_client-*.whl
	$(bin)/python -m flit_core.wheel --outdir dist client
	@ls dist/holdfast_client-*.whl

.PHONY: rollout-wheel
rollout-wheel: .venv/stamp ## Build dist/holdfast_rollout-*.whl, which rolls a fleet
	@rm -f dist/holdfast_rollout-*.whl
	$(bin)/python -m flit_core.wheel --outdir dist fleet/rollout
	@ls dist/holdfast_rollout-*.whl

.PHONY: client-routes
client-routes: build ## Write the client's methods anew, one for each route of the API
	PYTHONPATH=. $(bin)/python client/generate_routes.py

.PHONY: fleet-ansible
fleet-ansible: .venv/stamp ## Build dist/holdfast-agent-*.tar.gz, the Ansible collection
	@mkdir -p dist
	$(bin)/ansible-galaxy collection build --force --output-path dist fleet/ansible

.PHONY: fleet-ansible-test
fleet-ansible-test: build ## Test the Ansible collection with the oldest and the newest Ansible (15 minutes)
	@packaging/test-collection

.PHONY: deb
deb: deb-packages wheel imager ## Build dist/holdfast_*.deb for Debian 12, Ubuntu 24.04 and later
	@packaging/build-deb

.PHONY: deb-or-skip
deb-or-skip: wheel imager
	@packaging/build-deb --or-skip

.PHONY: demo
demo: data-if-named build ## Show page cache, manifests and a tuning plan through a running daemon (DATA=/path: your own files)
	@$(bin)/python -m demo $(if $(DATA),--data '$(DATA)')

.PHONY: demo-machine
demo-machine: demo-tools .venv/packed ## Show a whole emulated machine becoming another image (as root)
	@$(bin)/python -m demo.machine

.PHONY: demo-tools
demo-tools:
	@$(PYTHON) demo/requirements.py demo-machine

.PHONY: demo-fleet
demo-fleet: demo-fleet-tools build ## Show 12 daemons in 3 zones becoming another image, with faults (as root)
	@$(rollout) $(bin)/python -m demo.fleet

.PHONY: measure-fleet
measure-fleet: demo-fleet-tools build ## Roll 96 daemons, 4 of a zone at a time, called each 30 s, and compare the cost with its limits (25 minutes, 10 GiB, as root)
	@$(rollout) $(bin)/python -m demo.fleet --measure --zones 3 --nodes 32 --per-zone 4 --poll 30

.PHONY: demo-fleet-tools
demo-fleet-tools:
	@$(PYTHON) demo/requirements.py demo-fleet

# The package, if anything in it has changed since it was last built here.
.venv/packed: .venv/built $(packed)
	@$(MAKE) deb
	@touch $@

.PHONY: run
run: data build ## Run the daemon in the foreground on DATA=/path, with curl lines to paste
	@packaging/run-in-checkout '$(DATA)' '$(LISTEN)'

.PHONY: data
data:
	@[[ -n '$(DATA)' ]] || { echo 'holdfast: make run needs a directory: make run DATA=/path' >&2; exit 2; }
	@[[ -d '$(DATA)' ]] || { echo 'holdfast: DATA=$(DATA): there is no such directory' >&2; exit 2; }

.PHONY: data-if-named
data-if-named: $(if $(DATA),data)

.PHONY: test
test: lint-toolchain packages-or-skip lint deb-or-skip ## Run lint, the engine's tests, unit and system tests, and a re-imaging (45 minutes)
	cargo test --locked --quiet --workspace --exclude holdfast-binding
	@# Most system tests start a daemon; where Python may not keep what it compiles, each compiles itself.
	$(bin)/python -m compileall -q agent client/holdfast_client fleet/rollout
	$(parallel) $(PYTEST_ARGS)

.PHONY: test-vm
test-vm: packages deb ## Run whole machines, emulated: boots, kills, re-imaging, faults, removal, rolls of six (3 hours)
	$(bin)/python -m pytest -s tests/vm $(PYTEST_ARGS)

.PHONY: test-cuts
test-cuts: packages build imager ## Cut the power of re-imagings CUTS=1000 times; continues where it was ended (2 hours)
	$(bin)/python -m tests.vm.cuts '$(CUTS)' --jobs "$$(nproc)"

.PHONY: check
check: lint-toolchain test-packages-or-skip lint ## Run the fast subset: lint and the unit tests that are not slow
	$(parallel) -m 'not slow' tests/unit $(PYTEST_ARGS)

# Ansible, and mypy for it, find a collection by where it is.
collections := .venv/collections
.PHONY: collection
collection: .venv/stamp
	@mkdir -p $(collections)/ansible_collections/holdfast
	@ln -sfn $(CURDIR)/fleet/ansible $(collections)/ansible_collections/holdfast/agent

.PHONY: lint
lint: lint-toolchain build collection ## Check formatting, lint, types, and the extension's stub against the built module
	$(bin)/ruff format --quiet --check .
	$(bin)/ruff check --quiet .
	$(bin)/mypy
	$(bin)/mypy --python-version 3.10 client/holdfast_client
	MYPYPATH=$(collections) $(bin)/mypy -p ansible_collections.holdfast.agent.plugins
	MYPYPATH=agent $(bin)/python -m mypy.stubtest holdfast._engine
	cargo fmt --all --check
	cargo fmt --manifest-path rust/fuzz/Cargo.toml --check
	cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
	$(fuzz_targets) cargo clippy --locked --quiet --manifest-path rust/fuzz/Cargo.toml --target-dir target -- -D warnings

.PHONY: format
format: .venv/stamp ## Format the Python and Rust sources, and fix what can be fixed safely
	$(bin)/ruff check --quiet --fix .
	$(bin)/ruff format .
	cargo fmt --all

.PHONY: figures
figures: .venv/stamp ## Draw docs/img/*.svg from their scripts
	$(bin)/python docs/img/figures.py

.PHONY: bench
bench: packages deb ## Run the benchmarks beside their peers; results for docs/benchmarks.md
	$(bin)/python -m tests.bench

.PHONY: soak
soak: build ## Run hostile and honest clients against a daemon for MINUTES=60, and check what it promises
	$(bin)/python -m tests.soak --minutes '$(MINUTES)'

.PHONY: lock-kills
lock-kills: build ## Kill a thousand processes that take the fleet's lock; none may leak or lose it
	$(bin)/python -m tests.support.fleet.lock_kills 1000 "$$RANDOM"

.PHONY: simulate-fleet
simulate-fleet: .venv/stamp ## Run SCHEDULES=10000 random rolls on a virtual clock; each must keep every invariant (10 minutes)
	$(rollout) $(bin)/python -m tests.simulation --schedules '$(SCHEDULES)' --seed '$(SEED)' --jobs "$$(nproc)"

.PHONY: fuzz
fuzz: ## Fuzz the record parsers for a minute each (needs cargo-fuzz and a nightly toolchain)
	@packaging/check-toolchain fuzz
	for target in $$(cargo fuzz list --fuzz-dir rust/fuzz); do \
		cargo +nightly fuzz run --fuzz-dir rust/fuzz "$$target" -- -max_total_time=60; done

.PHONY: lock
lock: ## Renew packaging/constraints.txt from the newest versions that pyproject.toml allows
	@packaging/lock '$(PYTHON)'

.PHONY: packages
packages:
	@packaging/install-packages $(lists)

.PHONY: packages-or-skip
packages-or-skip:
	@packaging/install-packages --or-skip $(lists)

.PHONY: deb-packages
deb-packages:
	@packaging/install-packages packaging/deb-packages.txt

.PHONY: test-packages-or-skip
test-packages-or-skip:
	@packaging/install-packages --or-skip packaging/test-packages.txt

.PHONY: clean
clean: ## Remove what builds and tests made, the virtual environment included
	rm -rf .venv target dist rust/fuzz/target agent/holdfast/*.so
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find agent client fleet tests -name __pycache__ -type d -prune -exec rm -rf {} +
