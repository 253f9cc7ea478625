"""FP8 weights whose scales are in the same file, as ComfyUI and others write them.

Beside `X.weight` is `X.scale_weight`, or `X.weight_scale`, one number or one a row. The scales of
inputs, which FP8 products would take, are left out, and so is the marker of the file.
"""

from collections.abc import Sequence

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from .kind import FP8_DTYPES, Coded, fp8_tensors, scaled
from .stored import Encoding

SCALES = (".scale_weight", ".weight_scale", ".weight_scale_inv", ".fp8_scale")
OTHERS = (".scale_input", ".input_scale", ".comfy_quant")
MARKER = "scaled_fp8"


class Fp8Inside:
    name = "FP8, its scales inside"
    dtypes = FP8_DTYPES

    def recognises(self, checkpoint: Checkpoint) -> bool:
        return bool(fp8_tensors(checkpoint)) and any(
            name.endswith(SCALES) for name in checkpoint.entries
        )

    def helpers(self, checkpoint: Checkpoint) -> set[str]:
        names = checkpoint.entries
        return {n for n in names if n.endswith((*SCALES, *OTHERS)) or n == MARKER}

    def encodings(self, checkpoint: Checkpoint, coded: Sequence[Coded]) -> dict[str, Encoding]:
        scales = {}
        for name, _ in coded:
            beside = (name.removesuffix(".weight") + suffix for suffix in SCALES)
            scale = next((each for each in beside if each in checkpoint.entries), None)
            scales[name] = None if scale is None else checkpoint.read(scale)
        self._refuse_others(checkpoint, {name.removesuffix(".weight") for name in scales})
        return scaled(checkpoint, checkpoint.path, scales)

    def _refuse_others(self, checkpoint: Checkpoint, coded: set[str]) -> None:
        """Raise CheckpointError naming the scales other than 1 of weights that are not FP8."""
        named = [
            n
            for n in checkpoint.entries
            if n.endswith(SCALES) and n.rpartition(".")[0] not in coded
        ]
        if wrong := [name for name in named if (checkpoint.read(name) != 1).any()]:
            raise CheckpointError(
                f"{checkpoint.path} has {len(wrong)} scales of weights that are not in FP8: "
                f"{', '.join(wrong)}"
            )
