# `make` lists the targets. ARGS goes to the command behind one: make test ARGS="-k wire -x"
# PYTHON chooses the interpreter when an environment is made: make demo PYTHON=python3.12
SHELL = /bin/sh
.SUFFIXES:
.PHONY: help demo lab soak bench test sweep fuzz lint format lock clean
.DEFAULT_GOAL := help

# The environments are complete; what steers the caller's own Python must not reach into them.
unexport PYTHONHOME PYTHONPATH PYTHONSTARTUP VIRTUAL_ENV
export PYTHON

BIN = .venv/bin
PEERS = host_sdk/bench/servers/requirements
LOCK = PATH="$(BIN):$$PATH" uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" --constraint .ci/constraints.in $(ARGS)

# The image has one Python and one system, so no markers; and what is in both locks has the same version in both.
IMAGE_LOCK = $(subst --universal,--python-platform linux,$(LOCK))

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | expand -t 10

demo: ## show appliances answering, in a lab on this machine
	@.ci/setup
	@$(BIN)/napu demo $(ARGS)

# As root it brings a Docker Engine along where none answers, for as long as it takes.
lab: ## show containers as a cluster, of which one is killed and no image is lost
	@.ci/setup
	@docker/engine run --install -- sh -ec 'docker/build --quiet >/dev/null; exec $(BIN)/napu demo --docker $(ARGS)'

soak: ## hurt appliances in containers every 10 s for 10 minutes; nothing may be lost or grow (ARGS="--minutes 2 --seed 7"; root)
	@.ci/setup
	@docker/engine run --install -- $(BIN)/python -m tests.system.soak $(ARGS)

bench: ## measure appliances beside inference servers, which it installs into a cache (ARGS=--quick for a short look)
	@.ci/setup
	@$(BIN)/napu bench $(ARGS)

# One process for each core; -n 0 in ARGS runs them all in one, as a debugger needs it.
test: ## run all tests, on both DLA backends where Python 3.11 is to be had (ARGS="-k wire -x")
	@.ci/setup
	@.ci/setup tflite-runtime
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

sweep: ## cut an emulated board's power at every operation of an update, and see that it still boots (ARGS="--seed 2")
	@.ci/setup
	@$(BIN)/python -m tests.firmware.boot.sweep $(ARGS)

fuzz: ## feed every parser with inputs made up by coverage, for a minute in all (ARGS="--seconds 600 image control")
	@.ci/setup fuzz
	@test -x .venv-fuzz/bin/python || { echo "fuzz: the fuzzer cannot be had here, as said above" >&2; exit 1; }
	@.venv-fuzz/bin/python -m tests.fuzz.campaign $(ARGS)

lint: ## check style, format and types
	@.ci/setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: ## put the source into the one format
	@.ci/setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# A uv of the user's own comes first: it can mend a lock file from which no environment can be made.
lock: ## renew the lock files from pyproject.toml (ARGS=--upgrade for the newest versions)
	@command -v uv >/dev/null || { .ci/setup && $(BIN)/python -m pip install --quiet uv; }
	$(LOCK) --extra dev --output-file .ci/requirements.lock pyproject.toml .ci/build.in
	$(LOCK) --extra tflite-runtime --extra test --output-file .ci/tflite-runtime.lock pyproject.toml .ci/build.in
	$(LOCK) --extra fuzz --output-file .ci/fuzz.lock pyproject.toml .ci/build.in
	$(IMAGE_LOCK) --extra appliance --extra capture --constraint .ci/requirements.lock --output-file docker/requirements.lock pyproject.toml
	$(IMAGE_LOCK) --output-file docker/build.lock docker/build.in
	for peer in protocol triton mlserver; do $(LOCK) --output-file $(PEERS)/$$peer.txt $(PEERS)/$$peer.in || exit; done
	$(LOCK) --no-deps --output-file $(PEERS)/tritonserver.txt $(PEERS)/tritonserver.in

clean: ## remove the environments and everything generated
	rm -rf .venv .venv-tflite .venv-fuzz .fuzz .setup.lock build dist *.egg-info .coverage .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache .benchmarks napu-demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
