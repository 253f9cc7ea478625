"""Codecs between latents and pixels: their protocol, and the video sizes that are legal.

The embedded model's codec is in `tiny/`.
"""
