"""Fits: pure functions from recorded numbers to the values of a method's options. One file each."""
