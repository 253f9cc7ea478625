"""Recorded numbers against the tensors themselves, and their fits against the authors' own."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from authors_runs import inputs, load_run, runtime
from cache_draws import CONFIG, CPU, OPS, SCALE
from disca_rt.cache.placements.guidance import prefix_stops
from disca_rt.cache.stand_in import Moment, TensorSpec
from disca_rt.cache.stand_ins.hyca import SOLVERS, HyCa
from disca_rt.calibration.record import record, with_noise
from disca_rt.calibration.rows import INTERVAL, channel_numbers, residual_numbers
from disca_rt.calibration.runs import plan_runs, run_bytes, sampled_places
from disca_rt.calibration.session import Session, largest_shape
from disca_rt.calibration.store import Store
from disca_rt.calibration.tables import fit_tables
from disca_rt.calibration.trials import branch_trials, impact_trials, run_trials
from disca_rt.conditioning import Conditioning
from disca_rt.measure.random_models import fill_randomly
from disca_rt.models.blocks import run_blocks
from disca_rt.models.build import build_dit
from disca_rt.models.dit import StepInputs
from disca_rt.pipeline.request import Request
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import Preset, shifted
from golden_vectors import relative_error
from parallel.launch import forked, passes

STEPS = 5
BIG = 2**40


@pytest.fixture(scope="module")
def model() -> Runtime:
    dit = build_dit(CONFIG, ops=OPS, attention=None, device=CPU, dtype=torch.float32)
    fill_randomly(dit, 0)
    return Runtime(dit)


def request(seed: int = 0, steps: int = STEPS) -> Request:
    generator = torch.Generator().manual_seed(seed)
    positive = Conditioning(
        torch.randn(1, 3, CONFIG.text_dim, generator=generator),
        torch.ones(1, 3, dtype=torch.long),
        torch.randn(1, CONFIG.text_dim_2, generator=generator),
    )
    negative = replace(positive, text_states=positive.text_states.flip(2))
    return Request(
        schedule=Preset(shifted(steps, 3.0), None, 3.0),
        policy="full",
        conditioning=positive,
        negative=negative,
        classifier_free_scale=SCALE,
        latent_shape=(CONFIG.in_channels, 2, 4, 4),
        seed=seed,
    )


class Written(dict):
    """The tensors of a sample, written out: by name, one a step."""

    def __init__(self, model: Runtime, asked: Request) -> None:
        super().__init__()
        x = asked.latents
        prepared = [model.dit.prepare(each, x.shape) for each in asked.conditionings]
        self.path = [x]
        for step in asked.schedule.schedule:
            patches = [self._pass(model, x, step, p, i) for i, p in enumerate(prepared)]
            velocity = patches[1] + SCALE * (patches[0] - patches[1])
            velocity = model.dit.unpatchify(velocity, prepared[0])
            self.setdefault("velocity", []).append(velocity)
            x = x + velocity * (step.sigma_next - step.sigma)
            self.path.append(x)

    def _pass(self, model: Runtime, x: Tensor, step, prepared, number: int) -> Tensor:
        dit, t = model.dit, torch.tensor([step.t])
        tokens, context = dit.embed(x, StepInputs(t, None, None), prepared)
        img, each = context.layout.img_len, [tokens]
        for block in dit.blocks:
            each.append(run_blocks([block], each[-1], context))
        self.setdefault(f"tokens/{number}", []).append(torch.stack(each))
        self.setdefault(f"residual/{number}", []).append((each[-1] - each[0])[:, :img])
        self.setdefault(f"patches/{number}", []).append(dit.head(each[-1], context))
        return self[f"patches/{number}"][-1]


@pytest.fixture(scope="module")
def recorded(model: Runtime) -> tuple[dict[str, Tensor], Written]:
    asked = with_noise(model, request())
    (run,) = plan_runs(largest_shape(model, asked), BIG, has_maps=True)
    with torch.no_grad():
        return record(model, asked, run), Written(model, asked)


def l1(tensors: list[Tensor]) -> list[float]:
    return [float((a - b).abs().sum() / b.abs().sum()) for b, a in pairwise(tensors)]


def ratios(numbers: Tensor) -> list[float]:
    assert numbers.isnan().any(1).tolist() == [True] + [False] * (STEPS - 1)
    return (numbers[1:, 0] / numbers[1:, 1]).tolist()


def test_changes_of_steps_are_recorded(recorded) -> None:
    numbers, written = recorded
    assert ratios(numbers["velocity/l1"]) == pytest.approx(l1(written["velocity"]), rel=1e-3)
    for number in (0, 1):
        for of in ("residual", "patches"):
            expected = l1(written[f"{of}/{number}"])
            assert ratios(numbers[f"{of}/l1/{number}"]) == pytest.approx(expected, rel=1e-3)
        norms = [each.norm(dim=-1) for each in written[f"residual/{number}"]]
        sizes = [float((a / b).mean()) for b, a in pairwise(norms)]
        assert ratios(numbers[f"residual/row_size/{number}"]) == pytest.approx(sizes, rel=1e-3)
    apart = [
        float((u - c).abs().sum() / c.abs().sum())
        for c, u in zip(written["patches/0"], written["patches/1"], strict=True)
    ]
    guidance = numbers["guidance/l1"]
    assert (guidance[:, 0] / guidance[:, 1]).tolist() == pytest.approx(apart, rel=1e-3)


@pytest.mark.parametrize("block", range(4))
@pytest.mark.parametrize("number", [0, 1])
def test_changes_of_blocks_are_recorded(recorded, block: int, number: int) -> None:
    numbers, written = recorded
    tokens = written[f"tokens/{number}"]
    after = l1([each[block + 1] for each in tokens])
    assert ratios(numbers[f"tokens/l1/{number}/{block}"]) == pytest.approx(after, rel=1e-3)
    image = 8  # rows
    changes = [(each[block + 1] - each[block])[:, :image] for each in tokens]
    assert ratios(numbers[f"block/l1/{number}/{block}"]) == pytest.approx(l1(changes), rel=1e-3)
    sizes = [float(each.abs().sum()) for each in changes]
    assert numbers[f"block/size/{number}/{block}"][1:, 0].tolist() == pytest.approx(
        sizes[1:], rel=1e-3
    )


def test_a_single_block_is_the_sum_of_what_its_branch_adds(recorded) -> None:
    """Branches are before their gates: their changes are recorded, and none is the block's."""
    numbers, _ = recorded
    names = [name for name in numbers if name.startswith("branch/l1/0/")]
    assert len(names) == 2 * 4 + 2
    for name in names:
        assert all(0 < ratio < 10 for ratio in ratios(numbers[name]))


