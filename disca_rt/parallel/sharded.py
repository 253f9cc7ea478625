"""Tokens shared out over the ranks of a process group, and image patches gathered from them."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from ..attention import TokenLayout
from ..models.blocks import BlockContext
from ._native import Shard, token_shard


class Sharded:
    """Over the ranks of `group`; goes with a `UlyssesAttention` of the same group."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group

    def share(self, img_tokens: int, txt_tokens: int) -> int:
        return self._shard(img_tokens, txt_tokens, self._group.rank()).tokens

    def alike(self, latents: Tensor) -> Tensor:
        latents = latents.clone()
        dist.broadcast(latents, group_src=0, group=self._group)
        return latents

    def scatter(self, tokens: Tensor, context: BlockContext) -> tuple[Tensor, BlockContext]:
        img_len = context.layout.img_len
        whole = img_len, tokens.shape[1] - img_len
        shard = self._shard(*whole, self._group.rank())
        img = slice(shard.img.start, shard.img.stop)
        txt = slice(img_len + shard.txt.start, img_len + shard.txt.stop)
        layout = TokenLayout(len(shard.img), context.layout.lengths, whole)
        return torch.cat([tokens[:, img], tokens[:, txt]], dim=1), context._replace(
            freqs_cos=context.freqs_cos[img], freqs_sin=context.freqs_sin[img], layout=layout
        )

    def gather(self, patches: Tensor, context: BlockContext) -> Tensor:
        ranks = range(self._group.size())
        counts = [len(self._shard(*context.layout.whole, rank).img) for rank in ranks]
        padded = patches.new_zeros(len(patches), max(counts), patches.shape[2])
        padded[:, : patches.shape[1]] = patches
        gathered = padded.new_empty(len(ranks) * len(padded), *padded.shape[1:])
        dist.all_gather_into_tensor(gathered, padded, group=self._group)
        of_ranks = zip(gathered.chunk(len(ranks)), counts, strict=True)
        return torch.cat([rows[:, :count] for rows, count in of_ranks], dim=1)

    def _shard(self, img_tokens: int, txt_tokens: int, rank: int) -> Shard:
        return token_shard(img_tokens, txt_tokens, self._group.size(), rank)
