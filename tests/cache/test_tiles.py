"""STA and SSTA: against attention under masks written out tile by tile, and what they count."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cache.test_attention_methods import PARTS, sample
from cache_draws import models
from disca_rt.attention import ssta
from disca_rt.attention.block_plans import attend_by
from disca_rt.attention.protocol import AttentionInputs
from disca_rt.cache.policies import build_policy, resolve
from disca_rt.cache.stand_in import Moment
from disca_rt.cache.stand_ins.tiles import SelectedTiles, SlidingTiles
from disca_rt.schedule import shifted
from disca_rt.tokens import TokenLayout
from golden_vectors import relative_error

GRID, TILE, TEXT, HEADS, WIDTH = (5, 6, 4), (2, 2, 4), 3, 2, 8
IMG = math.prod(GRID)


def inputs(grid: tuple[int, int, int] = GRID) -> AttentionInputs:
    generator, img = torch.Generator().manual_seed(0), math.prod(grid)
    q, k, v = (torch.randn(2, img + TEXT, HEADS, WIDTH, generator=generator) for _ in range(3))
    valid = torch.ones(2, img + TEXT, dtype=torch.bool)
    valid[1, -1] = False
    return AttentionInputs(q, k, v, valid, TokenLayout(img, None, grid=grid), lambda *_: q)


def padded_tiles(x: Tensor, padding: str) -> list[Tensor]:
    """Image tokens of one head `[T·H·W, D]` by tiles, filled up beyond the grid."""
    places, found = x[:IMG].view(*GRID, -1), []
    for first in product(*(range(0, side, edge) for side, edge in zip(GRID, TILE, strict=True))):
        rows = []
        for step in product(*map(range, TILE)):
            at = [a + b for a, b in zip(first, step, strict=True)]
            if padding == "zero" and any(a >= side for a, side in zip(at, GRID, strict=True)):
                rows.append(torch.zeros_like(x[0]))
            else:
                rows.append(places[tuple(min(a, s - 1) for a, s in zip(at, GRID, strict=True))])
        found.append(torch.stack(rows))
    return found


def tiles_in_window(window: tuple[int, int, int]) -> list[set[int]]:
    """For each tile the numbers of those in a window that is moved within the grid."""
    counts = [-(-side // edge) for side, edge in zip(GRID, TILE, strict=True)]
    numbers = list(product(*map(range, counts)))
    found = []
    for tile in numbers:
        spans = []
        for at, count, size in zip(tile, counts, window, strict=True):
            first = min(max(at - size // 2, 0), max(0, count - size))
            spans.append(range(first, first + size))
        found.append(
            {
                n
                for n, other in enumerate(numbers)
                if all(x in s for x, s in zip(other, spans, strict=True))
            }
        )
    return found


def written_out(of: AttentionInputs, padding: str, attended: list[list[list[set[int]]]]) -> Tensor:
    """Each tile's queries over the padded tiles `attended[sample][head][tile]`, and valid text."""
    out = torch.empty_like(of.q)
    for b, h in product(range(2), range(HEADS)):
        q, k, v = (each[b, :, h] for each in of[:3])
        text = slice(IMG, IMG + int(of.valid[b, IMG:].sum()))
        keys, values = padded_tiles(k, padding), padded_tiles(v, padding)
        rows = padded_tiles(torch.arange(IMG).view(-1, 1) + 1, "zero")
        everything = range(len(keys))
        for tile, tokens in [*enumerate(rows), (None, torch.arange(IMG, IMG + TEXT)[:, None] + 1)]:
            some = everything if tile is None else sorted(attended[b][h][tile])
            here = torch.cat([*(keys[n] for n in some), k[text]])
            values_here = torch.cat([*(values[n] for n in some), v[text]])
            queries = tokens[tokens > 0] - 1
            weights = (q[queries] @ here.T / WIDTH**0.5).softmax(-1)
            out[b, queries, h] = weights @ values_here
    return out


def most_important(of: AttentionInputs, padding: str, topk: int, weight: float) -> list:
    found: list = []
    for b, h in product(range(2), range(HEADS)):
        q, k = (
            torch.stack(
                [tile.mean(0) / tile.mean(0).norm() for tile in padded_tiles(x[b, :, h], padding)]
            )
            for x in of[:2]
        )
        count, chosen = len(k), []
        redundancy = [
            sum(float(k[i] @ k[j] + 1) / 2 for i in range(count) if i != j) / (count - 1)
            for j in range(count)
        ]
        for i in range(count):
            scores = [
                weight * float(q[i] @ k[j] + 1) / 2 - (1 - weight) * redundancy[j]
                for j in range(count)
            ]
            chosen.append({*sorted(range(count), key=lambda j: -scores[j])[:topk]})
        if h == 0:
            found.append([])
        found[-1].append(chosen)
    return found


