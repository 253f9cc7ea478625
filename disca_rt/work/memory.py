"""How many bytes a sample takes on a device, by formula: weights, cache, activations, graphs.

Parameters are counted from a config as `models/` builds them. Activations are the largest set of
token tensors that live at once in a block, counted in tensors of S·C. Touches no tensor and no
device, so that it can say before a run what would fit.
"""

from itertools import chain
from typing import NamedTuple

import torch

from ..cache.kept import SampleShape, kept_bytes
from ..cache.policies import build_policy, sketched
from ..cache.policy import Policy
from ..config import DiTConfig, PredictorConfig
from ..units import byte_text
from .flops import image_tokens

FREQUENCIES, REFINER_BLOCKS = 256, 2
FP32 = 4
FP8 = 1

# Tensors of S·C that live at once at the worst place of a step, which is a double-stream block: its
# streams, their norms, attention and its projections, and the MLP before and after GELU (4 each).
# Fused ops do GELU in place, and write image and text into one tensor.
TENSORS = {"reference": 15, "triton": 12}

# The largest weight that is decoded at once, in C²: a double-stream block's modulation.
DECODED = 6

DTYPES = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}


class Footprint(NamedTuple):
    """Bytes on each device."""

    weights: int
    cache: int
    activations: int
    graphs: int

    @property
    def total(self) -> int:
        return sum(self)

    def __str__(self) -> str:
        parts = zip(self._fields, self, strict=True)
        said = ", ".join(f"{name} {byte_text(size)}" for name, size in parts if size)
        return f"{byte_text(self.total)} ({said})"


class Need(NamedTuple):
    """What a sample's bytes depend on.

    `size` is (T, H, W) of the latents, `text` tokens with every condition's, `itemsize` bytes of
    the dtype; `predictor` is None where no checkpoint of one is loaded; with `graphs` steps are
    captured; `passes` is 2 under classifier-free guidance; with `fp8_weights` the linears of the
    DiT's blocks are FP8.
    """

    dit: DiTConfig
    predictor: PredictorConfig | None
    size: tuple[int, int, int]
    text: int
    itemsize: int
    policy: str | Policy = "disca"
    ops: str = "reference"
    ranks: int = 1
    batch: int = 1
    graphs: bool = False
    passes: int = 1
    fp8_weights: bool = False

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        return self.dit.in_channels, *self.size


def footprint(need: Need) -> Footprint:
    """Of one sample. Ranks share tokens, so cache and activations; every rank has all weights.

    The cache is the state of that sample; a `Runtime` with graphs keeps those of `max_states`
    shapes, its last ones. Captures share a pool as large as the activations, beside those of what
    runs uncaptured; the inputs and result of each, about 70 MB at 704x704x129, are not counted.
    """
    shape = _shape(need)
    tensor = shape.tokens(0).nbytes
    policy = need.policy
    if isinstance(policy, str):
        policy = build_policy(policy, sketched(need.dit), step_list=(0,))
    channels, t, h, w = need.latent_shape
    # Latents, velocity and their successors in fp32, the rotary tables, and what goes in and out.
    whole = need.batch * (4 * channels + need.dit.embed_channels) * t * h * w * FP32
    whole += image_tokens(need.dit, need.latent_shape) * need.dit.head_dim * FP32
    weights = dit_parameters(need.dit) * need.itemsize
    if need.predictor is not None:
        weights += predictor_parameters(need.predictor) * need.itemsize
    activations = TENSORS[need.ops] * tensor + whole
    if need.fp8_weights:
        elements, rows = block_weights(need.dit)
        weights += elements * (FP8 - need.itemsize) + rows * need.itemsize
        activations += DECODED * need.dit.hidden**2 * need.itemsize
    return Footprint(
        weights=weights,
        cache=kept_bytes(policy, shape),
        activations=activations,
        graphs=activations if need.graphs else 0,
    )


