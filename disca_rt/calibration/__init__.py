"""Calibration: what a model's uncached steps look like, recorded, and the tables fitted to it."""
