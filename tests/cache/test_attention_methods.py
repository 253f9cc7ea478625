"""Stand-ins at attention: against their formulas written out, under graphs, and what they count."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cache_draws import CONFIG, CPU, OPS, SCALE, models
from disca_rt.attention.masks import Window, pack, share_of, unpack
from disca_rt.attention.protocol import Attention, AttentionInputs, With
from disca_rt.attention.some_keys import attend, attend_within
from disca_rt.cache.attention_plan import (
    AttentionPlan,
    compression_loss,
    fit_plan,
    read_plan,
    write_plan,
)
from disca_rt.cache.kept import SampleShape, kept_bytes
from disca_rt.cache.method import Parts, sketched
from disca_rt.cache.plan import Act, Setting, StepPlan
from disca_rt.cache.policies import build_policy, resolve
from disca_rt.cache.policy import Policy, Slot, check_plans
from disca_rt.cache.site import Site
from disca_rt.cache.stand_in import Moment
from disca_rt.cache.stand_ins import sparse_delta
from disca_rt.cache.stand_ins.head_masks import HeadMasks
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.cache.stand_ins.sparse_delta import _uniform
from disca_rt.conditioning import Conditioning
from disca_rt.config import MODELS
from disca_rt.graphs.runner import GraphRunner
from disca_rt.instruments.stopwatch import Stopwatch
from disca_rt.models.dit import DiT, StepInputs
from disca_rt.models.stream import Branch, PendingSum, materialise
from disca_rt.parallel._native import Partition
from disca_rt.parallel.sharded import check_heads_are_whole
from disca_rt.sampling.denoiser import Denoiser
from disca_rt.sampling.guidance import Guidance
from disca_rt.schedule import Schedule, shifted
from disca_rt.tokens import TokenLayout, Vector
from disca_rt.work.flops import sample_flops
from golden_vectors import relative_error
from recorded import record

GRID, TEXT = (3, 4, 3), 5
IMG = 36
PARTS = Parts(CONFIG, OPS)
Attend = Callable[[int, int, int, AttentionInputs], Tensor]
"""Step, pass, block, and the arguments: an attention's output."""


def noise() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, CONFIG.in_channels, 3, 8, 6, generator=generator)


def conditions(passes: int = 1) -> list[Conditioning]:
    """Texts of another length in each pass, and a shorter one in the second sample."""
    generator, found = torch.Generator().manual_seed(4), []
    for tokens in (TEXT, TEXT - 2)[:passes]:
        mask = torch.ones(2, tokens, dtype=torch.long)
        mask[1, 2:] = 0
        states = torch.randn(2, tokens, CONFIG.text_dim, generator=generator)
        pooled = torch.randn(2, CONFIG.text_dim_2, generator=generator)
        found.append(Conditioning(states, mask, pooled))
    return found


def sample(
    denoiser: Denoiser, text: str, steps: int, passes: int = 1, watched: bool = False
) -> Tensor:
    schedule, policy = resolve(shifted(steps, 3.0), text, PARTS)
    with torch.no_grad():
        return denoiser.denoise(
            noise(),
            conditions(passes),
            schedule=schedule,
            policy=policy,
            guidance=Guidance(None, SCALE if passes == 2 else None),
            stopwatch=Stopwatch(CPU),
            on_step=(lambda event: None) if watched else None,
        )


class Instead:
    """Stands in at the attention of one block, as a written-out loop has it."""

    names = frozenset()

    def __init__(self, instead: Callable[[AttentionInputs], Tensor]) -> None:
        self.instead = instead

    def around(self, attention: Attention) -> With:
        return With(attention, self.instead)

    def __call__(
        self, name: str, compute: Callable[[], Tensor], gate: Vector | None = None
    ) -> Branch:
        return Branch(compute(), gate)


