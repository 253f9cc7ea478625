"""Sequence parallelism: tokens are shared out over ranks, and attention trades them for heads."""
