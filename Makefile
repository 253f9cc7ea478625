PYTHON ?= python3
JOBS ?= 2
PROMPT ?= a red circle moving left on a black background
STAGES ?=

BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test lint bench gpu gpu-dry-run clean

help:
	@echo "make demo   generate a video with the embedded model: out/demo.mp4 (PROMPT=\"...\")"
	@echo "make test   lint and run the tests (JOBS=$(JOBS))"
	@echo "make lint   ruff check and ruff format --check"
	@echo "make bench  measure on this machine's CPU"
	@echo "make gpu    build, test, tune and measure on this machine's GPU, with PYTHON's own PyTorch"
	@echo "            (STAGES=\"steps sample\": only those; make gpu-dry-run tries them on a CPU)"
	@echo "make clean  remove the environment and everything built or generated"

demo: $(READY)
	@mkdir -p out
	$(BIN)/disca-rt generate "$(PROMPT)" --out out/demo.mp4

test: lint
	$(BIN)/python -m pytest -n $(JOBS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(READY)
	$(BIN)/python -m bench.run

# Without .venv: a machine with a GPU has the PyTorch that fits it, and may have no network.
gpu:
	PYTHON=$(PYTHON) bench/gpu.sh $(STAGES)

gpu-dry-run:
	PYTHON=$(PYTHON) bench/gpu.sh --dry-run $(STAGES)

clean:
	rm -rf .venv build dist out *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks

# Without isolation, so that a build uses the pinned tools and never fetches a second PyTorch.
$(READY): constraints.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "make: needs Python 3.10 to 3.13, got PYTHON=$(PYTHON)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: $(PYTHON) cannot make a virtual environment (on Debian and Ubuntu:" \
	         "apt install python3-venv python3-dev); or name another: make PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt setuptools pybind11 ninja
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[test]'
	@touch $@
