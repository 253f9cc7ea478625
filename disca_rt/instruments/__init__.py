"""Clocks and gauges: time, peak memory, what a device can do. Knows no models."""