@torch.no_grad()
def written_out(dit: DiT, attend: Attend, steps: int, passes: int = 1) -> Tensor:
    """A sample in which each attention is `attend`'s."""
    latents = noise()
    prepared = [dit.prepare(each, latents.shape) for each in conditions(passes)]
    schedule: Schedule = shifted(steps, 3.0)
    for step in schedule:
        velocities = []
        for number, each in enumerate(prepared):
            t = torch.tensor([step.t] * 2)
            tokens, context = dit.embed(latents, StepInputs(t, None, None), each)
            for block in range(len(dit.blocks)):
                hook = Instead(
                    lambda inputs, at=(step.index, number, block): attend(*at, inputs).flatten(3)
                )
                stream = dit.blocks[block]((PendingSum(tokens),), context, hook)
                tokens = materialise(stream, OPS)
            velocities.append(dit.velocity(tokens, context, each))
        velocity = velocities[0]
        if passes == 2:
            velocity = velocities[1] + SCALE * (velocities[0] - velocities[1])
        latents = latents + velocity * (step.sigma_next - step.sigma)
    return latents


def to_keys(inputs: AttentionInputs, keys: Tensor) -> Tensor:
    """Attention of each query to its keys `[B, H, S, S]`, written out."""
    scores = torch.einsum("bqhd,bkhd->bhqk", inputs.q, inputs.k) / inputs.q.shape[-1] ** 0.5
    if inputs.valid is not None:
        keys = keys & inputs.valid[:, None, None]
    weights = scores.masked_fill(~keys, float("-inf")).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, inputs.v)


def lse(inputs: AttentionInputs) -> Tensor:
    scores = torch.einsum("bqhd,bkhd->bhqk", inputs.q, inputs.k) / inputs.q.shape[-1] ** 0.5
    if inputs.valid is not None:
        scores = scores.masked_fill(~inputs.valid[:, None, None], float("-inf"))
    return scores.logsumexp(-1)


