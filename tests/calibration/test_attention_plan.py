"""Plans of attention in a calibration: those of each prompt, and the one that is for all."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cache_draws import CONFIG, CPU, OPS, SCALE
from disca_rt.cache.attention_plan import (
    CANDIDATES,
    FULL,
    MOST_CAREFUL,
    REUSE,
    SHARED,
    AttentionPlan,
    compression_loss,
    write_plan,
)
from disca_rt.cache.kept import kept_bytes
from disca_rt.calibration.attention_plan import WAYS, attention_policy, run_attention
from disca_rt.calibration.records import Records
from disca_rt.calibration.session import Session
from disca_rt.calibration.store import Store
from disca_rt.calibration.tables import FITS
from disca_rt.cli import main
from disca_rt.conditioning import Conditioning
from disca_rt.measure.random_models import fill_randomly
from disca_rt.models.build import build_dit
from disca_rt.pipeline.request import Request
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import Preset, shifted

STEPS, BLOCKS = 3, 4
THRESHOLD = 0.3


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    dit = build_dit(CONFIG, ops=OPS, attention=None, device=CPU, dtype=torch.float32)
    fill_randomly(dit, 0)
    return Runtime(dit)


def request(guided: bool, policy: str = "full") -> Request:
    generator = torch.Generator().manual_seed(3)
    states, pooled = (
        torch.randn(1, *shape, generator=generator)
        for shape in ((3, CONFIG.text_dim), (CONFIG.text_dim_2,))
    )
    positive = Conditioning(states, torch.ones(1, 3, dtype=torch.long), pooled)
    asked = Request(
        schedule=Preset(shifted(STEPS, 3.0), None, 3.0),
        policy=policy,
        conditioning=positive,
        latents=torch.randn(1, CONFIG.in_channels, 2, 4, 4, generator=generator),
    )
    if not guided:
        return asked
    negative = replace(positive, text_states=positive.text_states.flip(2))
    return replace(asked, negative=negative, classifier_free_scale=SCALE)


def velocities(runtime: Runtime, guided: bool, ways: list[tuple], folder: Path) -> list[Tensor]:
    """The velocity of each step by the policy with a plan of `ways`."""
    write_plan(AttentionPlan(tuple(ways)), folder / "plan.json")
    asked, path = request(guided, f"ditfastattn:plan={folder / 'plan.json'}"), []
    runtime.run(asked, on_step=lambda event: path.append(event.latents.clone()))
    sigmas = shifted(STEPS, 3.0).sigmas
    moves = zip([asked.latents, *path], path, sigmas, sigmas[1:], strict=False)
    return [(after - before) / (s_next - s) for before, after, s, s_next in moves]


@pytest.mark.parametrize("guided", [False, True])
def test_a_plan_has_the_first_way_of_each_block_that_is_good_enough(
    guided: bool, runtime: Runtime, tmp_path: Path
) -> None:
    """Each choice is made again by samples of the policy with the plan up to there."""
    numbers = run_attention(runtime, request(guided), THRESHOLD)[WAYS]
    plan = [tuple(MOST_CAREFUL[int(n)] for n in row) for row in numbers]
    full = (FULL,) * BLOCKS
    assert plan[0] == full
    assert len({way for row in plan[1:] for way in row}) > 1
    candidates = [way for way in CANDIDATES if guided or SHARED not in way]
    for step in range(1, STEPS):
        rest = [full] * (STEPS - step - 1)
        target = velocities(runtime, guided, [*plan[:step], full, *rest], tmp_path)[step]
        for block, chosen in enumerate(plan[step]):
            for way in candidates:
                tried = (*plan[step][:block], way, *full[block + 1 :])
                found = velocities(runtime, guided, [*plan[:step], tried, *rest], tmp_path)[step]
                bound = THRESHOLD * (block + 1) / BLOCKS
                if way == chosen:
                    assert compression_loss(target, found) < bound * 1.001
                    break
                assert compression_loss(target, found) > bound * 0.999


def test_a_plan_for_all_prompts_has_the_most_careful_way_of_each() -> None:
    numbers = [[[4, 4], [0, 3]], [[4, 4], [2, 1]]]
    records = Records([{WAYS: torch.tensor(each, dtype=torch.float64)} for each in numbers])
    (plan,) = FITS["ditfastattn"].fit(records).values()
    assert plan == ((FULL, FULL), (MOST_CAREFUL[2], MOST_CAREFUL[3]))
    assert MOST_CAREFUL[0] == REUSE


@pytest.mark.parametrize(("threshold", "way"), [(0.0, FULL), (1e9, REUSE)])
def test_thresholds_at_the_ends(threshold: float, way: str, runtime: Runtime) -> None:
    numbers = run_attention(runtime, request(True), threshold)[WAYS]
    assert (numbers[1:] == MOST_CAREFUL.index(way)).all()


def test_a_session_records_it_where_it_is_asked_and_fits(runtime: Runtime, tmp_path: Path) -> None:
    store, steps = Store(tmp_path / "recording"), []
    without = Session(runtime, [request(True)], store, 2**40)
    session = Session(runtime, [request(True)], store, 2**40, attention=THRESHOLD)
    assert session.samples == without.samples + 1
    records = session.record(on_step=lambda: steps.append(1))
    assert records.has(WAYS)
    again = Session(runtime, [request(True)], store, 2**40, attention=THRESHOLD).record(
        on_step=lambda: pytest.fail("what is recorded is read")
    )
    assert torch.equal(records.of_prompts[0][WAYS], again.of_prompts[0][WAYS])
    budget = kept_bytes(attention_policy(CONFIG, 2), session.shape).device - 1
    small = Session(runtime, [request(True)], store, budget, attention=THRESHOLD)
    assert "attention" in small.left_out
    assert small.attention is None


def test_the_command_refuses_a_threshold_that_means_nothing(capsys) -> None:
    assert main(["calibrate", "--attention-plan", "0"]) == 2
    assert "--attention-plan must be above 0, got 0" in capsys.readouterr().err
