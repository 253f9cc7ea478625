#!/usr/bin/env bash
# Everything a GPU can show, in stages that each end within eight minutes: bench/gpu.sh [STAGE ...]
#
# Needs PyTorch >= 2.11, Triton and a compiler, no network and no installation; NEEDS says which
# stages need packages beside these, and are skipped where one is not here. A stage that fails is
# reported at the end and the others go on; each can be run alone, and replaces only its own lines of
# bench/results/<gpu>-<date>.jsonl. --dry-run takes every stage through small shapes on a CPU and
# writes under out/. In the environment: PYTHON, LIMIT (seconds of a stage), RESULTS.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

STAGES=(
  machine build ceilings tests tune ops-704 ops-720p ops-480p
  steps sample sample-graphs rivals sample-rivals embedded ladder
)
declare -A NEEDS=(
  [tests]="pytest pytest-timeout hypothesis safetensors"
  [sample-rivals]="diffusers cache-dit"
)
PYTHON=${PYTHON:-python3}
LIMIT=${LIMIT:-480}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

# What differs in a trial on a CPU: kernels are interpreted, nothing is compiled, shapes are small.
dry_run_settings() {
  export TRITON_INTERPRET=1 TORCH_COMPILE_DISABLE=1
  RESULTS=${RESULTS:-out/gpu-dry-run/cpu.jsonl}
  MODEL=(bench.trial 8x8x1 --model tiny --random)
  SETTINGS=(--steps 5 --step-list 0,2 --samples 1 --quick)
  KERNELS=(--device cuda --dry-run --samples 1)
  TUNE=(--dry-run) FUSED=(--ops triton)
  PAGE=out/gpu-dry-run/kernels.md README=(--print)
}

gpu_settings() {
  if [ -z "${RESULTS:-}" ]; then
    RESULTS=bench/results/$("$PYTHON" - <<'PY'
import sys
import torch
if not torch.cuda.is_available():
    sys.exit("gpu.sh: error: PyTorch sees no GPU; --dry-run tries every stage on a CPU")
from datetime import date
from disca_rt.measure.record import file_stem
print(f"{file_stem('GPU: ' + torch.cuda.get_device_name())}-{date.today():%Y-%m-%d}.jsonl")
PY
    )
  fi
  MODEL=(disca_rt bench 704x704x129)
  SETTINGS=(--device cuda)
  KERNELS=(--device cuda --out "$RESULTS")
  TUNE=() FUSED=()
  PAGE=docs/kernels.md README=()
}

model() { measured "${MODEL[@]}" "$@"; }
measured() {
  "$PYTHON" -m "$@" "${SETTINGS[@]}" --out "$RESULTS" --ladder out/last-stage.png
}

# Of the packages named, those that are not here.
absent() {
  "$PYTHON" - "$@" <<'PY'
import sys
from importlib.util import find_spec
print(*(name for name in sys.argv[1:] if find_spec(name.replace("-", "_")) is None))
PY
}
# Says in a line what a stage lacks, or fails where it lacks nothing.
lacks() {
  local packages=${NEEDS[$1]:-}
  if [ -n "$packages" ]; then packages=$(absent $packages); fi
  [ -n "$packages" ] && echo "$1: skipped, needs $packages: pip install $packages"
}

stage_machine() {
  local stage
  for stage in "${STAGES[@]}"; do lacks "$stage" || true; done
  if [ -n "$(absent matplotlib)" ]; then
    echo "ladder: without its picture, needs matplotlib; on any machine that has it:" \
      "python -m disca_rt.measure.ladder FILE OUT.png"
  fi
  "$PYTHON" - <<'PY'
import torch, triton
print(f"PyTorch {torch.__version__}, Triton {triton.__version__}, cuDNN {torch.backends.cudnn.version()}")
for index in range(torch.cuda.device_count()):
    print(torch.cuda.get_device_properties(index))
PY
  if command -v nvidia-smi >/dev/null; then nvidia-smi; fi
  "$PYTHON" -m pip list 2>/dev/null | grep -iE '^(torch|triton|diffusers|cache.dit|liger|quack|flash|fa3|nvidia-cudnn)' || true
}
stage_build() {
  "$PYTHON" setup.py -q build_ext --inplace
  "$PYTHON" -c 'from disca_rt.parallel import _native; print(_native.__file__)'
}
stage_ceilings() { model --only ceilings; }
# Only files with such tests: others import packages that may not be here.
stage_tests() {
  local files
  mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.gpu' tests)
  "$PYTHON" -m pytest -m gpu -q -p no:cacheprovider "${files[@]}"
}
stage_tune() { "$PYTHON" -m disca_rt tune "${TUNE[@]}"; }
stage_ops-704() { ops 704x704x129; }
stage_ops-720p() { ops 1280x720x129; }
stage_ops-480p() { ops 848x480x121; }
ops() {
  if [ -z "${IS_DRY_RUN:-}" ]; then
    "$PYTHON" -m bench.run "${KERNELS[@]}" --only "$1"
  elif [ "$1" = 704x704x129 ]; then
    "$PYTHON" -m bench.run "${KERNELS[@]}"
  else
    echo "skipped: in small it is what ops-704 is"
  fi
}
stage_steps() { model --only full-step --only predicted-step "${FUSED[@]}"; }
stage_sample() { model --only sample; }
stage_sample-graphs() {
  if [ -z "${IS_DRY_RUN:-}" ]; then
    model --only sample-graphs
  else
    echo "skipped: there are no CUDA graphs on a CPU"
  fi
}
stage_rivals() { model --only rivals; }
stage_sample-rivals() { model --only sample-rivals; }
stage_embedded() { measured disca_rt bench embedded; }
stage_ladder() { "$PYTHON" -m bench.pages "$RESULTS" "$PAGE" "${README[@]}"; }

run_stages() {
  local failed=() stage started status
  for stage in "$@"; do
    echo "=== $stage"
    started=$SECONDS status=0
    # A process of its own, so that the limit ends all of it; what it has written by then stays.
    timeout --kill-after=30 "$LIMIT" bash "$SELF" --inside "$stage" || status=$?
    if [ "$status" = 124 ]; then echo "$stage: stopped after $LIMIT s"; fi
    if [ "$status" != 0 ]; then failed+=("$stage"); fi
    echo "=== $stage: exit code $status, $((SECONDS - started)) s"
  done
  if [ ${#failed[@]} -gt 0 ]; then
    echo "gpu.sh: failed: ${failed[*]} (each can be run alone: bench/gpu.sh ${failed[0]})"
    return 1
  fi
}

SELF=bench/gpu.sh
if [ "${1:-}" = --dry-run ]; then export IS_DRY_RUN=1; shift; fi
inside=
if [ "${1:-}" = --inside ]; then inside=$2; shift 2; fi
for stage in "$@"; do
  if [[ " ${STAGES[*]} " != *" $stage "* ]]; then
    echo "gpu.sh: error: stage must be one of ${STAGES[*]}, got $stage" >&2
    exit 2
  fi
done
if [ -n "${IS_DRY_RUN:-}" ]; then dry_run_settings; else gpu_settings; fi
export RESULTS
mkdir -p out "$(dirname "$RESULTS")" "$(dirname "$PAGE")"
if [ -n "$inside" ]; then
  lacks "$inside" || "stage_$inside"
elif [ $# -gt 0 ]; then
  run_stages "$@"
else
  run_stages "${STAGES[@]}"
fi
