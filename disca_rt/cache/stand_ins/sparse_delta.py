"""Chipmunk's sparse attention (sandyresearch/chipmunk): the heaviest keys now, the rest as it was.

A kept step takes, for each group of queries, the keys with the largest sums of softmax weights, and
keeps what attention to all keys adds to attention to those: o_cache = o - sparse(o). In later
steps o = o_cache + sparse(o), over the same keys.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attention.block_plans import LISTED, attend_by, in_blocks, listed, of_own_keys
from ...attention.masks import GroupMask, pack, unpack
from ...attention.protocol import AttentionInputs
from ...attention.some_keys import attend, pieces, scores
from ...attention.tiles import tile_ranks
from ...kernels.key_blocks import KeyBlocks
from ..options import check_int
from ..site import Level
from ..stand_in import Kept, Moment, PairShares, StandInDefaults, TensorSpec

GATHERED = 2**24  # FLOPs of a group: fewer are done before its keys are gathered


@dataclass(frozen=True)
class SparseDelta(StandInDefaults):
    """`top_keys` of all keys, in multiples of `counts_multiple_of`, and `random_keys` at random.

    A group of queries is a tile of sides `voxel_shape`, 192 queries as the authors have it; without
    `patchify` as many in the order of rows. Text keys are always attended to, and groups with text
    queries attend to all keys. Sums are of exp(score - LSE), with the log-sum-exp of the kept step
    before, as in the authors' kernel; without `recompute_mask` keys are chosen at the second kept
    step only. Choices: random keys are drawn from the numbers of group and key, the same for all
    heads, blocks and samples (the authors draw them twice, once for all heads and again at each
    mask, so that about 2 % are drawn); keys are not filled up to a multiple of 128; every kept step
    chooses keys, so that any rule may keep, the first by its own log-sum-exp (the authors' first
    step keeps that alone).
    """

    levels: ClassVar[tuple[Level, ...]] = ("attention",)
    top_keys: float = 0.05
    random_keys: float = 0.01
    counts_multiple_of: int = 128
    recompute_mask: bool = True
    patchify: bool = True
    voxel_shape: tuple[int, ...] = (4, 6, 8)

    def __post_init__(self) -> None:
        for name in ("top_keys", "random_keys"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        check_int("counts_multiple_of", self.counts_multiple_of, 1)
        if len(self.voxel_shape) != 3 or min(self.voxel_shape) < 1:
            raise ValueError(
                f"voxel_shape must be three sides (T, H, W) such as 4,6,8, got {self.voxel_shape}"
            )

    def kept_specs(self, like: TensorSpec) -> tuple[TensorSpec, ...]:
        """o_cache, the chosen keys as bits `[B, H, G, S/8]`, and the log-sum-exp `[B, H, S]`."""
        batch, tokens, heads, _ = like.shape
        bits = batch, heads, -(-tokens // self._group), -(-tokens // 8)
        return (
            like,
            like._replace(shape=bits, dtype=torch.uint8),
            like._replace(shape=(batch, heads, tokens), dtype=torch.float32),
        )

    def numbers(
        self, kept_at: tuple[int, ...], step: int, given: tuple[float, ...]
    ) -> tuple[float, ...]:
        """1 where nothing was kept before; 1 where keys are chosen by a step that keeps now."""
        return float(not kept_at), float(self.recompute_mask or len(kept_at) < 2)

    def pair_shares(self, grid: tuple[int, int, int], text: int) -> PairShares:
        tokens = grid[0] * grid[1] * grid[2] + text
        dense = min(self._group * ((tokens - text) // self._group), tokens) if text else tokens
        top = self._count(tokens) / tokens
        image = (tokens - text) * (1 - (1 - top) * (1 - self.random_keys))
        share = (dense * (image + text) / tokens + (tokens - dense)) / tokens
        return PairShares(share, share)

    def out(self, kept: Kept) -> Tensor | None:
        """None: a difference is kept."""

    def keep(self, kept: Kept, value: Tensor, at: Moment) -> None:
        delta, bits, lse = kept
        is_first, chooses = at.numbers > 0
        chosen, new_lse = self._choose(at.attention, lse, is_first)
        bits.copy_(torch.where(chooses, pack(chosen), bits))
        lse.copy_(new_lse)
        delta.copy_(value - self._attend(bits, at.attention))

    def value(self, kept: Kept, at: Moment) -> Tensor:
        return kept[0] + self._attend(kept[1], at.attention)

    @property
    def _group(self) -> int:
        t, h, w = self.voxel_shape
        return t * h * w

    def _count(self, tokens: int) -> int:
        multiple = self.counts_multiple_of
        return min(tokens, multiple * round(self.top_keys * tokens / multiple))

    def _ranks(self, inputs: AttentionInputs) -> Tensor:
        """The place `[S]` of each query in the order in which so many at once are a group."""
        tokens, device = inputs.q.shape[1], inputs.q.device
        tile = self.voxel_shape if self.patchify else (1, 1, 1)
        return tile_ranks(inputs.layout.grid, tile, tokens, device)

    def _attend(self, bits: Tensor, inputs: AttentionInputs) -> Tensor:
        tokens, img, ranks = inputs.k.shape[1], inputs.layout.img_len, self._ranks(inputs)
        own = self._sparse_groups(img, tokens) * self._group
        if not own or not self._is_gathered(inputs):
            return attend(inputs, GroupMask(unpack(bits, tokens), ranks // self._group))
        order = ranks.argsort()
        out = attend_by(self._plan(bits, order[:own], tokens, img), inputs)
        if own < tokens:
            rest = order[own:]
            out[:, rest] = inputs.backend(inputs.q[:, rest], *inputs[1:4])
        return out

    def _sparse_groups(self, img: int, tokens: int) -> int:
        """The groups without text queries."""
        return img // self._group if img < tokens else -(-tokens // self._group)

    def _is_gathered(self, inputs: AttentionInputs) -> bool:
        """Whether keys are gathered: always for the kernel, else where that is less work."""
        tokens, img = inputs.k.shape[1], inputs.layout.img_len
        left_out = self._group * (tokens - self._room(tokens, img))
        is_less = 4 * inputs.q.shape[-1] * left_out >= GATHERED
        return inputs.q.device.type == "cuda" or is_less

    def _room(self, tokens: int, img: int) -> int:
        """The most keys of a group without text queries."""
        groups = self._sparse_groups(img, tokens)
        always = most_drawn(groups, tokens, img, self.random_keys)
        return min(tokens, self._count(tokens) + always)

    def _plan(self, bits: Tensor, order: Tensor, tokens: int, img: int) -> KeyBlocks:
        """The chosen keys of the first groups, whose queries are `order`."""
        queries, room = in_blocks(order, self._group), self._room(tokens, img)
        at_once = max(1, LISTED // (bits.shape[0] * bits.shape[1] * tokens))
        pieces = bits[:, :, : len(queries)].split(at_once, dim=2)
        rows = torch.cat([listed(unpack(each, tokens), room) for each in pieces], dim=2)
        return of_own_keys(rows, queries)

    def _choose(
        self, inputs: AttentionInputs, before: Tensor, is_first: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The keys `[B, H, G, S]` of each group, and this step's log-sum-exp `[B, H, S]`."""
        ranks = self._ranks(inputs)
        order, chosen, found = ranks.argsort(), [], []
        for piece in pieces(inputs, self._group):
            queries = order[piece]
            of_queries = scores(inputs, queries)
            found.append(of_queries.logsumexp(-1))
            lse = torch.where(is_first, found[-1], before[:, :, queries])
            weights = torch.exp(of_queries - lse[..., None])
            if inputs.valid is not None:
                weights = weights * inputs.valid[:, None, queries, None]
            whole = F.pad(weights, (0, 0, 0, -len(queries) % self._group))
            chosen.append(self._heaviest(whole.unflatten(2, (-1, self._group)).sum(3)))
        keys = torch.cat(chosen, dim=2) | self._always(inputs)
        return keys, torch.cat(found, dim=2)[:, :, ranks]

    def _heaviest(self, sums: Tensor) -> Tensor:
        top = sums.topk(self._count(sums.shape[-1]), dim=-1).indices
        return torch.zeros_like(sums, dtype=torch.bool).scatter(-1, top, True)

    def _always(self, inputs: AttentionInputs) -> Tensor:
        """Random keys and text, `[G, S]`; all keys for groups with text queries."""
        tokens, img, device = inputs.k.shape[1], inputs.layout.img_len, inputs.k.device
        groups = torch.arange(-(-tokens // self._group), device=device)
        has_text = (groups >= self._sparse_groups(img, tokens))[:, None]
        return _drawn(groups, tokens, img, self.random_keys) | has_text


def _drawn(groups: Tensor, tokens: int, img: int, share: float) -> Tensor:
    """Random keys and text, `[G, S]`."""
    keys = torch.arange(tokens, device=groups.device)
    return (_uniform(groups[:, None] * tokens + keys) < share) | (keys >= img)


@lru_cache(maxsize=64)
def most_drawn(groups: int, tokens: int, img: int, share: float) -> int:
    """The most keys that any of the first `groups` draws at random, with text."""
    each = (_drawn(torch.tensor([group]), tokens, img, share) for group in range(groups))
    return max((int(keys.sum()) for keys in each), default=0)


def _uniform(number: Tensor) -> Tensor:
    """Numbers in [0, 1) that look random, of int64 below 2^32: the same on every device."""
    x = number & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x46CA68B)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return (x ^ (x >> 16)).double() / 2**32
