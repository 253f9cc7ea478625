"""Stage cache: its student samples as the runtime does, its losses are the authors', it learns."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from disca_rt.cache.adjustment_file import write_adjustment
from disca_rt.cache.calibration import Subject
from disca_rt.cache.gate_file import write_gates
from disca_rt.cache.map_file import read_maps
from disca_rt.cache.method import Parts
from disca_rt.cache.plan import Act
from disca_rt.cache.policies import build_policy
from disca_rt.calibration.file import write_calibration
from disca_rt.calibration.tables import Tables
from disca_rt.conditioning import Conditioning
from disca_rt.config import DiTConfig
from disca_rt.instruments.stopwatch import Stopwatch
from disca_rt.models.blocks import run_blocks
from disca_rt.models.dit import DiT
from disca_rt.sampling.denoiser import Denoiser
from disca_rt.sampling.forward import Forward
from disca_rt.sampling.guidance import Guidance
from disca_rt.schedule import shifted
from disca_rt.tiny.training_clips import unconditional
from disca_rt.train.branch_cache import CacheStage, count_slots, draw_pair
from disca_rt.train.build import build_stage
from disca_rt.train.cached_student import Entered, Slot, Weigh, stepped_on
from disca_rt.train.flow import step_inputs
from disca_rt.train.lazydit import score
from golden_vectors import relative_error
from train.small import (
    CFG,
    GATES,
    MEANFLOW,
    RUN,
    SMALL,
    STAGES,
    batch_and_draws,
    disturbed,
    randomised,
    resting,
    run,
    saved,
    stage_config,
)

STEPS, SCALE = 5, 4.0
OPTIONS = {"lazydit": "heads", "blockdance-ada": "net", "block-caching": "scale_shift"}
SLOTS = count_slots(SMALL)


def stage(name: str, folder: Path, sizes: DiTConfig | None = None, **changes: Any) -> CacheStage:
    """Build a stage on a model of `sizes`, by default the row's, for batches of two."""
    run = replace(RUN, batch=2)
    if sizes is None:
        config = replace(stage_config(name, folder), run=run, **changes)
    else:
        config = STAGES[name](run, saved(randomised(sizes), folder / "dit.safetensors"))
        config = replace(config, **changes)
    return build_stage(config, unconditional())


def constant(gates: Tensor, batch: int) -> Weigh:
    return lambda slot, entered: gates[slot.number].expand(batch)


@torch.no_grad()
def sampled(of: CacheStage, noise: Tensor, conditioning: Conditioning, weigh: Callable) -> Tensor:
    """Sample with the student, step after step; `weigh(step)` gives a step's weights."""
    student = of.student
    prepared, latents, kept = student.prepare(conditioning, noise.shape), noise, ()
    for step in range(of.config.sampling_steps):
        point = of.point(latents, torch.full((len(noise),), step))
        taken = student.step(point, prepared, weigh(step) if step else None, kept)
        latents, kept = stepped_on(point, taken.velocity, point.r), taken.kept
    return latents


@torch.no_grad()
def by_the_runtime(
    dit: DiT, policy: str, noise: Tensor, conditioning: Conditioning
) -> tuple[Tensor, list]:
    """Sample with the runtime; returns the latents and the plans of the steps."""
    denoiser, plans = Denoiser(dit), []
    conditions, guidance = [conditioning], Guidance(SCALE, None)
    if not dit.config.guidance_embed:
        conditions, guidance = [*conditions, unconditional()], Guidance(None, SCALE)
    latents = denoiser.denoise(
        noise,
        conditions,
        schedule=shifted(STEPS, 3.0),
        policy=build_policy(policy, Parts(dit.config, dit.ops)),
        guidance=guidance,
        stopwatch=Stopwatch(dit.device),
        on_step=lambda event: plans.append(event.plan),
    )
    return latents, plans


SAMPLER = {"sampling_steps": STEPS, "shift": 3.0, "guidance": SCALE}


