"""Folders that people have: which part of a model lies where, and each part as a module."""
