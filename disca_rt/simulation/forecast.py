"""What a plan will cost a model: seconds of a block and a step, what is exposed, how it scales.

A block is simulated on all ranks; a step is its blocks one after another, all ranks beginning each
together, with embedding and head counted whole on every rank and the patches gathered under
nothing. Knows models by their sizes; runs none.
"""

from dataclasses import dataclass

from ..config import DiTConfig, predictor_config
from ..parallel._native import Plan
from ..work.flops import image_tokens, step_flops
from .block_program import BlockWork, simulate_block
from .estimate import VALUE_BYTES, BlockKind, Rates, block_work, fusion_seconds
from .links import FREE, Links
from .timeline import Timeline


@dataclass(frozen=True)
class Job:
    """One sample's forward of a model: `latent_shape (C, T, H, W)` and valid `text_tokens`."""

    dit: DiTConfig
    latent_shape: tuple[int, int, int, int]
    text_tokens: int
    predictor_depth: int = 2

    @property
    def image_tokens(self) -> int:
        return image_tokens(self.dit, self.latent_shape)

    @property
    def block_kinds(self) -> list[BlockKind]:
        """Those the model has."""
        return ["double", "single"] if self.dit.single else ["double"]

    @property
    def predictor_kind(self) -> BlockKind:
        return self.dit.traits.last_blocks

    def plan(
        self, ranks: int, ranks_per_node: int = 0, ulysses_degree: int = 0, head_chunks: int = 1
    ) -> Plan:
        return Plan(
            img_tokens=self.image_tokens,
            txt_tokens=self.text_tokens,
            heads=self.dit.heads,
            ranks=ranks,
            ranks_per_node=ranks_per_node,
            ulysses_degree=ulysses_degree,
            head_chunks=head_chunks,
            row_bytes=self.dit.head_dim * VALUE_BYTES,
        )


@dataclass(frozen=True)
class Cost:
    """Seconds on a plan's ranks: in all, waiting that faster links would end, and on one rank."""

    ranks: int
    seconds: float
    exposed: float
    alone: float

    @property
    def exposed_share(self) -> float:
        return self.exposed / self.seconds

    @property
    def efficiency(self) -> float:
        """1 where N ranks are N times as fast as one."""
        return self.alone / (self.ranks * self.seconds)


@dataclass(frozen=True)
class BlockForecast:
    """One block of `kind` on every rank."""

    kind: BlockKind
    works: list[BlockWork]
    timelines: list[Timeline]
    cost: Cost

    @property
    def busiest(self) -> int:
        """The rank with the most to compute."""
        return max(range(len(self.works)), key=lambda rank: self.works[rank].seconds)


@dataclass(frozen=True)
class Forecast:
    """Blocks by kind, a `full` step and a `predicted` one."""

    blocks: dict[BlockKind, BlockForecast]
    full: Cost
    predicted: Cost


def forecast(job: Job, plan: Plan, links: Links, rates: Rates) -> Forecast:
    blocks = {kind: forecast_block(kind, job, plan, links, rates) for kind in job.block_kinds}
    tokens = job.image_tokens + job.text_tokens
    most = max(plan.shard(rank).tokens for rank in range(plan.ranks))
    fusion = Cost(
        plan.ranks,
        fusion_seconds(job.dit, most, rates),
        0.0,
        fusion_seconds(job.dit, tokens, rates),
    )
    ends = _ends(job, plan, links, rates)
    counts = {"double": job.dit.double, "single": job.dit.single}
    full = [cost for kind, block in blocks.items() for cost in [block.cost] * counts[kind]]
    predicted = [blocks[job.predictor_kind].cost] * job.predictor_depth
    return Forecast(blocks, _total([ends, *full]), _total([ends, fusion, *predicted]))


def forecast_block(
    kind: BlockKind, job: Job, plan: Plan, links: Links, rates: Rates
) -> BlockForecast:
    works = [block_work(kind, job.dit, plan, rank, rates) for rank in range(plan.ranks)]
    timelines = simulate_block(plan, works, links)
    freed = simulate_block(plan, works, Links(FREE, FREE, links.ranks_per_node))
    seconds, unhindered = (max(each.seconds for each in ranks) for ranks in (timelines, freed))
    alone = block_work(kind, job.dit, job.plan(ranks=1), 0, rates).seconds
    return BlockForecast(
        kind, works, timelines, Cost(plan.ranks, seconds, seconds - unhindered, alone)
    )


def gather_bytes(job: Job, plan: Plan) -> int:
    """Patches that a rank receives, and passes on, when the head's are gathered."""
    p, q, r = job.dit.patch
    most = max(len(plan.shard(rank).img) for rank in range(plan.ranks))
    return (plan.ranks - 1) * most * job.dit.in_channels * p * q * r * VALUE_BYTES


def _ends(job: Job, plan: Plan, links: Links, rates: Rates) -> Cost:
    predictor = predictor_config(job.dit, job.predictor_depth)
    flops = step_flops(job.dit, predictor, job.latent_shape, job.text_tokens).ends
    alone = flops / (rates.gemm_tflops * 1e12)
    if plan.ranks == 1:
        return Cost(1, alone, 0.0, alone)
    _, link = links.among(tuple(range(plan.ranks)))
    gathering = link.seconds(gather_bytes(job, plan))
    return Cost(plan.ranks, alone + gathering, gathering, alone)


def _total(costs: list[Cost]) -> Cost:
    return Cost(
        costs[0].ranks,
        sum(cost.seconds for cost in costs),
        sum(cost.exposed for cost in costs),
        sum(cost.alone for cost in costs),
    )
