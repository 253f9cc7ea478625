"""Measurement of contenders side by side, and the JSON lines, tables and pictures of results."""

RIVALS = "rivals", "sample-rivals"
"""Benchmarks against other packages and torch.compile."""

CEILINGS = "ceilings"
"""Benchmark of the device itself, run every time: rates that others are a share of."""

GRAPHS = "sample-graphs"
"""Benchmark of a sample by CUDA graphs, against one without."""

BENCHMARKS = "full-step", "predicted-step", "sample", GRAPHS, *RIVALS
"""Benchmarks of a model, by the names that --only takes."""
