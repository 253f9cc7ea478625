"""Language of the toy world: its words, its scenes, and the embedded model's prompt encoder.

A prompt such as "a small red circle moving left on a black background" names one `Scene`. This
module parses and writes prompts, says which scenes training never sees, draws random scenes, and
turns prompts into the text states a text encoder would have produced. It knows nothing about
pixels, nor about the model that reads the text states.
"""

import functools
import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..conditioning import Conditioning

COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan", "white")
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "large")
MOTIONS = ("left", "right", "up", "down", "still")
BACKGROUNDS = ("black", "gray", "brown", "navy")

# "<begin>" stays first: its index is the one token of the unconditional prompt "".
GRAMMAR_WORDS = ("a", "and", "on", "background", "moving", "standing")
VOCABULARY = ("<begin>", *GRAMMAR_WORDS, *SIZES, *COLOURS, *SHAPES, *MOTIONS, *BACKGROUNDS)
SYNONYMS = {"grey": "gray"}

SLOTS = 3  # 0: begin token, "and", background phrase; 1: first object; 2: second object
TEXT_DIM = len(VOCABULARY) + SLOTS
TEXT_DIM_2 = SLOTS * len(VOCABULARY)
TEXT_SCALE = 4.0  # a token has 2 ones among TEXT_DIM = 32: rms sqrt(2 / 32) * 4 = 1
TEXT_SCALE_2 = 2.0  # 7 to 16 ones among TEXT_DIM_2 = 87: rms 0.57 to 0.86

TWO_OBJECT_SHARE = 0.25
HELD_OUT_ONE_IN = 5

EXPECTED_FORM = (
    '"a [small|large] COLOUR SHAPE MOTION [on a BACKGROUND background]" or '
    '"a COLOUR SHAPE MOTION and a COLOUR SHAPE MOTION [on a BACKGROUND background]", '
    'for example "a small red circle moving left on a black background", '
    f"with COLOUR of {', '.join(COLOURS)} and BACKGROUND of {', '.join(BACKGROUNDS)}"
)


@dataclass(frozen=True)
class ObjectSpec:
    """One object as the prompt names it; `size` is None where the prompt leaves it open."""

    colour: str
    shape: str
    motion: str
    size: str | None = None

    def __post_init__(self) -> None:
        _check_known("colour", self.colour, COLOURS)
        _check_known("shape", self.shape, SHAPES)
        _check_known("motion", self.motion, MOTIONS)
        if self.size is not None:
            _check_known("size", self.size, SIZES)

    @property
    def phrase(self) -> str:
        """Words of the object, such as "a small red circle moving left"."""
        size = f"{self.size} " if self.size else ""
        motion = "standing still" if self.motion == "still" else f"moving {self.motion}"
        return f"a {size}{self.colour} {self.shape} {motion}"


@dataclass(frozen=True)
class Scene:
    """A scene that a prompt names: one object, or two small ones side by side, on a background.

    Raises ValueError for a wrong number of objects or a size word in a two-object scene.
    """

    objects: tuple[ObjectSpec, ...]
    background: str | None = None

    def __post_init__(self) -> None:
        if len(self.objects) not in (1, 2):
            raise ValueError(f"objects must hold 1 or 2 objects, got {len(self.objects)}")
        sizes = [spec.size for spec in self.objects if spec.size]
        if len(self.objects) == 2 and sizes:
            raise ValueError(
                f"two objects are always small, so {sizes[0]!r} is not allowed with them; "
                "leave the size word out or name one object"
            )
        if self.background is not None:
            _check_known("background", self.background, BACKGROUNDS)

    @property
    def prompt(self) -> str:
        """Canonical prompt of the scene; `parse(scene.prompt) == scene`."""
        objects = " and ".join(spec.phrase for spec in self.objects)
        return objects + (f" on a {self.background} background" if self.background else "")


def parse(prompt: str) -> Scene:
    """Parse a prompt (any letter case). ValueError names unknown words or the expected form."""
    words = _canonical_words(prompt)
    unknown = sorted(set(words) - set(VOCABULARY[1:]))
    if unknown:
        raise ValueError(
            f"prompt has unknown word(s) {', '.join(map(repr, unknown))}; "
            f"known words are {', '.join(VOCABULARY[1:])}"
        )
    match = _PROMPT_PATTERN.fullmatch(" ".join(words))
    if match is None:
        raise ValueError(f"prompt must have the form {EXPECTED_FORM}; got {prompt!r}")
    part = match.groupdict()
    objects = [_object_from(part, 1)]
    if part["colour2"]:
        objects.append(_object_from(part, 2))
    return Scene(tuple(objects), part["background"])


