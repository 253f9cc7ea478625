"""Text and image encoders: their protocol, by which prompts become a conditioning.

The embedded model's are in `tiny/`.
"""
