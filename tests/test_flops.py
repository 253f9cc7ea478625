"""The FLOP count: against the paper's Table 4, and against what PyTorch counts while running."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cache_draws import EVERY_BRANCH
from disca_rt.attention.local import LocalAttention
from disca_rt.cache.method import Parts, sketched
from disca_rt.cache.plan import Act, Setting, StepPlan
from disca_rt.cache.policies import build_policy, resolve
from disca_rt.cache.policy import Policy, Slot
from disca_rt.cache.rules.interval import Interval
from disca_rt.cache.site import Site
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.conditioning import Conditioning
from disca_rt.config import MODELS, DiTConfig, get_model_config, predictor_config
from disca_rt.instruments.stopwatch import Stopwatch
from disca_rt.kernels.ops import get_ops
from disca_rt.measure.random_models import fill_randomly
from disca_rt.models.build import build_dit, build_predictor
from disca_rt.models.dit import StepInputs
from disca_rt.sampling.denoiser import Denoiser
from disca_rt.sampling.guidance import Guidance
from disca_rt.schedule import PRESETS, shifted
from disca_rt.tiny.config import TINY
from disca_rt.vae.sizes import SIZES
from disca_rt.work.flops import sample_flops, step_flops
from train.small import SMALL_15

TOLERANCE = 0.015


@pytest.fixture(scope="module")
def paper_step():
    dit = get_model_config("hunyuan-video-meanflow")
    latents = SIZES[dit.family].latent_shape(129, 704, 704)
    assert latents == (16, 33, 88, 88)
    return step_flops(dit, predictor_config(dit), latents, text_tokens=256)


def test_one_step_is_the_papers(paper_step) -> None:
    assert paper_step.full / 1e12 == pytest.approx(3945.52, rel=TOLERANCE)
    assert paper_step.predicted / 1e12 == pytest.approx(135.37, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("preset", "passes", "tflop"),
    [
        ("full-50", 2, 394_552),
        ("disca-n2", 1, 52_239),
        ("disca-n3", 1, 44_619),
        ("disca-n4", 1, 33_189),
    ],
)
def test_table_4(paper_step, preset: str, passes: int, tflop: float) -> None:
    dit = get_model_config("hunyuan-video-meanflow")
    name = "full" if preset == "full-50" else "disca"
    schedule, policy = resolve(PRESETS[preset], name, sketched(dit))
    plans = policy.known_plans(Setting(tuple(schedule), passes, len(policy.slots)))
    ours = sample_flops(policy, plans, dit, (16, 33, 88, 88), (256,) * passes)
    assert ours / 1e12 == pytest.approx(tflop, rel=TOLERANCE)


FULL_STEP, PAB_STEP = 3945.52, 630.8  # TFLOP of the paper's, the second with attention reused
PAPER_BASELINES = [  # full steps of 50, and what another step costs, of the paper's Table 4
    ("delta-dit", 10, FULL_STEP * 20 / 60),
    ("delta-dit", 7, FULL_STEP * 20 / 60),
    ("pab", 10, PAB_STEP),
    ("pab", 8, PAB_STEP),
    ("teacache", 19.1, 0),
    ("teacache", 10.3, 0),
    ("fora", 20, 0),
    ("fora", 9, 0),
    ("taylorseer", 20, 0),
    ("taylorseer", 11, 0),
]
SITES = {
    "delta-dit": Site("blocks", 20, 60),
    "pab": Site("branch", 0, 60, ("img_attn", "txt_attn", "attn")),
    "teacache": Site("blocks", 0, 60),
    "fora": Site("branch", 0, 60, EVERY_BRANCH),
    "taylorseer": Site("branch", 0, 60, EVERY_BRANCH),
}


@pytest.mark.parametrize(("method", "full_steps", "tflop"), PAPER_BASELINES)
def test_baselines_of_table_4(method: str, full_steps: float, tflop: float) -> None:
    """At the counts that follow from its FLOPs; TeaCache's are means over prompts."""
    full, cached = two_steps(SITES[method])
    ours = full_steps * full + (50 - full_steps) * cached
    paper = full_steps * FULL_STEP + (50 - full_steps) * tflop
    assert ours / 1e12 == pytest.approx(paper, rel=TOLERANCE)


