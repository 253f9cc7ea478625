PYTHON ?= python3
JOBS ?= 2
PROMPT ?= a red circle moving left on a black background
STAGES ?= first second
KIT_PYTHON ?= $(OLDEST)/bin/python
GPU_OUT ?= out/gpu

BIN := .venv/bin
READY := .venv/.ready
# The stack of a machine with a GPU, in an environment and a copy of the tree of its own.
OLDEST := .venv-oldest
OLDEST_PYTHON ?= python3.12
TESTS ?= tests/ops tests/test_attention.py tests/test_graphs.py tests/test_segments.py \
         tests/test_models.py tests/test_golden.py tests/profiling tests/parallel \
         tests/pipeline/test_runtime.py
CPP := $(wildcard csrc/* tests/csrc/*.h tests/csrc/*.cpp)

.PHONY: help demo test test-oldest lint sanitize bench gpu gpu-dry-run gpu-kit gpu-pages clean

help:
	@echo "make demo   generate a video with the embedded model: out/demo.mp4 (PROMPT=\"...\")"
	@echo "make test   lint and run the tests (JOBS=$(JOBS))"
	@echo "make test-oldest  what depends on PyTorch and Triton, with the oldest that we support"
	@echo "            (OLDEST_PYTHON=$(OLDEST_PYTHON), TESTS=tests: all of them)"
	@echo "make lint   ruff check, ruff format --check and clang-format"
	@echo "make sanitize  the C++ tests under AddressSanitizer and UBSan"
	@echo "make bench  measure on this machine's CPU"
	@echo "make gpu    build, test, tune and measure on this machine's GPU, with PYTHON's own PyTorch,"
	@echo "            in two parts of 420 and 260 s (STAGES=first: one of them; STAGES=\"steps ops\":"
	@echo "            only those; make gpu-dry-run tries them on a CPU)"
	@echo "make gpu-kit    what a rented GPU needs, prepared without one: .gpu and out/gpu-kit.tar.gz"
	@echo "make gpu-pages  pages of what make gpu wrote (GPU_OUT=$(GPU_OUT)), on any machine"
	@echo "make clean  remove the environment and everything built or generated"

demo: $(READY)
	@mkdir -p out
	$(BIN)/disca-rt generate "$(PROMPT)" --out out/demo.mp4

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

# In a copy: extensions are built beside the sources, and work with the PyTorch that built them.
test-oldest: $(OLDEST)/.ready
	@mkdir -p $(OLDEST)/tree
	find $(OLDEST)/tree -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
	git ls-files -co --exclude-standard -z | tar --null -T - --ignore-failed-read -cf - \
	  | tar -xf - -C $(OLDEST)/tree
	cd $(OLDEST)/tree && ../bin/python setup.py -q build_ext --inplace
	cd $(OLDEST)/tree && ../bin/python -m pytest -n $(JOBS) --dist loadgroup $(TESTS)

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
	PYTHON=$(PYTHON) GPU_OUT=$(GPU_OUT) bench/gpu.sh $(STAGES)

gpu-dry-run:
	PYTHON=$(PYTHON) bench/gpu.sh --dry-run $(STAGES)

# With the Python, PyTorch and Triton of the machine that it is for.
gpu-kit: $(OLDEST)/.ready
	$(KIT_PYTHON) -m bench.gpu_kit

gpu-pages: $(READY)
	$(BIN)/python -m bench.gpu_pages $(GPU_OUT)

clean:
	rm -rf .venv $(OLDEST) .gpu build dist out *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks
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

# The package index has PyTorch 2.11 with its CUDA libraries alone, which is what such a machine has
# too: 5 GB on disk. The list is installed as it is: this package runs from its copy.
$(OLDEST)/.ready: constraints-oldest.txt pyproject.toml
	test -x $(OLDEST)/bin/pip || $(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -r constraints-oldest.txt
	@touch $@
