"""Sums of probes are taken of a few rows at a time: the same, and no copy of a whole tensor."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from disca_rt.cache.plan import Measured, Probe
from disca_rt.cache.rules.speca import SpeCa
from disca_rt.sampling import probes
from disca_rt.sampling.probes import NORMS, motion, sums
from disca_rt.tokens import StepContext, TokenLayout

IMAGE, ROWS, WIDTH = 12, 17, 8
AT_ONCE = 3 * 2 * WIDTH  # elements: three rows of a batch of two


class Largest(TorchDispatchMode):
    """Notes the most elements that an operator has written."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view:
            self.elements = max(self.elements, out.numel())
        return out


def draw() -> tuple[torch.Tensor, torch.Tensor, StepContext]:
    """Tokens of now and before, bf16, with padding after the 15th and after the 14th row."""
    generator = torch.Generator().manual_seed(0)
    now, before = (torch.randn(2, ROWS, WIDTH, generator=generator).bfloat16() for _ in range(2))
    layout = TokenLayout(IMAGE, torch.tensor([15, 14]), grid=(3, 2, 2))
    return now, before, StepContext(torch.zeros(2, 1), *torch.zeros(2, 1, 1), layout)


@pytest.mark.parametrize("norm", NORMS)
def test_sums_of_few_rows_at_a_time_are_those_of_all(norm: str) -> None:
    now, before, context = draw()
    valid = torch.arange(ROWS) < context.layout.lengths[:, None]
    expected = [
        part.expand_as(now if norm != "row_size" else part)[valid].sum(dtype=torch.float64)
        for part in NORMS[norm](now.float(), before.float())
    ]
    for elements in (1, AT_ONCE, probes.AT_ONCE):
        with patch.object(probes, "AT_ONCE", elements):
            found = sums(Probe("tokens", norm=norm), now, before, context)
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=0)


def test_the_norm_of_a_draft_is_over_what_is_computed() -> None:
    """SpeCa's |pred − true|₂ / |true|₂, of valid rows."""
    true, drafted, context = draw()
    rule = SpeCa(error_metric="norm")
    (probe,) = rule.probes
    found = sums(probe, true, drafted, context)
    valid = torch.arange(ROWS) < context.layout.lengths[:, None]
    true, drafted = true.double()[valid], drafted.double()[valid]
    expected = (drafted - true).norm() / true.norm()
    assert rule._error({probe: Measured(*found.tolist())}) == pytest.approx(expected.item())


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_as_large_as_a_tensor_is_written(norm: str) -> None:
    now, before, context = draw()
    with patch.object(probes, "AT_ONCE", AT_ONCE), Largest() as seen:
        sums(Probe("tokens", norm=norm), now, before, context)
    assert 0 < seen.elements <= AT_ONCE


def test_motion_is_of_neighbouring_frames_and_takes_two_at_a_time() -> None:
    now, _, context = draw()
    image = now[:, :IMAGE]
    frames = image.double().unflatten(1, (3, 4))
    change = (frames[:, 1:] - frames[:, :-1]).abs().sum()
    sizes = frames[:, 1:].abs().sum() + frames[:, :-1].abs().sum()
    with Largest() as seen:
        found = motion(image, context.layout)
    torch.testing.assert_close(found, torch.stack([change, sizes]), rtol=1e-6, atol=0)
    assert seen.elements <= image.numel() // 3
    one_frame = context.layout._replace(grid=(1, 4, 3))
    assert motion(image, one_frame).tolist() == [0, 0]
