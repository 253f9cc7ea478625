"""Measuring: contenders side by side, and the JSON lines, tables and pictures of what came out."""
