"""The memory that each stage of a whole model takes, said and refused before anything is loaded.

Weights by the headers of the files, the denoising by `work.memory`, a decode by its tiles.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..instruments.capacity import capacity
from ..units import byte_text
from ..work.memory import Need, footprint
from .load import Options
from .match import get_rules

if TYPE_CHECKING:
    from ..folders.parts import ModelFolder

WORKING = 1.1  # of the encoders' weights: their activations, of one row of tokens, are far less
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
    """Needs of a sample of `folder`, loaded with `options`; `need` is that of the denoising."""

    folder: "ModelFolder"
    options: Options
    need: Need

    def stages(self, decodes: bool) -> list[StageNeed]:
        """The stages in order; MemoryError where no tiles of the VAE would fit."""
        pictures = [self._picture()] if self.folder.task == "i2v" and self._has_vae else []
        return [self._encode(), *pictures, self._denoise(), *([self._decode()] if decodes else [])]

    def check(self, decodes: bool) -> str:
        """Say in one line what the stages take; MemoryError names the one that will not fit."""
        stages = self.stages(decodes)
        weights = {stage.part: stage.weights for stage in stages}
        resident = sum(weights.values()) if self.options.keep_resident else 0
        for stage in stages:
            taken = stage.working + max(resident, stage.weights)
            there = capacity(stage.device)
            if taken > there:
                way_out = "leave --keep-resident out" if stage.total <= there else stage.way_out
                raise MemoryError(
                    f"stage {stage.name} needs about {byte_text(taken)} of {byte_text(there)} on "
                    f"{stage.device}; would help: {way_out}"
                )
        told = ", ".join(f"{stage.name} {byte_text(stage.total)}" for stage in stages)
        return f"memory by stage: {told}" + (" (weights kept)" if resident else "")

    def _encode(self) -> StageNeed:
        from ..folders.load import quiet
        from ..folders.sizes import part_bytes

        options = self.options
        names = ["text_encoder", "text_encoder_2"]
        if self.folder.task == "i2v" and not self.folder.text_sees_image:
            names.append("image_encoder")
        with quiet():
            weights = sum(part_bytes(self.folder, name, options.encoder_dtype) for name in names)
        device = torch.device(options.encoder_device or options.device)
        way_out = "--encoder-dtype bfloat16" if device.type == "cpu" else "--encoder-device cpu"
        return StageNeed(
            "encode", "encoders", device, weights, int(weights * (WORKING - 1)), way_out
        )

    def _denoise(self) -> StageNeed:
        estimate = footprint(self.need)
        device = torch.device(self.options.device)
        ways = ["a smaller --size"]
        if self.need.itemsize > 2:
            ways.insert(0, "--dtype bfloat16")
        if not self.need.fp8_weights:
            ways.insert(0, "--fp8-weights")
        working = estimate.total - estimate.weights
        return StageNeed("denoise", "dit", device, estimate.weights, working, ", or ".join(ways))

    @property
    def _has_vae(self) -> bool:
        return "vae" in self.folder.parts

    def _picture(self) -> StageNeed:
        """A picture is encoded whole, which takes no more than decoding it does."""
        return self._vae("picture", "none", (1, *self.need.size[1:]), "--vae-dtype float16")

    def _decode(self) -> StageNeed:
        tiles = self.options.tiles or get_rules(self.options.match).tiling
        return self._vae("decode", tiles, self.need.size, "--vae-dtype float16, or --tiles")

    def _vae(self, name: str, tiles: str, size: tuple[int, int, int], way_out: str) -> StageNeed:
        """Need of the VAE for latents of `size` (T, H, W); MemoryError where no tiles would fit."""
        from ..folders.load import quiet
        from ..folders.sizes import part_bytes
        from ..folders.vaes import vae_skeleton
        from ..vae.hunyuan import HunyuanCodec

        options, folder = self.options, self.folder
        device = torch.device(options.device)
        weights = part_bytes(folder, "vae", options.vae_dtype)
        with quiet():
            skeleton = vae_skeleton(folder.parts["vae"].path, folder.family, options.vae_dtype)
        free = capacity(device) - weights
        plan = HunyuanCodec(skeleton, folder.family, tiles, free=lambda: free).plan(size)
        return StageNeed(name, "vae", device, weights, plan.size, way_out)


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
        fp8_weights=options.fp8_weights,
        **known,
    )
