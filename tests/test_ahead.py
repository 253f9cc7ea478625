"""What steps take of schedule and conditioning alone is computed for several of them at once."""

from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from disca_rt.models.blocks import run_blocks
from disca_rt.models.dit import DiT, Timed
from disca_rt.models.prepared import FirstFrame, Prepared
from disca_rt.sampling import ahead as room
from disca_rt.sampling.ahead import Ahead
from disca_rt.sampling.guidance import Guidance, StepTable, step_table
from disca_rt.schedule import shifted
from disca_rt.weights.load import load_dit
from golden_vectors import NAMES, load_golden, relative_error
from test_models import joined, two_texts

EXACT = 2e-6  # the same sums in another order, fp32
STEPS, BATCH = 5, 2


class Sample(NamedTuple):
    """A model, and a batch of two whose texts differ in length, and in the other pass do not."""

    dit: DiT
    table: StepTable
    passes: list[Prepared]
    latents: Tensor

    def alone(self, index: int, number: int) -> Timed:
        return self.dit.timed(self.table.inputs(index), self.passes[number])

    def tokens(self, timed: Timed, number: int) -> Tensor:
        tokens, context = self.dit.embed_timed(self.latents, timed, self.passes[number])
        return run_blocks(self.dit.blocks, tokens, context)


@pytest.fixture(scope="module", params=NAMES)
def sample(request: pytest.FixtureRequest) -> Sample:
    golden = load_golden(request.param)
    dit = load_dit(golden.dit, dtype=torch.float32)
    latents = golden.io["latents"].repeat(BATCH, 1, 1, 1, 1)
    unlike, (longer, _) = two_texts(golden.conditioning)
    passes = [dit.prepare(each, latents.shape) for each in (unlike, joined([longer, longer]))]
    embedded = 6.0 if dit.config.guidance_embed else None
    table = step_table(shifted(STEPS, 5.0), Guidance(embedded), BATCH, dit)
    return Sample(dit, table, passes, latents)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 100, 1024])
def test_steps_in_advance_are_those_steps(sample: Sample, rows: int) -> None:
    with patch.object(room, "ROWS", rows):
        ahead = Ahead(sample.dit, sample.table, sample.passes)
        for index in range(STEPS):
            row = ahead.row(index)
            assert row.dt == sample.table.dt[index]
            for number, timed in enumerate(row.timed):
                alone = sample.alone(index, number)
                assert relative_error(timed.vec, alone.vec) <= EXACT
                assert relative_error(timed.text, alone.text) <= EXACT
                ours, theirs = (sample.tokens(each, number) for each in (timed, alone))
                assert relative_error(ours, theirs) <= EXACT


@torch.no_grad()
def test_what_is_computed_together_does_not_depend_on_the_order(sample: Sample) -> None:
    most = max(each.text_states[..., 0].numel() for each in sample.passes)
    with patch.object(room, "ROWS", 2 * most):
        in_order, jumping = (Ahead(sample.dit, sample.table, sample.passes) for _ in range(2))
        wanted = [in_order.row(index) for index in range(STEPS)]
        for index in (4, 1, 0, 3, 2):
            for ours, each in zip(jumping.row(index).timed, wanted[index].timed, strict=True):
                assert all(map(torch.equal, ours, each))


@torch.no_grad()
def test_blocks_take_their_modulations_from_there(sample: Sample) -> None:
    timed = Ahead(sample.dit, sample.table, sample.passes).row(1).timed[0]
    others = timed._replace(modulations=sample.dit.modulations(timed.vec * 2))
    twice = timed._replace(vec=timed.vec * 2, modulations=None)
    expected = sample.tokens(twice, 0)
    assert relative_error(sample.tokens(others, 0), expected) <= EXACT
    assert relative_error(sample.tokens(timed, 0), expected) > 1e-3


@torch.no_grad()
def test_rows_of_a_clean_first_frame_keep_a_vector_of_their_own(sample: Sample) -> None:
    first = FirstFrame(sample.latents[:, :, :1], torch.zeros(BATCH, sample.dit.config.hidden))
    held = [each._replace(first=first) for each in sample.passes]
    (timed, _) = Ahead(sample.dit, sample.table, held).row(0).timed
    assert timed.modulations is None
