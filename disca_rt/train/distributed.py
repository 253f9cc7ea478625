"""Ranks of a training run: who they are, and how a stage's modules are spread over them.

One process is a world of one and shards nothing. Several join as those of `generate` do, and FSDP2
(`fully_shard`) shards every DiT and predictor block by block: parameters stay fp32, are gathered in
bf16 where the run computes in it, and gradients are averaged in fp32. Small modules are replicated.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.utils.checkpoint import checkpoint

from ..attention.local import LocalAttention
from ..attention.protocol import Attention
from ..models.branches import Branches
from ..models.dit import DiT
from ..models.stream import PendingSum, Stream, materialise
from ..parallel.ranks import Ranks, is_launched, joined
from ..tokens import StepContext
from .config import RunConfig
from .stage import Stage

TIMEOUT = timedelta(minutes=30)  # while one rank of a host builds, or the first writes, others wait


@dataclass(frozen=True)
class World:
    """Place of this process among all of a run's; `ranks` is None where it is the only one."""

    rank: int
    size: int
    device: torch.device
    ranks: Ranks | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Average `values` over the ranks; a collective."""
        if self.size == 1:
            return values
        values = values.clone()
        with self.operation("mean over the ranks"):
            dist.all_reduce(values)
        return values / self.size

    def barrier(self) -> None:
        if self.ranks is not None:
            self.ranks.barrier()

    def operation(self, what: str) -> AbstractContextManager:
        """Context of a collective, by which a failing or hanging rank says where it was."""
        return nullcontext() if self.ranks is None else self.ranks.operation(what)


@contextmanager
def joined_world(
    device: torch.device, timeout: timedelta = TIMEOUT, arguments: Mapping[str, str] | None = None
) -> Iterator[World]:
    """Join the world that torchrun describes until the block ends; without it, be alone in one.

    ValueError on all ranks where `arguments`, by their names, are not the same on each.
    """
    if not is_launched():
        yield World(0, 1, device)
        return
    with joined(device, timeout) as ranks:
        ranks.check_alike(arguments or {})
        yield World(ranks.rank, ranks.size, ranks.device, ranks)


def attention_over(run: RunConfig, world: World) -> Attention:
    """Make the attention of a run's models: local, or over the ranks that share a sample."""
    local = LocalAttention()
    if run.sequence_parallel == 1:
        return local
    from ..parallel.attention import UlyssesAttention
    from ..parallel.topology import Topology

    run.rank_batch(world.size)  # refuses what does not divide
    ranks = world.ranks
    with ranks.operation("groups of ranks"):
        topology = Topology.of_subgroups(run.sequence_parallel, ranks.timeout, ranks.per_node)
    return ranks.use(UlyssesAttention(topology, local))


def placed(build: Callable[[], Stage], run: RunConfig, world: World) -> Stage:
    """Build a stage on the CPU with `build`, move it to its device and shard it over the world.

    The ranks of a host build one after another, so that it holds one whole copy at a time.
    """
    if world.size == 1:
        return _spread(build(), run, world, None)
    mesh = init_device_mesh(world.device.type, (world.size,))
    per_node = world.ranks.per_node
    for turn in range(per_node):
        if turn == world.rank % per_node:
            stage = _spread(build(), run, world, mesh)
        world.barrier()
    for module in stage.trained.values():
        if not isinstance(module, FSDPModule):
            with world.operation("starting weights"):
                _broadcast(module)
    return stage


def _spread(stage: Stage, run: RunConfig, world: World, mesh: DeviceMesh | None) -> Stage:
    for name, module in [*stage.trained.items(), *stage.frozen.items()]:
        is_trained = name in stage.trained
        module.train(is_trained).requires_grad_(is_trained)
        if run.activation_checkpointing:
            _checkpoint_blocks(module)
        if run.compile:
            _compile_blocks(module)
        if mesh is not None and _block_lists(module):
            _shard(module, run, mesh)  # moves a block at a time
        else:
            module.to(world.device)
    return stage


def average_gradients(stage: Stage, world: World) -> None:
    """Average the gradients of replicated modules over the ranks; FSDP has done sharded ones."""
    for module in stage.trained.values():
        if world.size > 1 and not isinstance(module, FSDPModule):
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter.grad = world.mean(parameter.grad)


def _shard(module: nn.Module, run: RunConfig, mesh: DeviceMesh) -> None:
    # The model casts its inputs itself: t and r stay fp32.
    precision = MixedPrecisionPolicy(
        param_dtype=run.dtype if run.bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for blocks in _block_lists(module):
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=precision)
    fully_shard(module, mesh=mesh, mp_policy=precision)
    # The warning is about writing in place into what a module returns, which no model here does.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    if isinstance(module, DiT):
        for method in ("prepare", "embed", "head"):
            register_fsdp_forward_method(module, method)


def _checkpoint_blocks(module: nn.Module) -> None:
    for blocks in _block_lists(module):
        for index, block in enumerate(blocks):
            blocks[index] = checkpoint_wrapper(block, checkpoint_fn=_recomputed)


def _recomputed(
    block: nn.Module, stream: Stream, context: StepContext, branches: Branches | None = None
) -> Stream:
    """Run a block so that only its input is kept for the backward.

    Pending sums of its output are taken: else the next block would keep two tensors.
    """

    def settled(stream: Stream, context: StepContext) -> Stream:
        after = block(stream, context) if branches is None else block(stream, context, branches)
        return tuple(PendingSum(materialise((part,), block.ops)) for part in after)

    return checkpoint(settled, stream, context, use_reentrant=False)


def _compile_blocks(module: nn.Module) -> None:
    """Compile every block in place: modules and names of parameters stay."""
    for blocks in _block_lists(module):
        for block in blocks:
            block.compile()


def _block_lists(module: nn.Module) -> list[nn.ModuleList]:
    """List the `*_blocks` of a DiT or a predictor; of any other module, nothing."""
    return [child for name, child in module.named_children() if name.endswith("_blocks")]


def _broadcast(module: nn.Module) -> None:
    for tensor in module.state_dict().values():
        dist.broadcast(tensor, src=0)