def is_held_out(scene: Scene) -> bool:
    """Tell if a scene with size and background is kept from training: one in five, by SHA-256."""
    digest = hashlib.sha256(scene.prompt.encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 1  # 226 of 1,120 singles


def sample_scene(
    generator: torch.Generator, held_out: bool, pairs: float = TWO_OBJECT_SHARE
) -> Scene:
    """Draw a scene with size and background, held out or not; a share `pairs` has two objects."""
    objects = 2 if _uniform(generator, 1)[0] < pairs else 1
    return _sample_with(objects, generator, held_out)


def training_prompts(count: int, seed: int) -> list[str]:
    """Draw `count` prompts of scenes that are not held out; ValueError for fewer than one.

    The same seed gives the same prompts, and a smaller count a prefix of them.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    generator = torch.Generator().manual_seed(seed)
    return [sample_scene(generator, held_out=False).prompt for _ in range(count)]


def held_out_prompts(count: int, seed: int) -> list[str]:
    """Draw `count` distinct prompts of held-out scenes, every fourth one with two objects.

    The same seed gives the same prompts, and a smaller count a prefix of them. ValueError when
    the held-out single-object scenes do not suffice.
    """
    singles = _held_out_singles()
    doubles = count // 4
    if not 0 <= count - doubles <= len(singles):
        largest = len(singles) + (len(singles) - 1) // 3
        raise ValueError(f"count must be from 0 to {largest}, got {count}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(singles), generator=generator).tolist()
    pairs: dict[str, None] = {}  # an ordered set
    while len(pairs) < doubles:
        pairs[_sample_with(2, generator, held_out=True).prompt] = None
    single, double = (singles[index] for index in order), iter(pairs)
    return [next(double) if position % 4 == 3 else next(single) for position in range(count)]


def encode(prompts: Sequence[str]) -> Conditioning:
    """Encode prompts, in fp32; "" is the unconditional prompt. ValueError for an illegal prompt.

    A token is one-hot(word) ++ one-hot(slot), scaled; the pooled state is one bag of words
    (0 or 1) per slot, in the order first object, second object, global, scaled.
    """
    tokens = [_tokens(prompt) for prompt in prompts]
    lengths = [len(row) for row in tokens]
    rows, places, words, slots = (
        torch.tensor(
            [
                (row, place, word, slot)
                for row, line in enumerate(tokens)
                for place, (word, slot) in enumerate(line)
            ],
            dtype=torch.int64,
        )
        .reshape(-1, 4)
        .T
    )
    text_mask = torch.zeros(len(prompts), max(lengths, default=0), dtype=torch.int64)
    text_mask[rows, places] = 1
    text_states = torch.zeros(*text_mask.shape, TEXT_DIM, dtype=torch.float32)
    text_states[rows, places, words] = TEXT_SCALE
    text_states[rows, places, len(VOCABULARY) + slots] = TEXT_SCALE
    text_states_2 = torch.zeros(len(prompts), TEXT_DIM_2, dtype=torch.float32)
    bag = (slots - 1) % SLOTS  # slots 1, 2, 0 in this order
    text_states_2[rows, bag * len(VOCABULARY) + words] = TEXT_SCALE_2
    return Conditioning(text_states, text_mask, text_states_2)


def _check_known(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _canonical_words(prompt: str) -> list[str]:
    words = prompt.lower().strip().removesuffix(".").split()
    return [SYNONYMS.get(word, word) for word in words]


def _object_pattern(number: int) -> str:
    return (
        rf"a (?:(?P<size{number}>{'|'.join(SIZES)}) )?"
        rf"(?P<colour{number}>{'|'.join(COLOURS)}) (?P<shape{number}>{'|'.join(SHAPES)}) "
        rf"(?:moving (?P<motion{number}>{'|'.join(MOTIONS[:-1])})|standing still)"
    )


_PROMPT_PATTERN = re.compile(
    rf"{_object_pattern(1)}(?: and {_object_pattern(2)})?"
    rf"(?: on a (?P<background>{'|'.join(BACKGROUNDS)}) background)?"
)


def _object_from(part: dict[str, str | None], number: int) -> ObjectSpec:
    return ObjectSpec(
        colour=part[f"colour{number}"],
        shape=part[f"shape{number}"],
        motion=part[f"motion{number}"] or "still",
        size=part[f"size{number}"],
    )


def _uniform(generator: torch.Generator, count: int) -> list[float]:
    return torch.rand(count, generator=generator).tolist()


def _sample_with(objects: int, generator: torch.Generator, held_out: bool) -> Scene:
    """Draw scenes of one or two `objects` until one is on the wanted side of the split."""
    tables = [*(COLOURS, SHAPES, MOTIONS) * objects, SIZES, BACKGROUNDS]
    while True:
        draws = _uniform(generator, len(tables))
        *specs, size, background = (
            table[int(draw * len(table))] for table, draw in zip(tables, draws, strict=True)
        )
        drawn_size = size if objects == 1 else None
        pairs = [ObjectSpec(*specs[at : at + 3], drawn_size) for at in range(0, 3 * objects, 3)]
        scene = Scene(tuple(pairs), background)
        if is_held_out(scene) == held_out:
            return scene


@functools.cache
def _held_out_singles() -> tuple[str, ...]:
    scenes = (
        Scene((ObjectSpec(colour, shape, motion, size),), background)
        for colour, shape, motion, size, background in itertools.product(
            COLOURS, SHAPES, MOTIONS, SIZES, BACKGROUNDS
        )
    )
    return tuple(scene.prompt for scene in scenes if is_held_out(scene))


_WORD_INDEX = {word: index for index, word in enumerate(VOCABULARY)}


@functools.lru_cache(maxsize=16384)
def _tokens(prompt: str) -> tuple[tuple[int, int], ...]:
    """Tokenise a legal prompt: (word index, slot) of the begin token and of each word."""
    tokens = [(0, 0)]
    if not prompt.strip():
        return tuple(tokens)
    parse(prompt)
    slot = 1
    for word in _canonical_words(prompt):
        if word in ("and", "on"):  # both belong to no object; a second object follows "and"
            slot = 0
        tokens.append((_WORD_INDEX[word], slot))
        if word == "and":
            slot = 2
    return tuple(tokens)
