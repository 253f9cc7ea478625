"""The judge accepts real clips, is at chance on shuffled prompts, and catches planted defects."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from disca_rt.tiny.clips import FRAMES, HEIGHT, WIDTH, render
from disca_rt.tiny.judge import Verdict, judge
from disca_rt.tiny.prompts import Scene, parse, sample_scene

SCENE = parse("a small red circle moving right on a gray background")
PAIR = parse("a red circle moving left and a blue square moving up on a gray background")
COUNT = 150


def draw(scene: Scene, seed: int = 0) -> torch.Tensor:
    return render([scene], torch.Generator().manual_seed(seed))[0]


def real_clips(held_out: bool, count: int = COUNT) -> tuple[list[Scene], torch.Tensor]:
    generator = torch.Generator().manual_seed(17)
    scenes = [sample_scene(generator, held_out) for _ in range(count)]
    return scenes, render(scenes, generator)


def wrong(verdict: Verdict) -> set[str]:
    """Names of the attributes that the verdict marks wrong."""
    names = ("colour", "shape", "size", "motion", "background", "count")
    marks = {name: getattr(verdict, name) for name in names}
    return {
        name
        for name, mark in marks.items()
        if False in (mark if isinstance(mark, tuple) else (mark,))
    }


@pytest.mark.parametrize("held_out", [False, True])
def test_real_clips_are_correct_and_perfect(held_out: bool) -> None:
    scenes, video = real_clips(held_out)
    verdicts = [judge(clip, scene) for clip, scene in zip(video, scenes, strict=True)]
    assert sum(verdict.correct for verdict in verdicts) >= 0.99 * COUNT  # 1.0 measured
    for part in ("flicker", "smoothness", "sharpness"):
        assert min(getattr(verdict, part) for verdict in verdicts) > 0.95
    assert sum(verdict.total for verdict in verdicts) / COUNT > 0.999


def test_noisy_and_slightly_blurred_clips_are_correct() -> None:
    scenes, video = real_clips(held_out=True)
    noise = 0.03 * torch.randn(video.shape, generator=torch.Generator().manual_seed(1))
    noisy = (video + noise).clamp(0, 1)
    soft = 0.7 * video + 0.3 * blur(video)
    for changed in (noisy, soft):
        pairs = zip(changed, scenes, strict=True)
        assert sum(judge(clip, scene).correct for clip, scene in pairs) >= 0.97 * COUNT


def test_shuffled_prompts_are_at_chance() -> None:
    scenes, video = real_clips(held_out=False, count=400)
    kinds = [[i for i, s in enumerate(scenes) if len(s.objects) == n] for n in (1, 2)]
    verdicts = [
        judge(video[index], scenes[other])
        for kind in kinds
        for index, other in zip(kind, kind[7:] + kind[:7], strict=True)
    ]
    assert sum(verdict.correct for verdict in verdicts) < 0.02 * len(verdicts)
    marks_by_name = {
        name: [mark for v in verdicts for mark in getattr(v, name) if mark is not None]
        for name in ("colour", "shape", "size", "motion")
    } | {"background": [verdict.background for verdict in verdicts]}
    for (name, marks), options in zip(marks_by_name.items(), (7, 4, 2, 5, 4), strict=True):
        share = 1 / options
        spread = (share * (1 - share) / len(marks)) ** 0.5  # a standard deviation
        assert sum(marks) / len(marks) == pytest.approx(share, abs=3 * spread), name
    assert all(verdict.count for verdict in verdicts)


@pytest.mark.parametrize(
    ("prompt", "attribute"),
    [
        ("a small purple circle moving right on a gray background", "colour"),
        ("a small red square moving right on a gray background", "shape"),
        ("a large red circle moving right on a gray background", "size"),
        ("a small red circle moving left on a gray background", "motion"),
        ("a small red circle moving up on a gray background", "motion"),
        ("a small red circle standing still on a gray background", "motion"),
        ("a small red circle moving right on a brown background", "background"),
    ],
)
def test_one_wrong_attribute_is_the_only_one_marked(prompt: str, attribute: str) -> None:
    for seed in range(5):
        verdict = judge(draw(parse(prompt), seed), SCENE)
        assert wrong(verdict) == {attribute}
        assert not verdict.correct
        assert verdict.semantic == pytest.approx(5 / 6)
        assert verdict.quality > 0.95


def test_each_object_of_a_pair_is_marked_alone() -> None:
    swapped = Scene(PAIR.objects[::-1], PAIR.background)
    verdict = judge(draw(swapped), PAIR)
    assert wrong(verdict) == {"colour", "shape", "motion"}
    assert verdict.semantic == pytest.approx(2 / 8)
    second = dataclasses.replace(PAIR.objects[1], colour="green")
    verdict = judge(draw(Scene((PAIR.objects[0], second), "gray")), PAIR)
    assert verdict.colour == (True, False)
    assert wrong(verdict) == {"colour"}


def test_unnamed_attributes_are_not_marked() -> None:
    verdict = judge(draw(SCENE), parse("a red circle moving right"))
    assert verdict.size == (None,)
    assert verdict.background is None
    assert len(verdict.named) == 4
    assert verdict.correct


def test_extra_blob_makes_the_count_wrong() -> None:
    for scene, frames in ((SCENE, slice(None)), (SCENE, slice(2, 3)), (PAIR, slice(None))):
        video = draw(scene)
        row, column = far_from_object(video)
        video[:, frames, row : row + 3, column : column + 3] = 1.0
        assert wrong(judge(video, scene)) == {"count"}


def far_from_object(video: torch.Tensor) -> tuple[int, int]:
    """Row and column of an empty 5x5 area, one pixel inside of its corner."""
    busy = (video - video[:, :1, :1, :1]).abs().amax(dim=(0, 1)) > 0.02
    free = max_pool2d(busy[None].float(), 5, stride=1)[0] == 0
    row, column = free.nonzero()[0].tolist()
    return row + 1, column + 1


def test_a_second_object_or_a_missing_one_makes_the_count_wrong() -> None:
    assert "count" in wrong(judge(draw(PAIR), SCENE))
    verdict = judge(draw(SCENE), PAIR)
    assert "count" in wrong(verdict)
    assert not verdict.correct


@pytest.mark.parametrize("frame", [0, 2, FRAMES - 1])
def test_object_missing_in_one_frame(frame: int) -> None:
    video = draw(SCENE)
    video[:, frame] = torch.tensor([110.0, 110.0, 110.0])[:, None, None] / 255
    verdict = judge(video, SCENE)
    assert wrong(verdict) == {"count"}
    assert verdict.smoothness == 0.0
    assert verdict.flicker < 0.6


def test_empty_clips_have_no_merit() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (3, FRAMES, HEIGHT, WIDTH)
    clips = [torch.zeros(shape), torch.full(shape, float("nan"))]
    clips += [torch.rand(shape, generator=generator) for _ in range(5)]
    clips += [(0.5 + 0.2 * torch.randn(shape, generator=generator)).clamp(0, 1) for _ in range(5)]
    for clip in clips:
        for scene in (SCENE, PAIR):
            verdict = judge(clip, scene)
            assert not verdict.correct
            assert verdict.semantic < 0.2  # the median of noise may pass for the gray background
            assert verdict.quality < 0.05


def blur(video: torch.Tensor) -> torch.Tensor:
    """Weights (1, 2, 1) / 4 along rows and columns."""
    flat = pad(video.reshape(-1, 1, *video.shape[-2:]), (1, 1, 1, 1), mode="replicate")
    return avg_pool2d(avg_pool2d(flat, 2, stride=1), 2, stride=1).view(video.shape)


def flash(video: torch.Tensor) -> torch.Tensor:
    dimmed = video.clone()
    dimmed[:, ::2] *= 0.9
    return dimmed


def jerk(video: torch.Tensor) -> torch.Tensor:
    return video[:, [0, 2, 1, *range(3, FRAMES)]]


@pytest.mark.parametrize(
    ("damage", "part", "limit"),
    [(blur, "sharpness", 0.6), (flash, "flicker", 0.6), (jerk, "smoothness", 0.1)],
)
@pytest.mark.parametrize("scene", [SCENE, PAIR])
def test_damage_lowers_its_own_quality(
    scene: Scene, damage: Callable[[torch.Tensor], torch.Tensor], part: str, limit: float
) -> None:
    clean, damaged = judge(draw(scene), scene), judge(damage(draw(scene)), scene)
    scores = {name: getattr(damaged, name) for name in ("flicker", "smoothness", "sharpness")}
    assert clean.quality > 0.99
    assert scores.pop(part) < limit
    assert min(scores.values()) > 0.9
    assert damaged.total < clean.total
    assert damaged.correct  # quality does not touch the semantic score


def test_scores_follow_their_formulas() -> None:
    verdict = Verdict(
        colour=(True, False),
        shape=(True, True),
        size=(None, None),
        motion=(True, True),
        background=None,
        count=True,
        flicker=0.3,
        smoothness=0.6,
        sharpness=0.9,
    )
    assert not verdict.correct
    assert verdict.semantic == pytest.approx(6 / 7)
    assert verdict.quality == pytest.approx(0.6)
    assert verdict.total == pytest.approx((6 / 7 + 4 * 0.6) / 5)


def test_other_sizes_and_lengths_are_judged() -> None:
    video = draw(SCENE)
    wide = pad(video, (0, 8, 0, 4), value=110 / 255)
    assert judge(wide, SCENE).correct
    still = parse("a small red circle standing still on a gray background")
    single_frame = judge(draw(still)[:, :1], still)
    assert single_frame.correct
    assert single_frame.quality > 0.99
    with pytest.raises(ValueError, match=r"video must be \[3, T, H, W\], got \[\d, 3, 24, 32\]"):
        judge(video.transpose(0, 1), SCENE)
