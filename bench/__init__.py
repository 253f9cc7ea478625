"""Benchmarks: `python -m bench.run` measures, `python -m bench.table FILE` shows what it wrote."""
