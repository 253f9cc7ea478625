"""Drawn clips: geometry, motion and determinism, read back from the pixels."""

import itertools

import pytest
import torch

from disca_rt.tiny import clips
from disca_rt.tiny.clips import FRAMES, HEIGHT, WIDTH, render
from disca_rt.tiny.prompts import COLOURS, MOTIONS, SHAPES, SIZES, ObjectSpec, Scene, parse

FRAME = (FRAMES, HEIGHT, WIDTH)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rgb(name: str) -> torch.Tensor:
    return torch.tensor({**clips.COLOUR_RGB, **clips.BACKGROUND_RGB}[name]) / 255.0


def opacity(video: torch.Tensor, background: str) -> torch.Tensor:
    """Distance of each pixel to the background over the largest one: [B, T, H, W]."""
    distance = (video - rgb(background)[:, None, None, None]).norm(dim=1)
    return distance / distance.amax(dim=(1, 2, 3), keepdim=True)


def centres(alpha: torch.Tensor) -> torch.Tensor:
    """[B, T, 2] centroid x, y in pixels."""
    x = (alpha.sum(dim=2) * (torch.arange(alpha.shape[3]) + 0.5)).sum(dim=2)
    y = (alpha.sum(dim=3) * (torch.arange(alpha.shape[2]) + 0.5)).sum(dim=2)
    return torch.stack([x, y], dim=2) / alpha.sum(dim=(2, 3))[:, :, None]


def assert_moves_by_whole_cells(along: torch.Tensor, motion: str) -> None:
    cells = 0 if motion == "still" else FRAMES - 1
    assert torch.allclose(along, torch.tensor(float(cells * clips.GRID)), atol=0.05)


def test_clips_have_shape_range_and_flat_colours() -> None:
    scenes = [parse("a large red square standing still on a navy background")] * 3
    video = render(scenes, generator())
    assert video.shape == (3, 3, *FRAME)
    assert video.dtype == torch.float32
    assert video.min() >= 0
    assert video.max() <= 1
    for name, low, high in (("navy", 600, 680), ("red", 80, 140)):
        exact = (video - rgb(name)[:, None, None, None]).abs().amax(dim=1) < 1e-6
        counts = exact.sum(dim=(2, 3))
        assert ((counts >= low) & (counts <= high)).all()


def test_same_seed_same_clips_whatever_the_neighbours() -> None:
    single = parse("a red circle moving left")
    double = parse("a red circle moving left and a blue cross moving up")
    first = render([single, double, single], generator(5))
    assert torch.equal(first, render([single, double, single], generator(5)))
    assert not torch.equal(first, render([single, double, single], generator(6)))
    other = render([double, parse("a white cross standing still"), single], generator(5))
    assert torch.equal(first[2], other[2])
    one_by_one = generator(5)
    alone = [render([scene], one_by_one) for scene in (single, double, single)]
    assert torch.equal(first, torch.cat(alone))


@pytest.mark.parametrize(("shape", "motion"), list(itertools.product(SHAPES, MOTIONS)))
def test_single_objects_stay_inside_and_move_as_named(shape: str, motion: str) -> None:
    for size in SIZES:
        scene = Scene((ObjectSpec("white", shape, motion, size),), "black")
        alpha = opacity(render([scene] * 40, generator()), "black")
        area = alpha.sum(dim=(2, 3))
        expected = {"circle": 3.14, "square": 3.24, "triangle": 2.0, "cross": 20 / 9}[shape]
        assert area.mean().item() == pytest.approx(expected * clips.RADIUS[size] ** 2, rel=0.04)
        assert ((area / area.mean()) - 1).abs().max() < 0.08  # nothing is cut by the border
        path = centres(alpha)
        assert path.diff(n=2, dim=1).abs().max() < 0.2
        travel = path[:, -1] - path[:, 0]
        along = travel @ torch.tensor(clips.DIRECTION[motion], dtype=torch.float32)
        assert travel.norm(dim=1).allclose(along, atol=0.05)
        assert_moves_by_whole_cells(along, motion)


