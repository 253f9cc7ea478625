"""Tokens shared out over the ranks of a process group, and image patches gathered from them."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from ..attention import TokenLayout
from ..models.blocks import BlockContext
from .attention import UlyssesAttention


class Sharded:
    """Over the ranks of `group`, as the plans of `attention` say."""

    def __init__(self, attention: UlyssesAttention, group: ProcessGroup) -> None:
        self._attention, self._group = attention, group

    def share(self, img_tokens: int, txt_tokens: int) -> int:
        return self._attention.plan(img_tokens, txt_tokens).shard(self._group.rank()).tokens

    def scatter(self, tokens: Tensor, context: BlockContext) -> tuple[Tensor, BlockContext]:
        img_len = context.layout.img_len
        whole = img_len, tokens.shape[1] - img_len
        shard = self._attention.plan(*whole).shard(self._group.rank())
        img = slice(shard.img.start, shard.img.stop)
        txt = slice(img_len + shard.txt.start, img_len + shard.txt.stop)
        layout = TokenLayout(len(shard.img), context.layout.lengths, whole)
        return torch.cat([tokens[:, img], tokens[:, txt]], dim=1), context._replace(
            freqs_cos=context.freqs_cos[img], freqs_sin=context.freqs_sin[img], layout=layout
        )

    def gather(self, patches: Tensor, context: BlockContext) -> Tensor:
        plan = self._attention.plan(*context.layout.whole)
        counts = [len(plan.shard(rank).img) for rank in range(plan.ranks)]
        padded = patches.new_zeros(len(patches), max(counts), patches.shape[2])
        padded[:, : patches.shape[1]] = patches
        gathered = padded.new_empty(plan.ranks * len(padded), *padded.shape[1:])
        dist.all_gather_into_tensor(gathered, padded, group=self._group)
        of_ranks = zip(gathered.chunk(plan.ranks), counts, strict=True)
        return torch.cat([rows[:, :count] for rows, count in of_ranks], dim=1)
