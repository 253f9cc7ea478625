"""Benchmark of the host's work for a step of the 13B model, against a loop of calls.

On the meta device nothing is computed, and a graph there replays nothing: what is left is Python
and dispatch. A ratio to the loop means something on other machines; a time does not.
"""

from collections.abc import Callable

import torch

from disca_rt.config import MODELS, DiTConfig
from disca_rt.graphs.runner import GraphRunner
from disca_rt.measure.harness import Comparison, Contender

from .meta_step import META, meta_step

MODEL = "hunyuan-video-meanflow"
BIG = MODELS[MODEL]
GRID, TEXT = (33, 44, 44), 256  # 704x704x129
CALLS = 100_000


class EmptyGraph:
    """Graph that a replay costs one call, as a GPU's does."""

    def replay(self) -> None:
        pass


def replaying(index: int, config: DiTConfig = BIG) -> Callable[[], object]:
    """Function that replays a captured step; step 0 is the full one."""
    graphs = GraphRunner(META, lambda compute: EmptyGraph())
    step = meta_step(config, GRID, TEXT, graphs=graphs)
    run = step.predicted if index else step.full

    with torch.inference_mode():
        run()
        run()
    assert graphs.captures == 1
    return run


def steps(config: DiTConfig = BIG) -> Comparison:
    """Comparison of both kinds of step, with graphs and without, with a loop of calls."""
    step = meta_step(config, GRID, TEXT)
    image = GRID[0] * GRID[1] * GRID[2]
    return Comparison(
        name="host time of a step",
        shape={
            "config": MODEL,
            "batch": 1,
            "image tokens": image,
            "text tokens": TEXT,
            "blocks": f"{config.double}+{config.single}",
        },
        dtype="bfloat16",
        contenders=[
            Contender(f"{CALLS:,} calls", calls),
            Contender("host: full step", step.full),
            Contender("host: predicted step", step.predicted),
            Contender("host: full step, replayed", replaying(0, config)),
            Contender("host: predicted step, replayed", replaying(1, config)),
        ],
        samples=15,
    )


def calls() -> None:
    for _ in range(CALLS):
        _nothing()


def _nothing() -> None:
    pass