@pytest.mark.parametrize("sizes", [SMALL, CFG, MEANFLOW], ids=["two passes", "one", "meanflow"])
def test_the_student_with_gates_of_0_and_1_samples_as_the_policy_does(
    sizes: DiTConfig, tmp_path: Path
) -> None:
    of = stage("l2c", tmp_path, sizes, **SAMPLER)
    gates = (torch.rand(STEPS, SLOTS, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    write_gates(tmp_path / "gates.safetensors", {"gates": gates}, sizes, "l2c")
    batch, draws = batch_and_draws(1)
    ours = sampled(of, draws.noise, batch.conditioning, lambda step: constant(gates[step], 1))
    policy = f"l2c:gates={tmp_path / 'gates.safetensors'}"
    theirs, _ = by_the_runtime(of.student.dit, policy, draws.noise, batch.conditioning)
    assert relative_error(ours, theirs) <= 1e-5
    full, _ = by_the_runtime(of.student.dit, "full", draws.noise, batch.conditioning)
    assert relative_error(ours, full) > 1e-3


@pytest.mark.parametrize("sizes", [SMALL, CFG], ids=["two passes", "one"])
def test_a_score_is_the_policys(sizes: DiTConfig, tmp_path: Path) -> None:
    of = stage("lazydit", tmp_path, sizes, **SAMPLER)
    heads = torch.randn(STEPS, SLOTS, sizes.hidden, generator=torch.Generator().manual_seed(0))
    write_gates(tmp_path / "heads.safetensors", {"heads": heads}, sizes, "lazydit")
    batch, draws = batch_and_draws(1)
    decided: list[list[bool]] = []

    def of_step(step: int) -> Weigh:
        decided.append([])

        def weigh(slot: Slot, entered: Entered) -> Tensor:
            weight = (score(heads[step, slot.number][None], slot, entered) >= 0.5).float()
            decided[-1].append(bool(weight))
            return weight

        return weigh

    ours = sampled(of, draws.noise, batch.conditioning, of_step)
    policy = f"lazydit:heads={tmp_path / 'heads.safetensors'}"
    theirs, plans = by_the_runtime(of.student.dit, policy, draws.noise, batch.conditioning)
    assert [[act is Act.KEEP for act in plan.passes[0]] for plan in plans[1:]] == decided
    assert 0 < sum(map(sum, decided)) < SLOTS * (STEPS - 1)
    assert relative_error(ours, theirs) <= 1e-5


@pytest.mark.parametrize("name", ["l2c", "lazydit"])
def test_pairs_are_an_even_step_of_the_sampler_and_the_next(name: str, tmp_path: Path) -> None:
    of = stage(name, tmp_path, MEANFLOW, sampling_steps=5, shift=3.0)
    batch, draws = batch_and_draws(2)
    pair = draw_pair(of, batch, draws._replace(time=torch.tensor([0.1, 0.9])))
    sigmas = shifted(5, 3.0).sigmas
    assert pair.step.tolist() == [1, 3]
    assert pair.point.t.tolist() == pytest.approx([sigmas[1], sigmas[3]])
    assert pair.point.r.tolist() == pytest.approx([sigmas[2], sigmas[4]])
    dit, conditioning = of.student.dit, batch.conditioning
    with torch.no_grad():
        prepared = of.student.prepare(conditioning, batch.latents.shape)
        for row, step in enumerate((0, 2)):
            x = torch.lerp(batch.latents, draws.noise, sigmas[step])
            velocity = of.student.velocity(of.point(x, torch.tensor([step, step])), prepared)
            x = x + (sigmas[step + 1] - sigmas[step]) * velocity
            assert relative_error(pair.point.x_t[row], x[row]) <= 1e-5
            again = of.student.velocity(of.point(x, torch.tensor([step + 1] * 2)), prepared)
            assert relative_error(pair.target[row], again[row]) <= 1e-5
    assert dit.config == MEANFLOW


def test_l2cs_loss_is_error_plus_gates(tmp_path: Path) -> None:
    of = stage("l2c", tmp_path, sampling_steps=4, l1=0.01)
    batch, draws = batch_and_draws(2)
    logits = of.trained["cache"].logits
    loss = of.loss(batch, draws, 0)
    steps = draw_pair(of, batch, draws).step
    summed = logits.sigmoid()[steps].sum(1).mean().item()
    expected = loss.terms["mse"].item() + 0.01 * summed
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        logits.fill_(100.0)  # held at 5
    all_but = of.loss(batch, draws, 0).terms["mse"].item()
    assert logits.unique().tolist() == [5.0]
    assert all_but < 0.01 * loss.terms["mse"].item(), "where all is computed there is no error"


@pytest.mark.parametrize("name", GATES)
def test_gradients_are_slopes_of_the_loss(name: str, tmp_path: Path) -> None:
    """Of the last step, which no later one depends on, by differences."""
    of = stage(name, tmp_path)
    batch, draws = batch_and_draws(2)
    draws = draws._replace(time=torch.tensor([0.8, 0.9]))  # step 3 of both
    (parameter,) = of.trained["cache"].parameters()
    of.loss(batch, draws, 0).total.backward()
    place = (3, 1, 4) if name == "lazydit" else (3, 1)
    slope, losses, change = parameter.grad[place].item(), [], 0.05
    for sign in (1, -1):
        with torch.no_grad():
            parameter[place] += sign * change
        losses.append(of.loss(batch, draws, 1).total.item())
        with torch.no_grad():
            parameter[place] -= sign * change
    assert slope != 0
    assert slope == pytest.approx((losses[0] - losses[1]) / (2 * change), rel=0.03)


@torch.no_grad()
def test_harmonicas_lambdas_are_those_of_its_authors_loop(tmp_path: Path) -> None:
    """Whole samples with gates of the first steps only, each compared with the one before."""
    of = stage("harmonica", tmp_path, **SAMPLER)
    batch, draws = batch_and_draws(2)
    with torch.enable_grad():
        of.loss(batch, draws, 0)
    gates = of.trained["cache"]()

    def up_to(last: int) -> Tensor:
        ones = torch.ones(SLOTS)
        return sampled(
            of,
            draws.noise,
            batch.conditioning,
            lambda step: constant(gates[step] if step <= last else ones, 2),
        )

    samples = [up_to(last) for last in range(STEPS)]
    expected = [(b - a).square().mean().item() for a, b in pairwise(samples)]
    assert of.trained["cache"].lambdas.tolist() == pytest.approx([0, *expected], rel=1e-3)


def test_harmonicas_loss_is_of_the_steps_of_its_trajectory(tmp_path: Path) -> None:
    of = stage("harmonica", tmp_path, **SAMPLER, l1=0.01)
    batch, draws = batch_and_draws(2)
    loss = of.loss(batch, draws, 0)
    learned, student = of.trained["cache"], of.student
    gates, lambdas, total = learned().detach(), learned.lambdas, 0.0
    with torch.no_grad():
        prepared = student.prepare(batch.conditioning, draws.noise.shape)
        latents, kept = draws.noise, ()
        for step in range(STEPS):
            point = of.point(latents, torch.tensor([step, step]))
            full = student.velocity(point, prepared)
            taken = student.step(point, prepared, (step and constant(gates[step], 2)) or None, kept)
            total += (lambdas[step] * (taken.velocity - full).square().mean()).item()
            total += 0.01 * gates[step].sum().item() * (step > 0)
            latents, kept = stepped_on(point, taken.velocity, point.r), taken.kept
    assert loss.total.item() == pytest.approx(total, rel=1e-5)
    loss.total.backward()
    assert not learned.logits.grad[0].any(), "the first step is full"
    assert learned.logits.grad[1:].all()


def test_harmonica_keeps_what_is_cached_where_a_gate_is_at_most_the_threshold(
    tmp_path: Path,
) -> None:
    of = stage("harmonica", tmp_path, **SAMPLER, thres=0.5)
    batch, draws = batch_and_draws(2)
    gates = torch.tensor([0.6, 0.4, *[0.5] * (SLOTS - 3), 0.9])
    with torch.no_grad():
        prepared = of.student.prepare(batch.conditioning, draws.noise.shape)
        first = of.student.step(of.point(draws.noise, torch.tensor([0, 0])), prepared)
        second = of.student.step(
            of.point(draws.noise, torch.tensor([1, 1])), prepared, constant(gates, 2), first.kept
        )
    (before,), (after,) = first.kept, second.kept  # of the one pass, by block
    replaced = {(0, "img_attn"), (0, "txt_attn"), (len(before) - 1, "total")}
    for block, branches in enumerate(before):
        for name, cached in branches.items():
            assert torch.equal(cached, after[block][name]) is ((block, name) not in replaced)


@pytest.mark.parametrize("name", GATES)
def test_what_a_run_writes_is_what_its_policy_takes(name: str, tmp_path: Path) -> None:
    config = stage_config(name, tmp_path)
    config = replace(config, sampling_steps=STEPS, shift=3.0, guidance=SCALE)
    if name == "block-caching":
        config = replace(config, curves=resting(4, STEPS))
    path, terms = run(config, tmp_path / "run")
    assert path.name == "gates.safetensors"
    dit = build_stage(config, unconditional()).student.dit
    batch, draws = batch_and_draws(1)
    _, plans = by_the_runtime(
        dit, f"{name}:{OPTIONS.get(name, 'gates')}={path}", draws.noise, batch.conditioning
    )
    assert len(plans) == STEPS
    computed = [all(act is Act.KEEP for act in plan.passes[0]) for plan in plans]
    if name in ("l2c", "lazydit"):
        assert computed[::2] == [True] * 3, "even steps are full"
    assert computed[0]
    assert all(0 <= each["computed"] <= 1 for each in terms)


@pytest.mark.parametrize(
    ("name", "weak", "strong"),
    [("l2c", {"l1": 1e-9}, {"l1": 1e3}), ("lazydit", {"rho": 1e-9}, {"rho": 10.0})],
)
def test_the_weight_decides_how_much_is_computed(
    name: str, weak: dict, strong: dict, tmp_path: Path
) -> None:
    shares = []
    for changes in (weak, strong):
        of = stage(name, tmp_path, **changes)
        of.trained.requires_grad_(True)
        batch, draws = batch_and_draws(2)
        (optimizer,) = of.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = 0.5
        for _ in range(12):
            loss = of.loss(batch, draws, 0)
            loss.total.backward()
            optimizer.step()
            optimizer.zero_grad()
        shares.append(loss.terms["computed"].item())
    assert shares[0] > 0.9
    assert shares[1] == 0


@pytest.mark.parametrize("sizes", [SMALL, CFG], ids=["two passes", "one"])
def test_rewards_are_those_of_samples_by_the_policy(sizes: DiTConfig, tmp_path: Path) -> None:
    of = stage("blockdance-ada", tmp_path, sizes, **SAMPLER, rho=2, lambda_q=3.0)
    (batch, draws), computes = batch_and_draws(1), torch.tensor([[1, 0, 0], [0, 1, 1]]).bool()
    begun, _ = of._begun(batch.conditioning, draws.noise)
    rewards, quality = of._rewards(batch.conditioning, begun, computes[None])
    sample = partial(by_the_runtime, of.student.dit)
    full, _ = sample("full", draws.noise, batch.conditioning)
    for row, u in enumerate(computes):
        reuse = ",".join(str(1 - each) for each in u.int().tolist())
        policy = f"blockdance-ada:rho=2,reuse={reuse}"
        latents, _ = sample(policy, draws.noise, batch.conditioning)
        distance = ((latents - full).norm() / full.norm()).item()
        assert distance > 1e-3
        assert quality[0, row].item() == pytest.approx(1 - distance, abs=1e-5)
        saved = 1 - u.float().mean().item()
        assert rewards[0, row].item() == pytest.approx(saved + 3 * (1 - distance), abs=1e-4)


def test_the_policy_gradient_is_reward_over_that_of_other_draws(tmp_path: Path) -> None:
    of = stage("blockdance-ada", tmp_path, **SAMPLER, rho=2, rollouts=4)
    of.trained.requires_grad_(True)
    batch, draws = batch_and_draws(2)
    rewards, given = torch.tensor([[1.0, 2, 4, 9], [3.0, 3, 3, 3]]), []

    def told(conditioning: Conditioning, begun: Any, computes: Tensor) -> tuple[Tensor, Tensor]:
        given.append(computes.double())
        return rewards, rewards

    of._rewards = told
    of.loss(batch, draws, 0).total.backward()
    (u,) = given
    over = rewards - (rewards.sum(1, keepdim=True) - rewards) / 3
    expected = -(over[:, :, None] * (u - 0.5)).sum((0, 1)) / 8  # m is one half at the beginning
    slope = of.trained["cache"].out_bias.grad
    torch.testing.assert_close(slope.double(), expected, rtol=1e-5, atol=1e-6)
    assert 0 < u.mean() < 1


def test_draws_belong_to_samples_and_no_rank_has_others(tmp_path: Path) -> None:
    of = stage("blockdance-ada", tmp_path, **SAMPLER)
    _, draws = batch_and_draws(2)
    both = of._uniform(draws, 3)
    one = [of._uniform(type(draws)(*(each[i : i + 1] for each in draws)), 3) for i in range(2)]
    assert torch.equal(both, torch.cat(one))
    assert not torch.equal(both[0], both[1])


def test_the_network_learns_to_reuse_where_that_costs_nothing(tmp_path: Path) -> None:
    """With steps whose reuse is told to be worth something, and others that cost more."""
    of = stage("blockdance-ada", tmp_path, **SAMPLER, rho=2)
    of.trained.requires_grad_(True)
    worth = torch.tensor([1.0, -1.0, 1.0])

    def told(conditioning: Conditioning, begun: Any, computes: Tensor) -> tuple[Tensor, Tensor]:
        rewards = ((~computes).float() * worth).sum(2)
        return rewards, rewards

    of._rewards = told
    optimizer = torch.optim.Adam(of.trained.parameters(), lr=5e-2)
    for step in range(30):
        batch, draws = batch_and_draws(2)
        draws = draws._replace(interval=(draws.interval + step * 0.01) % 1)
        loss = of.loss(batch, draws, step)
        loss.total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.terms["computed"].item() == pytest.approx(1 / 3, abs=0.15)


def adjusted_file(path: Path, sizes: DiTConfig) -> None:
    """Write random scales and shifts for a table of five steps of four blocks."""
    numbers = torch.Generator().manual_seed(0)
    shape = STEPS, 4, sizes.hidden
    computed = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [1, 0, 1, 0], [0, 0, 1, 0], [0, 1, 0, 0]])
    scale = 1 + 0.3 * torch.randn(shape, generator=numbers)
    shift = 0.3 * torch.randn(shape, generator=numbers)
    tensors = {"computed": computed, "scale": scale, "shift": shift}
    write_adjustment(path, tensors, sizes)


