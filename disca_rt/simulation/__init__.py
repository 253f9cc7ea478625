"""Sequence parallelism predicted: traffic, time, and what hides, before anyone has the ranks."""
