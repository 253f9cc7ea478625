"""Methods that reuse branches: their step lists, their slots, and samples written out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from cache_draws import CONFIG, CPU, OPS, SCALE, Draw, Models, learned_file, models, sampled
from cache_oracle import Oracle
from disca_rt.cache.calibration import Uncalibrated
from disca_rt.cache.gate_file import FORMAT, write_gates
from disca_rt.cache.method import Parts, sketched
from disca_rt.cache.plan import Act, Setting, StepPlan
from disca_rt.cache.policies import build_policy, resolve
from disca_rt.cache.policy import Policy
from disca_rt.cache.rules.feb_cache import COMPUTED
from disca_rt.cache.rules.interval import Interval
from disca_rt.cache.site import DOUBLE, Site
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.config import MODELS
from disca_rt.graphs.runner import GraphRunner
from disca_rt.kernels import reference
from disca_rt.models.stream import materialise
from disca_rt.schedule import Schedule, from_timesteps, shifted
from disca_rt.work.flops import sample_flops
from golden_vectors import relative_error
from recorded import record

PARTS = Parts(CONFIG, OPS)
BIG = sketched(MODELS["hunyuan-video"])
RUN, KEEP, STAND_IN = Act.RUN, Act.KEEP, Act.STAND_IN


def acts(policy: Policy, schedule: Schedule, slot: int = 0) -> list[Act]:
    """What a slot does at each step of one pass."""
    plans = policy.known_plans(Setting(tuple(schedule), 1, len(policy.slots)))
    return [plan.passes[0][slot] for plan in plans]


def computed(text: str, steps: int = 50, parts: Parts = BIG) -> list[int]:
    """The steps at which the first slot of a policy is computed."""
    found = acts(build_policy(text, parts), shifted(steps, 7.0))
    return [index for index, act in enumerate(found) if act is not STAND_IN]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("fora", [*range(0, 50, 3)]),
        ("fora:fresh_threshold=6", [*range(0, 50, 6)]),
        ("fora:last_step_full=true", [0, *range(1, 50, 3)]),
        ("fora:fresh_threshold=6,last_step_full=true", [0, *range(1, 50, 6)]),
        ("fora:disca-n3", [*range(5), *range(7, 50, 3)]),
        ("fora:disca-n6", [*range(0, 50, 6)]),
        ("fora:step_list=0,4,9", [0, 4, 9]),
        ("fora:fresh_threshold=99", [0]),
        ("fora:fresh_threshold=99,last_step_full=true", [0, 49]),
        ("fora:fresh_threshold=1", [*range(50)]),
        ("pab:disca-n5", [*range(0, 50, 5)]),
        ("pab:disca-n8", [*range(0, 50, 8), 49]),
    ],
)
def test_full_steps_are_those_of_papers_and_code(text: str, steps: list[int]) -> None:
    assert computed(text) == steps


def test_counts_are_the_papers() -> None:
    """FORA's code counts down: 18 and 10 of 50; DisCa's table has 20 and 9, and 10 and 8 of PAB."""
    down = [f"fora:fresh_threshold={n},last_step_full=true" for n in (3, 6)]
    presets = "fora:disca-n3", "fora:disca-n6", "pab:disca-n5", "pab:disca-n8"
    assert [len(computed(text)) for text in (*down, *presets)] == [18, 10, 20, 9, 10, 8]


@pytest.mark.parametrize("text", ["fora", "fora:last_step_full=true", "pab", "pab:open-sora"])
@pytest.mark.parametrize("steps", [1, 2])
def test_one_and_two_steps(text: str, steps: int) -> None:
    assert computed(text, steps)[0] == 0


def test_pab_outside_its_window_computes_every_step() -> None:
    text = "pab:spatial_attention_timestep_skip_range=400,800,spatial_attention_block_skip_range=3"
    schedule = from_timesteps([900, 850, 800, 700, 600, 500, 401, 400, 200])
    found = acts(build_policy(text, PARTS), schedule)
    assert found == [KEEP, KEEP, KEEP, KEEP, STAND_IN, STAND_IN, KEEP, KEEP, KEEP]


def test_pab_broadcasts_mlps_after_some_steps() -> None:
    policy = build_policy("pab:mlp_timesteps=864,788,mlp_skip_count=2,mlp_blocks=14", PARTS)
    schedule = from_timesteps([1000, 900, 860, 840, 800, 780, 700, 600, 500])
    of_mlps = [RUN, RUN, KEEP, STAND_IN, STAND_IN, KEEP, STAND_IN, STAND_IN, RUN]
    assert acts(policy, schedule, slot=1) == of_mlps
    assert policy.slots[1].site == Site("branch", 0, 2, ("img_mlp", "txt_mlp", "mlp_part"))


@pytest.mark.parametrize(
    ("identifiers", "blocks"),
    [
        ("default", (0, 60)),
        ("transformer_blocks", (0, 20)),
        ("single_transformer_blocks", (20, 60)),
        ("transformer_blocks,single_transformer_blocks", (0, 60)),
    ],
)
def test_pab_of_some_attentions(identifiers: str, blocks: tuple[int, int]) -> None:
    (slot,) = build_policy(f"pab:identifiers={identifiers}", BIG).slots
    assert (slot.site.start, slot.site.stop) == blocks


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("fora:fresh_threshold=0", "fresh_threshold must be a whole number at least 1, got 0"),
        ("fora:max_order=1", "max_order must be 0, got 1; taylorseer has others"),
        ("fora:fresh_ratio=0.1", "fresh_ratio must be 0, got 0.1; toca has others"),
        ("fora:fresh_threshold=3,step_list=0,1", "got fresh_threshold and step_list"),
        ("pab:spatial_attention_timestep_skip_range=800,100", "two rising numbers such as 100,800"),
        ("pab:spatial_attention_block_skip_range=0", "skip_range must be a whole number at least"),
        ("pab:identifiers=blocks", "identifiers must be default, or names of"),
        ("pab:mlp_timesteps=500,mlp_blocks=29", "mlp_blocks must be from 1 to 28, got 29"),
        ("feb-cache:states=1,0", r"states must be of \[0, 1, 2, 3\] and begin with 0, got 1,0"),
        ("feb-cache:states=0,4", "begin with 0, got 0,4"),
        ("adacache:codebook=0.2:3,0.1:2", "codebook must be rising changes with rates such as"),
        ("adacache:codebook=0.2", "codebook must be rising changes with rates such as"),
        ("adacache:codebook=0.2:0", "a rate of codebook must be a whole number at least 1, got 0"),
        ("adacache:cache_loc=20", "cache_loc must be from 0 to 19, got 20"),
        ("lazydit", r"policy lazydit needs heads=FILE \(threshold\), got neither"),
    ],
)
def test_a_wrong_option_says_what_is_right(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_policy(text, BIG)


def test_single_blocks_named_in_a_model_without_any() -> None:
    with pytest.raises(ValueError, match="that the model has, got single_transformer_blocks"):
        build_policy(
            "pab:identifiers=single_transformer_blocks", sketched(MODELS["hunyuan-video-1.5"])
        )


def drawn(text: str, steps: int, guided: bool = False, batch: int = 1, seed: int = 0) -> Draw:
    """A sample by a policy whose rule plans for its own slots."""
    policy = build_policy(text, PARTS)
    sites = tuple(slot.site for slot in policy.slots)
    return Draw(policy.rule, sites, Reuse(), shifted(steps, 3.0), guided, batch, seed)


def written_out(eager: Models, draw: Draw, plans: list[StepPlan]) -> tuple[torch.Tensor, Oracle]:
    """The latents by the loop of `cache_oracle`, and what it kept."""
    dit = eager.denoiser.dit
    oracle = Oracle(dit, Policy("drawn", draw.rule, draw.slots(eager.predictor)), SCALE)
    with torch.no_grad():
        prepared = [dit.prepare(each, draw.latents.shape) for each in draw.conditions]
        return oracle.sample(draw.schedule, plans, draw.latents, prepared, None), oracle


@pytest.fixture(scope="module")
def eager() -> Models:
    return models()


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("moreg", [False, True])
def test_adacache_is_its_authors_loop(moreg: bool, guided: bool, eager: Models) -> None:
    """Steps by the change, and the motion, of what image attention of block 1 added."""
    book = [(0.12, 4), (0.25, 3), (0.6, 2), (9.0, 1)]
    steps, size = 20, 2.0
    text = ",".join(f"{limit}:{rate}" for limit, rate in book)
    options = (
        f"codebook={text},cache_loc=1,apply_moreg={str(moreg).lower()},moreg_hyp=0.9,2.0,{size}"
    )
    draw = drawn(f"adacache:{options if moreg else options.rsplit(',moreg', 1)[0]}", steps, guided)
    latents, plans = eager.sample(draw, watched=True)
    by_loop, oracle = written_out(eager, draw, plans)
    assert relative_error(latents, by_loop) <= 1e-4
    values, gates = (oracle.kept[(0, 0, place)] for place in BLOCK_1)
    added = {step: v * g[:, :1] for (step, v, _), (_, g, _) in zip(values, gates, strict=True)}
    due, rate, before, computed = 0, 1, 1.0, []
    for step in range(steps):
        if step != due and step not in (0, steps - 2, steps - 1):
            continue
        computed.append(step)
        if step:
            now, old = added[step], added[computed[-2]]
            change = ((now - old).abs().sum() / old.abs().sum() / rate).item()
            factor = 1.0
            if moreg:
                frames = now.unflatten(1, (2, -1))
                later, sooner = frames[:, 1:], frames[:, :-1]
                moved = (later - sooner).abs().sum() / (later.abs().sum() + sooner.abs().sum())
                motion = (moved.item() / 0.9) ** 2 / size if 2 <= step + 1 <= 18 else 1.0
                factor, before = motion + 10 * abs(motion - before) / rate, motion
            rate = next(rate for limit, rate in book if change * factor < limit or limit == 9.0)
        due = step + rate
    assert [i for i, plan in enumerate(plans) if plan.label == "full"] == computed
    assert len(computed) < steps, "and some steps are reused"


BLOCK_1 = (1, "img_attn"), (1, "img_attn", "gate")


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_adacache_of_few_steps_computes_them(steps: int, eager: Models) -> None:
    _, plans = eager.sample(drawn("adacache", steps), watched=True)
    assert [plan.label for plan in plans] == ["full"] * steps


def test_adacache_measures_the_block_of_the_authors_share() -> None:
    found = [
        build_policy("adacache", sketched(MODELS[name])).slots[0].site.start
        for name in ("hunyuan-video", "hunyuan-video-1.5")
    ]
    assert found == [19, 25], "block 20 of 1.0"


def test_reused_gated_branches_are_as_they_were(eager: Models) -> None:
    """With all blocks' branches and gates of the first step a second step adds the same."""
    site = Site("branch", 0, 4, (*DOUBLE, "total"), gated=True)
    draw = Draw(Interval(9), site, Reuse(), shifted(3, 3.0), False, 2, 0, begins=True)
    pre_gate, plans = eager.sample(draw._replace(site=site._replace(gated=False)))
    post_gate, _ = eager.sample(draw)
    assert relative_error(post_gate, written_out(eager, draw, plans)[0]) <= 1e-4
    assert not torch.equal(pre_gate, post_gate)