@pytest.mark.parametrize("sizes", [SMALL, CFG], ids=["two passes", "one"])
def test_the_adjusted_student_samples_as_the_policy_does(sizes: DiTConfig, tmp_path: Path) -> None:
    """Its velocities along the policy's latents are the policy's, with numbers of a file."""
    path = tmp_path / "adjusted.safetensors"
    adjusted_file(path, sizes)
    of = stage("block-caching", tmp_path, sizes, **SAMPLER, curves=resting(4, STEPS))
    learned = load_file(path)
    of.table = tuple(map(tuple, (learned["computed"] > 0).tolist()))
    batch, draws = batch_and_draws(1)
    prepared = of.student.prepare(batch.conditioning, batch.latents.shape)
    numbers = torch.stack([learned["scale"], learned["shift"]])
    latents, changes = draws.noise, tuple((None,) * 4 for _ in prepared)
    with torch.no_grad():
        for index, computed in enumerate(of.table):
            point = of.point(latents, torch.tensor([index]))
            velocity, changes = of._step(point, prepared, computed, numbers[:, index], changes)
            latents = stepped_on(point, velocity, point.r)
    sample = partial(by_the_runtime, of.student.dit)
    policy = f"block-caching:scale_shift={path}"
    theirs, plans = sample(policy, draws.noise, batch.conditioning)
    assert relative_error(latents, theirs) <= 1e-5
    for plan, row in zip(plans, of.table, strict=True):
        assert [act is Act.KEEP for act in plan.passes[0]] == [*row]
    full, _ = sample("full", draws.noise, batch.conditioning)
    assert relative_error(theirs, full) > 1e-3


