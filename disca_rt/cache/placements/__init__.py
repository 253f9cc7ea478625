"""Placements of methods that need more than those of `cache/placement.py`; one family a file."""
