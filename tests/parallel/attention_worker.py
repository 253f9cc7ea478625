"""One rank of test_attention.py: attention over shared tokens is local attention, and so is its
gradient. Run as `torchrun ... attention_worker.py`; ends with an error where anything differs.
"""

import random
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from disca_rt.attention.local import LocalAttention
from disca_rt.attention.protocol import NoOverlap
from disca_rt.kernels.packing import Packing
from disca_rt.parallel.attention import UlyssesAttention
from disca_rt.parallel.topology import Topology
from disca_rt.tokens import TokenLayout
from parallel.places import places

BOUND = 1e-5
CASES = 8


def main() -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    for case in range(CASES):
        draw = random.Random(case)  # the same on every rank
        for degree in divisors(dist.get_world_size()):
            attended_as_one(draw, degree)
    dist.destroy_process_group()


def divisors(number: int) -> list[int]:
    return [degree for degree in range(1, number + 1) if number % degree == 0]


def attended_as_one(draw: random.Random, degree: int) -> None:
    """Groups of `degree` trade heads, the rest is a ring; with and without a gradient."""
    group = dist.group.WORLD
    img, txt = draw.randint(group.size(), 40), draw.randint(0, 19)
    batch, heads, width = draw.choice((1, 2)), draw.randint(degree, 9), 4 * draw.randint(1, 5)
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    shape = (batch, img + txt, heads, width)
    v, k, q, grad = (torch.randn(shape, generator=generator) for _ in range(4))
    lengths = None
    if txt and draw.random() < 0.5:
        lengths = torch.tensor([img + draw.randint(0, txt) for _ in range(batch)])
    local = LocalAttention(draw.choice(("sdpa", "math")))
    wanted = differentiated(local, TokenLayout(img, lengths), (v, k, q), grad)

    topology = Topology(group, timedelta(seconds=60), ulysses_degree=degree)
    ulysses = UlyssesAttention(topology, local, draw.randint(1, 3))
    ulysses.prepare(heads)
    mine = places(ulysses, img, txt)
    layout = TokenLayout(sum(place < img for place in mine.tolist()), lengths, (img, txt))
    if lengths is not None and draw.random() < 0.7:
        layout = layout._replace(counts=tuple(lengths.tolist()))
    shared = [each[:, mine] for each in (v, k, q)]
    for layer in range(2):  # the second one through the same buffers
        with torch.no_grad():
            close(attend(ulysses, layout, shared), wanted[0][:, mine], f"forward {layer}")
        got = differentiated(ulysses, layout, shared, grad[:, mine])
        for name, ours, theirs in zip(("out", "v", "k", "q"), got, wanted, strict=True):
            close(ours, theirs[:, mine], f"{name} {layer}")


def differentiated(
    attention: object, layout: TokenLayout, inputs: list[Tensor], grad: Tensor
) -> list[Tensor]:
    """The output, and the gradients of v, k and q."""
    leaves = [each.clone().requires_grad_() for each in inputs]
    out = attend(attention, layout, leaves)
    out.backward(grad.flatten(2))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def attend(attention: object, layout: TokenLayout, inputs: list[Tensor]) -> Tensor:
    handle = attention.begin(layout)
    v, k, q = inputs
    handle.put_v(v)
    handle.put_k(packed(k, handle.packing))
    handle.put_q(packed(q, handle.packing))
    return handle.result(NoOverlap())


def packed(tokens: Tensor, packing: Packing | None) -> Tensor:
    if packing is None:
        return tokens
    return torch.cat([part.flatten(1, 2) for part in tokens.split(packing.counts, 2)], dim=1)


def close(ours: Tensor, theirs: Tensor, what: str) -> None:
    error = (ours - theirs).abs().max().item() if ours.numel() else 0.0
    assert error < BOUND, f"rank {dist.get_rank()}, {what}: {error:.2e} away"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
