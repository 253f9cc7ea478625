"""Tables of partitions and their forecasts: of one for a terminal, of several as Markdown.

Where ranks differ a cell gives the range.
"""

from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.table import Table

from ..markdown import table_lines
from ..parallel._native import Partition
from ..simulation.estimate import QUERY_TILE, Rates, attention_waves
from ..simulation.forecast import BlockForecast, Cost, Forecast, Job, gather_bytes
from ..simulation.links import Links
from ..simulation.traffic import buffer_bytes, traffic, wires
from ..units import byte_text


def print_tables(
    model: str, job: Job, partition: Partition, predicted: Forecast, links: Links, rates: Rates
) -> None:
    console = Console(highlight=False)
    counts = f"{job.image_tokens} image + {job.text_tokens} text tokens"
    console.print(_division(f"{model}, {counts} on {partition.ranks} ranks", job, partition, rates))
    if partition.ranks > 1:
        console.print(_traffic(job, partition, links))
    console.print(_costs(job, predicted))
    for block in predicted.blocks.values():
        console.print(_activities(block))
    console.print(
        f"Computed, not measured: {rates.gemm_tflops:g} TFLOP/s in matrix products, "
        f"{rates.attention_tflops:g} in attention, {rates.copy_gbs:g} GB/s, {rates.sms} SMs; "
        f"links {links.within} in a node and {links.between} between nodes."
    )


def _division(title: str, job: Job, partition: Partition, rates: Rates) -> Table:
    table = Table("", "", title=title, show_header=False)
    ranks = range(partition.ranks)
    shards = [partition.shard(rank) for rank in ranks]
    img, txt = ([len(getattr(shard, each)) for shard in shards] for each in ("img", "txt"))
    tokens = _range(shard.tokens for shard in shards)
    table.add_row("Ulysses x ring", f"{partition.ulysses_degree} x {partition.ring_degree}")
    table.add_row("tokens", f"{tokens}: {_range(img)} image and {_range(txt)} text")
    chunks = f", in {partition.chunks} chunks" if partition.chunks > 1 else ""
    table.add_row("heads", _range(len(partition.heads(rank)) for rank in ranks) + chunks)
    heads = {_chunk_heads(partition, rank): rank for rank in reversed(ranks)}
    for number, rank in enumerate(sorted(heads.values())):
        label = "waves of attention" if number == 0 else ""
        table.add_row(label, _waves(partition, rank, rates))
    table.add_row("buffers", _range((buffer_bytes(partition, rank) for rank in ranks), byte_text))
    return table


def _chunk_heads(partition: Partition, rank: int) -> tuple[int, ...]:
    return tuple(len(partition.heads(rank, chunk)) for chunk in range(partition.chunks))


