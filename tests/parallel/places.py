"""Places of a rank's tokens among a sample's, and one attention over a small sample."""

import torch
from torch import Tensor

from disca_rt.attention.protocol import NoOverlap
from disca_rt.parallel._native import Shard
from disca_rt.parallel.attention import UlyssesAttention
from disca_rt.tokens import TokenLayout

WHOLE = 20, 4  # image and text tokens
HEADS = 4


def joint_rows(shard: Shard) -> slice:
    """The rows of the joint tokens, image first, that are the shard's."""
    return slice(shard.img.start + shard.txt.start, shard.img.stop + shard.txt.stop)


def places(attention: UlyssesAttention, img_tokens: int, txt_tokens: int) -> Tensor:
    """Row numbers `[S_shard]` of the joint tokens, image first."""
    rows = joint_rows(attention.topology.shard(img_tokens, txt_tokens))
    return torch.arange(rows.start, rows.stop)


@torch.no_grad()
def attend(attention: UlyssesAttention) -> None:
    """Attend once, over zeros: `WHOLE` tokens of `HEADS` heads."""
    tokens = torch.zeros(1, len(places(attention, *WHOLE)), HEADS, 8)
    handle = attention.begin(TokenLayout(0, None, WHOLE))
    handle.put_v(tokens)
    handle.put_k(tokens.flatten(1, 2))
    handle.put_q(tokens.flatten(1, 2))
    handle.result(NoOverlap())
