#!/usr/bin/env bash
# What a GPU can show, in two commands that fit a rented quarter of an hour: bench/gpu.sh first, of
# 420 seconds at most, then bench/gpu.sh second, of 260; or any stages by name.
#
# What matters most comes first; a stage has a limit, and what is left of its command's time. One that
# fails or is stopped is told at the end, and the others go on. Needs PyTorch >= 2.11, Triton and a
# compiler, no network; what `make gpu-kit` has prepared is taken from .gpu. Everything is written
# into out/gpu (in the environment: GPU_OUT), which python -m bench.gpu_pages turns into pages on
# any machine; where OUT names a folder, a copy packed into one file is kept there after each stage.
# --dry-run takes every stage through small shapes on a CPU and writes into out/gpu-dry-run. In the
# environment: PYTHON, GPU_KIT for .gpu, LIMIT and BUDGET, the seconds of a stage and of the command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

FIRST=(machine build golden tests rates tune profile steps)
SECOND=(sample ops fp8)
STAGES=("${FIRST[@]}" "${SECOND[@]}")
declare -A LIMITS=(
  [machine]=20 [build]=60 [golden]=60 [tests]=90 [rates]=75 [tune]=75 [profile]=60 [steps]=200
  [sample]=200 [ops]=70 [fp8]=60
)
declare -A BUDGETS=([first]=420 [second]=260)
declare -A NEEDS=(
  [golden]="pytest pytest-timeout hypothesis safetensors"
  [tests]="pytest pytest-timeout pytest-xdist hypothesis safetensors"
  [profile]="rich" [fp8]="rich"
)
PYTHON=${PYTHON:-python3}
KIT=${GPU_KIT:-$PWD/.gpu}
MODEL_13B=hunyuan-video-meanflow
export PYTHONPATH="$KIT/site:$PWD:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ -d "$KIT/cache" ]; then export TRITON_CACHE_DIR=$KIT/cache; fi

# What differs in a trial on a CPU: kernels are interpreted, nothing is compiled, shapes are small.
dry_run_settings() {
  export TRITON_INTERPRET=1 TORCH_COMPILE_DISABLE=1
  LIMIT=${LIMIT:-600} BUDGET=${BUDGET:-7200} # a CPU interprets slowly
  OUT_DIR=${GPU_OUT:-out/gpu-dry-run}
  MODEL=(bench.trial bench 8x8x1 --model tiny --random --steps 5 --step-list 0,2 --quick)
  PROFILE=(bench.trial profile --random tiny --size 8x8x1)
  KERNELS=(--device cuda --dry-run) SMALLER=(--ops triton)
  GOLDEN=${GOLDEN:-test_last_hidden_state and triton and hyvideo10}
  TUNE=(--dry-run) MARK=() GPU_TESTS=(tests/test_gpu_nodes.py)
}

gpu_settings() {
  "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "gpu.sh: error: PyTorch sees no GPU; --dry-run tries every stage on a CPU" >&2
    exit 1
  }
  OUT_DIR=${GPU_OUT:-out/gpu}
  MODEL=(disca_rt bench 704x704x129 --device cuda)
  PROFILE=(disca_rt profile --random "$MODEL_13B" --device cuda)
  KERNELS=(--device cuda) SMALLER=()
  TUNE=(--only 704x704x129 --out "$OUT_DIR/launch_table.json")
  # Only files with such tests: others import packages that may not be here. Virtual ranks time
  # clocks of several streams on an idle card, which is no first sign of anything.
  mapfile -t GPU_TESTS < <(grep -rl --include='test_*.py' 'mark\.gpu' tests | grep -v virtual_ranks)
  MARK=(-m gpu -n 8 --dist loadgroup)
}

model() {
  "$PYTHON" -m "${MODEL[@]}" "$@" --out "$OUT_DIR/results.jsonl" --ladder "$OUT_DIR/last-stage.png"
}
kernels() { "$PYTHON" -m bench.run "${KERNELS[@]}" --out "$OUT_DIR/results.jsonl" "$@"; }

# Of the packages named, those that are not here.
absent() {
  "$PYTHON" - "$@" <<'PY'
import sys
from importlib.util import find_spec
modules = {"pytest-xdist": "xdist"}
names = ((name, modules.get(name, name.replace("-", "_"))) for name in sys.argv[1:])
print(*(name for name, module in names if find_spec(module) is None))
PY
}
# Says in a line what a stage lacks, or fails where it lacks nothing.
lacks() {
  local packages=${NEEDS[$1]:-}
  if [ -n "$packages" ]; then packages=$(absent $packages); fi
  [ -n "$packages" ] && echo "$1: skipped, needs $packages: pip install $packages"
}