def _waves(partition: Partition, rank: int, rates: Rates) -> str:
    """Sentence on the waves of attention over each chunk of the rank's heads."""
    queries = partition.group_tokens(partition.group_of(rank))
    tiles = -(-queries // QUERY_TILE)
    said = []
    for heads in dict.fromkeys(_chunk_heads(partition, rank)):
        waves = attention_waves(queries, heads, rates.sms)
        said.append(
            f"{heads} heads x {tiles} tiles: {waves.count:.2f}, the last {waves.tail:.0%} full "
            f"({waves.efficiency:.1%} in all)"
        )
    return "; ".join(said)


def _traffic(job: Job, partition: Partition, links: Links) -> Table:
    each = [traffic(partition, rank) for rank in range(partition.ranks)]
    exchange, ring = wires(partition, links)
    blocks = job.dit.double + job.dit.single, job.predictor_depth
    title = "a rank's bytes in a block, and what it sends in a step"
    table = Table("", "over", "sent", "received", "full step", "predicted", title=title)

    def add_row(name: str, wire: str, sent: list[int], received: list[int]) -> None:
        steps = (byte_text(count * max(sent)) for count in blocks)
        table.add_row(name, wire, _range(sent, byte_text), _range(received, byte_text), *steps)

    if partition.ulysses_degree > 1:
        out, back = [one.qkv_sent for one in each], [one.qkv_received for one in each]
        add_row("V, K, Q, each", exchange, out, back)
        add_row("O", exchange, back, out)
        all_sent = [one.exchange_sent for one in each]
        add_row("all four", exchange, all_sent, [one.exchange_received for one in each])
    if partition.ring_degree > 1:
        passed = [one.ring_sent for one in each]
        name = f"K, V in {partition.ring_degree - 1} ring steps"
        add_row(name, ring, passed, [one.ring_received for one in each])
    everyone, _ = links.among(tuple(range(partition.ranks)))
    table.add_row(
        "patches, gathered", everyone, "", "", *2 * [byte_text(gather_bytes(job, partition))]
    )
    return table


def _costs(job: Job, predicted: Forecast) -> Table:
    title = f"milliseconds; a predicted step has {job.predictor_depth} {job.predictor_kind} blocks"
    table = Table("", "one rank", "here", "exposed", "share", "efficiency", title=title)
    for kind, block in predicted.blocks.items():
        table.add_row(f"{kind}-stream block", *_cost(block.cost))
    table.add_row("full step", *_cost(predicted.full))
    table.add_row("predicted step", *_cost(predicted.predicted))
    return table


def _cost(cost: Cost) -> Iterable[str]:
    yield from (f"{1e3 * seconds:,.3f}" for seconds in (cost.alone, cost.seconds, cost.exposed))
    yield from (f"{share:.1%}" for share in (cost.exposed_share, cost.efficiency))


def _activities(block: BlockForecast) -> Table:
    """Table of what the busiest rank does in a block, in the order in which it begins."""
    rank = block.busiest
    timeline = block.timelines[rank]
    table = Table("from ms", "to", *timeline.lanes, title=f"{block.kind}-stream block, rank {rank}")
    for each in sorted(timeline.activities, key=lambda each: each.start):
        times = (f"{1e3 * moment:.3f}" for moment in (each.start, each.stop))
        table.add_row(*times, *(each.name * (each.lane == lane) for lane in timeline.lanes))
    return table


COLUMNS = (
    "ranks", "Ulysses x ring", "tokens", "heads", "attention waves", "exchanged", "round the ring",
    "buffers", "full step, s", "exposed", "efficiency", "predicted step, ms", "exposed",
    "efficiency",
)  # fmt: skip


def markdown(
    partitions: Sequence[Partition], forecasts: Sequence[Forecast], links: Links, sms: int
) -> str:
    """Markdown table, a line for each partition; bytes are the most that a rank sends per block."""
    rows = [_row(*each, links, sms) for each in zip(partitions, forecasts, strict=True)]
    return "\n".join(table_lines(COLUMNS, rows, "--:"))


def _row(partition: Partition, predicted: Forecast, links: Links, sms: int) -> list[str]:
    ranks = range(partition.ranks)
    each = [traffic(partition, rank) for rank in ranks]
    exchange, ring = wires(partition, links)
    heads = [len(partition.heads(rank)) for rank in ranks]
    waves = attention_waves(partition.group_tokens(0), max(heads), sms)
    return [
        str(partition.ranks),
        f"{partition.ulysses_degree} x {partition.ring_degree}",
        _range(partition.shard(rank).tokens for rank in ranks),
        _range(heads),
        f"{waves.count:.2f}",
        f"{byte_text(max(one.exchange_sent for one in each))} {exchange}",
        f"{byte_text(max(one.ring_sent for one in each))} {ring}"
        if partition.ring_degree > 1
        else "",
        byte_text(max(buffer_bytes(partition, rank) for rank in ranks)),
        *_step_cells(predicted.full, f"{predicted.full.seconds:.3f}"),
        *_step_cells(predicted.predicted, f"{1e3 * predicted.predicted.seconds:.1f}"),
    ]


def _step_cells(cost: Cost, seconds: str) -> list[str]:
    return [seconds, f"{cost.exposed_share:.1%}", f"{cost.efficiency:.3f}"]


def _range(values: Iterable[int], text: Callable[[int], str] = str) -> str:
    found = [text(value) for value in sorted(values)]
    return found[0] if found[0] == found[-1] else f"{found[0]} to {found[-1]}"