@pytest.mark.parametrize(("preset", "tflop"), [("disca-n5", 64_687), ("disca-n8", 58_058)])
def test_presets_of_pab_cost_what_they_do_in_table_4(preset: str, tflop: float) -> None:
    assert sampled(f"pab:{preset}") / 1e12 == pytest.approx(tflop, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("fora:disca-n3", 20),
        ("fora:disca-n6", 9),
        ("taylorseer:disca-n3", 20),
        ("taylorseer:disca-n6", 11),
    ],
)
def test_presets_of_branches_cost_what_they_do_in_table_4(text: str, count: int) -> None:
    assert sampled(text) / 1e12 == pytest.approx(count * FULL_STEP, rel=TOLERANCE)


@pytest.mark.parametrize(("preset", "count"), [("N5", 10), ("N8", 7)])
def test_presets_of_delta_dit_cost_what_they_do_in_table_4(preset: str, count: int) -> None:
    """The 40 single blocks of 60 are left out in the other steps."""
    paper = (count + (50 - count) / 3) * FULL_STEP
    assert sampled(f"delta-dit:{preset}") / 1e12 == pytest.approx(paper, rel=TOLERANCE)


def sampled(text: str) -> int:
    """FLOPs of 50 steps of the paper's size by the policy of a text."""
    dit = MODELS["hunyuan-video-meanflow"]
    policy = build_policy(text, sketched(dit))
    plans = policy.known_plans(Setting(tuple(shifted(50, 7.0)), 1, len(policy.slots)))
    return sample_flops(policy, plans, dit, (16, 33, 88, 88), (256,))


def two_steps(site: Site) -> list[int]:
    """FLOPs of a full step of the paper's size, and of one in which `site` is reused."""
    policy = Policy("counted", Interval(2), (Slot(site, Reuse()),))
    plans = policy.known_plans(Setting(tuple(shifted(2, 5.0)), 1, 1))
    dit = MODELS["hunyuan-video-meanflow"]
    return [sample_flops(policy, [plan], dit, (16, 33, 88, 88), (256,)) for plan in plans]


def test_what_a_slot_replaces_is_not_counted(paper_step) -> None:
    """PAB as DisCa ran it: all joint attention reused, 630.8 of 3,945.5 TFLOP are left."""
    full, cached = two_steps(SITES["pab"])
    assert full == paper_step.full
    assert cached / 1e12 == pytest.approx(PAB_STEP, rel=0.005)
    _, ranged = two_steps(SITES["delta-dit"])
    assert ranged / paper_step.full == pytest.approx(20 / 60, rel=0.01)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(SMALL_15, meanflow=True),
        replace(TINY, embed_channels=2 * TINY.in_channels + 1),
        replace(TINY, token_replace=True, double=8),
    ],
    ids=["1.0", "1.5", "1.0 with an image", "1.0 with a clean first frame"],
)
def test_count_is_what_pytorch_counts(config: DiTConfig) -> None:
    latent_shape = (config.in_channels, 3, 8, 12)
    attention = LocalAttention("math")  # PyTorch's counter does not know the fused CPU kernel
    dit = build_dit(config, attention=attention, device="cpu")
    predictor = build_predictor(predictor_config(config), attention=attention, device="cpu")
    for parameter in (*dit.parameters(), *predictor.parameters()):
        torch.nn.init.normal_(parameter, std=0.02)
    conditioning, text_tokens = _conditioning(config, latent_shape)
    prepared = dit.prepare(conditioning, (1, *latent_shape))
    t = torch.tensor([500.0])
    step = StepInputs(t, t if config.meanflow else None, t if config.guidance_embed else None)
    latents = torch.randn(1, *latent_shape)
    expected = step_flops(config, predictor_config(config), latent_shape, text_tokens)
    with FlopCounterMode(display=False) as counted_full:
        dit(latents, step, prepared)
    with FlopCounterMode(display=False) as counted_predicted:
        tokens, context = dit.embed(latents, step, prepared)
        dit.velocity(predictor(tokens, tokens, context), context, prepared)
    assert counted_full.get_total_flops() == pytest.approx(expected.full, rel=0.005)
    assert counted_predicted.get_total_flops() == pytest.approx(expected.predicted, rel=0.005)


