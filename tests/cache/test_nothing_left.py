"""Nothing that one sample leaves in a runtime reaches a later one, whatever the method."""

import threading

import pytest
import torch
from torch import Tensor

from cache_draws import BLOCKS, CONFIG, CPU, OPS, SCALE, Draw, Models, learned_file, models
from disca_rt.cache.method import Parts
from disca_rt.cache.plan import StepPlan
from disca_rt.cache.policies import POLICIES, build_policy
from disca_rt.instruments.stopwatch import Stopwatch
from disca_rt.sampling.denoiser import Denoiser
from disca_rt.sampling.guidance import Guidance
from disca_rt.sampling.loop import Cancelled, StepEvent
from disca_rt.schedule import shifted

STEPS = 6
CURVES = ",".join(["0.1"] * BLOCKS * STEPS)
IN_TURN = "first_enhance=1,fresh_threshold=2"

OPTIONS = {
    "adacache": "codebook=0.5:3,1.0:2,9:1",
    "block-caching": f"curves={CURVES}",
    "blockdance": "interval=2,full_share=0.2",
    "blockdance-ada": "rho=2,reuse=1,0,1,1",
    "chipmunk": "small",
    "clusca": "fresh_threshold=3,cluster_num=2",
    "dbcache": "residual_diff_threshold=0.9,max_warmup_steps=2,calibrator=foca",
    "deepcache-1.5": "cache_start_step=2",
    "dicache": "rel_l1_thresh=2",
    "ditfastattn": "interval=3,window_size=2",
    "duca": "fresh_threshold=4",
    "easycache": "thresh=5,ret_steps=2",
    "ertacache": "step_list=0,1,4,error_scale=0.1,0.2",
    "fastcache": "bound=0.5,motion_threshold=0.75",
    "fastercache": "spatial_attention_timestep_skip_range=-1,1001",
    "fbcache": "threshold=0.9",
    "foca": IN_TURN,
    "fora": "fresh_threshold=2",
    "foresight": "warmup=2,threshold=2",
    "freqca": "interval=2,first_enhance=1",
    "hicache": f"{IN_TURN},max_order=2",
    "hyca": f"{IN_TURN},solvers=bdf2-heun",
    "magcache": "K=2",
    "mixcache": "theta=5",
    "pab": "spatial_attention_timestep_skip_range=0,1001,mlp_timesteps=900,500",
    "profilingdit": "step_start=2,step_cache_list=2,4",
    "ras": "scheduler_start_step=1,error_reset_steps=3",
    "speca": "min_taylor_steps=1,base_threshold=3",
    "ssta": "warmup_steps=4",
    "sta": "warmup_steps=4",
    "t-gate": "gate_step=3",
    "taylorcache-1.5": "cache_start_step=1",
    "taylorseer": f"{IN_TURN},max_order=2",
    "taylorseer-attention": "cache_interval=2",
    "taylorseer-hidden": IN_TURN,
    "taylorseer-lite": "cache_interval=2",
    "teacache": "rel_l1_thresh=0.3",
    "teacache-1.5": "cache_start_step=2",
    "toca": "fresh_threshold=3",
    "tokencache": "fresh_threshold=3",
}
"""Options with which a method has stand-ins within so few steps."""

LEARNED = {name: "gates={},thres=0.5" for name in ("l2c", "harmonica")} | {"lazydit": "heads={}"}


def text_of(name: str) -> str:
    options = OPTIONS.get(name, "interval=2" if POLICIES[name].follows_list else "")
    learned = {
        "l2c": "gates={},thres=0.5",
        "harmonica": "gates={},thres=0.5",
        "lazydit": "heads={}",
    }
    if name in learned:
        options = learned[name].format(learned_file(STEPS))
    return f"{name}:{options}" if options else name


@pytest.fixture(scope="module")
def built() -> Models:
    return models()


def sampled(
    built: Models, denoiser: Denoiser, text: str, latents: Tensor, cancel_at: int = STEPS
) -> tuple[Tensor, list[StepPlan]]:
    draw = Draw(None, (), None, shifted(STEPS, 3.0), True, 2, 3)
    cancel, plans = threading.Event(), []

    def look(event: StepEvent) -> None:
        plans.append(event.plan)
        if event.step.index == cancel_at:
            cancel.set()

    with torch.no_grad():
        done = denoiser.denoise(
            latents,
            draw.conditions,
            schedule=draw.schedule,
            policy=build_policy(text, Parts(CONFIG, OPS, built.predictor)),
            guidance=Guidance(None, SCALE),
            stopwatch=Stopwatch(CPU),
            on_step=look,
            cancel=cancel,
        )
    return done, plans


@pytest.mark.parametrize("name", sorted(POLICIES.keys() - {"edit"}))
def test_a_sample_is_as_if_none_had_been_before_it(name: str, built: Models) -> None:
    """After one that was NaN throughout, one of other latents, and one cancelled midway."""
    text, seeds = text_of(name), (3, 4)
    mine, other = (Draw(None, (), None, shifted(1, 3.0), True, 2, s).latents for s in seeds)
    expected, plans = sampled(built, Denoiser(built.denoiser.dit), text, mine)
    assert expected.isfinite().all()
    if name != "full":
        assert {plan.label for plan in plans} != {"full"}, "its stand-ins are tried"
    denoiser = Denoiser(built.denoiser.dit)
    sampled(built, denoiser, text, torch.full_like(mine, float("nan")))
    assert torch.equal(sampled(built, denoiser, text, mine)[0], expected)
    sampled(built, denoiser, text, other)
    assert torch.equal(sampled(built, denoiser, text, mine)[0], expected)
    with pytest.raises(Cancelled):
        sampled(built, denoiser, text, other, cancel_at=3)
    assert torch.equal(sampled(built, denoiser, text, mine)[0], expected)
