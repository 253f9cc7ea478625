"""Places of a rank's tokens among a sample's."""

import torch
from torch import Tensor

from disca_rt.parallel.attention import UlyssesAttention


def places(attention: UlyssesAttention, img_tokens: int, txt_tokens: int) -> Tensor:
    """Row numbers `[S_shard]` of the joint tokens, image first."""
    shard = attention.topology.shard(img_tokens, txt_tokens)
    return torch.arange(shard.img.start + shard.txt.start, shard.img.stop + shard.txt.stop)
