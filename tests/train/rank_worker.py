"""One rank of test_ranks.py: trains stages in a folder, and writes down the losses.

Each variant's runs are in a folder of its name. Every collective must be in an operation that is
named where it fails.

Run as `torchrun ... rank_worker.py FOLDER VARIANT ...`.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo  # which FSDP needs: imported once, and not again in each rank

from disca_rt.parallel.ranks import Ranks
from disca_rt.train.distributed import World, joined_world
from train.small import Stopped, run, stage_config

SHORT = {"steps": 2}  # the predictor's second step is adversarial
BF16 = {"bf16": True, "activation_checkpointing": True, "micro_batch": 1}
SHARED = {"sequence_parallel": 2, "activation_checkpointing": True}
VARIANTS = {
    "plain": (SHORT, ["base", "cfg", "meanflow", "predictor", "l2c", "blockdance-ada"]),
    "bf16": (SHORT | BF16, ["base"]),
    "shared": (SHORT | SHARED, ["cfg", "predictor", "l2c", "harmonica", "block-caching"]),
    "shared by two": (SHORT | SHARED | {"micro_batch": 1}, ["meanflow"]),
    "resumed": ({}, ["predictor"]),  # which has everything that is kept
}
"""Changes of a run's settings by the variant's name, and the stages that are trained with them."""


def name_all_collectives(ranks: Ranks) -> None:
    """Make a collective outside of any operation an error at the beginning of the next one."""
    operation, begun = ranks.operation, ranks.group._get_sequence_number_for_group
    named, depth = begun(), 0

    @contextmanager
    def checked(what: str) -> Iterator[None]:
        nonlocal named, depth
        assert depth or begun() == named, f"{begun() - named} before {what} are in no operation"
        depth += 1
        with operation(what):
            yield
        depth -= 1
        named = begun()

    ranks.operation = checked


def main(folder: Path, variants: list[str]) -> None:
    with joined_world(torch.device("cpu")) as world:
        name_all_collectives(world.ranks)
        losses = {each: trained(folder / each, each, world) for each in variants}
        if world.is_first:
            (folder / "losses.json").write_text(json.dumps(losses))


def trained(folder: Path, variant: str, world: World) -> dict[str, list[dict[str, float]]]:
    losses = {}
    changes, stages = VARIANTS[variant]
    for name in stages:
        for rank in range(world.size):  # one after the other writes the same weights
            if rank == world.rank:
                config = stage_config(name, folder / f"starts_{name}")
            world.barrier()
        config = replace(config, run=replace(config.run, **changes))
        if variant == "resumed":
            with suppress(Stopped):  # a step after its checkpoint
                run(config, folder / name, world, stop_after=3)
        _, losses[name] = run(config, folder / name, world)
        if variant == "resumed":
            assert run(config, folder / name, world)[1] == [], "read from its checkpoint, and done"
    return losses


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
