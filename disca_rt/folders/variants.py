"""Table of variants: what each published model is sampled with by its authors."""

import re
from typing import NamedTuple

from ..family import VIDEO_10, VIDEO_15, Family

Size = tuple[int, int, int]  # frames, height, width


class Variant(NamedTuple):
    """Defaults of one model; a scale of None is one that it does not take.

    `bucket` is the side of the square that sizes of images are as large as; None: any size.
    """

    steps: int
    shift: float
    embedded_scale: float | None
    classifier_free_scale: float | None
    size: Size
    bucket: int | None = None
    note: str = ""


SKYREELS = 'SkyReels was trained with prompts that begin with "FPS-24, "'
TEN = {
    "t2v": Variant(50, 7.0, 6.0, None, (129, 720, 1280)),
    "i2v": Variant(50, 7.0, 6.0, None, (129, 720, 1280), 960),
    "meanflow": Variant(20, 5.0, 6.0, None, (129, 704, 704)),
    "fast": Variant(6, 17.0, 6.0, None, (129, 720, 1280)),
    "skyreels_t2v": Variant(30, 7.0, 1.0, 6.0, (97, 544, 960), None, SKYREELS),
    "skyreels_i2v": Variant(30, 7.0, 1.0, 6.0, (97, 544, 960), None, SKYREELS),
}

BUCKET_SIZES: dict[int, Size] = {640: (121, 480, 848), 960: (121, 720, 1280)}
SPARSE = "the sparse checkpoints were made for SSTA: --policy ssta"
_LOW, _HIGH = BUCKET_SIZES[640], BUCKET_SIZES[960]
FIFTEEN = {
    "480p_t2v": Variant(50, 5.0, None, 6.0, _LOW, 640),
    "480p_i2v": Variant(50, 5.0, None, 6.0, _LOW, 640),
    "720p_t2v": Variant(50, 9.0, None, 6.0, _HIGH, 960),
    "720p_i2v": Variant(50, 7.0, None, 6.0, _HIGH, 960),
    "480p_t2v_distilled": Variant(50, 5.0, None, None, _LOW, 640),
    "480p_i2v_distilled": Variant(50, 5.0, None, None, _LOW, 640),
    "720p_t2v_distilled": Variant(50, 9.0, None, None, _HIGH, 960),
    "720p_i2v_distilled": Variant(50, 7.0, None, None, _HIGH, 960),
    "720p_t2v_distilled_sparse": Variant(50, 9.0, None, None, _HIGH, 960, SPARSE),
    "720p_i2v_distilled_sparse": Variant(50, 7.0, None, None, _HIGH, 960, SPARSE),
    "480p_i2v_step_distilled": Variant(12, 7.0, None, None, _LOW, 640),
    # LightX2V lists 1000, 750, 500, 250, and then shifts them: 1000, 937.5, 833.3, 625.
    "480p_t2v_4step": Variant(4, 5.0, None, None, _LOW, 640),
}

VARIANTS: dict[Family, dict[str, Variant]] = {VIDEO_10.name: TEN, VIDEO_15.name: FIFTEEN}

_DISTILLED = r"[-_](cfg[-_])?distilled"
# How files and folders are called -> the row; the first that is found is taken.
NAMES: dict[Family, tuple[tuple[str, str], ...]] = {
    VIDEO_10.name: (
        (r"skyreels.*(i2v|image)", "skyreels_i2v"),
        (r"skyreels", "skyreels_t2v"),
        (r"fasthunyuan|fastvideo", "fast"),
    ),
    VIDEO_15.name: (
        (r"(t2v.*480p|480p.*t2v).*(4[-_ ]?step|lightx2v)", "480p_t2v_4step"),
        (r"480p[-_]i2v[-_]step[-_]distilled", "480p_i2v_step_distilled"),
        *(
            (rf"{resolution}[-_]{task}{written}", f"{resolution}_{task}{kind}")
            for resolution in ("480p", "720p")
            for task in ("t2v", "i2v")
            for written, kind in (
                (rf"{_DISTILLED}[-_]sparse", "_distilled_sparse"),
                (_DISTILLED, "_distilled"),
                ("", ""),
            )
            if f"{resolution}_{task}{kind}" in FIFTEEN
        ),
    ),
}


def named_variant(family: Family, name: str) -> str | None:
    """The row that a file or a folder called `name` is of; None where its name does not tell."""
    rows = NAMES[family]
    return next((row for pattern, row in rows if re.search(pattern, name.lower())), None)
