"""The model that a checkpoint is of, read from the names and shapes of its tensors, never its name.

A size is what most of the tensors that show it agree on, so that one damaged tensor is reported as
mis-shaped rather than taken for the truth.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass, replace

from ..config import MODELS, DiTConfig, PredictorConfig
from ..family import FAMILIES, Family
from .checkpoint import Checkpoint
from .encodings.choose import choose_kind, is_encoded
from .encodings.kind import Kind
from .errors import CheckpointError
from .files.tensor_file import DTYPES, StoredSpec
from .layouts.choose import choose_layout
from .layouts.comfyui import is_comfyui, official_name
from .layouts.table import Layout
from .sidecar import COUNT_KEYS, Sidecar, read_sidecar

OFFICIAL_HEAD_DIM = 128  # whose RoPE axes are known without a config.json
MAX_SIDE = 2**20  # no tensor of these models is near; beyond it a header is damaged

Config = DiTConfig | PredictorConfig


@dataclass(frozen=True)
class Model:
    """A checkpoint, the layout of its names and the model it is of.

    `checkpoint` has the weights alone; `whole` has what belongs to their `encoding` too, which is
    None where all are plain. `spelling` says whose names the file has.
    """

    checkpoint: Checkpoint
    whole: Checkpoint
    encoding: Kind | None
    layout: Layout
    config: Config
    spelling: str

    def describe(self) -> str:
        what = "DiT" if self.layout.kind == "dit" else "DisCa predictor"
        return f"{FAMILIES[self.config.family].title} {what}"

    def name_in_file(self, name: str) -> str:
        """The file's own name of the tensor `name`, with prefixes and in its own spelling."""
        return self.checkpoint.entries[name].name


def identify(whole: Checkpoint) -> Model:
    """The model that a checkpoint is of.

    Raises CheckpointError where the tensors are not of a model known here.
    """
    is_respelt = is_comfyui(whole.entries)
    if is_respelt:
        named = {official_name(name): entry for name, entry in whole.entries.items()}
        if len(named) < len(whole.entries):
            raise CheckpointError(
                f"{whole.path} has tensors twice, by ComfyUI's and official names"
            )
        whole = replace(whole, entries=named)
    encoding = choose_kind(whole)
    checkpoint = whole if encoding is None else whole.without(encoding.helpers(whole))
    layout = choose_layout(checkpoint.entries)
    if layout is None:
        names = sorted(checkpoint.entries)
        raise CheckpointError(
            f"{checkpoint.path} is not a HunyuanVideo DiT or DisCa predictor: none of the layouts "
            f"known has tensors such as {', '.join(names[:3])} ({len(names)} in all)"
        )
    _check_dtypes(checkpoint)
    shapes = _Shapes(checkpoint, layout)
    config = _dit_config(shapes) if layout.kind == "dit" else _predictor_config(shapes)
    spelling = "comfyui" if is_respelt else layout.name
    return Model(checkpoint, whole, encoding, layout, config, spelling)


def _check_dtypes(checkpoint: Checkpoint) -> None:
    specs = checkpoint.specs.items()
    odd = [
        f"{name} ({spec.dtype})"
        for name, spec in specs
        if spec.dtype not in DTYPES and not is_encoded(spec.dtype)
    ]
    if odd:
        raise CheckpointError(
            f"{checkpoint.path}: {len(odd)} tensors are not weights in one of {', '.join(DTYPES)}: "
            f"{', '.join(odd)}"
        )


