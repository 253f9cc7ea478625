"""Measuring: contenders side by side, and the JSON lines, tables and pictures of what came out."""

RIVALS = "rivals", "sample-rivals"
"""Against other packages, and what compiles."""

CEILINGS = "ceilings"
"""Of the device, measured in every run: what the shares of a ceiling are of."""

GRAPHS = "sample-graphs"
"""A sample by CUDA graphs, against one without."""

BENCHMARKS = "full-step", "predicted-step", "sample", GRAPHS, *RIVALS
"""Of a model, by the names that --only takes."""