stage_machine() {
  if compgen -G "$KIT/wheels/*.whl" >/dev/null; then
    "$PYTHON" -m pip install -q --no-index --no-deps --upgrade --target "$KIT/site" "$KIT"/wheels/*.whl ||
      echo "machine: the kit's wheels do not fit this Python, and are left out"
  fi
  if [ -f "$KIT/cache.tgz" ]; then
    mkdir -p "$KIT/cache"
    tar -xzf "$KIT/cache.tgz" -C "$KIT/cache"
    "$PYTHON" -m bench.triton_cache move "$KIT/cache"
  fi
  local stage
  for stage in "${STAGES[@]}"; do lacks "$stage" || true; done
  "$PYTHON" - <<'PY'
import torch, triton
print(f"PyTorch {torch.__version__}, Triton {triton.__version__}, cuDNN {torch.backends.cudnn.version()}")
for index in range(torch.cuda.device_count()):
    print(torch.cuda.get_device_properties(index))
PY
  if command -v nvidia-smi >/dev/null; then nvidia-smi; fi
}
# A kit's extensions are taken where they load: built for this Python, PyTorch and C++ library.
stage_build() {
  local check='from disca_rt.parallel import _native; from disca_rt.kernels import _cpu'
  if [ -d "$KIT/built" ]; then
    cp "$KIT"/built/disca_rt/kernels/*.so kernels/
    cp "$KIT"/built/disca_rt/parallel/*.so disca_rt/parallel/
  fi
  if ! "$PYTHON" -c "import torch; $check" 2>/dev/null; then
    echo "building the extensions"
    "$PYTHON" setup.py -q build_ext --inplace --force
  fi
  "$PYTHON" -c "import torch; $check; print(_native.__file__, _cpu.__file__)"
}
# The authors' vectors, fused ops on the GPU: whole models, right or wrong. No mark: a CPU has it too.
stage_golden() {
  "$PYTHON" -m pytest -q -p no:cacheprovider tests/test_golden.py -k "${GOLDEN:-triton}"
}
stage_tests() { "$PYTHON" -m pytest -q -p no:cacheprovider "${MARK[@]}" "${GPU_TESTS[@]}"; }
stage_rates() { kernels --only rates; }
stage_tune() { "$PYTHON" -m disca_rt tune "${TUNE[@]}"; }
# A full step and a predicted one, each also in the short samples before: 20 s of 13B.
stage_profile() { profiled profile; }
stage_fp8() {
  local flags
  flags=$("$PYTHON" -m disca_rt profile --help)
  if [[ $flags == *"--fp8 "* ]]; then
    profiled profile-fp8 --fp8
  else
    echo "skipped: this version does not compute in FP8"
  fi
}
profiled() {
  "$PYTHON" -m "${PROFILE[@]}" --steps 2 --step-list 0 --out "$OUT_DIR/$1" "${@:2}"
}
stage_steps() { model --only full-step --only predicted-step --samples 2 "${SMALLER[@]}"; }
stage_sample() {
  if [ -z "${IS_DRY_RUN:-}" ]; then
    model --only sample-graphs --samples 1
  else
    model --only sample --samples 1 # a CPU has no CUDA graphs
  fi
}
stage_ops() {
  if [ -z "${IS_DRY_RUN:-}" ]; then
    kernels --no-compile --samples 15 --only ", 1.0 704x704x129"
  else
    kernels --only "ops: "
  fi
}

run_stages() {
  local failed=() stage started status left limit
  for stage in "$@"; do
    left=$((BUDGET - SECONDS)) limit=${LIMIT:-${LIMITS[$stage]}}
    if [ "$left" -le 0 ]; then failed+=("$stage"); echo "$stage: no time left"; continue; fi
    if [ "${limit%.*}" -gt "$left" ]; then limit=$left; fi
    echo "=== $stage"
    started=$SECONDS status=0
    # A process of its own, so that the limit ends all of it; what it has written by then stays.
    timeout --kill-after=5 "$limit" bash "$SELF" --inside "$stage" || status=$?
    if [ "$status" = 124 ]; then echo "$stage: stopped after $limit s"; fi
    if [ "$status" != 0 ]; then failed+=("$stage"); fi
    echo "=== $stage: exit code $status, $((SECONDS - started)) s"
    pack
  done
  if [ ${#failed[@]} -gt 0 ]; then
    echo "gpu.sh: failed: ${failed[*]} (each can be run alone: bench/gpu.sh ${failed[0]})"
    return 1
  fi
}
pack() {
  if [ -n "${OUT:-}" ]; then
    tar -czf "$OUT/gpu.tgz.partial" -C "$OUT_DIR" . && mv "$OUT/gpu.tgz.partial" "$OUT/gpu.tgz"
  fi
}

SELF=bench/gpu.sh
if [ "${1:-}" = --dry-run ]; then export IS_DRY_RUN=1; shift; fi
inside=
if [ "${1:-}" = --inside ]; then inside=$2; shift 2; fi
chosen=() seconds=0
for name in "$@"; do
  case $name in
    first) chosen+=("${FIRST[@]}") ;;
    second) chosen+=("${SECOND[@]}") ;;
    *) chosen+=("$name") ;;
  esac
  seconds=$((seconds + ${BUDGETS[$name]:-${LIMITS[$name]:-0}}))
done
if [ -z "$inside" ] && [ ${#chosen[@]} = 0 ]; then
  echo "gpu.sh: error: say first, second, or stages: ${STAGES[*]}" >&2
  exit 2
fi
for stage in "${chosen[@]}"; do
  if [[ " ${STAGES[*]} " != *" $stage "* ]]; then
    echo "gpu.sh: error: stage must be first, second or some of ${STAGES[*]}, got $stage" >&2
    exit 2
  fi
done
if [ -n "${IS_DRY_RUN:-}" ]; then dry_run_settings; else gpu_settings; fi
BUDGET=${BUDGET:-$seconds}
mkdir -p "$OUT_DIR"
if [ ! -f "$OUT_DIR/launch_table.json" ]; then
  cp kernels/launch_table.json "$OUT_DIR/launch_table.json"
fi
export DISCA_RT_LAUNCH_TABLE=$OUT_DIR/launch_table.json
if [ -z "$inside" ]; then
  run_stages "${chosen[@]}"
elif ! lacks "$inside"; then
  # Not within `||` or `if`, where bash would go on past a failing line of the stage.
  "stage_$inside"
fi
