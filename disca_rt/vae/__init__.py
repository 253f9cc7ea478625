"""Codecs between latents and pixels, and the video sizes that they have."""