def tile_groups(tile: tuple[int, int, int], tokens: int) -> list[list[int]]:
    """Groups of queries: whole tiles of the grid, then what is left of T, H and W, then text."""
    whole = [side // edge * edge for side, edge in zip(GRID, tile, strict=True)]
    places = [(t, h, w) for t in range(GRID[0]) for h in range(GRID[1]) for w in range(GRID[2])]

    def key(place: tuple[int, int, int]) -> tuple:
        for axis in range(3):
            if place[axis] >= whole[axis]:
                return 1 + axis, place
        return 0, tuple(x // edge for x, edge in zip(place, tile, strict=True)), place

    order = [places.index(place) for place in sorted(places, key=key)]
    order += range(IMG, tokens)
    size = tile[0] * tile[1] * tile[2]
    return [order[i : i + size] for i in range(0, tokens, size)]


class Chipmunk:
    """Chipmunk's formulas, one group, head and sample at a time."""

    def __init__(self, tile: tuple[int, int, int], top: float, random: float, full: tuple) -> None:
        self.tile, self.top, self.random, self.full = tile, top, random, full
        self.lse: dict[tuple, Tensor] = {}
        self.keys: dict[tuple, Tensor] = {}
        self.delta: dict[tuple, Tensor] = {}

    def __call__(self, step: int, number: int, block: int, inputs: AttentionInputs) -> Tensor:
        if block < 2:
            return inputs.to_all_keys()
        at = number, block
        if step not in self.full:
            return self.delta[at] + to_keys(inputs, self.keys[at])
        out, now = inputs.to_all_keys(), lse(inputs)
        self.keys[at] = self.choose(inputs, self.lse.get(at, now))
        self.lse[at] = now
        self.delta[at] = out - to_keys(inputs, self.keys[at])
        return out

    def choose(self, inputs: AttentionInputs, before: Tensor) -> Tensor:
        batch, tokens, heads, width = inputs.q.shape
        keys = torch.zeros(batch, heads, tokens, tokens, dtype=torch.bool)
        for b in range(batch):
            valid = tokens if inputs.valid is None else int(inputs.valid[b].sum())
            for h in range(heads):
                for number, group in enumerate(tile_groups(self.tile, tokens)):
                    sums = torch.zeros(tokens)
                    for query in group:
                        scores = inputs.k[b, :valid, h] @ inputs.q[b, query, h] / width**0.5
                        if query < valid:
                            sums[:valid] += torch.exp(scores - before[b, h, query])
                    chosen = set(sums.topk(round(self.top * tokens)).indices.tolist())
                    drawn = _uniform(torch.arange(number * tokens, (number + 1) * tokens))
                    chosen |= set(torch.nonzero(drawn < self.random).flatten().tolist())
                    chosen |= set(range(IMG, tokens))
                    if any(query >= IMG for query in group):
                        chosen = set(range(tokens))
                    for query in group:
                        keys[b, h, query, list(chosen)] = True
        return keys


@pytest.mark.parametrize(
    ("tile", "random", "passes", "gathered"),
    [((1, 2, 2), 0.0, 1, 2**24), ((2, 1, 3), 0.2, 2, 2**24), ((2, 1, 3), 0.2, 1, 0)],
)
def test_chipmunk_is_its_formulas(
    tile: tuple, random: float, passes: int, gathered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse_delta, "GATHERED", gathered)
    denoiser = models().denoiser
    sides = ",".join(map(str, tile))
    text = f"chipmunk:full_step_schedule=0,1,3,voxel_shape={sides},counts_multiple_of=1"
    text += f",top_keys=0.2,random_keys={random}"
    expected = written_out(denoiser.dit, Chipmunk(tile, 0.2, random, (0, 1, 3)), 5, passes)
    assert relative_error(sample(denoiser, text, 5, passes), expected) <= 1e-5
    full = sample(denoiser, "full", 5, passes)
    assert relative_error(expected, full) > 1e-4, "the sparse steps differ from full ones"


def test_chipmunk_with_all_keys_is_full_attention() -> None:
    denoiser = models().denoiser
    text = "chipmunk:top_keys=1,voxel_shape=1,2,2,counts_multiple_of=1"
    assert relative_error(sample(denoiser, text, 8), sample(denoiser, "full", 8)) <= 1e-5


def test_keys_are_chosen_once_without_recompute_mask() -> None:
    denoiser = models().denoiser
    text = "chipmunk:small,top_keys=0.2,full_step_schedule=0,1,"
    once = sample(denoiser, f"{text}4,recompute_mask=false", 7)
    assert not torch.equal(once, sample(denoiser, f"{text}4", 7))
    alone = sample(denoiser, f"{text[:-1]},recompute_mask=false", 4)
    assert torch.equal(alone, sample(denoiser, text[:-1], 4)), "two full steps choose alike"


@pytest.mark.parametrize("text", ["chipmunk:small,top_keys=0.2,skip_step_schedule=3"])
def test_captured_samples_are_eager_ones(text: str) -> None:
    eager = sample(models().denoiser, text, 4, 2)
    for watched in (True, False):
        captured = models(graphs=GraphRunner(CPU, record)).denoiser
        for _ in range(3):
            assert torch.equal(sample(captured, text, 4, 2, watched), eager)
        assert captured.graphs.captures > 0


def test_the_published_settings_have_their_counts() -> None:
    plans = plans_of("chipmunk:with-step-reuse", 50)
    labels = [plan.label for plan in plans]
    assert [i for i, label in enumerate(labels) if label == "full"] == [0, 1, 10, 40]
    assert (labels.count("predicted"), labels.count("sparse")) == (25, 21)
    assert [p.label for p in plans_of("chipmunk", 50)].count("sparse") == 46
    moved = [i for i, plan in enumerate(plans_of("chipmunk", 20)) if plan.label == "full"]
    assert moved == [0, 1, 4, 16]


def plans_of(text: str, steps: int) -> tuple[StepPlan, ...]:
    schedule, policy = resolve(shifted(steps, 7.0), text, sketched(MODELS["hunyuan-video"]))
    return policy.known_plans(Setting(tuple(schedule), 1, len(policy.slots)))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_are_full_ones_as_far_as_the_list_goes(steps: int) -> None:
    denoiser = models().denoiser
    expected = sample(denoiser, "full", steps)
    assert relative_error(sample(denoiser, "chipmunk:small", steps), expected) <= 1e-6


def test_attention_counts_the_pairs_that_are_computed() -> None:
    dit, latents = MODELS["hunyuan-video"], (16, 33, 88, 88)
    policy = build_policy("chipmunk", sketched(dit))
    acts = [StepPlan(((act,),)) for act in (Act.RUN, Act.KEEP, Act.STAND_IN)]
    full, kept, sparse = (sample_flops(policy, [each], dit, latents, (256,)) for each in acts)
    tokens = 33 * 44 * 44 + 256
    products = 58 * 4 * tokens**2 * dit.hidden  # of all blocks but the first two
    share = 1 - (full - sparse) / products
    assert share == pytest.approx(0.05 + 0.0095 + 2 * 256 / tokens, rel=0.05)
    assert (kept - full) / products == pytest.approx(share)
    replaced = Policy("reuse", policy.rule, (Slot(policy.slots[0].site, Reuse()),))
    assert full - sample_flops(replaced, [acts[2]], dit, latents, (256,)) == products


@pytest.mark.parametrize("reach", [0, 1, 30, 64, 100, 1000])
@pytest.mark.parametrize(("img", "text"), [(200, 7), (64, 0), (9, 3)])
def test_a_window_leaves_out_what_is_in_no_querys_reach(reach: int, img: int, text: int) -> None:
    """Equal to attention under its mask, of the products that it counts and no others."""
    generator, tokens = torch.Generator().manual_seed(5), img + text
    q, k, v = (torch.randn(2, tokens, 2, 16, generator=generator) for _ in range(3))
    valid = torch.ones(2, tokens, dtype=torch.bool)
    valid[1, tokens - text // 2 :] = False
    layout = TokenLayout(img, None, grid=(1, 1, img))
    inputs = AttentionInputs(q, k, v, valid, layout, lambda *_: q)
    window = Window(reach, img, tokens)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        found = attend_within(inputs, window)
    assert relative_error(found, attend(inputs, window)) <= 1e-6
    assert counted.get_total_flops() == round(window.share * tokens**2) * 4 * 2 * 32
    own = window.keys(torch.arange(tokens)).double().mean().item()
    assert own <= window.share + 1e-9
    assert window.share <= 1 + 1e-9


def test_windows_of_a_large_grid_save_nearly_all_pairs() -> None:
    window = Window(64, 63888, 64144)
    share = (2 * 64 + 64 + 256) / 64144 + 256 / 64144
    assert window.share == pytest.approx(share, rel=0.01)


def test_what_is_kept_at_attention() -> None:
    policy = build_policy("chipmunk", sketched(MODELS["hunyuan-video"]))
    shape = SampleShape(
        MODELS["hunyuan-video"],
        torch.bfloat16,
        CPU,
        (1, 16, 33, 88, 88),
        63888,
        ((63888, 256),),
    )
    tokens, groups = 64144, 335
    each = tokens * 3072 * 2 + 24 * groups * tokens // 8 + 24 * tokens * 4
    assert kept_bytes(policy, shape).device == 58 * each
    halved = shape._replace(attended=((tokens, 12),))
    assert kept_bytes(policy, halved).device == 29 * each, "a rank of two has half of the heads"


def test_masks_are_kept_as_bits() -> None:
    mask = torch.rand(2, 3, 13, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(unpack(pack(mask), 13), mask)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("chipmunk:top_keys=2", "top_keys must be from 0 to 1, got 2"),
        ("chipmunk:voxel_shape=4,6", "voxel_shape must be three sides"),
        ("chipmunk:full_step_schedule=1,2", "must have step 0"),
        ("chipmunk:full_step_schedule=0,2,skip_step_schedule=2", "got 2 in both"),
        (
            "chipmunk:with-step-reuse",
            "with-step-reuse is for 50 steps, this sample has 9: give --steps 50, or",
        ),
        ("chipmunk:first_n_dense_layers=4", "must leave some of 4 blocks, got 4"),
    ],
)
def test_a_wrong_option_says_what_is_right(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        resolve(shifted(9, 3.0), text, PARTS)


def test_attention_that_is_replaced_is_not_kept() -> None:
    names = ("img_attn", "txt_attn", "attn")
    sites = Site("branch", 0, 4, names), Site("attention", 1, 2)
    policy = Policy(
        "mine", build_policy("full", PARTS).rule, tuple(Slot(site, Reuse()) for site in sites)
    )
    setting = Setting(tuple(shifted(2, 3.0)), 1, 2)
    plans = [StepPlan(((Act.KEEP, act),)) for act in (Act.RUN, Act.KEEP)]
    plans[1] = StepPlan(((Act.STAND_IN, Act.KEEP),))
    with pytest.raises(ValueError, match="slot 1 of pass 0 is to be kept or checked"):
        check_plans(policy, setting, plans)


WAYS = {
    "f": "full_attn",
    "o": "output_share",
    "w": "residual_window_attn",
    "F": "full_attn+cfg_attn_share",
    "W": "residual_window_attn+cfg_attn_share",
}


def plan_file(path: Path, *steps: str) -> str:
    ways = tuple(tuple(WAYS[each] for each in of_step) for of_step in steps)
    write_plan(AttentionPlan(ways), path)
    assert read_plan(path) == AttentionPlan(ways)
    return f"ditfastattn:window_size=3,plan={path}"


class DiTFastAttn:
    """DiTFastAttn's formulas, by letters of `WAYS`."""

    def __init__(self, *steps: str) -> None:
        self.steps = steps
        self.last: dict[tuple, Tensor] = {}
        self.rest: dict[tuple, Tensor] = {}

    def __call__(self, step: int, number: int, block: int, inputs: AttentionInputs) -> Tensor:
        way, at = self.steps[step][block], (number, block)
        if way == "o":
            return self.last[at]
        places = torch.arange(inputs.k.shape[1])
        near = (places[:, None] - places).abs() <= 3
        near |= (places >= IMG) | (places[:, None] >= IMG)
        within = to_keys(inputs, near[None, None])
        out = within + self.rest[at] if way in "wW" else inputs.to_all_keys()
        if way in "FW" and number == 1:
            text = inputs.to_all_keys()[:, IMG:]
            out = torch.cat([self.last[0, block][:, :IMG], text], dim=1)
        if way in "fF":
            self.rest[at] = out - within
        self.last[at] = out
        return out


@pytest.mark.parametrize(
    ("steps", "passes"), [(("ffff", "wofw", "woww", "fwwo"), 1), (("ffff", "FWwo", "wFoW"), 2)]
)
def test_ditfastattn_is_its_formulas(steps: tuple, passes: int, tmp_path: Path) -> None:
    denoiser = models().denoiser
    text = plan_file(tmp_path / "plan.json", *steps)
    expected = written_out(denoiser.dit, DiTFastAttn(*steps), len(steps), passes)
    found = sample(denoiser, text, len(steps), passes)
    assert relative_error(found, expected) <= 1e-5
    full = sample(denoiser, "full", len(steps), passes)
    assert relative_error(expected, full) > 1e-4
    captured = models(graphs=GraphRunner(CPU, record)).denoiser
    for _ in range(2):
        assert torch.equal(sample(captured, text, len(steps), passes), found)


def test_ditfastattn_without_a_plan_attends_in_windows() -> None:
    denoiser = models().denoiser
    expected = written_out(denoiser.dit, DiTFastAttn("ffff", "wwww", "ffff"), 3)
    found = sample(denoiser, "ditfastattn:window_size=3", 3)
    assert relative_error(found, expected) <= 1e-5
    assert relative_error(sample(denoiser, "ditfastattn", 3), sample(denoiser, "full", 3)) <= 1e-5


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (("ffff", "wwww"), "plan is of 2 steps, got 3; make one of as many"),
        (("fff", "www", "fff"), "plan is of 3 blocks, and the model has 4"),
        (("ffff", "FFFF", "ffff"), "needs classifier-free guidance, got one pass"),
    ],
)
def test_a_plan_that_does_not_fit_says_why(steps: tuple, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        sample(models().denoiser, plan_file(tmp_path / "plan.json", *steps), 3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "cannot be read"),
        ('{"ways": [["full_attn"], ["half_attn"]]}', "got 'half_attn'"),
        ('{"ways": [["output_share"]]}', "must be full_attn in its first step"),
        ('{"ways": [["full_attn"], []]}', "as many blocks in each step"),
    ],
)
def test_a_file_that_is_no_plan_says_why(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=reason):
        build_policy(f"ditfastattn:plan={tmp_path / 'plan.json'}", PARTS)


