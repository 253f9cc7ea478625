"""Codecs between latents and pixels, decoded in tiles, over ranks, as a stream; sizes and buckets.

The protocol is in `codec.py`. The networks of HunyuanVideo's VAEs are diffusers' modules, which are
given; the embedded model's codec is in `tiny/`.
"""
