"""Instruments: clocks, peak memory, the work that shows a device's ceilings. Knows no models."""