@pytest.mark.parametrize("stand_in", ["taylorseer-hidden:first_enhance=1", "disca-fed"])
def test_drafts_that_are_given_up_are_counted(stand_in: str) -> None:
    attention, ops = LocalAttention("math"), get_ops("reference")
    dit = build_dit(TINY, ops=ops, attention=attention, device="cpu")
    predictor = build_predictor(predictor_config(TINY), ops=ops, attention=attention, device="cpu")
    for seed, module in enumerate((dit, predictor)):
        fill_randomly(module, seed)
    shape, plans = (TINY.in_channels, 2, 8, 8), []
    conditioning, text_tokens = _conditioning(TINY, shape)
    rejecting = "speca:mode=rollback,min_taylor_steps=1,base_threshold=0,min_threshold=0"
    policy = build_policy(f"{rejecting}+{stand_in}", Parts(TINY, ops, predictor))
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        Denoiser(dit).denoise(
            torch.randn(1, *shape),
            [conditioning],
            schedule=shifted(4, 3.0),
            policy=policy,
            guidance=Guidance(6.0 if TINY.guidance_embed else None, None),
            stopwatch=Stopwatch(torch.device("cpu")),
            on_step=lambda event: plans.append(event.plan),
        )
    assert [plan.label for plan in plans] == ["full"] * 4
    assert [len(plan.given_up) for plan in plans] == [0, 1, 1, 1]
    ours = sample_flops(policy, plans, TINY, shape, (text_tokens,))
    assert ours == pytest.approx(counted.get_total_flops(), rel=0.005)


def _conditioning(config: DiTConfig, latent_shape: tuple[int, ...]) -> tuple[Conditioning, int]:
    mask = torch.ones(1, 9, dtype=torch.int64)
    states = torch.randn(1, 9, config.text_dim)
    channels, *sides = config.condition_channels, *latent_shape[1:]
    condition = torch.zeros(1, channels, *sides) if channels else None
    if config.family == "hunyuan-video-1.0":
        pooled, first = torch.randn(1, config.text_dim_2), None
        if config.token_replace:
            first = torch.zeros(1, config.in_channels, 1, *sides[1:])
        conditioning = Conditioning(states, mask, pooled, cond_latents=condition)
        return replace(conditioning, first_frame_latents=first), 9
    conditioning = Conditioning(
        states,
        mask,
        byt5_text_states=torch.randn(1, 5, config.byt5_dim),
        byt5_text_mask=torch.zeros(1, 5, dtype=torch.int64),
        vision_states=torch.zeros(1, 4, config.vision_dim),
        cond_latents=condition,
    )
    return conditioning, 9


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("hunyuan-video-cfgdistill", 12.82),
        ("hunyuan-video-meanflow", 12.83),
        ("hunyuan-video-1.5", 8.3),
    ],
)
def test_published_sizes_build_on_meta(name: str, billions: float) -> None:
    dit = build_dit(MODELS[name])
    assert all(p.device.type == "meta" for p in dit.parameters())
    count = sum(p.numel() for p in dit.parameters())
    assert count / 1e9 == pytest.approx(billions, rel=0.005)


def test_predictor_size_and_its_share_of_the_work(paper_step) -> None:
    dit = get_model_config("hunyuan-video-meanflow")
    predictor = build_predictor(predictor_config(dit))
    assert sum(p.numel() for p in predictor.parameters()) / 1e6 == pytest.approx(311.5, abs=0.1)
    assert paper_step.predicted / paper_step.full < 0.04


def test_the_embedded_models_predicted_step_is_at_most_0_15_of_a_full_one() -> None:
    step = step_flops(TINY, predictor_config(TINY), (12, 5, 12, 16), text_tokens=16)
    assert step.predicted / step.full <= 0.15


def test_a_draft_that_runs_no_pass_costs_nothing() -> None:
    """One at the velocity: the step's vector and text are its full run's."""
    policy = Policy("drafting", Interval(1), (Slot(Site("velocity"), Reuse()),))
    full, draft = StepPlan(((Act.KEEP,),), "full"), StepPlan(((Act.STAND_IN,),), "predicted")
    counted = [
        sample_flops(policy, [plan], TINY, (TINY.in_channels, 2, 8, 8), (9,))
        for plan in (full, full._replace(given_up=(draft,)))
    ]
    assert counted[0] == counted[1] > 0