class _Shapes:
    """Shapes of our parameters, as the file's tensors make them up."""

    def __init__(self, checkpoint: Checkpoint, layout: Layout) -> None:
        self.path = checkpoint.path
        self.folder = checkpoint.path.parent
        self.layout = layout
        self.specs: dict[str, StoredSpec] = checkpoint.specs

    def shape(self, target: str) -> tuple[int, ...]:
        """Rows of a split parameter add up; () where nothing of it is there."""
        sources = self.layout.sources(target, self.specs)
        there = [
            (source, self.specs[source.name].shape)
            for source in sources
            if source.name in self.specs
        ]
        if not there or not all(shape for _, shape in there):
            return ()
        rows = sum(shape[0] // (source.parts or 1) for source, shape in there)
        return (rows, *there[0][1][1:])

    def side(self, what: str, *targets: tuple[str, int]) -> int:
        """The size of `what` in the model: what most of `targets`, (parameter, dimension), say.

        CheckpointError where the file has none of them.
        """
        shapes = [(self.shape(name), dim) for name, dim in targets]
        votes = Counter(shape[dim] for shape, dim in shapes if len(shape) > dim)
        if not votes:
            sources = [self.layout.sources(name, self.specs)[0].name for name, _ in targets]
            raise CheckpointError(
                f"{self.path} is not laid out as a {FAMILIES[self.layout.family].title} "
                f"{self.layout.kind}: its {what} cannot be read, all of these are missing: "
                f"{', '.join(sources)}"
            )
        side = votes.most_common(1)[0][0]
        if not 1 <= side <= MAX_SIDE:
            raise CheckpointError(f"{self.path} is damaged: its {what} would be {side}")
        return side

    def blocks(self, prefix: str | None) -> int:
        """One more than the highest block number; one far beyond the others is a damaged name."""
        if prefix is None:
            return 0
        pattern = re.compile(rf"{prefix}\.(\d{{1,9}})\.")
        found = {int(match[1]) for name in self.specs if (match := pattern.match(name))}
        believable = [number for number in found if number < 2 * len(found) + 1]
        return max(believable, default=-1) + 1

    def has(self, embedder: str) -> bool:
        leaves = ("mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias")
        return any(self.shape(f"{embedder}.{leaf}") for leaf in leaves)


def _dit_config(shapes: _Shapes) -> DiTConfig:
    double, single = _depths(shapes)
    hidden = _hidden(shapes)
    head_dim = _head_dim(shapes, "double_blocks.0.img_attn", "double_blocks.0.txt_attn")
    sidecar = read_sidecar(shapes.folder)
    latents = _latent_sizes(shapes)
    try:
        config = DiTConfig(
            family=shapes.layout.family,
            **latents,
            hidden=hidden,
            heads=_heads(shapes, hidden, head_dim),
            double=double,
            single=single,
            rope=_rope(shapes, sidecar, head_dim),
            **_text_sizes(shapes),
            guidance_embed=shapes.has("guidance_in"),
            meanflow=shapes.has("time_r_in"),
            token_replace=sidecar is not None and sidecar.token_replace,
            **({name: sidecar.count(name) for name in COUNT_KEYS} if sidecar else {}),
        )
    except CheckpointError:
        raise
    except ValueError as error:  # axes that do not add up to the head width, a wrong condition
        where = sidecar.path if sidecar else shapes.path
        raise CheckpointError(f"{where}: {error}") from error
    if sidecar:
        sidecar.check(config)
    return config


def _depths(shapes: _Shapes) -> tuple[int, int]:
    double, single = shapes.blocks(shapes.layout.double), shapes.blocks(shapes.layout.single)
    if double == 0 or (shapes.layout.single is not None and single == 0):
        raise CheckpointError(
            f"{shapes.path} has {double} double-stream and {single} single-stream blocks, "
            f"too few for a {FAMILIES[shapes.layout.family].title} DiT; parts of it are missing"
        )
    return double, single


def _rope(shapes: _Shapes, sidecar: Sidecar | None, head_dim: int) -> tuple[int, int, int]:
    rope = sidecar.rope if sidecar else None
    if rope is None and head_dim == OFFICIAL_HEAD_DIM:
        return DiTConfig.rope
    if rope is None:
        raise CheckpointError(
            f"{shapes.path}: tensors cannot tell the RoPE axes of a head width {head_dim} other "
            f'than {OFFICIAL_HEAD_DIM}; put a config.json beside it with "rope": [t, h, w]'
        )
    return rope


def _predictor_config(shapes: _Shapes) -> PredictorConfig:
    family = shapes.layout.family
    if FAMILIES[family].last_blocks == "double":
        blocks, norm, fusion = shapes.layout.double, "img_attn_", "fusion_mlp_img"
    else:
        blocks, norm, fusion = shapes.layout.single, "", "fusion_mlp"
    hidden = shapes.side(
        "width", *((f"{fusion}.{leaf}", 0) for leaf in ("0.weight", "0.bias", "2.weight", "2.bias"))
    )
    head_dim = shapes.side(
        "head width", *((f"{blocks}.{i}.{norm}{n}_norm.weight", 0) for i in (0, 1) for n in "qk")
    )
    depth = shapes.blocks(blocks)
    return PredictorConfig(family, hidden, _heads(shapes, hidden, head_dim), depth)


def _hidden(shapes: _Shapes) -> int:
    return shapes.side(
        "width",
        ("time_in.mlp.2.weight", 0),
        ("time_in.mlp.0.weight", 0),
        ("final_layer.linear.weight", 1),
        ("img_in.proj.weight", 0),
        ("txt_in.input_embedder.weight", 0),
        ("double_blocks.0.img_attn_proj.weight", 0),
        ("double_blocks.0.txt_attn_proj.weight", 0),
    )


def _head_dim(shapes: _Shapes, *attentions: str) -> int:
    norms = [(f"{name}_{n}_norm.weight", 0) for name in attentions for n in "qk"]
    return shapes.side("head width", *norms)


def _heads(shapes: _Shapes, hidden: int, head_dim: int) -> int:
    if hidden % head_dim:
        raise CheckpointError(
            f"{shapes.path} is damaged: its width {hidden} is no multiple of its head width "
            f"{head_dim}"
        )
    return hidden // head_dim


def _latent_sizes(shapes: _Shapes) -> dict:
    """Channels out are the head's, those in are `img_in`'s: the latents', then a condition's."""
    img_in = shapes.shape("img_in.proj.weight")
    official = _published(shapes.layout.family)
    is_there = len(img_in) == 5 and all(1 <= side <= MAX_SIDE for side in img_in)
    patch = img_in[2:] if is_there else official.patch
    heads = ("final_layer.linear.weight", 0), ("final_layer.linear.bias", 0)
    channels = max(shapes.side("output width", *heads) // math.prod(patch), 1)
    condition = official.embed_channels - official.in_channels
    embedded = max(img_in[1], channels) if is_there else channels + condition
    if condition and embedded == channels + 2 * (channels + 1):
        raise CheckpointError(
            f"{shapes.path} is a super-resolution DiT, which takes a smaller video beside an image "
            f"({embedded} channels in), and that is not supported; give the DiT that makes videos, "
            f"of {channels + condition} channels"
        )
    return {"in_channels": channels, "embed_channels": embedded, "patch": patch}


def _published(family: Family) -> DiTConfig:
    return next(config for config in MODELS.values() if config.family == family)


def _text_sizes(shapes: _Shapes) -> dict:
    text = ("txt_in.input_embedder.weight", 1), ("txt_in.c_embedder.linear_1.weight", 1)
    sizes: dict = {"text_dim": shapes.side("text width", *text), "text_dim_2": None}
    traits = FAMILIES[shapes.layout.family]
    if traits.pools_text or shapes.shape("vector_in.in_layer.weight"):
        pooled = ("vector_in.in_layer.weight", 1)
        sizes["text_dim_2"] = shapes.side("pooled text width", pooled)
    if traits.has_glyphs:
        sizes["byt5_dim"] = shapes.side(
            "glyph width", ("byt5_in.layernorm.weight", 0), ("byt5_in.fc1.weight", 1)
        )
        sizes["byt5_hidden"] = shapes.side(
            "glyph hidden width", ("byt5_in.fc2.weight", 0), ("byt5_in.fc1.weight", 0)
        )
        sizes["vision_dim"] = shapes.side(
            "vision width", ("vision_in.proj.0.weight", 0), ("vision_in.proj.1.weight", 0)
        )
    return sizes
