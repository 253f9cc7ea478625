"""The search for the step list and stand-in with the smallest error at a given cost."""