@pytest.mark.parametrize("guided", [False, True])
def test_lazydit_computes_what_its_heads_say(guided: bool, eager: Models) -> None:
    draw = drawn(f"lazydit:heads={learned_file(6)}", 6, guided, batch=2)
    latents, plans = eager.sample(draw, watched=True)
    entering: list[torch.Tensor] = []  # of each block, pass after pass
    vectors: list[torch.Tensor] = []

    def at_block(block: torch.nn.Module, args: tuple) -> None:
        entering.append(materialise(args[0], OPS)[:, : args[1].layout.img_len].clone())
        vectors.append(args[1].vec.clone())

    blocks = eager.denoiser.dit.blocks
    hooks = [block.register_forward_pre_hook(at_block) for block in blocks]
    by_loop, _ = written_out(eager, draw, plans)
    for hook in hooks:
        hook.remove()
    assert relative_error(latents, by_loop) <= 1e-4
    heads = load_file(learned_file(6))["heads"]
    for step in range(1, 6):
        expected, slot = [], 0
        for i, block in enumerate(blocks):
            at = (step * (1 + guided)) * len(blocks) + i
            is_double = hasattr(block, "img_mod")
            mod = (block.img_mod if is_double else block.modulation)(vectors[at])
            for shift, scale in (mod[:2], mod[3:5])[: 1 + is_double]:
                z = F.layer_norm(entering[at], entering[at].shape[-1:], eps=1e-6)
                z = z * (1 + scale[:, None]) + shift[:, None]
                score = torch.sigmoid((z @ heads[step, slot]).mean())
                expected.append(KEEP if score >= 0.5 else STAND_IN)
                slot += 1
        assert plans[step].passes == (tuple(expected),) * (1 + guided)
    assert {KEEP, STAND_IN} == {act for plan in plans[1:] for act in plan.passes[0]}


