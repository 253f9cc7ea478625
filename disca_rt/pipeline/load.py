"""What a pipeline is loaded from: a DiT alone, or a folder with all parts, each at its own time."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..attention.local import LocalAttention
from ..attention.protocol import Attention
from ..config import DiTConfig
from ..encoders.text import PromptEncoder
from ..kernels.ops import Ops, get_ops
from ..models.dit import DiT
from ..models.predictor import Predictor
from ..vae.codec import Codec
from ..weights.load import load_dit, load_predictor
from .encode import Task
from .fit import Place
from .host_settings import set_aside
from .match import MATCHES, Match, Rules, get_rules
from .residency import Held

if TYPE_CHECKING:
    from ..folders.settings import Settings


@dataclass(frozen=True)
class Options:
    """Ways to load a model; ValueError where two contradict each other.

    `dtype` None keeps the DiT's own. With `fp8_weights` the linears of the DiT's blocks stay in FP8
    in memory and are decoded at each use: weights halved, arithmetic in `dtype` as before, no
    faster. Several ranks share a sample with an `attention` that trades its tokens
    (`parallel.attention`); all of them then call `run` alike.

    Of a whole model's folder: `variant` names one of several DiTs in it, `dit` is a checkpoint that
    takes the place of its own. `keep_resident` keeps every part once it is loaded, instead of
    freeing it when its stage ends. `encoder_device` and `vae_device` are `device` by default,
    `encoder_dtype` and `vae_dtype` what the files have. `match` follows the rules of another
    program (`pipeline.match`); `tiles` are those of the VAE, its program's by default.
    """

    dit: str | Path | None = None
    variant: str | None = None
    device: torch.device | str = "cpu"
    dtype: torch.dtype | None = None
    ops: str | Ops = "reference"
    attention: str | Attention = "auto"
    fp8_weights: bool = False
    keep_resident: bool = False
    match: Match = "disca"
    encoder_device: torch.device | str | None = None
    encoder_dtype: torch.dtype | None = None
    vae_device: torch.device | str | None = None
    vae_dtype: torch.dtype | None = None
    tiles: str | None = None
    built: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        get_rules(self.match)
        attention = self.attention
        if isinstance(attention, str):
            attention = LocalAttention(attention)
        ops = get_ops(self.ops, self.device) if isinstance(self.ops, str) else self.ops
        built = {"ops": ops, "attention": attention, "device": self.device}
        object.__setattr__(self, "built", built)


@dataclass(frozen=True)
class Facts:
    """Facts of a DiT that are known without its weights, and the rules that its samples follow.

    `task` is what it was trained for, and `settings` what it is sampled with by its authors; None
    where that is not known.
    """

    config: DiTConfig
    place: Place
    task: Task | None = None
    settings: "Settings | None" = None
    rules: Rules = MATCHES["disca"]


class Parts(NamedTuple):
    """The parts of a pipeline, by the names that its constructor has for them."""

    dit: DiT | Held[DiT]
    predictor: Predictor | Held[Predictor] | None = None
    codec: Held[Codec] | None = None
    text_encoder: Held[PromptEncoder] | None = None
    facts: Facts | None = None


def load_parts(source: str | Path, predictor: str | Path | None, options: Options) -> Parts:
    """Load a DiT and its predictor, or find the parts of a whole model to be loaded later."""
    with set_aside(torch.device(options.device)):
        dit = load_dit(
            source, dtype=options.dtype, fp8_weights=options.fp8_weights, **options.built
        )
        if predictor is not None:
            predictor = load_predictor(predictor, dit.config, dtype=dit.dtype, **options.built)
    return Parts(dit, predictor)