def test_the_error_of_replaced_blocks_falls(tmp_path: Path) -> None:
    of = stage("block-caching", tmp_path)
    of.trained.requires_grad_(True)
    batch, draws = batch_and_draws(2)
    optimizer, losses = torch.optim.Adam(of.trained.parameters(), lr=3e-2), []
    for step in range(25):
        loss = of.loss(batch, draws, step)
        losses.append(loss.terms["loss"].item())
        loss.total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.6 * losses[0]


def test_slopes_of_scales_and_shifts_are_those_of_the_loss(tmp_path: Path) -> None:
    """Of the last step, which no later one depends on, by differences."""
    of = stage("block-caching", tmp_path)
    of.trained.requires_grad_(True)
    batch, draws = batch_and_draws(2)
    of.loss(batch, draws, 0).total.backward()
    for name in ("scale", "shift"):
        parameter = getattr(of.trained["cache"], name)
        block = of.table[3].index(False)
        place = 3, block, int(parameter.grad[3, block].abs().argmax())
        slope, losses, change = parameter.grad[place].item(), [], 0.02
        for sign in (1, -1):
            with torch.no_grad():
                parameter[place] += sign * change
            losses.append(of.loss(batch, draws, 0).terms["loss"].item())
            with torch.no_grad():
                parameter[place] -= sign * change
        assert slope == pytest.approx((losses[0] - losses[1]) / (2 * change), rel=0.03)


