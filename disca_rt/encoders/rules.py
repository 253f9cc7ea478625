"""The rules of encoding in which disca_rt, diffusers and the authors' code differ, a row each."""

from dataclasses import dataclass

from ..family import VIDEO_10, VIDEO_15, Family


@dataclass(frozen=True)
class EncodingRules:
    """One row; every field is a choice that changes the conditioning, or what it costs.

    `strips`: families whose prompts lose the white space around them. `image_template`: a single
    frame of 1.0 is asked for in the words of its image template. `keeps_end`: a prompt that is too
    long is cut before its end mark, not through it. `runs_padding`: padding goes through the
    networks, although nothing reads it; otherwise its states are zero. `negative_glyphs`: quotes in
    a negative prompt count as text to write. `names_negative`: an empty negative prompt of 1.0 is
    replaced by the authors' own. `negative_stride`: which image embeddings the negative side of
    1.0's image-to-video keeps, every n-th; None: as the positive side.
    """

    strips: tuple[Family, ...]
    image_template: bool
    keeps_end: bool
    runs_padding: bool
    negative_glyphs: bool
    names_negative: bool
    negative_stride: int | None = None


RULES: dict[str, EncodingRules] = {
    "disca": EncodingRules(
        strips=(VIDEO_10.name, VIDEO_15.name),
        image_template=True,
        keeps_end=True,
        runs_padding=False,
        negative_glyphs=False,
        names_negative=False,
    ),
    "diffusers": EncodingRules(
        strips=(),
        image_template=False,
        keeps_end=False,
        runs_padding=True,
        negative_glyphs=True,
        names_negative=False,
        negative_stride=2,  # its encode_prompt is called there without the argument
    ),
    "official": EncodingRules(
        strips=(VIDEO_10.name,),
        image_template=True,
        keeps_end=False,
        runs_padding=True,
        negative_glyphs=False,
        names_negative=True,
    ),
}
DISCA = RULES["disca"]