def test_rows_and_the_path_are_reduced(recorded) -> None:
    numbers, written = recorded
    r = torch.stack(written["residual/0"]).double().flatten(1)
    assert numbers["residual/products"].numpy() == pytest.approx((r @ r.T).numpy(), rel=1e-3)
    pair = float((r[3] - r[1]).abs().sum())
    assert float(numbers["residual/pairs"][3, 1]) == pytest.approx(pair, rel=1e-3)
    x = torch.stack(written.path).double().flatten(1)
    bend = (x[3] - 2 * x[2] + x[1]).norm() / (x[3] - x[2]).norm() ** 2
    assert float(numbers["path/curvature"][2]) == pytest.approx(float(bend), rel=1e-3)
    v = torch.stack(written["velocity"]).double().flatten(1)
    assert numbers["path/products"].numpy() == pytest.approx((v @ v.T).numpy(), rel=1e-3)


def test_a_recorded_sample_is_the_uncached_one(model: Runtime) -> None:
    asked = with_noise(model, request())
    (run,) = plan_runs(largest_shape(model, asked), BIG)
    uncached = model.run(asked, decode=False).latents
    again = model.run(replace(asked, policy=run.policy), decode=False).latents
    assert relative_error(again, uncached) <= 1e-6


def test_groups_that_fit_into_less_memory_record_the_same(model: Runtime, recorded) -> None:
    asked = with_noise(model, request())
    shape = largest_shape(model, asked)
    (whole,) = plan_runs(shape, BIG, True)
    least = run_bytes(whole, shape) // 2
    runs = plan_runs(shape, least, True)
    assert len(runs) > 1
    assert all(run_bytes(each, shape) <= least for each in runs)
    numbers: dict[str, Tensor] = {}
    for run in runs:
        numbers |= record(model, asked, run)
    assert numbers.keys() == recorded[0].keys()
    for name, each in recorded[0].items():
        assert torch.allclose(numbers[name], each, rtol=1e-3, equal_nan=True), name
    with pytest.raises(MemoryError, match="would help"):
        plan_runs(shape, 1000)


