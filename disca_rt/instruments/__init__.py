"""Instruments: clocks, peak memory, and the work that a device's ceilings are measured with.

Knows nothing of models.
"""