class Costs:
    """Outputs whose loss against full attention is the sum of the ways' costs; no model."""

    def __init__(self, cost: dict[str, float]) -> None:
        self.cost, self.advanced = cost, []

    def output(self, step: int, ways: tuple[str, ...]) -> Tensor:
        return torch.tensor([1.0 + sum(self.cost[way] for way in ways)])

    def advance(self, step: int, ways: tuple[str, ...]) -> None:
        self.advanced.append(ways)


def test_a_plan_is_fitted_block_by_block_by_the_first_way_that_is_good_enough() -> None:
    names = [WAYS[each] for each in "foWwF"]
    trials = Costs(dict(zip(names, (0.0, 0.26, 0.16, 0.05, 0.5), strict=True)))
    plan = fit_plan(trials, 3, 4, 0.6, loss=lambda a, b: (b - a).abs().item())
    # Bounds 0.15, 0.3, 0.45 and 0.6: first only 0.05 is less, later the second way's 0.16 more.
    assert plan.ways[0] == (names[0],) * 4
    assert plan.ways[1] == plan.ways[2] == (names[3], names[2], names[2], names[2])
    assert trials.advanced == list(plan.ways)


def test_the_loss_of_a_plan_is_the_authors() -> None:
    a, b = torch.tensor([1.0, 2.0, -1.0, -1e-6]), torch.tensor([1.5, 1.0, -2.0, 3.0])
    expected = (0.5 / 1.5 + 1.0 / 2.0 + 1.0 / 1.0 + 1.0) / 4
    assert compression_loss(a, b) == pytest.approx(expected, rel=1e-4)
    assert compression_loss(torch.tensor([-2e-6]), torch.tensor([-1.0])) == 10.0


