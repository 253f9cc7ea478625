"""Deepening a DiT while it trains: new blocks start as the identity, so nothing is lost.

A shallow model learns what is common to all prompts at a third of the price (progressive stacking,
Gong et al. 2019). A block whose modulation is zero has zero gates: growing changes no output.
"""

import torch

from ..models.dit import DiT


@torch.no_grad()
def copy_into_deeper(shallow: DiT, deep: DiT) -> None:
    """Copy `shallow` into `deep`, its blocks spread evenly; `deep` must be freshly initialised.

    Both must agree in everything but the number of single-stream blocks.
    """
    source, target = shallow.state_dict(), deep.state_dict()
    placed = spread(len(shallow.single_blocks), len(deep.single_blocks))
    for name, tensor in source.items():
        if name.startswith("single_blocks."):
            _, index, rest = name.split(".", 2)
            name = f"single_blocks.{placed[int(index)]}.{rest}"
        target[name].copy_(tensor)


def spread(few: int, many: int) -> list[int]:
    """Where `few` blocks go among `many`, evenly and in order, the first one first."""
    if few > many:
        raise ValueError(f"a model cannot grow from {few} single-stream blocks to {many}")
    return [i * many // few for i in range(few)]