@pytest.mark.parametrize(("threshold", "label"), [(0.0, "full"), (1.1, "predicted")])
def test_lazydit_at_the_ends_of_its_threshold(threshold: float, label: str, eager: Models) -> None:
    text = f"lazydit:heads={learned_file(3)},threshold={threshold}"
    _, plans = eager.sample(drawn(text, 3), watched=True)
    assert [plan.label for plan in plans] == ["full", label, label]


@pytest.mark.parametrize("method", ["l2c", "harmonica"])
def test_gates_above_the_threshold_compute(method: str, eager: Models) -> None:
    draw = drawn(f"{method}:gates={learned_file(5)},thres=0.6", 5, batch=2)
    latents, plans = eager.sample(draw)
    assert relative_error(latents, written_out(eager, draw, plans)[0]) <= 1e-4
    gates = load_file(learned_file(5))["gates"]
    expected = [[KEEP if gate > 0.6 else STAND_IN for gate in row] for row in gates]
    assert [list(plan.passes[0]) for plan in plans] == [[KEEP] * 6, *expected[1:]]
    assert [site.names for site in draw.site[:2]] == [
        ("img_attn", "txt_attn"),
        ("img_mlp", "txt_mlp"),
    ]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (None, r"policy l2c needs gates=FILE \(thres\), got neither"),
        ("nowhere.safetensors", "nowhere.safetensors cannot be read as a file of gates"),
        (
            "version",
            "of format 'disca_rt branch gates', version 1, got .* version 2",
        ),
        ("heads", r"has no gates, got \['heads'\]; give a file that was made for them"),
        ("sizes", "is for a model of double 3, and this one has 2"),
        ("shape", r"gates of .* must be \[steps, 6\], got \[4, 5\]"),
    ],
)
def test_gates_that_do_not_fit_are_refused(file: str | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / f"{file}.safetensors"
    write_gates(
        path,
        *{
            "heads": ({"heads": torch.zeros(4, 6, 32)}, CONFIG),
            "sizes": ({"gates": torch.zeros(4, 7)}, replace(CONFIG, double=3)),
            "shape": ({"gates": torch.zeros(4, 5)}, CONFIG),
        }.get(file, ({"gates": torch.zeros(4, 6)}, CONFIG)),
        "l2c",
    )
    if file == "version":
        save_file(load_file(path), path, {"format": FORMAT, "version": "2"})
    if file is not None and file.endswith("safetensors"):
        path = Path(file)
    with pytest.raises(ValueError, match=reason):
        build_policy("l2c" if file is None else f"l2c:gates={path}", PARTS)


@pytest.mark.parametrize("text", ["l2c:gates", "lazydit:heads"])
def test_a_file_for_other_steps_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is for 5 steps, got 4; sample with as many"):
        resolve(shifted(4, 5.0), f"{text}={learned_file(5)}", PARTS)


def test_a_file_that_changed_is_another_policy(tmp_path: Path) -> None:
    path, policies = tmp_path / "gates.safetensors", []
    for gate in (0.0, 1.0, 0.0):
        write_gates(path, {"gates": torch.full((4, 6), gate)}, CONFIG, "l2c")
        policies.append(build_policy(f"l2c:gates={path}", PARTS))
    assert policies[0] != policies[1]
    assert policies[0] == policies[2]


def test_a_step_that_reuses_one_half_of_single_blocks_does_the_others_work() -> None:
    """Attention reused leaves MLPs with their share of linear2, and the other way round."""
    dit = MODELS["hunyuan-video"]
    policy = build_policy("feb-cache:states=0,1,2,3", BIG)
    plans = policy.known_plans(Setting(tuple(shifted(4, 7.0)), 1, 2))
    size = (16, 33, 88, 88)
    full, mlp, ends, attention = (sample_flops(policy, [p], dit, size, (256,)) for p in plans)
    tokens, width = 33 * 44 * 44 + 256, dit.hidden
    assert mlp - ends == 60 * 2 * tokens * 8 * width**2  # both products, 4 wide
    assert attention - ends == full - mlp
    assert attention - ends == 60 * (2 * tokens * 4 * width**2 + 4 * tokens**2 * width)


def test_noise_of_feb_cache_is_scaled_by_its_level(eager: Models) -> None:
    """The velocity times a above the timestep T0, times b below, eagerly and as one graph."""
    text = "feb-cache:states=0,2,0,2,a=1.02,b=0.98,T0=700"
    draw = drawn(text, 4)
    latents, plans = eager.sample(draw)
    assert relative_error(latents, written_out(eager, draw, plans)[0]) <= 1e-4
    scales = [1.02 if step.t > 700 else 0.98 for step in draw.schedule]
    assert [plan.scale for plan in plans] == scales
    assert {*scales} == {1.02, 0.98}
    unscaled, _ = eager.sample(drawn("feb-cache:states=0,2,0,2", 4))
    assert not torch.equal(unscaled, latents)
    captured = models(graphs=GraphRunner(CPU, record))
    for seed in range(3):
        again = draw._replace(seed=seed)
        for watched in (False, True):
            assert torch.equal(captured.sample(again, watched)[0], eager.sample(again)[0])


def test_states_of_feb_cache_within_a_budget() -> None:
    """Attention's errors are 1 a step and those of both 2; the first step's are not read."""

    def states(text: str) -> list[int]:
        errors = ",".join(["inf", *["1"] * 5]), ",".join(["inf", *["2"] * 5])
        options = f"attention_errors={errors[0]},both_errors={errors[1]}{text}"
        policy = build_policy(f"feb-cache:{options}", BIG)
        plans = policy.known_plans(Setting(tuple(shifted(6, 7.0)), 1, 2))
        state = {computed: number for number, computed in COMPUTED.items()}
        return [state[tuple(act == KEEP for act in plan.passes[0])] for plan in plans]

    assert states(",budget=2") == [0, 2, 1, 0, 2, 1]
    assert states("") == states(",budget=2"), "the median"
    assert states(",budget=0") == [0] * 6
    assert states(",budget=inf") == [0, 2, 2, 2, 2, 2]
    with pytest.raises(Uncalibrated, match="budget needs attention_errors"):
        build_policy("feb-cache:budget=1", BIG)


def test_states_of_feb_cache(eager: Models) -> None:
    draw = drawn("feb-cache:states=0,3,1,2,0,2", 6)
    latents, plans = eager.sample(draw)
    assert relative_error(latents, written_out(eager, draw, plans)[0]) <= 1e-4
    attention, mlp = zip(*(plan.passes[0] for plan in plans), strict=True)
    assert attention == (KEEP, KEEP, STAND_IN, STAND_IN, KEEP, STAND_IN)
    assert mlp == (KEEP, STAND_IN, KEEP, STAND_IN, KEEP, STAND_IN)
    labels = ["full", "partial", "partial", "predicted", "full", "predicted"]
    assert [plan.label for plan in plans] == labels


@pytest.mark.parametrize(
    ("text", "terms"), [("fora:fresh_threshold=2", 1), ("taylorseer:fresh_threshold=2", 2)]
)
def test_replaced_blocks_are_added_to_the_tokens_at_once(
    text: str, terms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sum of image, of text and of joint rows, whatever the number of blocks."""
    seen = []

    def summed(x: torch.Tensor, *pairs: torch.Tensor, **out: torch.Tensor | None) -> torch.Tensor:
        seen.append(len(pairs) // 2)
        return reference.gated_sum(x, *pairs, **out)

    monkeypatch.setattr(OPS, "gated_sum", summed)
    sampled(models(), Draw(None, (), None, shifted(2, 5.0), False, 1, 0), text)
    of_doubles = 2 * CONFIG.double * terms
    assert seen == [of_doubles, of_doubles, CONFIG.single * terms]
