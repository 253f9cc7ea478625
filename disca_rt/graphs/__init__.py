"""Captured callables (CUDA graphs), replayed over persistent buffers. Knows tensors, no models."""
