"""Loading of a pipeline: a DiT alone at once, or a folder's parts, each at its own time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch

from ..attention.local import LocalAttention
from ..attention.protocol import Attention
from ..config import DiTConfig
from ..encoders.text import PromptCheck, TextEncoder
from ..instruments.capacity import capacity
from ..kernels.ops import Ops, default_ops, get_ops
from ..models.dit import DiT
from ..models.fp8 import check_device
from ..models.fp8_table import Fp8, Fp8Table, fp8_table
from ..models.predictor import Predictor
from ..vae.codec import Codec
from ..vae.share import TileShare
from ..vae.sizes import SIZES, VideoSizes
from ..weights.checkpoint import open_checkpoint
from ..weights.load import load_dit, load_predictor, own_dtype
from .encoder_parts import ENCODERS, PROMPTS, encoder_parts
from .fit import Place
from .host_settings import set_aside
from .match import MATCHES, Match, Rules, get_rules
from .residency import Held

if TYPE_CHECKING:
    from ..folders.parts import ModelFolder, PartName

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """Ways to load a model; ValueError where two contradict each other.

    `dtype` None keeps the DiT's own, `ops` None are the device's fastest. `fp8`:
    "compute" has the layers of DiT and predictor compute in FP8, "weights" only keeps the DiT's
    weights so, decoded at each use (half the memory, no faster), FILE.json says which layer does
    what (`models.fp8_table`). Several ranks share a sample with an `attention`
    that trades its tokens (`parallel.attention`); all of them then call `run` alike.

    Of a whole model's folder: `variant` names one of several DiTs in it, `dit` is a checkpoint that
    takes the place of its own. `keep_resident` keeps every part once it is loaded, instead of
    freeing it when its stage ends. `encoder_device` is `device` by default, `encoder_dtype` and
    `vae_dtype` what the files have. `match` follows the rules of another program
    (`pipeline.match`); `tiles` are those of the VAE, its program's by default, and `share` deals
    them out over ranks. Without `is_whole` the DiT of a folder is loaded alone. `tell` gets a line
    where smaller tiles than the official ones are chosen.
    """

    dit: str | Path | None = None
    variant: str | None = None
    device: torch.device | str = "cpu"
    dtype: torch.dtype | None = None
    ops: str | Ops | None = None
    attention: str | Attention = "auto"
    fp8: Fp8 = None
    keep_resident: bool = False
    match: Match = "disca"
    encoder_device: torch.device | str | None = None
    encoder_dtype: torch.dtype | None = None
    vae_dtype: torch.dtype | None = None
    tiles: str | None = None
    share: TileShare | None = None
    is_whole: bool = True
    tell: Callable[[str], None] | None = None
    built: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        get_rules(self.match)
        attention = self.attention
        if isinstance(attention, str):
            attention = LocalAttention(attention)
        ops = self.ops or default_ops(self.device)
        if isinstance(ops, str):
            ops = get_ops(ops, self.device)
        object.__setattr__(self, "fp8", fp8_table(self.fp8))
        check_device(self.fp8, torch.device(self.device))
        built = {"ops": ops, "attention": attention, "device": self.device, "fp8": self.fp8}
        object.__setattr__(self, "built", built)


@dataclass(frozen=True)
class Facts:
    """Facts of a DiT that are known without its weights, and the rules that its samples follow.

    `fp8`: the table of its layers in FP8 (`Options`). `folder` says which parts lie where,
    what the DiT was trained for and what it is sampled with, `options` how it is loaded, and
    `check_prompts` what of prompts its tokenizers would cut; None for a DiT alone.
    """

    config: DiTConfig
    place: Place
    fp8: Fp8Table | None = None
    folder: "ModelFolder | None" = None
    options: Options | None = None
    check_prompts: PromptCheck | None = None
    rules: Rules = MATCHES["disca"]
    vae_sizes: VideoSizes | None = None

    @property
    def sizes(self) -> VideoSizes:
        """Size rules: of the folder's VAE, else of the family's."""
        return self.vae_sizes or SIZES[self.config.family]

    @property
    def lost_frames(self) -> int:
        """Number of decoded frames at the beginning that are no part of the video.

        Image-to-video of 1.0 by concatenated latents spends its first latent on the picture.
        """
        config = self.config
        is_concat = config.condition_channels == config.in_channels + 1
        return 4 if config.traits.token_replace and is_concat else 0


class Loaded(NamedTuple):
    """The parts of a pipeline, by the names that its constructor has for them."""

    dit: DiT | Held[DiT]
    predictor: Predictor | Held[Predictor] | None = None
    codec: Held[Codec] | None = None
    text_encoder: Held[TextEncoder] | None = None
    facts: Facts | None = None


def load_parts(source: str | Path, predictor: str | Path | None, options: Options) -> Loaded:
    """Load a DiT and its predictor, or find the parts of a whole model to be loaded later."""
    folder = _folder(source, predictor, options)
    if folder is not None:
        return _WholeModel(folder, options).parts()
    with set_aside(torch.device(options.device)):
        dit = _load_dit(source, options)
        if predictor is not None:
            predictor = _load_predictor(predictor, dit.config, dit.dtype, options)
    return Loaded(dit, predictor)


def _folder(
    source: str | Path, predictor: str | Path | None, options: Options
) -> "ModelFolder | None":
    """The whole model in `source`, None where a DiT alone is there or asked for."""
    from ..folders.find import find_model

    if not options.is_whole or Path(source).is_file():
        return None
    folder = find_model(source, variant=options.variant, dit=options.dit, predictor=predictor)
    if folder.parts.keys() & {"text_encoder", "vae"}:
        folder.require("dit")
        return folder
    return None


def _load_dit(source: str | Path, options: Options) -> DiT:
    return load_dit(source, dtype=options.dtype, **options.built)


def _load_predictor(
    source: str | Path, dit: DiTConfig, dtype: torch.dtype, options: Options
) -> Predictor:
    return load_predictor(source, dit, dtype=dtype, **options.built)


@dataclass(frozen=True)
class _WholeModel:
    """Loaders of the parts of a folder."""

    folder: "ModelFolder"
    options: Options
    tokenizers: dict[str, Any] = field(default_factory=dict)

    def parts(self) -> Loaded:
        """The parts that are there, none of them loaded."""
        there, options = self.folder.parts, self.options
        path = there["dit"].path
        dtype = options.dtype or own_dtype(open_checkpoint(path))
        place = Place(dtype, torch.device(options.device))
        config = self.folder.config
        predictor = None
        if "predictor" in there:
            source = there["predictor"].path
            predictor = self._held(lambda: _load_predictor(source, config, dtype, options))
        return Loaded(
            dit=self._held(lambda: _load_dit(path, options)),
            predictor=predictor,
            codec=self._held(self.codec) if "vae" in there else None,
            text_encoder=self._held(self.encoder) if "text_encoder" in there else None,
            facts=Facts(
                config,
                place,
                options.fp8,
                self.folder,
                options,
                self.check_prompts,
                get_rules(options.match),
                self._vae_sizes(),
            ),
        )

    def _vae_sizes(self) -> VideoSizes | None:
        from ..folders.vaes import vae_sizes

        folder = self.folder
        if "vae" not in folder.parts:
            return None
        return vae_sizes(folder.parts["vae"].path, folder.family, folder.config.in_channels)

    def _held(self, load: Callable[[], T]) -> Held[T]:
        return Held(load, self.options.keep_resident)

    def encoder(self) -> TextEncoder:
        """Load all that prompts, and the picture of an image-to-video model, are encoded with."""
        with self._own_tokenizers():
            encoder = ENCODERS[self.folder.family](self)
        if not self.options.keep_resident:
            self.tokenizers.clear()
        return encoder

    @property
    def match(self) -> Match:
        return self.options.match

    def check_prompts(self, prompts: Sequence[str], *, frames: int | None = None) -> list[str]:
        """A line for each prompt that is cut, by the tokenizers alone.

        ValueError for a prompt that cannot be encoded, and where a part that encodes is missing.
        """
        self.folder.require(*encoder_parts(self.folder))
        with self._own_tokenizers():
            return PROMPTS[self.folder.family](self).check(prompts, frames=frames)

    def part(self, name: "PartName") -> Any:
        """Load an encoder's network, tokenizer or image processor.

        Tokenizers are kept from the check of prompts until the encoder holds them.
        """
        from ..folders.load import load_part

        if name in self.tokenizers:
            return self.tokenizers[name]
        options = self.options
        device = options.encoder_device or options.device
        part = load_part(self.folder, name, device, options.encoder_dtype)
        if name.startswith("tokenizer"):
            self.tokenizers[name] = part
        return part

    @contextmanager
    def _own_tokenizers(self) -> Iterator[None]:
        """Say of another model's tokenizer within where it lies, and where the right one is."""
        from ..encoders.prompts import WrongTokenizer

        try:
            yield
        except WrongTokenizer as error:
            where = self.folder.parts[error.part].path
            raise ValueError(
                f"{error.part} {where} {error.fault}, so it is not this model's; put the one in "
                f"{self.folder.usual(error.part)} there"
            ) from error

    def codec(self) -> Codec:
        """Load the VAE, with its tiles shared out as the options say."""
        from ..folders.load import load_part
        from ..vae.hunyuan import HunyuanCodec

        options = self.options
        vae = load_part(self.folder, "vae", options.device, options.vae_dtype)
        tiles = options.tiles or get_rules(options.match).tiling
        free = partial(capacity, torch.device(options.device))
        given = {"free": free, "tell": options.tell}
        return HunyuanCodec(vae, self.folder.family, tiles, options.share, **given)
