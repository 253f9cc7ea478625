"""Independent streams of random numbers, each from its purpose and some integers alone."""

import hashlib

import torch


def generator(purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator; whatever differs in purpose or numbers has nothing to do with it."""
    text = "/".join([purpose, *map(str, numbers)])
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
