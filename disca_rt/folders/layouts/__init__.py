"""Layouts of models' folders, a module each; `choose.py` is the table."""
