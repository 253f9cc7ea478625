"""Training data of the embedded model: a drawn clip and its prompt for every position.

No held-out scene is drawn. Knows clips and prompts, nothing about models or training.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from ..conditioning import Conditioning
from ..seeds import generator
from .clips import FRAMES, render
from .codec import PixelUnshuffleCodec
from .prompts import Scene, encode, sample_scene


@dataclass(frozen=True)
class TrainingClips:
    """An endless source of `(latents [12, 5, 12, 16], conditioning)` by seed and position.

    With `single_frames` the latents are one frame of the clip, [12, 1, 12, 16]: what is to be seen
    is learned at a fifth of the tokens, before how it moves.
    """

    seed: int = 0
    single_frames: bool = False
    pairs: float = 0.4  # share of two-object scenes, which take longest to learn
    drop_word: float = 0.15  # share of prompts without the size; the same for the background

    def at(self, position: int) -> tuple[Tensor, Conditioning]:
        """Draw the sample at `position`, from 0 on; always the same one."""
        numbers = generator("clip", self.seed, position)
        scene = sample_scene(numbers, held_out=False, pairs=self.pairs)
        video = render([scene], numbers)
        if self.single_frames:
            frame = int(torch.randint(FRAMES, (), generator=numbers))
            video = video[:, :, frame : frame + 1]
        latents = PixelUnshuffleCodec().encode(video)[0]
        size, background = torch.rand(2, generator=numbers).tolist()
        prompt = _leave_out(scene, size < self.drop_word, background < self.drop_word).prompt
        return latents, encode([prompt])

    def __iter__(self) -> Iterator[tuple[Tensor, Conditioning]]:
        return map(self.at, count())


def unconditional() -> Conditioning:
    """Encode the empty prompt, batch 1."""
    return encode([""])


def _leave_out(scene: Scene, size: bool, background: bool) -> Scene:
    first, *rest = scene.objects
    if size:
        first = replace(first, size=None)
    return Scene((first, *rest), None if background else scene.background)