@pytest.mark.parametrize("padding", ["zero", "repeat"])
@pytest.mark.parametrize("window", [(1, 1, 1), (3, 3, 1), (5, 3, 3)])
def test_sliding_tiles_are_their_formula(padding: str, window: tuple[int, int, int]) -> None:
    near = tiles_in_window(window)
    of = inputs()
    expected = written_out(of, padding, [[near] * HEADS] * 2)
    found = SlidingTiles(window, TILE, padding).value((), Moment(None, None, None, attention=of))
    assert relative_error(found, expected) <= 1e-6


@pytest.mark.parametrize("padding", ["zero", "repeat"])
def test_selected_tiles_are_their_formula(padding: str) -> None:
    """In five frames half of `ssta_topk` are selected, for each head of each sample."""
    of, near = inputs(), tiles_in_window((1, 1, 1))
    chosen = most_important(of, padding, 3, 0.7)
    attended = [[[a | b for a, b in zip(near, each, strict=True)] for each in s] for s in chosen]
    assert attended[0][0] != attended[0][1], "heads differ"
    stand_in = SelectedTiles((1, 1, 1), TILE, padding, ssta_topk=6)
    found = stand_in.value((), Moment(None, None, None, attention=of))
    assert relative_error(found, written_out(of, padding, attended)) <= 1e-6


def test_similar_tiles_have_the_largest_products() -> None:
    of, tiles = inputs(), ssta.tiling(GRID, TILE, (1, 1, 1))
    chosen = ssta.important_tiles(of, tiles, 2, 0.0, "similarity")
    q, k = (
        torch.stack([tile.mean(0) for tile in padded_tiles(x[0, :, 1], "zero")]) for x in of[:2]
    )
    expected = (q @ k.T).topk(2).indices.sort().values
    assert torch.equal(chosen[0, 1].nonzero()[:, 1].view(-1, 2), expected)


def test_one_frame_is_in_tiles_of_as_many_tokens() -> None:
    tiles = ssta.tiling((1, 20, 30), (6, 8, 8), (3, 3, 3))
    assert (tiles.tile, tiles.window, tiles.counts) == ((1, 16, 24), (1, 1, 1), (1, 2, 2))
    with pytest.raises(
        ValueError, match=r"tile_size must be of \[16, 64, 128, 384\] tokens for one"
    ):
        ssta.tiling((1, 20, 30), (6, 8, 4), (3, 3, 3))
    assert [ssta.selected_of((t, 1, 1), 64) for t in (1, 31, 32)] == [64, 32, 64]


def test_tiles_count_the_pairs_that_are_computed() -> None:
    of, stand_in = inputs(), SlidingTiles((3, 1, 1), TILE, "zero")
    plan = ssta.plan(of, stand_in._tiles(GRID))._replace(zeros=None)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        attend_by(plan, of._replace(valid=None))
    share = stand_in.pair_shares(GRID, TEXT).value
    assert counted.get_total_flops() == round(share * (IMG + TEXT) ** 2) * 4 * WIDTH * HEADS * 2


def test_a_video_of_five_seconds_computes_a_fifth_of_the_pairs() -> None:
    """At 720p of 1.5: 31 x 45 x 80 tokens, 27 tiles of a window, 32 selected ones, and text."""
    grid = (31, 45, 80)
    assert SlidingTiles().pair_shares(grid, 300).value == pytest.approx(0.089, abs=0.001)
    assert SelectedTiles().pair_shares(grid, 300).value == pytest.approx(0.198, abs=0.001)


def test_samples_by_tiles() -> None:
    """From the first step on; tiles that all are in each other's window are full attention."""
    denoiser, full = models().denoiser, "full"
    everything = "tile_size=1,2,1,win_size=5,5,5"
    found = sample(denoiser, f"sta:{everything}", 3)
    assert relative_error(found, sample(denoiser, full, 3)) <= 1e-5
    sparse = sample(denoiser, "sta:tile_size=1,2,3,win_size=1,1,1", 3)
    assert relative_error(sparse, found) > 1e-4
    more = sample(denoiser, "ssta:tile_size=1,2,3,win_size=1,1,1,ssta_topk=2", 3)
    assert relative_error(more, sparse) > 1e-5
    _, policy = resolve(shifted(3, 3.0), "ssta", PARTS)
    assert policy.known_plans is not None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sta:win_size=3,3", "win_size must be three sides"),
        ("sta:win_size=3,2,3", r"win_size must be odd, a tile in its middle, got \(3, 2, 3\)"),
        ("sta:attn_pad_type=none", "attn_pad_type must be zero or repeat, got 'none'"),
        ("ssta:ssta_topk=0", "ssta_topk must be a whole number at least 1"),
        ("ssta:ssta_lambda=2", "ssta_lambda must be from 0 to 1, got 2"),
        ("ssta:ssta_sampling_type=x", "ssta_sampling_type must be importance or similarity"),
    ],
)
def test_a_wrong_option_says_what_is_right(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_policy(text, PARTS)