def test_a_map_is_that_of_the_rows_that_a_block_saw(model: Runtime, recorded) -> None:
    numbers, written = recorded
    blocks = CONFIG.double + CONFIG.single
    image = slice(0, 8)
    for name, before, after, rows in (
        ("map/1", 1, 2, slice(None)),
        (f"map/{blocks}", 0, blocks, image),  # of all blocks, on image rows
    ):
        x = torch.cat([each[before][0, rows] for each in written["tokens/0"]]).double()
        x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
        y = torch.cat([each[after][0, rows] for each in written["tokens/0"]]).double()
        sums = torch.cat([x.T @ x, y.T @ x])
        assert torch.allclose(numbers[name], sums, rtol=1e-3, atol=1e-3)


def test_magcaches_ratios_are_those_of_its_authors_calibration() -> None:
    """Their calibration of the reference model at 20 steps, to the five decimals that it prints."""
    theirs = load_run("magcache-20-own-0.12")
    conditioning, noise = inputs()
    preset = Preset(theirs.schedule)
    asked = Request(schedule=preset, policy="full", conditioning=conditioning, latents=noise)
    (run,) = plan_runs(largest_shape(runtime(), asked), BIG)
    session = Session(runtime(), [asked], Store(None), BIG)
    assert [each.content for each in session.runs] == [run.content]
    numbers = record(runtime(), session.requests[0], run)
    ratio = numbers["residual/row_size/0"][1:, 0] / numbers["residual/row_size/0"][1:, 1]
    assert ratio.tolist() == pytest.approx(theirs.options["mag_ratios"][1:], abs=1.1e-5)


def test_trials_are_errors_of_the_outputs_of_one_step(model: Runtime) -> None:
    asked = with_noise(model, request())
    trials = run_trials(model, asked, branch_trials(CONFIG))
    assert set(trials) == {"branches/attention", "branches/mlp", "branches/both"}
    for each in trials.values():
        assert each.isnan().tolist() == [True] + [False] * (STEPS - 1)
        assert bool((each[1:] > 0).all())
    again = run_trials(model, asked, branch_trials(CONFIG))
    for name, each in trials.items():
        assert torch.equal(again[name][1:], each[1:])


def test_the_impact_of_a_step_is_that_of_noise_on_its_output(model: Runtime, recorded) -> None:
    """Noise of deviation d on v: D1 is d·sqrt(2/pi) / mean|v|, and d that of v's last change."""
    _, written = recorded
    impacts = run_trials(model, with_noise(model, request()), impact_trials(CONFIG, 2))
    blocks = {f"impacts/block {stop - 1}" for stop in prefix_stops(None, CONFIG)}
    assert set(impacts) == {"impacts/step", "impacts/cfg", *blocks}
    v = written["velocity"]
    for step in range(1, STEPS):
        expected = (v[step] - v[step - 1]).std() * (2 / torch.pi) ** 0.5 / v[step].abs().mean()
        assert float(impacts["impacts/step"][step]) == pytest.approx(float(expected), rel=0.3)
    assert bool((impacts["impacts/block 1"][1:] > 0).all())