class RainFusion:
    """RainFusion's masks, one head and sample at a time; every 12th image query is a sample."""

    def __init__(self, threshold: float) -> None:
        self.threshold, self.found = threshold, set()

    def __call__(self, step: int, number: int, block: int, inputs: AttentionInputs) -> Tensor:
        if step == 0:
            return inputs.to_all_keys()
        batch, tokens, heads, width = inputs.q.shape
        keys = torch.ones(batch, heads, tokens, tokens, dtype=torch.bool)
        places = [(t, h, w) for t in range(GRID[0]) for h in range(GRID[1]) for w in range(GRID[2])]
        space = torch.tensor([[a[0] == b[0] for b in places] for a in places])
        time = torch.tensor(
            [[abs(a[1] - b[1]) <= 1 and abs(a[2] - b[2]) <= 1 for b in places] for a in places]
        )
        board = torch.tensor([[sum(b) % 2 == 0 for b in places] for _ in places])
        for b in range(batch):
            valid = tokens if inputs.valid is None else int(inputs.valid[b].sum())
            for h in range(heads):
                recalls = {"space": 0.0, "time": 0.0}
                for query in (0, 12, 24):
                    weights = (inputs.k[b, :valid, h] @ inputs.q[b, query, h] / width**0.5).softmax(
                        0
                    )
                    for name, mask in (("space", space), ("time", time)):
                        share = weights[:IMG][mask[query]].sum() + weights[IMG:].sum()
                        recalls[name] += float(share) / 3
                best = max(recalls, key=recalls.get)
                kind = best if recalls[best] >= self.threshold else "board"
                self.found.add(kind)
                keys[b, h, :IMG, :IMG] = {"space": space, "time": time, "board": board}[kind]
        return to_keys(inputs, keys)


