PYTHON ?= python3
JOBS ?= 2
PROMPT ?= a red circle moving left on a black background
STAGES ?=

BIN := .venv/bin
READY := .venv/.ready
CPP := $(wildcard csrc/* tests/csrc/*.h tests/csrc/*.cpp)

.PHONY: help demo test lint sanitize bench gpu gpu-dry-run clean

help:
	@echo "make demo   generate a video with the embedded model: out/demo.mp4 (PROMPT=\"...\")"
	@echo "make test   lint and run the tests (JOBS=$(JOBS))"
	@echo "make lint   ruff check, ruff format --check and clang-format"
	@echo "make sanitize  the C++ tests under AddressSanitizer and UBSan"
	@echo "make bench  measure on this machine's CPU"
	@echo "make gpu    build, test, tune and measure on this machine's GPU, with PYTHON's own PyTorch"
	@echo "            (STAGES=\"steps sample\": only those; make gpu-dry-run tries them on a CPU)"
	@echo "make clean  remove the environment and everything built or generated"

demo: $(READY)
	@mkdir -p out
	$(BIN)/disca-rt generate "$(PROMPT)" --out out/demo.mp4

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)

sanitize: $(READY)
	$(BIN)/python -m pytest tests/csrc --sanitize

bench: $(READY)
	$(BIN)/python -m bench.run

# Without .venv: a machine with a GPU has the PyTorch that fits it, and may have no network.
gpu:
	PYTHON=$(PYTHON) bench/gpu.sh $(STAGES)

gpu-dry-run:
	PYTHON=$(PYTHON) bench/gpu.sh --dry-run $(STAGES)

clean:
	rm -rf .venv build dist out *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
	rm -f disca_rt/parallel/_native.*.so kernels/_cpu.*.so

# Without isolation: the extension is built against the pinned PyTorch, which is fetched once.
$(READY): constraints.txt pyproject.toml setup.py $(wildcard csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "make: needs Python 3.10 to 3.13, got PYTHON=$(PYTHON)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: $(PYTHON) cannot make a virtual environment (on Debian and Ubuntu:" \
	         "apt install python3-venv python3-dev); or name another: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'from sysconfig import get_path; open(get_path("include") + "/Python.h")' 2>/dev/null || \
	  { echo "make: the C++ extension needs the headers of $(PYTHON) (on Debian and Ubuntu:" \
	         "apt install python3-dev)" >&2; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || \
	  { echo "make: the C++ extension needs a compiler, found no $${CXX:-c++} (on Debian and Ubuntu:" \
	         "apt install g++); or name another: make CXX=..." >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt setuptools ninja torch
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[test]'
	@touch $@
