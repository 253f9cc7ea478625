"""Text and image encoders: their protocol, by which prompts become a conditioning.

Networks and tokenizers are transformers'; templates, crops and cuts are ours. They are given built,
and this package loads nothing. The embedded model's encoder is in `tiny/`.
"""
