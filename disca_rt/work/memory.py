"""The bytes that a sample takes on a device: weights, cache, activations, graphs.

Weights are those of the model as `models/` builds it on the meta device. Activations are the
largest set of token tensors that live at once in a block, counted in tensors of S·C. Touches no
device, so that it can say before a run what would fit.
"""

from functools import cache
from itertools import chain
from typing import NamedTuple

import torch

from ..cache.kept import SampleShape, kept_bytes, looked_at
from ..cache.method import sketched
from ..cache.policies import sketch_policy
from ..cache.policy import Policy
from ..cache.stand_ins.kept_elsewhere import smaller
from ..config import DiTConfig, PredictorConfig
from ..kernels.work import tensor_bytes
from ..models.build import build_dit, build_predictor
from ..models.fp8_table import Fp8, Fp8Table, fp8_table
from ..units import byte_text
from .flops import image_tokens

FP32 = 4

# Tensors of S·C that live at once at the worst place of a step, which is a double-stream block: its
# streams, their norms, attention and its projections, and the MLP before and after GELU (4 each).
# Kernels do GELU in place, and write image and text into one tensor.
TENSORS = {"reference": 15, "native": 15, "triton": 12}

# The largest weight that is decoded at once, in C²: a double-stream block's modulation.
DECODED = 6

DTYPES = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}


class Footprint(NamedTuple):
    """Bytes on each device, and those of the cache on its host."""

    weights: int
    cache: int
    activations: int
    graphs: int
    host: int = 0

    @property
    def total(self) -> int:
        """The bytes on a device."""
        return sum(self) - self.host

    def __str__(self) -> str:
        parts = zip(self._fields[:-1], self, strict=False)
        said = ", ".join(f"{name} {byte_text(size)}" for name, size in parts if size)
        beside = f", and {byte_text(self.host)} of cache on the host" if self.host else ""
        return f"{byte_text(self.total)} ({said}){beside}"


class Need(NamedTuple):
    """Facts that a sample's bytes depend on.

    `size` is (T, H, W) of the latents, `text` tokens with every condition's, `itemsize` bytes of
    the dtype; `predictor` is None where no checkpoint of one is loaded; with `graphs` steps are
    captured; `passes` is 2 under classifier-free guidance; `fp8` is the table of
    layers in FP8.
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
    fp8: Fp8 = None

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        return self.dit.in_channels, *self.size


def footprint(need: Need) -> Footprint:
    """Bytes of one sample on each device. Ranks share cache and activations; each has all weights.

    The cache is the state of that sample; a `Runtime` with graphs keeps those of `max_states`
    shapes, its last ones. Captures share a pool as large as the activations, beside those of what
    runs uncaptured; the inputs and result of each, about 70 MB at 704x704x129, are not counted.
    """
    shape = _shape(need)
    tensor = shape.tokens(0).nbytes
    policy = policy_of(need)
    kept = kept_bytes(policy, shape)
    # Tensors that later steps compare with live from where they are measured to the step's end.
    measured = sum(spec[0].nbytes for _, spec in looked_at(policy.probes(need.passes), shape))
    channels, t, h, w = need.latent_shape
    # Latents, velocity and their successors in fp32, the rotary tables, and what goes in and out.
    whole = need.batch * (4 * channels + need.dit.embed_channels) * t * h * w * FP32
    whole += need.batch * channels * h * w * FP32 * need.dit.token_replace  # the first frame
    whole += image_tokens(need.dit, need.latent_shape) * need.dit.head_dim * FP32
    fp8 = fp8_table(need.fp8)
    weights = weight_bytes(need.dit, need.itemsize, fp8)
    if need.predictor is not None:
        weights += weight_bytes(need.predictor, need.itemsize, fp8)
    activations = TENSORS[need.ops] * tensor + whole + measured
    if fp8 is not None and fp8.decodes:
        activations += DECODED * need.dit.hidden**2 * need.itemsize
    return Footprint(
        weights=weights,
        cache=kept.device,
        activations=activations,
        graphs=activations if need.graphs else 0,
        host=kept.host,
    )


def policy_of(need: Need) -> Policy:
    """The policy of a sample, built where it is a text."""
    if isinstance(need.policy, Policy):
        return need.policy
    return sketch_policy(need.policy, sketched(need.dit))


def smaller_caches(need: Need, capacity: int, host: int | None = None) -> list[str]:
    """Options of the policy by which the sample fits; none where the cache is a small part.

    `host` bytes are there for what is kept on it; None: as many as it takes.
    """
    now = footprint(need)
    if now.cache + now.host < capacity // 10:
        return []
    policy = policy_of(need)
    variants = [(option, need._replace(policy=each)) for option, each in smaller(policy)]
    return [
        f"option {option} of policy {policy.name}"
        for option, other in variants
        if fits(other, capacity) and (host is None or footprint(other).host <= host)
    ]


def _shape(need: Need) -> SampleShape:
    """The buffers of the rank with most tokens."""
    img = image_tokens(need.dit, need.latent_shape)
    share = -(-(img + need.text) // need.ranks)
    rows = (min(img, share), share - min(img, share))
    latents = need.batch, *need.latent_shape
    placed = need.dit, DTYPES[need.itemsize], torch.device("meta")
    attended = (img + need.text, -(-need.dit.heads // need.ranks))
    return SampleShape(
        *placed, latents, img, (rows,) * need.passes, attended=(attended,) * need.passes
    )


def fits(need: Need, capacity: int) -> bool:
    """Tell whether the sample takes at most `capacity` bytes of a device."""
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
    """The fewest ranks, of `capacity` bytes each, that the sample fits on; at most one a head."""
    counts = range(need.ranks + 1, need.dit.heads + 1)
    return next((n for n in counts if fits(need._replace(ranks=n), capacity)), None)


def _fits_at(need: Need, size: tuple[int, int, int], capacity: int) -> bool:
    return fits(need._replace(size=size), capacity)


@cache
def weight_bytes(
    config: DiTConfig | PredictorConfig, itemsize: int, fp8: Fp8Table | None = None
) -> int:
    """Bytes of a model's parameters and buffers, counted on the model itself, without storage.

    Takes 0.2 s for the 13B model, once.
    """
    if isinstance(config, DiTConfig):
        model = build_dit(config, dtype=DTYPES[itemsize], fp8=fp8)
    else:
        model = build_predictor(config, dtype=DTYPES[itemsize], fp8=fp8)
    return tensor_bytes(*model.parameters(), *model.buffers())
