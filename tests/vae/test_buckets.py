"""Buckets against those that the authors' functions give (buckets.json), and diffusers' class.

`buckets.json` holds [height, width, bucket's height, its width] by rule and base, computed with
`generate_crop_size_list` and `get_closest_ratio` of HunyuanVideo-1.5 at 60783e7 (stride 16) and of
HunyuanVideo-I2V at 1481c1d (stride 32).
"""

import json
import random
from pathlib import Path

import pytest
from diffusers.pipelines.hunyuan_video1_5.image_processor import HunyuanVideo15ImageProcessor

from disca_rt.pipeline.match import MATCHES
from disca_rt.vae.buckets import BASES, STRIDES, bucket, sizes

OFFICIAL = json.loads(Path(__file__).with_name("buckets.json").read_text())
OFFICIAL_RULES = {family: way.bucket for family, way in MATCHES["official"].pictures.items()}
RULES = {rule: STRIDES[family] for family, rule in OFFICIAL_RULES.items()}


@pytest.mark.parametrize(
    ("rule", "base"), [(rule, int(base)) for rule, by_base in OFFICIAL.items() for base in by_base]
)
def test_buckets_are_the_authors(rule: str, base: int) -> None:
    for height, width, *expected in OFFICIAL[rule][str(base)]:
        assert bucket(height, width, base, RULES[rule], rule) == tuple(expected), (height, width)


def test_vectors_have_every_base() -> None:
    for family, rule in OFFICIAL_RULES.items():
        assert {int(base) for base in OFFICIAL[rule]} == set(BASES[family].values())


@pytest.mark.parametrize("base", [640, 960])
def test_the_other_rule_is_diffusers(base: int) -> None:
    processor, drawn, others = HunyuanVideo15ImageProcessor(), random.Random(3), 0
    images = [(drawn.randint(64, 4000), drawn.randint(64, 4000)) for _ in range(200)]
    images += sizes(base, 16)[::20]
    for height, width in images:
        theirs = processor.calculate_default_height_width(height, width, base)
        assert bucket(height, width, base, 16, "diffusers") == theirs
        others += theirs != bucket(height, width, base, 16)
    assert 0.3 < others / len(images) < 0.6  # the rules are really two


def test_known_buckets() -> None:
    assert bucket(1080, 1920, 640, 16) == (480, 848)
    assert bucket(1080, 1920, 960, 16) == (720, 1280)
    assert bucket(1080, 1920, 1440, 16) == (1072, 1904)
    assert bucket(512, 512, 640, 16) == (640, 640)


def test_what_has_no_bucket_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0x5"):
        bucket(5, 0, 640, 16)
    with pytest.raises(ValueError, match="rule must be one of nearest, diffusers, below"):
        bucket(5, 5, 640, 16, "near")
