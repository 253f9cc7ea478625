"""The memory that each stage of a whole model takes, said and refused before anything is loaded.

Weights by the headers of the files, the denoising by `work.memory`, a decode by its tiles.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..instruments.capacity import capacity
from ..units import byte_text
from ..work.memory import Need, footprint, smaller_caches
from .load import Options
from .match import get_rules

if TYPE_CHECKING:
    from ..folders.parts import ModelFolder

# Of the encoders' weights, as room for activations. Computed, Llama's are far less: 351 tokens of
# 14,336 values at its widest, 0.03 GB of 15.
ACTIVATIONS = 0.1
TOKENS = {False: 256, True: 1000 + 256 + 729}  # of a prompt, at most; with glyphs and a picture


class StageNeed(NamedTuple):
    """Bytes that one stage takes on its device, and what would make it fit.

    `part` is what its weights are of; two stages may share them.
    """

    name: str
    part: str
    device: torch.device
    weights: int
    working: int
    way_out: str

    @property
    def total(self) -> int:
        return self.weights + self.working


@dataclass(frozen=True)
class StageMemory:
    """Needs of a sample of `folder`, loaded with `options`, to a video if it `decodes`.

    `need` is that of the denoising.
    """

    folder: "ModelFolder"
    options: Options
    need: Need
    decodes: bool

    def check(self) -> str:
        """Say in one line what the stages take; MemoryError names the one that will not fit."""
        stages = []
        for stage in self._stages():  # each is refused before the next one is planned
            self._refuse(stage)
            stages.append(stage)
        told = ", ".join(f"{stage.name} {byte_text(stage.total)}" for stage in stages)
        return f"memory by stage: {told}{' (weights kept)' * self.options.keep_resident}"

    def _stages(self) -> Iterator[StageNeed]:
        yield self._encode()
        if self._sees_picture:
            yield self._picture()
        yield self._denoise()
        if self.decodes:
            yield self._decode()

    def _refuse(self, stage: StageNeed) -> None:
        taken, there = stage.total + self._kept(stage.part, stage.device), capacity(stage.device)
        if taken <= there:
            return
        way_out = "leave --keep-resident out" if stage.total <= there else stage.way_out
        raise MemoryError(
            f"stage {stage.name} needs about {byte_text(taken)} of {byte_text(there)} on "
            f"{stage.device}; would help: {way_out}"
        )

    def _kept(self, part: str, device: torch.device) -> int:
        """Bytes of the weights that parts other than `part` keep on a device."""
        if not self.options.keep_resident:
            return 0
        fixed = self._encode(), self._denoise()
        held = [(stage.part, stage.device, stage.weights) for stage in fixed]
        if self.decodes or self._sees_picture:
            held.append(("vae", torch.device(self.options.device), self._vae_weights()))
        return sum(size for name, where, size in held if name != part and where == device)

    def _encode(self) -> StageNeed:
        from ..folders.load import quiet
        from ..folders.sizes import part_bytes

        options = self.options
        names = ["text_encoder", "text_encoder_2"]
        if self.folder.task == "i2v":  # of LLaVA it may be a file of its own
            names.append("image_encoder")
        with quiet():
            weights = sum(part_bytes(self.folder, name, options.encoder_dtype) for name in names)
        device = torch.device(options.encoder_device or options.device)
        way_out = "--encoder-dtype bfloat16" if device.type == "cpu" else "--encoder-device cpu"
        return StageNeed("encode", "encoders", device, weights, int(weights * ACTIVATIONS), way_out)

    def _denoise(self) -> StageNeed:
        estimate = footprint(self.need)
        device = torch.device(self.options.device)
        ways = ["a smaller --size"]
        if self.need.itemsize > 2:
            ways.insert(0, "--dtype bfloat16")
        if not self.need.fp8:
            ways.insert(0, "--fp8-weights")
        ways = smaller_caches(self.need, capacity(device)) + ways
        working = estimate.total - estimate.weights
        return StageNeed("denoise", "dit", device, estimate.weights, working, ", or ".join(ways))

    @property
    def _sees_picture(self) -> bool:
        return self.folder.task == "i2v" and "vae" in self.folder.parts

    def _vae_weights(self) -> int:
        from ..folders.sizes import part_bytes

        return part_bytes(self.folder, "vae", self.options.vae_dtype)

    def _picture(self) -> StageNeed:
        """A picture is encoded whole, which takes no more than decoding it does."""
        return self._vae("picture", "none", (1, *self.need.size[1:]), "--vae-dtype float16")

    def _decode(self) -> StageNeed:
        tiles = self.options.tiles or get_rules(self.options.match).tiling
        return self._vae("decode", tiles, self.need.size, "--vae-dtype float16, or --tiles")

    def _vae(self, name: str, tiles: str, size: tuple[int, int, int], way_out: str) -> StageNeed:
        """Memory that the VAE takes for latents (T, H, W); MemoryError where no tiles would fit."""
        from ..folders.load import quiet
        from ..folders.vaes import vae_skeleton
        from ..vae.hunyuan import HunyuanCodec

        options, folder = self.options, self.folder
        device, weights = torch.device(options.device), self._vae_weights()
        with quiet():
            skeleton = vae_skeleton(folder.parts["vae"].path, folder.family, options.vae_dtype)
        free = max(0, capacity(device) - weights - self._kept("vae", device))
        codec = HunyuanCodec(skeleton, folder.family, tiles, free=lambda: free)
        try:
            return StageNeed(name, "vae", device, weights, codec.plan(size).size, way_out)
        except MemoryError as error:
            raise MemoryError(f"stage {name}: {error}; would help: {way_out}") from error


def denoise_need(
    folder: "ModelFolder", options: Options, size: tuple[int, int, int], **known: object
) -> Need:
    """Need of the denoising of latents (T, H, W), with as many tokens as a prompt may have."""
    from ..config import predictor_config
    from ..weights.checkpoint import open_checkpoint
    from ..weights.load import own_dtype

    config = folder.config
    dtype = options.dtype or own_dtype(open_checkpoint(folder.parts["dit"].path))
    return Need(
        dit=config,
        predictor=predictor_config(config) if "predictor" in folder.parts else None,
        size=size,
        text=TOKENS[config.traits.has_glyphs],
        itemsize=dtype.itemsize,
        fp8=options.fp8,
        **known,
    )
