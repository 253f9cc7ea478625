"""Benchmarks: `python -m bench.run` measures on a CPU, `gpu.sh` everything a GPU can show."""
