"""One rank of test_graphs.py: captured samples over all ranks are eager ones, bit by bit."""

from datetime import timedelta

import torch
import torch.distributed as dist

from disca_rt.attention.local import LocalAttention
from disca_rt.graphs.runner import GraphRunner
from disca_rt.models.blocks import SingleStreamBlock
from disca_rt.parallel.attention import UlyssesAttention
from disca_rt.parallel.topology import Topology
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import preset
from disca_rt.tiny.runtime import DIT, PREDICTOR, with_tiny_prompts
from recorded import record

TIMEOUT = timedelta(seconds=300)
CPU = torch.device("cpu")
PROMPT = "a red circle moving left on a black background"
SCHEDULE = preset(4, shift=5.0, step_list=(0, 2))
CASES = {"one piece": {}, "chunks": {"chunks": 3}, "a ring": {"degree": 1}}


def sampler(
    graphs: GraphRunner | None, degree: int = 0, chunks: int = 1
) -> tuple[Runtime, UlyssesAttention]:
    topology = Topology(dist.group.WORLD, TIMEOUT, ulysses_degree=degree)
    attention = UlyssesAttention(topology, LocalAttention(), chunks)
    loaded = Runtime.load(DIT, PREDICTOR, ops="reference", attention=attention, graphs=graphs)
    return with_tiny_prompts(loaded), attention


def check(name: str, exchange: dict[str, int]) -> None:
    graphs = GraphRunner(CPU, record)
    (eager, _), (captured, attention) = sampler(None, **exchange), sampler(graphs, **exchange)
    forward, calls = SingleStreamBlock.forward, []

    def counted(self: SingleStreamBlock, *args: object) -> object:
        calls.append(1)
        return forward(self, *args)

    size = {"frames": 3, "height": 16, "width": 24, "schedule": SCHEDULE, "policy": "disca"}
    for seed in range(3):
        expected = eager.generate(PROMPT, **size, seed=seed).latents
        begun = attention.begun
        SingleStreamBlock.forward = counted
        got = captured.generate(PROMPT, **size, seed=seed).latents
        SingleStreamBlock.forward = forward
        assert torch.equal(got, expected), f"{name}, sample {seed}"
        assert attention.begun > begun, "a replay exchanges, too"
    seen = len(calls)
    SingleStreamBlock.forward = counted
    captured.generate(PROMPT, **size, seed=9)
    SingleStreamBlock.forward = forward
    assert len(calls) == seen, "no block runs at a replay"
    assert graphs.captures == 2, "a full step and a predicted one"
    print(f"{name}: the same", flush=True)


def main() -> None:
    dist.init_process_group("gloo", timeout=TIMEOUT)
    for name, exchange in CASES.items():
        check(name, exchange)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