def test_rainfusion_is_its_formulas() -> None:
    denoiser = models().denoiser
    written = RainFusion(0.4)
    expected = written_out(denoiser.dit, written, 3)
    assert written.found == {"space", "time", "board"}, "heads of all kinds"
    text = "rainfusion:threshold=0.4,spatial_width=0,temporal_width=1,samples=3"
    assert relative_error(sample(denoiser, text, 3), expected) <= 1e-5


def test_heads_within_their_masks_attend_to_everything() -> None:
    denoiser = models().denoiser
    text = "rainfusion:threshold=0,spatial_width=9"
    assert relative_error(sample(denoiser, text, 3), sample(denoiser, "full", 3)) <= 1e-5
    textural = sample(denoiser, "rainfusion:threshold=inf", 3)
    assert relative_error(textural, written_out(denoiser.dit, RainFusion(float("inf")), 3)) <= 1e-5


@pytest.mark.parametrize("grid", [(3, 5, 3), (1, 4, 4), (6, 1, 2)])
@pytest.mark.parametrize("text", [0, 4])
def test_masks_of_heads_leave_out_blocks_and_count_what_is_left(grid: tuple, text: int) -> None:
    """Each is equal to attention under it, and what a head's mask leaves out is not computed."""
    img = math.prod(grid)
    heads = HeadMasks(samples=1, spatial_width=0, temporal_width=1, threshold=float("inf"))
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(2, img + text, 2, 16, generator=generator) for _ in range(3))
    valid = torch.ones(2, img + text, dtype=torch.bool)
    valid[1, img + text // 2 :] = False
    layout = TokenLayout(img, None, grid=grid)
    inputs = AttentionInputs(q, k, v, valid, layout, lambda *_: q)
    for mask in heads._masks(grid, img + text):
        assert relative_error(attend_within(inputs, mask), attend(inputs, mask)) <= 1e-6
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        heads.value((), Moment(None, None, None, attention=inputs))
    *_, board = (share_of(each) for each in heads._masks(grid, img + text))
    queried = 1 / (2 * (img + text))
    assert counted.get_total_flops() == round((board + queried) * (img + text) ** 2 * 4 * 2 * 32)
    assert heads.pair_shares(grid, text).value >= board + queried, "of the mask with most pairs"


@pytest.mark.parametrize(
    ("ranks", "chunks", "got"), [(4, 1, "a ring of 2 and 1"), (1, 2, "a ring of 1 and 2")]
)
def test_heads_that_do_not_attend_to_all_keys_at_once_are_refused(
    ranks: int, chunks: int, got: str
) -> None:
    shared = {"img_tokens": 8, "txt_tokens": 2, "heads": 2, "row_bytes": 256}
    partition = Partition(
        **shared, ranks=ranks, ranks_per_node=0, ulysses_degree=0, head_chunks=chunks
    )
    with pytest.raises(ValueError, match=got):
        check_heads_are_whole(partition)