def _shape(need: Need) -> SampleShape:
    """The buffers of the rank with most tokens."""
    img = image_tokens(need.dit, need.latent_shape)
    share = -(-(img + need.text) // need.ranks)
    rows = (min(img, share), share - min(img, share))
    latents = need.batch, *need.latent_shape
    placed = need.dit, DTYPES[need.itemsize], torch.device("meta")
    return SampleShape(*placed, latents, img, (rows,) * need.passes)


def fits(need: Need, capacity: int) -> bool:
    """Whether it takes at most `capacity` bytes of a device."""
    return footprint(need).total <= capacity


def largest_size(need: Need, capacity: int) -> tuple[int, int, int] | None:
    """The latents (T, H, W) that would fit: fewer frames or, where one is too many, smaller ones.

    Smaller ones keep about the sides' ratio. None where no size helps.
    """
    t, h, w = need.size
    p, q, r = need.dit.patch
    fewer = ((frames, h, w) for frames in range(t // p * p, 0, -p))
    rows = range(h // q, 0, -1)
    smaller = ((p, row * q, max(1, row * q * w // h // r) * r) for row in rows)
    return next((size for size in chain(fewer, smaller) if _fits_at(need, size, capacity)), None)


def fewest_ranks(need: Need, capacity: int) -> int | None:
    """How many ranks, each with `capacity` bytes, could share the sample; at most one a head."""
    counts = range(need.ranks + 1, need.dit.heads + 1)
    return next((n for n in counts if fits(need._replace(ranks=n), capacity)), None)


def _fits_at(need: Need, size: tuple[int, int, int], capacity: int) -> bool:
    return fits(need._replace(size=size), capacity)


def dit_parameters(dit: DiTConfig) -> int:
    """As `models.build.build_dit` makes them."""
    width, p, q, r = dit.hidden, *dit.patch
    patch = p * q * r
    count = _linear(dit.embed_channels * patch, width)
    count += _refiner(dit)
    count += (1 + dit.meanflow + dit.guidance_embed) * _embedder(FREQUENCIES, width)
    if dit.text_dim_2 is not None:
        count += _embedder(dit.text_dim_2, width)
    if dit.family == "hunyuan-video-1.5":
        count += _conditions(dit)
    count += dit.double * _double(width, dit.head_dim) + dit.single * _single(width, dit.head_dim)
    return count + _linear(width, dit.in_channels * patch) + _linear(width, 2 * width)


def block_weights(dit: DiTConfig) -> tuple[int, int]:
    """Of the linears that `fp8_weights` is about: elements of their weights, and rows."""
    width = dit.hidden
    double = 2 * (6 + 3 + 1 + 4 + 4) * width, 2 * (6 + 3 + 1 + 4 + 1) * width
    single = (7 + 5 + 3) * width, (7 + 1 + 3) * width
    columns, rows = (dit.double * d + dit.single * s for d, s in zip(double, single, strict=True))
    return columns * width, rows


def predictor_parameters(predictor: PredictorConfig) -> int:
    """As `models.build.build_predictor` makes them."""
    width, head = predictor.hidden, predictor.hidden // predictor.heads
    fusion = _linear(2 * width, width) + _linear(width, width)
    if predictor.family == "hunyuan-video-1.5":
        return 2 * fusion + predictor.depth * _double(width, head)
    return fusion + predictor.depth * _single(width, head)


def _linear(fan_in: int, fan_out: int) -> int:
    return (fan_in + 1) * fan_out


def _embedder(fan_in: int, width: int) -> int:
    return _linear(fan_in, width) + _linear(width, width)


def _mlp(width: int) -> int:
    return _linear(width, 4 * width) + _linear(4 * width, width)


def _double(width: int, head: int) -> int:
    stream = _linear(width, 6 * width) + _linear(width, 3 * width) + _linear(width, width)
    return 2 * (stream + _mlp(width) + 2 * head)


def _single(width: int, head: int) -> int:
    return (
        _linear(width, 7 * width) + _linear(5 * width, width) + _linear(width, 3 * width) + 2 * head
    )


def _refiner(dit: DiTConfig) -> int:
    width = dit.hidden
    block = 4 * width + _linear(width, 3 * width) + _linear(width, width) + _mlp(width)
    block += _linear(width, 2 * width)
    count = _linear(dit.text_dim, width) + _embedder(FREQUENCIES, width)
    return count + _embedder(dit.text_dim, width) + REFINER_BLOCKS * block


def _conditions(dit: DiTConfig) -> int:
    """`byt5_in`, `vision_in` and the kinds' embedding of 1.5."""
    width, glyph, inner, vision = dit.hidden, dit.byt5_dim, dit.byt5_hidden, dit.vision_dim
    byt5 = 2 * glyph + _linear(glyph, inner) + _linear(inner, inner) + _linear(inner, width)
    image = 2 * vision + _linear(vision, vision) + _linear(vision, width) + 2 * width
    return byt5 + image + 3 * width
