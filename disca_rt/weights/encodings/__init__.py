"""Ways to write a weight down in a file, a module each; `choose.py` is the table."""