def test_two_objects_stay_in_their_halves() -> None:
    for shape, motion, other in itertools.product(SHAPES, MOTIONS, MOTIONS):
        objects = (ObjectSpec("white", shape, motion), ObjectSpec("yellow", "triangle", other))
        video = render([Scene(objects, "black")] * 10, generator())
        for half, spec in zip(video.chunk(2, dim=4), objects, strict=True):
            alpha = opacity(half, "black")
            area = alpha.sum(dim=(2, 3))
            assert ((area / area.mean()) - 1).abs().max() < 0.08
            colour = half.amax(dim=(2, 3, 4))
            assert torch.allclose(colour, rgb(spec.colour).expand_as(colour))
            path = centres(alpha)
            travel = path[:, -1] - path[:, 0]
            direction = torch.tensor(clips.DIRECTION[spec.motion], dtype=torch.float32)
            along = travel @ direction
            assert travel.norm(dim=1).allclose(along, atol=0.05)
            assert_moves_by_whole_cells(along, spec.motion)


def test_left_out_words_are_drawn_at_random() -> None:
    scene = parse("a white circle standing still")
    video = render([scene] * 200, generator())
    corner = torch.stack([video[:, :, 0, 0, 0], video[:, :, 0, -1, -1]]).amin(dim=0)
    names = list(clips.BACKGROUND_RGB)
    palette = torch.stack([rgb(name) for name in names])
    nearest = torch.cdist(corner, palette).argmin(dim=1)
    assert (nearest.bincount(minlength=4) > 30).all()
    white = (video[:, :, 0] > 0.9).all(dim=1).sum(dim=(1, 2))
    assert 70 < (white > 70).sum() < 130
    assert white.min() > 20


def test_starts_are_the_grid_points_that_leave_the_shape_inside() -> None:
    scene = parse("a small white circle standing still on a black background")
    path = centres(opacity(render([scene] * 400, generator()), "black"))[:, 0]
    for along, side in ((path[:, 0], WIDTH), (path[:, 1], HEIGHT)):
        seen = along.round().unique()
        assert torch.allclose(along, along.round(), atol=0.01)
        assert torch.equal(seen, torch.arange(4.0, side - 3, clips.GRID))


@pytest.mark.parametrize("motion", MOTIONS[:-1])
def test_moving_objects_begin_at_the_side_they_come_from(motion: str) -> None:
    scene = parse(f"a small white circle moving {motion} on a black background")
    path = centres(opacity(render([scene] * 200, generator()), "black"))[:, 0].round()
    side = {"left": 28.0, "right": 4.0, "up": 20.0, "down": 4.0}[motion]
    along, across = (0, 1) if motion in ("left", "right") else (1, 0)
    assert (path[:, along] == side).all()
    assert len(path[:, across].unique()) > 5


def test_coverage_matches_fine_sampling() -> None:
    for index, shape in enumerate(SHAPES):
        drawn = clips.coverage(
            torch.tensor([index]),
            torch.tensor([6.0]),
            torch.tensor([[15.3]]),
            torch.tensor([[11.6]]),
        )[0, 0]
        fine = 16
        x = (torch.arange(WIDTH * fine) + 0.5) / fine - 15.3
        y = (torch.arange(HEIGHT * fine) + 0.5) / fine - 11.6
        inside = clips._DISTANCES[shape](x[None, :], y[:, None], torch.tensor(6.0)) < 0
        exact = inside.float().view(HEIGHT, fine, WIDTH, fine).mean(dim=(1, 3))
        assert (drawn - exact).abs().max() < 0.3  # a pixel at a corner
        assert (drawn - exact).abs().sum() / exact.sum() < 0.04


def test_palette_is_complete_and_empty_batch_is_legal() -> None:
    assert set(clips.COLOUR_RGB) == set(COLOURS)
    assert set(clips.REACH) == set(SHAPES)
    assert render([], generator()).shape == (0, 3, *FRAME)
