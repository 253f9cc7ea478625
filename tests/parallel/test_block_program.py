"""Blocks by hand: one exchange takes one second, so every number can be read off a sketch."""

import math

import pytest

from disca_rt.parallel._native import Partition
from disca_rt.simulation.block_program import BlockWork, simulate_block
from disca_rt.simulation.links import FREE, Link, Links, get_link
from disca_rt.simulation.timeline import COMPUTE, Compute, RankTimeline

ROW_BYTES = 10
LINK = Link(bandwidth_gbs=40e-9, latency_us=0)  # four rows of one head in a second


def partition(tokens: int, heads: int, ranks: int, **more: int) -> Partition:
    return Partition(
        img_tokens=tokens, txt_tokens=0, heads=heads, ranks=ranks, row_bytes=ROW_BYTES, **more
    )


def computes(*seconds: float) -> tuple[Compute, ...]:
    return tuple(Compute("work", "any", each) for each in seconds)


def block(attend: list[list[float]], **more: float) -> BlockWork:
    """Work in seconds; `attend` by chunk and ring step, `more` by the other parts' names."""
    seconds = {"enter": 1, "v": 2, "k": 2, "q": 2, "under_q": 0, "under_o": 0, "leave": 1} | more
    given = {name: computes(each) for name, each in seconds.items()}
    given |= dict.fromkeys(("pack_v", "pack_kq", "unpack"), ())
    return BlockWork(**given, attend=tuple(computes(*each) for each in attend))


def spans(timeline: RankTimeline, lane: str) -> dict[str, tuple[float, float]]:
    return {each.name: (each.start, each.stop) for each in timeline.activities if each.lane == lane}


def computing(timeline: RankTimeline) -> list[tuple[float, float]]:
    """Starts and stops of compute that takes any time."""
    found = [(e.start, e.stop) for e in timeline.activities if e.lane == COMPUTE]
    return [span for span in found if span[0] < span[1]]


def idle(timeline: RankTimeline) -> float:
    return timeline.seconds - timeline.busy(COMPUTE)


def test_a_double_stream_block_waits_for_q_and_for_o() -> None:
    timeline, other = simulate_block(partition(8, 2, 2), [block([[3]])] * 2, Links(LINK))
    assert timeline == other
    assert spans(timeline, "in the node") == {"V": (3, 4), "K": (5, 6), "Q": (7, 8), "O": (11, 12)}
    assert computing(timeline) == [(0, 1), (1, 3), (3, 5), (5, 7), (8, 11), (12, 13)]
    assert idle(timeline) == 2


def test_a_single_stream_block_hides_both_under_its_mlp() -> None:
    works = [block([[3]], under_q=2, under_o=2)] * 2
    timeline, _ = simulate_block(partition(8, 2, 2), works, Links(LINK))
    assert spans(timeline, "in the node") == {"V": (3, 4), "K": (5, 6), "Q": (7, 8), "O": (12, 13)}
    assert (timeline.seconds, idle(timeline)) == (15, 0)


def test_chunks_of_heads_leave_under_the_next() -> None:
    works = [block([[2], [2]], enter=0)] * 2
    timeline, _ = simulate_block(partition(8, 4, 2, head_chunks=2), works, Links(LINK))
    assert spans(timeline, "in the node") == {
        "V0": (2, 3), "V1": (3, 4), "K0": (4, 5), "K1": (5, 6), "Q0": (6, 7), "Q1": (7, 8),
        "O0": (9, 10), "O1": (11, 12),
    }  # fmt: skip
    assert computing(timeline)[-3:] == [(7, 9), (9, 11), (12, 13)]
    assert idle(timeline) == 2


def test_packing_lies_before_every_chunk() -> None:
    copies = dict.fromkeys(("pack_v", "pack_kq", "unpack"), computes(1, 1))
    packed = block([[2], [2]], enter=0)._replace(**copies)
    timeline, _ = simulate_block(partition(8, 4, 2, head_chunks=2), [packed] * 2, Links(LINK))
    wire = spans(timeline, "in the node")
    assert [wire[name] for name in ("V0", "V1", "K0")] == [(3, 4), (4, 5), (7, 8)]
    # O0 is back and unpacked while O1 is on its way.
    assert (wire["O0"], wire["O1"]) == ((14, 15), (16, 17))
    assert computing(timeline)[-3:] == [(16, 17), (17, 18), (18, 19)]


def test_ring_steps_come_under_the_one_before() -> None:
    works = [block([[3, 3]], enter=0, v=1, k=1, q=1)] * 2
    timeline, _ = simulate_block(partition(8, 2, 2, ulysses_degree=1), works, Links(LINK))
    assert spans(timeline, "in the node") == {"ring K1": (3, 5), "ring V1": (5, 7)}
    assert computing(timeline)[-3:] == [(3, 6), (7, 10), (10, 11)]
    assert idle(timeline) == 1


def test_groups_are_nodes_and_the_ring_is_between_them() -> None:
    links = Links(LINK, Link(20e-9, 0), ranks_per_node=2)
    works = [block([[9, 1]], enter=0)] * 4
    timeline = simulate_block(partition(16, 2, 4, ranks_per_node=2), works, links)[0]
    assert timeline.lanes == [COMPUTE, "between nodes", "in the node"]
    # One head of the group's eight tokens, 8·10 B at 20 B/s. They leave while Q is on its way.
    assert spans(timeline, "in the node")["Q"] == (6, 7)
    assert spans(timeline, "between nodes") == {"ring K1": (6, 10), "ring V1": (10, 14)}
    # Attended from 7 to 16, and the other group's from there to 17.
    assert spans(timeline, "in the node")["O"] == (17, 18)


def test_uneven_shards_take_as_long_as_the_largest() -> None:
    timelines = simulate_block(partition(7, 3, 3), [block([[3]])] * 3, Links(LINK))
    # The last rank has three of the seven tokens and sends two heads of each: six rows.
    assert all(spans(each, "in the node")["V"] == (3, 4.5) for each in timelines)


def test_uneven_heads_hold_up_who_has_fewer() -> None:
    one, two = simulate_block(partition(8, 3, 2), [block([[3]]), block([[6]])], Links(LINK))
    # Eight rows go from the rank with one head, which has to wait for the other's O.
    assert spans(one, "in the node")["Q"] == (7, 9)
    assert computing(one)[-2:] == [(9, 12), (17, 18)]
    assert two.seconds == one.seconds == 18


def test_free_links_expose_nothing() -> None:
    for more in ({}, {"head_chunks": 2}, {"ulysses_degree": 2}):
        shape = partition(16, 8, 4, **more)
        works = [block([[2.0] * shape.ring_degree] * shape.chunks)] * 4
        assert all(idle(each) == 0 for each in simulate_block(shape, works, Links(FREE, FREE)))


def test_links_by_name_and_by_numbers() -> None:
    assert get_link("375,15") == get_link("nvlink4")
    assert FREE.seconds(1e12) == 0
    assert Link(2.0, 3.0).seconds(4e9) == pytest.approx(2.000003)
    for text in ("nvlink", "1", "0,1", "1,-1", "nan,1", "inf,1", "1,2,3", ""):
        with pytest.raises(ValueError, match=r"ethernet.*nvlink4.*such as 375,15"):
            get_link(text)
    assert math.isinf(FREE.bandwidth_gbs)
