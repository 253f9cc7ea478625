"""Forecast of a partition's cost: seconds of a block and a step, exposed waiting, how it scales.

A block is simulated on all ranks; a step is its blocks one after another, all ranks beginning each
together, with embedding and head counted whole on every rank and the patches gathered under
nothing. Knows models by their sizes; runs none.
"""

from typing import NamedTuple

from ..config import DiTConfig, predictor_config
from ..parallel._native import Partition
from ..work.flops import image_tokens, step_flops
from .block_program import BlockWork, simulate_block
from .estimate import VALUE_BYTES, BlockKind, Rates, block_work, fusion_seconds
from .links import FREE, Links
from .timeline import RankTimeline


class Job(NamedTuple):
    """Forward pass to divide: a model, `latent_shape (C, T, H, W)` and the valid `text_tokens`."""

    dit: DiTConfig
    latent_shape: tuple[int, int, int, int]
    text_tokens: int
    predictor_depth: int = 2

    @property
    def image_tokens(self) -> int:
        return image_tokens(self.dit, self.latent_shape)

    @property
    def block_kinds(self) -> list[BlockKind]:
        """Kinds of blocks that the model has."""
        return ["double", "single"] if self.dit.single else ["double"]

    @property
    def predictor_kind(self) -> BlockKind:
        return self.dit.traits.last_blocks

    def partition(
        self, ranks: int, ranks_per_node: int = 0, ulysses_degree: int = 0, head_chunks: int = 1
    ) -> Partition:
        """Partition of this job's tokens and heads; ValueError names the nearest legal one.

        0 means: one node; a degree as heads divide.
        """
        return Partition(
            img_tokens=self.image_tokens,
            txt_tokens=self.text_tokens,
            heads=self.dit.heads,
            ranks=ranks,
            ranks_per_node=ranks_per_node,
            ulysses_degree=ulysses_degree,
            head_chunks=head_chunks,
            row_bytes=self.dit.head_dim * VALUE_BYTES,
        )


class Cost(NamedTuple):
    """Seconds on `ranks` ranks; `exposed`: what free links would save; `alone`: on one rank."""

    ranks: int
    seconds: float
    exposed: float
    alone: float

    @property
    def exposed_share(self) -> float:
        return self.exposed / self.seconds

    @property
    def efficiency(self) -> float:
        """Speedup over one rank divided by the number of ranks: 1 is ideal."""
        return self.alone / (self.ranks * self.seconds)


class BlockForecast(NamedTuple):
    """Simulation of one block of `kind` on every rank."""

    kind: BlockKind
    works: list[BlockWork]
    timelines: list[RankTimeline]
    cost: Cost

    @property
    def busiest(self) -> int:
        """Number of the rank with the most to compute."""
        return max(range(len(self.works)), key=lambda rank: self.works[rank].seconds)


class Forecast(NamedTuple):
    """Costs of one block of each kind, of a `full` step and of a `predicted` one."""

    blocks: dict[BlockKind, BlockForecast]
    full: Cost
    predicted: Cost


def forecast(job: Job, partition: Partition, links: Links, rates: Rates) -> Forecast:
    """Simulates one block of each kind under `partition`, and adds up what steps cost."""
    blocks = {kind: forecast_block(kind, job, partition, links, rates) for kind in job.block_kinds}
    tokens = job.image_tokens + job.text_tokens
    most = max(partition.shard(rank).tokens for rank in range(partition.ranks))
    here, alone = (fusion_seconds(job.dit, count, rates) for count in (most, tokens))
    fusion = Cost(partition.ranks, here, 0.0, alone)
    ends = _ends(job, partition, links, rates)
    counts = {"double": job.dit.double, "single": job.dit.single}
    full = [cost for kind, block in blocks.items() for cost in [block.cost] * counts[kind]]
    predicted = [blocks[job.predictor_kind].cost] * job.predictor_depth
    return Forecast(blocks, _total([ends, *full]), _total([ends, fusion, *predicted]))


def forecast_block(
    kind: BlockKind, job: Job, partition: Partition, links: Links, rates: Rates
) -> BlockForecast:
    works = [block_work(kind, job.dit, partition, rank, rates) for rank in range(partition.ranks)]
    timelines = simulate_block(partition, works, links)
    freed = simulate_block(partition, works, Links(FREE, FREE, links.ranks_per_node))
    seconds, unhindered = (max(each.seconds for each in ranks) for ranks in (timelines, freed))
    alone = block_work(kind, job.dit, job.partition(ranks=1), 0, rates).seconds
    cost = Cost(partition.ranks, seconds, seconds - unhindered, alone)
    return BlockForecast(kind, works, timelines, cost)


def gather_bytes(job: Job, partition: Partition) -> int:
    """Bytes of patches that a rank receives when the head's output is gathered on all ranks."""
    p, q, r = job.dit.patch
    most = max(len(partition.shard(rank).img) for rank in range(partition.ranks))
    return (partition.ranks - 1) * most * job.dit.in_channels * p * q * r * VALUE_BYTES


def _ends(job: Job, partition: Partition, links: Links, rates: Rates) -> Cost:
    predictor = predictor_config(job.dit, job.predictor_depth)
    flops = step_flops(job.dit, predictor, job.latent_shape, job.text_tokens).ends
    alone = flops / (rates.gemm_tflops * 1e12)
    if partition.ranks == 1:
        return Cost(1, alone, 0.0, alone)
    _, link = links.among(tuple(range(partition.ranks)))
    gathering = link.seconds(gather_bytes(job, partition))
    return Cost(partition.ranks, alone + gathering, gathering, alone)


def _total(costs: list[Cost]) -> Cost:
    names = "seconds", "exposed", "alone"
    return Cost(costs[0].ranks, *(sum(getattr(each, name) for each in costs) for name in names))