@pytest.mark.parametrize(
    ("given", "message"),
    [((), "got none; give --calibration FILE"), ((0.1,) * 7, "16 in all, got 7")],
)
def test_curves_that_make_no_table_are_refused(given: tuple, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        stage("block-caching", tmp_path, curves=given)


def test_harmonica_refuses_a_part_of_its_batch(tmp_path: Path) -> None:
    of = stage("harmonica", tmp_path)
    batch, draws = batch_and_draws(1)
    with pytest.raises(ValueError, match="by all 2 samples of a batch at once, got a forward of 1"):
        of.loss(batch, draws, 0)


@pytest.mark.parametrize("sizes", [SMALL, CFG], ids=["two passes", "one"])
def test_the_loss_of_maps_is_their_error_over_the_blocks_own_change(
    sizes: DiTConfig, tmp_path: Path
) -> None:
    of = stage("fastcache", tmp_path, sizes, **SAMPLER)
    batch, draws = batch_and_draws(2)
    assert of.loss(batch, draws, 0).total.item() == pytest.approx(1.0, rel=1e-5), "the identity"
    disturbed(of.trained)
    maps, student = of.trained["cache"], of.student
    number = (draws.time * STEPS).long()
    sigma = torch.tensor(shifted(STEPS, 3.0).sigmas)[number]
    x_t = torch.stack(
        [torch.lerp(*pair) for pair in zip(batch.latents, draws.noise, sigma, strict=True)]
    )
    point, dit, errors = of.point(x_t, number), student.dit, []
    with torch.no_grad():
        for prepared in student.prepare(batch.conditioning, x_t.shape):
            tokens, context = Forward(dit).embed(x_t, step_inputs(dit, point), prepared)
            img, ends = context.layout.img_len, [tokens]
            lengths = [ends[0].shape[1]] * 2
            if context.layout.lengths is not None:
                lengths = context.layout.lengths.tolist()
            for block in dit.blocks:
                ends.append(run_blocks([block], ends[-1], context))
            for i in range(len(ends)):
                x, y = (ends[i], ends[i + 1]) if i < len(dit.blocks) else (ends[0], ends[-1])
                rows = lengths if i < len(dit.blocks) else [img, img]
                of_samples = []
                for sample, count in enumerate(rows):
                    before, after = x[sample, :count], y[sample, :count]
                    mapped = before @ maps.weight[i].T + maps.bias[i]
                    missed, moved = (each - after for each in (mapped, before))
                    of_samples.append((missed.square().sum() / moved.square().sum()).item())
                errors.append(sum(of_samples) / len(of_samples))
    loss = of.loss(batch, draws, 0)
    assert loss.total.item() == pytest.approx(sum(errors) / len(errors), rel=1e-4)
    static = errors[len(dit.blocks) :: len(dit.blocks) + 1]
    assert loss.terms["static"].item() == pytest.approx(sum(static) / len(static), rel=1e-4)


def test_the_error_of_maps_falls_and_the_policy_takes_them(tmp_path: Path) -> None:
    config = stage_config("fastcache", tmp_path)
    config = replace(config, run=replace(RUN, steps=40, lr=1e-2, warmup_steps=0, ema=0.0))
    config = replace(config, sampling_steps=STEPS, shift=3.0, guidance=SCALE)
    path, terms = run(config, tmp_path / "run")
    for name in ("loss", "blocks", "static"):
        first, last = (sum(each[name] for each in part) / 5 for part in (terms[:5], terms[-5:]))
        assert last < 0.8 * first, name
    of = build_stage(config, unconditional())
    maps = read_maps(str(path), of.dit_config)
    batch, draws = batch_and_draws(1)
    with torch.no_grad():
        before = of.loss(batch, draws, 0).total
        for parameter, each in zip(of.trained["cache"].parameters(), maps[:2], strict=True):
            parameter.copy_(each)
        assert of.loss(batch, draws, 0).total < 0.8 * before
    latents = [
        by_the_runtime(of.student.dit, policy, draws.noise, batch.conditioning)[0]
        for policy in ("full", f"fastcache:maps={path}", "fastcache")
    ]
    assert len({each.sum().item() for each in latents}) == 3


def test_maps_start_as_those_of_a_calibration(tmp_path: Path) -> None:
    config, path = stage_config("fastcache", tmp_path), tmp_path / "c.json"
    dit = build_stage(config, unconditional()).student.dit
    count, width = len(dit.blocks) + 1, dit.config.hidden
    tensors = {
        "fastcache.weight": torch.randn(count, width, width),
        "fastcache.bias": torch.randn(count, width),
    }
    subject = Subject(dit.config)
    write_calibration(path, subject, Tables({}, tensors), {})
    learned = build_stage(replace(config, calibration=str(path)), unconditional()).trained["cache"]
    assert torch.equal(learned.weight, tensors["fastcache.weight"])
    assert torch.equal(learned.bias, tensors["fastcache.bias"])
    write_calibration(path, subject, Tables({}, {}), {})
    path.with_suffix(".safetensors").unlink()
    with pytest.raises(ValueError, match="has no maps; make them: disca-rt calibrate --maps"):
        build_stage(replace(config, calibration=str(path)), unconditional())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("l2c", {"sampling_steps": 1}, "sampling_steps must be at least 2, got 1"),
        ("l2c", {"shift": 0.0}, "shift must be a positive number, got 0.0"),
        ("l2c", {"l1": -1.0}, "l1 must be a positive number, got -1.0"),
        ("harmonica", {"lambda_c": 0}, "lambda_c must be a positive number, got 0"),
        ("lazydit", {"rho": 0.0}, "rho must be a positive number, got 0.0"),
        ("lazydit", {"run": replace(RUN, sequence_parallel=2)}, "sequence_parallel must be 1 for"),
        ("block-caching", {"delta": 0.0}, "delta must be a positive number, got 0.0"),
        ("blockdance-ada", {"lambda_q": 0.0}, "lambda_q must be a positive number, got 0.0"),
        ("blockdance-ada", {"rollouts": 1}, "rollouts must be at least 2, got 1"),
        ("blockdance-ada", {"rho": 4}, "rho must be from 1 to 3, below the sampler's steps, got 4"),
        ("fastcache", {"run": replace(RUN, sequence_parallel=2)}, "sequence_parallel must be 1 f"),
        ("l2c", {"run": replace(RUN, compile=True)}, "compile does not go with stage cache"),
    ],
)
def test_illegal_settings_are_refused(name: str, changes: dict, message: str) -> None:
    settings: dict[str, Any] = {"run": RUN, "dit": "dit"} | changes
    with pytest.raises(ValueError, match=message):
        STAGES[name](**settings)
