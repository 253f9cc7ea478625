"""Attention: what the blocks are given, the backends that compute it, and how these are chosen."""
