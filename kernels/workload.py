"""The shapes of the real models, and the arguments of calls at such shapes.

Knows tokens, heads and latents; no op and no device.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .key_blocks import KeyBlocks
from .packing import Packing, packing


class Shapes(NamedTuple):
    """Sizes of one rank's share of `batch` samples: tokens, widths, and those of latents."""

    name: str
    img: int
    txt: int
    hidden: int
    heads: int
    channels: int
    grid: tuple[int, int, int]
    patch: tuple[int, int, int]
    batch: int = 1

    @property
    def tokens(self) -> int:
        return self.img + self.txt

    @property
    def columns(self) -> int:
        """Values of a patch: the head's outputs."""
        return self.channels * self.patch[0] * self.patch[1] * self.patch[2]


def shard(shapes: Shapes, ranks: int) -> Shapes:
    """The largest share of `shapes` over `ranks`; latents are not sharded."""
    img, txt = -(-shapes.img // ranks), -(-shapes.txt // ranks)
    return shapes._replace(name=f"{shapes.name}, {ranks} ranks", img=img, txt=txt)


REAL = {
    shapes.name: shapes
    for shapes in (
        Shapes("1.0 704x704x129", 63_888, 256, 3072, 24, 16, (33, 44, 44), (1, 2, 2)),
        Shapes("1.0 1280x720x129", 118_800, 256, 3072, 24, 16, (33, 45, 80), (1, 2, 2)),
        Shapes("1.5 848x480x121", 49_290, 1_000, 2048, 16, 32, (31, 30, 53), (1, 1, 1)),
    )
}

REAL_SHARES = [share for each in REAL.values() for share in (each, shard(each, 8))]
"""The real models' shapes, each on one GPU and as one of eight ranks has it."""

NEAREST = 64  # blocks of 64 keys, a sixteenth of the tokens at 704x704x129
SENT_TO = 8  # ranks that `rms_norm_rope_send` packs for
SMALL = Shapes("small", 15, 3, 128, 8, 16, (1, 3, 5), (1, 2, 2))
"""A size for trials in Triton's interpreter."""


class Make(Protocol):
    """Makes the tensors of a call: random ones on a device, or empty ones on the meta device."""

    def __call__(self, *shape: int, dtype: torch.dtype = ...) -> Tensor: ...


class Arguments:
    """The arguments of calls at one `Shapes`, made when they are asked for, in `dtype`."""

    def __init__(self, shapes: Shapes, make: Make, dtype: torch.dtype = torch.bfloat16) -> None:
        self.shapes, self.dtype = shapes, dtype
        self._make = make

    def tensor(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return self._make(*shape, dtype=dtype or self.dtype)

    def tokens(self, factor: int = 1) -> Tensor:
        """`[B, S, factor·C]`."""
        return self.tensor(self.shapes.batch, self.shapes.tokens, factor * self.shapes.hidden)

    def img(self) -> Tensor:
        """`[B, S_img, C]`, the first rows of the joint tokens."""
        return self.tokens()[:, : self.shapes.img]

    def txt(self) -> Tensor:
        """`[B, S_txt, C]`, the last rows of the joint tokens."""
        return self.tokens()[:, self.shapes.img :]

    def vectors(self, count: int) -> tuple[Tensor, ...]:
        """`count` of the six modulation vectors `[B, C]` that one linear makes."""
        vectors = self.tensor(self.shapes.batch, 6 * self.shapes.hidden).chunk(6, dim=-1)
        return vectors[:count]

    def branches(self, count: int) -> tuple[Tensor, ...]:
        """Tokens, then `count` branches of their shape, each followed by its gate `[B, C]`."""
        pairs = ((self.tokens(), *self.vectors(1)) for _ in range(count))
        return (self.tokens(), *(each for pair in pairs for each in pair))

    def affine(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of a LayerNorm, `[C]` each."""
        return self.tensor(self.shapes.hidden), self.tensor(self.shapes.hidden)

    def linear(self, factor_in: int, factor_out: int = 1) -> tuple[Tensor, Tensor]:
        """Weight and bias of a linear from `factor_in`·C to `factor_out`·C."""
        fan_in, fan_out = factor_in * self.shapes.hidden, factor_out * self.shapes.hidden
        return self.tensor(fan_out, fan_in) / fan_in**0.5, self.tensor(fan_out)

    def last_linear(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the head's linear, from C to the values of a patch."""
        columns, hidden = self.shapes.columns, self.shapes.hidden
        return self.tensor(columns, hidden) / hidden**0.5, self.tensor(columns)

    def rope(self) -> tuple[Tensor, ...]:
        """`x [B, S, H, D]`, the norms' weights `[D]`, the tables `[S_img, D/2]` in fp32."""
        s = self.shapes
        width = s.hidden // s.heads
        tables = (self.tensor(s.img, width // 2, dtype=torch.float32) for _ in range(2))
        x = self.tensor(s.batch, s.tokens, s.heads, width)
        return x, self.tensor(width), self.tensor(width), *tables

    def rope_pair(self) -> tuple[Tensor, ...]:
        """`q` and `k [B, S, H, D]`, the weights of each, and the tables."""
        (q, *q_weights, cos, sin), (k, *k_weights, _, _) = self.rope(), self.rope()
        return q, k, *q_weights, *k_weights, cos, sin

    def heads(self) -> tuple[Tensor, Tensor]:
        """`x [B, S, H, D]` and scales of its heads `[B, H]`."""
        s = self.shapes
        x = self.tensor(s.batch, s.tokens, s.heads, s.hidden // s.heads)
        return x, self.tensor(s.batch, s.heads, dtype=torch.float32).abs()

    def packing(self) -> Packing:
        """Heads by rank, of SENT_TO ranks that share them evenly."""
        return packing([self.shapes.heads // SENT_TO] * SENT_TO, self.tensor(1).device)

    def sparse_attention(self) -> tuple[Any, ...]:
        """`q, k, v [B, S, H, D]`, and of each block of queries the NEAREST blocks of keys."""
        s = self.shapes
        q, k, v = (self.tensor(s.batch, s.tokens, s.heads, s.hidden // s.heads) for _ in range(3))
        queries, keys = (self._rows_in_blocks(size) for size in (128, 64))
        first = 2 * torch.arange(len(queries), device=q.device)[:, None] - NEAREST // 2
        near = torch.arange(min(NEAREST, len(keys)), device=q.device)
        blocks = ((first + near) % len(keys)).int()[None, None]
        counts = torch.full_like(blocks[..., 0], blocks.shape[3])
        return q, k, v, KeyBlocks(queries, keys[None, None], blocks, counts)

    def _rows_in_blocks(self, size: int) -> Tensor:
        """The numbers of all tokens in blocks of `size`, int32; -1 behind the last."""
        count, tokens = -(-self.shapes.tokens // size), self.shapes.tokens
        rows = torch.arange(count * size, device=self.tensor(1).device, dtype=torch.int32)
        return rows.where(rows < tokens, -1).unflatten(0, (count, size))

    def euler(self) -> tuple[Any, ...]:
        """Latents in fp32, patches of both passes of guidance, scale, dt, grid and patch."""
        s = self.shapes
        sides = [g * p for g, p in zip(s.grid, s.patch, strict=True)]
        latents = self.tensor(s.batch, s.channels, *sides, dtype=torch.float32)
        rows = s.grid[0] * s.grid[1] * s.grid[2]
        patches = (self.tensor(s.batch, rows, s.columns) for _ in range(2))
        dt = self.tensor(1, dtype=torch.float32).reshape(())
        return (latents, *patches, 6.0, dt, s.grid, s.patch)

    def factors(self) -> Tensor:
        """Divided differences of three orders, `[3, B, S, C]`."""
        s = self.shapes
        return self.tensor(3, s.batch, s.tokens, s.hidden)

    def coefficients(self, count: int) -> Tensor:
        """`count` fp32 scalars for each channel, `[count, C]`."""
        return self.tensor(count, self.shapes.hidden, dtype=torch.float32)

    def numbers(self, count: int) -> Tensor:
        """`count` fp32 scalars on the device."""
        return self.tensor(count, dtype=torch.float32)
