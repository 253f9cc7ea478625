"""Independent streams of random numbers, each from its purpose and some integers alone."""

import hashlib

import torch


def generator(purpose: str, *numbers: int) -> torch.Generator:
    """Make a CPU generator whose stream depends on `purpose` and `numbers` alone.

    Streams that differ in any of them are independent.
    """
    text = "/".join([purpose, *map(str, numbers)])
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