def test_a_channel_that_moves_in_a_line_is_forecast_by_taylor() -> None:
    steps = torch.arange(12.0, dtype=torch.float64)
    line, square = 2 * steps, 0.1 * steps**2
    hidden = torch.stack([line, square, torch.ones(12)], dim=1)[:, None, None]
    numbers = channel_numbers(hidden)
    errors = dict(zip(SOLVERS, numbers["channels/errors"], strict=True))
    reuse, first, second = (errors[name] for name in ("reuse", "taylor-1", "taylor-2"))
    assert reuse[0] == pytest.approx(4 * (1 + 4) / 2)
    assert first[0] == pytest.approx(0, abs=1e-12)
    assert second[1] < first[1] < reuse[1]
    assert numbers["channels/errors"][:, 2].tolist() == pytest.approx([0] * 5, abs=1e-12)
    assert numbers["channels/moves"][:, 0].tolist() == pytest.approx([2, 0])
    assert "channels/errors" not in channel_numbers(hidden[: 2 * INTERVAL + 1])
    assert channel_numbers(hidden[:2]) == {}


@pytest.mark.parametrize("name", SOLVERS)
def test_errors_of_a_solver_are_those_of_its_stand_in(name: str) -> None:
    """HyCa keeps every third step of a random path, and stands in at the others."""
    paths = torch.randn(13, 1, 5, 4, generator=torch.Generator().manual_seed(3))
    stand_in = HyCa(OPS, (name,))
    (spec,) = stand_in.kept_specs(TensorSpec((1, 5, 4), torch.float32, CPU))
    kept, kept_at, errors = (spec.zeros(),), (), []
    for step, value in enumerate(paths):
        at = Moment(None, None, torch.tensor(stand_in.numbers(kept_at, step, ())))
        if step % INTERVAL == 0:
            stand_in.keep(kept, value, at)
            kept_at = (*kept_at, step)
        elif len(kept_at) > 2:
            errors.append((stand_in.value(kept, at) - value).square().mean((0, 1)))
    found = channel_numbers(paths.double())["channels/errors"][[*SOLVERS].index(name)]
    assert found.tolist() == pytest.approx(torch.stack(errors).mean(0).tolist(), rel=1e-4)


def test_residuals_of_pairs() -> None:
    numbers = residual_numbers(torch.tensor([[1.0, -2.0], [3.0, 0.0]])[:, None])
    assert numbers["residual/pairs"].tolist() == [[0, 4], [4, 0]]
    assert numbers["residual/size"].tolist() == [3, 3]
    assert numbers["residual/products"].tolist() == [[5, 3], [3, 9]]


def test_sampled_rows_are_spread_over_all() -> None:
    assert sampled_places(3) == (0, 1, 2)
    places = sampled_places(640)
    assert (len(places), places[0], places[-1]) == (64, 5, 635)
    assert {b - a for a, b in pairwise(places)} == {10}


def test_few_steps_leave_tables_out(model: Runtime, tmp_path: Path) -> None:
    def tables(steps: int) -> set[str]:
        store = Store(tmp_path / str(steps))
        return set(fit_tables(Session(model, [request(0, steps)], store, BIG).record()).values)

    assert tables(1) == set()
    assert tables(2) >= {"teacache", "magcache", "mixcache", "ertacache", "omnicache"}
    assert "hyca" not in tables(2)
    assert "hyca" in tables(9)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_record_together_what_one_records(ranks: int, tmp_path: Path) -> None:
    worker = Path(__file__).parents[1] / "parallel" / "calibration_worker.py"
    passes(forked(ranks, worker, tmp_path))
