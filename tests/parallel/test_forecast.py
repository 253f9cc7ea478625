"""Forecasts of partitions against the FLOP count, the design's figures, and sums by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disca_rt.config import MODELS, get_model_config, predictor_config
from disca_rt.parallel._native import Partition
from disca_rt.simulation.estimate import Rates, attention_waves, block_work
from disca_rt.simulation.forecast import Forecast, Job, forecast, gather_bytes
from disca_rt.simulation.links import FREE, LINKS, Links
from disca_rt.simulation.traffic import buffer_bytes, traffic, wires
from disca_rt.tiny.config import TINY
from disca_rt.vae.sizes import SIZES
from disca_rt.work.flops import step_flops

PAPER = 129, 704, 704
# Only matrix products and attention take time, one second for each of their TFLOP.
COUNTING = Rates(gemm_tflops=1.0, attention_tflops=1.0, copy_gbs=float("inf"), sms=1)


def job(name: str, size: tuple[int, int, int] = PAPER, text_tokens: int = 256) -> Job:
    dit = get_model_config(name)
    return Job(dit, SIZES[dit.family].latent_shape(*size), text_tokens)


def predicted(ranks: int, links: Links | None = None, rates: Rates | None = None) -> Forecast:
    paper = job("hunyuan-video-meanflow")
    links = links or Links(LINKS["nvlink4"], ranks_per_node=8)
    return forecast(paper, paper.partition(ranks, links.ranks_per_node), links, rates or Rates())


@pytest.mark.parametrize("name", ["hunyuan-video-meanflow", "hunyuan-video-1.5"])
def test_one_ranks_work_is_the_flop_count(name: str) -> None:
    asked = job(name)
    flops = step_flops(
        asked.dit, predictor_config(asked.dit), asked.latent_shape, asked.text_tokens
    )
    counted = forecast(asked, asked.partition(1), Links(FREE), COUNTING)
    for cost, expected in ((counted.full, flops.full), (counted.predicted, flops.predicted)):
        assert cost.seconds == pytest.approx(expected / 1e12, rel=1e-3)  # modulation is bytes here
        assert (cost.exposed, cost.efficiency) == (0, pytest.approx(1))


@pytest.mark.parametrize("ranks", [2, 5, 8])
def test_ranks_share_out_one_ranks_work(ranks: int) -> None:
    asked = job("hunyuan-video-meanflow")
    partition = asked.partition(ranks)
    for kind in asked.block_kinds:
        whole = block_work(kind, asked.dit, asked.partition(1), 0, COUNTING).seconds
        parts = (
            block_work(kind, asked.dit, partition, rank, COUNTING).seconds for rank in range(ranks)
        )
        assert sum(parts) == pytest.approx(whole)


def test_figures_of_the_paper_size() -> None:
    partition = job("hunyuan-video-meanflow").partition(8)
    assert traffic(partition, 0).exchange_sent == pytest.approx(172.4e6, rel=1e-3)
    waves = attention_waves(64144, heads=3, sms=132)
    assert waves.count == pytest.approx(11.41, abs=0.005)
    assert (waves.tail, waves.efficiency) == (
        pytest.approx(0.409, abs=1e-3),
        pytest.approx(0.951, abs=1e-3),
    )
    assert predicted(1).full.seconds == pytest.approx(5.54, rel=0.02)
    assert predicted(8).blocks["single"].cost.exposed == pytest.approx(0)
    assert predicted(8).blocks["double"].cost.exposed > 0


@pytest.mark.parametrize("heads", [1, 2, 44])
def test_waves_that_fill_the_chip(heads: int) -> None:
    waves = attention_waves(128 * 132, heads, sms=132)
    assert (waves.count, waves.tail, waves.efficiency) == (heads, 1, 1)


def test_bytes_by_hand() -> None:
    partition = Partition(img_tokens=7, txt_tokens=1, heads=3, ranks=3, row_bytes=10)
    # Two, three and three tokens, the last of them text.
    assert [partition.shard(rank).tokens for rank in range(3)] == [2, 3, 3]
    first, second, _ = (traffic(partition, rank) for rank in range(3))
    assert (first.qkv_sent, first.qkv_received) == (2 * 2 * 10, 6 * 10)
    assert (second.qkv_received, second.qkv_sent) == (5 * 10, 3 * 2 * 10)
    assert first.exchange_sent == 3 * 40 + 60 == partition.exchange_bytes(0)
    assert first.ring_sent == 0
    ring = Partition(img_tokens=8, txt_tokens=0, heads=3, ranks=8, ulysses_degree=2, row_bytes=10)
    # Groups of two tokens: three go by, and three come, of one head and of two.
    assert [traffic(ring, rank).ring_sent for rank in (0, 1)] == [2 * 6 * 10, 2 * 6 * 2 * 10]
    assert traffic(ring, 1).ring_received == traffic(ring, 1).ring_sent


@given(st.integers(1, 6), st.integers(1, 4), st.integers(24, 60), st.integers(0, 9))
def test_what_is_sent_is_received(ulysses: int, groups: int, img: int, txt: int) -> None:
    ranks = ulysses * groups
    partition = Partition(
        img_tokens=img, txt_tokens=txt, heads=7, ranks=ranks, ulysses_degree=ulysses, row_bytes=2
    )
    each = [traffic(partition, rank) for rank in range(ranks)]
    for sent, received in (
        ("qkv_sent", "qkv_received"),
        ("exchange_sent", "exchange_received"),
        ("ring_sent", "ring_received"),
    ):
        assert sum(getattr(one, sent) for one in each) == sum(
            getattr(one, received) for one in each
        )
    assert [one.exchange_sent for one in each] == [
        partition.exchange_bytes(r) for r in range(ranks)
    ]


def test_wires_of_nodes() -> None:
    links = Links(LINKS["nvlink4"], ranks_per_node=8)
    partition = job("hunyuan-video-meanflow").partition(16, ranks_per_node=8)
    assert wires(partition, links) == ("in the node", "between nodes")
    assert wires(partition, links._replace(ranks_per_node=0)) == ("in the node", "in the node")


def test_buffers_by_hand() -> None:
    partition = Partition(img_tokens=7, txt_tokens=1, heads=3, ranks=3, row_bytes=10)
    # V and twice O of two tokens of all heads; V, K, Q of all tokens of one.
    assert buffer_bytes(partition, 0) == (3 * 2 * 3 + 3 * 8) * 10
    ring = Partition(img_tokens=8, txt_tokens=0, heads=2, ranks=4, ulysses_degree=2, row_bytes=10)
    assert buffer_bytes(ring, 0) == (3 * 2 * 2 + 3 * 4 + 2 * 4) * 10
    assert buffer_bytes(Partition(img_tokens=8, txt_tokens=0, heads=2, ranks=1), 0) == 0


@pytest.mark.parametrize("ranks", [2, 7, 8, 16, 64])
def test_faster_links_expose_less_and_free_ones_nothing(ranks: int) -> None:
    nodes = {"ranks_per_node": 8 if ranks > 8 else 0}
    costs = [
        predicted(ranks, Links(*pair, **nodes)).full
        for pair in (
            (LINKS["pcie5"], LINKS["ethernet"]),
            (LINKS["nvlink4"], LINKS["ethernet"]),
            (LINKS["nvlink5"], LINKS["pcie5"]),
            (FREE, FREE),
        )
    ]
    exposed = [cost.exposed for cost in costs]
    assert exposed == sorted(exposed, reverse=True)
    assert exposed[-1] == 0
    assert all(0 < cost.efficiency < 1 for cost in costs)


def test_uneven_heads_cost_what_the_fullest_rank_does() -> None:
    """24 heads on 16 ranks: one or two; on 8 x 2: three of half the sequence, so 1.5 as many."""
    asked = job("hunyuan-video-meanflow")
    uneven, even = (
        forecast(asked, asked.partition(16, ulysses_degree=degree), Links(FREE), Rates()).full
        for degree in (16, 8)
    )
    assert uneven.seconds > 1.2 * even.seconds


@pytest.mark.parametrize("ranks", [6, 8, 9, 10, 12, 16, 20])
def test_the_default_degree_is_nearly_the_best(ranks: int) -> None:
    asked, links = job("hunyuan-video-meanflow"), Links(LINKS["nvlink4"])
    degrees = [degree for degree in range(2, ranks + 1) if ranks % degree == 0]
    partitions = [
        asked.partition(ranks),
        *(asked.partition(ranks, ulysses_degree=each) for each in degrees),
    ]
    chosen, *others = (
        forecast(asked, partition, links, Rates()).full.efficiency for partition in partitions
    )
    assert chosen >= max(others) - 0.01


def test_patches_of_the_head() -> None:
    tiny = Job(TINY, (12, 5, 12, 16), 16)
    # 5·6·8 image tokens and 16 of text on 7 ranks, at most 37 each, of 48 values.
    assert gather_bytes(tiny, tiny.partition(7)) == 6 * 37 * 48 * 2


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_forecast(name: str) -> None:
    asked = job(name)
    cost = forecast(asked, asked.partition(4), Links(LINKS["nvlink5"]), Rates())
    assert set(cost.blocks) == set(asked.block_kinds)
    assert 0.9 < cost.full.efficiency < 1
