"""The embedders and the head both DiTs are made of. Attribute names are the checkpoint keys."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.operand import Input
from ..kernels.ops import Ops
from ..tokens import StepContext, Vector
from ..tokens import of_text as text_vector
from .linear import Linear

TIMESTEP_FREQUENCIES = 256


class TimestepEmbedder(nn.Module):
    """A scalar in [0, 1000·scale] -> sinusoids (256, max period 10⁴) -> Linear, SiLU, Linear."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            Linear(TIMESTEP_FREQUENCIES, hidden), nn.SiLU(), Linear(hidden, hidden)
        )

    def forward(self, t: Tensor) -> Tensor:
        """`t [B]` -> `[B, C]` in the model's dtype."""
        half = TIMESTEP_FREQUENCIES // 2
        exponent = torch.arange(half, dtype=torch.float32, device=t.device) / half
        angles = t.float()[:, None] * torch.exp(-math.log(10_000) * exponent)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], -1).to(self.mlp[0].bias.dtype))


class MLPEmbedder(nn.Module):
    """`vector_in`: pooled text `[B, text_dim_2]` -> `[B, C]`."""

    def __init__(self, in_dim: int, hidden: int) -> None:
        super().__init__()
        self.in_layer = Linear(in_dim, hidden)
        self.out_layer = Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))


class PatchEmbed(nn.Module):
    """`img_in`: latents `[B, C_in, T, H, W]` -> tokens `[B, S, C]`, S over (t, h, w) patches."""

    def __init__(self, in_channels: int, hidden: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, hidden, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """`out [B, S, C]`: rows of a longer tensor that the tokens are written into."""
        # A strided convolution without overlap is a product over patches; as one GEMM it is exact
        # and, on a CPU, several times faster than the convolution.
        patches = x
        for dim, size in zip((2, 4, 6), self.proj.kernel_size, strict=True):
            patches = patches.unflatten(dim, (-1, size))  # B C T p H q W r
        patches = patches.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)
        weight, bias = self.proj.weight.flatten(1), self.proj.bias
        if out is None:
            return F.linear(patches, weight, bias)
        for sample, rows in zip(patches, out, strict=True):  # only one sample's rows lie together
            torch.addmm(bias, sample, weight.T, out=rows)
        return out


class Modulation(nn.Module):
    """adaLN: a vector -> `factor` vectors of the same rows (shift, scale, gate, …).

    `place` says where its result is among those of all blocks of a DiT, which gives it one.
    """

    place: slice | None = None

    def __init__(self, hidden: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.linear = Linear(hidden, factor * hidden)

    def forward(self, vec: Vector) -> tuple[Vector, ...]:
        if isinstance(vec, Tensor):
            return self.linear(F.silu(vec)).chunk(self.factor, dim=-1)
        chunks = self.linear(F.silu(vec.values)).chunk(self.factor, dim=-1)
        return tuple(vec._replace(values=each) for each in chunks)

    def of_step(self, context: StepContext, of_text: bool = False) -> tuple[Vector, ...]:
        """The vectors of a step for all rows, or `of_text`; taken from the context if there."""
        if context.modulations is not None and self.place is not None:
            return context.modulations[:, self.place].chunk(self.factor, dim=-1)
        return self(text_vector(context.vec) if of_text else context.vec)


class HeadNorm(nn.Module):
    """The weight `[D]` of a QK RMSNorm; the op that uses it also rotates."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(head_dim))


class MLP(nn.Module):
    """`fc1`, GELU(tanh), `fc2`, `ratio` times as wide between them."""

    def __init__(self, ops: Ops, hidden: int, ratio: int) -> None:
        super().__init__()
        self.ops = ops
        self.fc1 = Linear(hidden, ratio * hidden)
        self.fc2 = Linear(ratio * hidden, hidden)

    def forward(self, x: Input, out: Tensor | None = None) -> Tensor:
        """`out`: preferred destination, may be ignored."""
        fc2 = self.fc2
        return fc2.into(self.ops.linear_gelu(x, self.fc1, quantize=fc2.takes_fp8), out)


class ByT5Mapper(nn.Module):
    """`byt5_in` of 1.5: glyph states `[B, L, byt5_dim]` -> `[B, L, C]`."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(in_dim)
        self.fc1 = Linear(in_dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, hidden_dim)
        self.fc3 = Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(self.layernorm(x))))))


class VisionProjection(nn.Module):
    """`vision_in` of 1.5: vision states `[B, V, vision_dim]` -> `[B, V, C]`."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(in_dim),
            Linear(in_dim, in_dim),
            nn.GELU(),
            Linear(in_dim, out_dim),
            nn.LayerNorm(out_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class FinalLayer(nn.Module):
    """The head before unpatchify: LayerNorm, shift and scale from vec, linear to a patch."""

    def __init__(self, ops: Ops, hidden: int, out_features: int) -> None:
        super().__init__()
        self.ops = ops
        self.linear = Linear(hidden, out_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(hidden, 2 * hidden))

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(vec).chunk(2, dim=-1)
        return self.ops.head(x, shift, scale, self.linear)
