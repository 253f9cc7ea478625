"""The memory formula against counts by hand, the models as built, and what a step really holds."""

from dataclasses import replace

import pytest
import torch

from bench.meta_step import META, meta_step
from disca_rt.config import MODELS, predictor_config
from disca_rt.instruments.peak_memory import PeakMemory
from disca_rt.tiny.codec import PixelUnshuffleCodec
from disca_rt.vae.sizes import SIZES
from disca_rt.work.memory import TENSORS, Need, fewest_ranks, fits, footprint, largest_size

BIG = MODELS["hunyuan-video-meanflow"]
PAPER = (33, 88, 88)  # latents of 704x704x129
NEED = Need(BIG, predictor_config(BIG), PAPER, text=256, itemsize=2)


def test_the_papers_sample_by_hand() -> None:
    estimate = footprint(NEED)
    tensor = 64_144 * 3072 * 2  # 63,888 image tokens and 256 of text: 394 MB
    assert estimate.weights == 2 * (12_831_242_304 + 311_501_312)
    assert estimate.cache == tensor
    latents = 80 * 33 * 88 * 88 * 4  # 4 x 16 channels out, 16 in, fp32
    tables = 63_888 * 128 * 4
    assert estimate.activations == 15 * tensor + latents + tables
    assert estimate.total == sum(estimate)
    assert str(estimate) == "32.7 GB (weights 26.3 GB, cache 394.1 MB, activations 6.0 GB)"


def test_an_image_adds_its_latents() -> None:
    plain = footprint(NEED).activations
    concat, replaced = (
        footprint(NEED._replace(dit=replace(BIG, **each))).activations
        for each in ({"embed_channels": 33}, {"token_replace": True})
    )
    assert concat - plain == 17 * 33 * 88 * 88 * 4
    assert replaced - plain == 16 * 88 * 88 * 4


def test_fp8_weights_are_about_half() -> None:
    plain, coded = footprint(NEED), footprint(NEED._replace(fp8="weights"))
    elements = 3072 * 3072 * (20 * 2 * 18 + 40 * 15)  # C² of a stream, and of a single block
    rows = 3072 * (20 * 2 * 15 + 40 * 11)
    assert plain.weights - coded.weights == elements - 2 * rows
    assert coded.activations - plain.activations == 2 * 6 * 3072 * 3072  # one, decoded
    assert str(coded) == "20.4 GB (weights 13.8 GB, cache 394.1 MB, activations 6.1 GB)"


def test_ranks_share_tokens_and_none_of_the_weights() -> None:
    one, four = footprint(NEED), footprint(NEED._replace(ranks=4))
    assert four.weights == one.weights
    assert four.cache == one.cache / 4
    assert one.activations / 4 < four.activations < one.activations / 3


@pytest.mark.parametrize(
    ("policy", "tensors"), [("full", 0), ("disca", 1), ("reuse", 1), ("taylor:order=2", 3)]
)
def test_what_a_policy_keeps(policy: str, tensors: int) -> None:
    estimate = footprint(NEED._replace(policy=policy))
    assert estimate.cache == tensors * 64_144 * 3072 * 2


@pytest.mark.parametrize(
    ("policy", "measured"),
    [
        ("teacache", 63_888 * 3072 * 2),  # the first block's input, image rows
        ("easycache", 3 * 16 * 33 * 88 * 88 * 4),  # latents of two kinds, and the velocity
        ("magcache", 0),
    ],
)
def test_what_is_measured_lives_until_the_step_ends(policy: str, measured: int) -> None:
    more, plain = (footprint(NEED._replace(policy=each)).activations for each in (policy, "reuse"))
    assert more - plain == measured


@pytest.mark.parametrize("fp8", [None, "weights"])
@pytest.mark.parametrize("ops", TENSORS)
@pytest.mark.parametrize("layers", [(1, 2), (2, 1), (0, 2)])
def test_activations_are_what_a_step_holds(
    ops: str, layers: tuple[int, int], fp8: str | None
) -> None:
    if ops == "triton" and torch.cuda.is_available():
        pytest.skip("kernels are not interpreted, and refuse the meta device")
    # With a clean first frame where there is room for it in the time of this test.
    small = replace(BIG, double=layers[0], single=layers[1], token_replace=layers == (2, 1))
    step = meta_step(small, (33, 44, 44), 256, ops=ops, fp8=fp8)
    peaks = []
    for run in (step.full, step.predicted):
        with torch.no_grad(), PeakMemory(META) as memory:
            run()
        peaks.append(memory.peak)
    estimate = footprint(NEED._replace(ops=ops, fp8=fp8)).activations
    assert max(peaks) <= estimate
    if layers[0] == 2:
        assert estimate <= 1.05 * max(peaks)


def test_two_passes_keep_two_caches() -> None:
    one, two = footprint(NEED), footprint(NEED._replace(passes=2))
    assert two.cache == 2 * one.cache
    assert two.activations == one.activations


def test_graphs_take_as_much_as_the_activations() -> None:
    estimate = footprint(NEED._replace(graphs=True))
    assert estimate.graphs == estimate.activations == footprint(NEED).activations
    assert estimate.total == footprint(NEED).total + estimate.graphs
    assert str(estimate).endswith("activations 6.0 GB, graphs 6.0 GB)")


def test_fewer_frames_fit_before_smaller_ones_do() -> None:
    weights = footprint(NEED).weights
    assert largest_size(NEED, 34 * 10**9) == PAPER
    fewer = largest_size(NEED, 30 * 10**9)
    assert fewer[1:] == PAPER[1:]
    assert fits(NEED._replace(size=fewer), 30 * 10**9)
    assert not fits(NEED._replace(size=(fewer[0] + 1, 88, 88)), 30 * 10**9)
    smaller = largest_size(NEED, weights + 10**8)
    assert smaller[0] == 1
    assert smaller[1] == smaller[2] < 88
    assert smaller[1] % 2 == 0
    assert largest_size(NEED, weights) is None


def test_ranks_that_would_fit() -> None:
    weights = footprint(NEED).weights
    assert fewest_ranks(NEED, 34 * 10**9) == 2  # more than now
    assert fewest_ranks(NEED, weights + 2 * 10**9) == 4
    assert fewest_ranks(NEED, weights) is None


@pytest.mark.parametrize("codec", [*SIZES.values(), PixelUnshuffleCodec()], ids=str)
def test_a_video_has_its_size_again(codec: object) -> None:
    for size in ((5, 64, 48), (1, 16, 16), (129, 704, 704)):
        assert codec.video_size(*codec.latent_shape(*size)[1:]) == size
