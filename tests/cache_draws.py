"""Draws of hypothesis over the seam of caches: rule, site, stand-in, schedule and guidance."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from cache_rules import Measuring, Verified
from disca_rt.attention.protocol import Attention
from disca_rt.cache.decision_network import shapes
from disca_rt.cache.gate_file import write_gates
from disca_rt.cache.method import Parts
from disca_rt.cache.network_file import write_network
from disca_rt.cache.placements.branches import pairs
from disca_rt.cache.plan import Probe, Setting, StepPlan
from disca_rt.cache.policies import build_policy
from disca_rt.cache.policy import Policy, Slot
from disca_rt.cache.ranges import middles
from disca_rt.cache.rules.between import SomeRows
from disca_rt.cache.rules.blockdance_ada import ByNetwork
from disca_rt.cache.rules.dbcache import DBCache
from disca_rt.cache.rules.dicache import DiCache
from disca_rt.cache.rules.easycache import EasyCache
from disca_rt.cache.rules.fbcache import FirstBlock
from disca_rt.cache.rules.interval import Interval
from disca_rt.cache.rules.listed import Listed
from disca_rt.cache.rules.magcache import MagCache
from disca_rt.cache.rules.teacache import TeaCache
from disca_rt.cache.site import DOUBLE, IN_BLOCKS, Site
from disca_rt.cache.stand_ins.adams_bashforth import AdamsBashforth
from disca_rt.cache.stand_ins.aligned import Aligned
from disca_rt.cache.stand_ins.diffusers_taylor import DiffusersTaylor
from disca_rt.cache.stand_ins.drawn_rows import DrawnRows
from disca_rt.cache.stand_ins.fed import Fed
from disca_rt.cache.stand_ins.foca import FoCa
from disca_rt.cache.stand_ins.freqca import FreqCa
from disca_rt.cache.stand_ins.frequency_bands import FrequencyBands
from disca_rt.cache.stand_ins.half_taylor import HalfTaylor
from disca_rt.cache.stand_ins.hyca import SOLVERS, HyCa
from disca_rt.cache.stand_ins.last_two import LastTwo
from disca_rt.cache.stand_ins.learned import Learned
from disca_rt.cache.stand_ins.less_noise import LessNoise
from disca_rt.cache.stand_ins.polynomial import Hermite, Taylor
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.cache.stand_ins.scaled_change import ScaledChange
from disca_rt.cache.stand_ins.taylorseer import HiCache, TaylorSeer
from disca_rt.conditioning import Conditioning
from disca_rt.config import DiTConfig, predictor_config
from disca_rt.graphs.runner import GraphRunner
from disca_rt.instruments.stopwatch import Stopwatch
from disca_rt.kernels.ops import get_ops
from disca_rt.measure.random_models import fill_randomly
from disca_rt.models.build import build_dit, build_predictor
from disca_rt.sampling.denoiser import Denoiser
from disca_rt.sampling.guidance import Guidance
from disca_rt.schedule import Schedule, shifted

CPU = torch.device("cpu")
OPS = get_ops("reference")
CONFIG = DiTConfig(
    in_channels=2,
    hidden=32,
    heads=4,
    double=2,
    single=2,
    rope=(4, 2, 2),
    text_dim=8,
    text_dim_2=6,
)
BLOCKS = CONFIG.double + CONFIG.single
SCALE = 3.0


class Models(NamedTuple):
    """A random model, and samples of it."""

    denoiser: Denoiser
    predictor: torch.nn.Module

    def sample(self, draw: "Draw", watched: bool = False) -> tuple[Tensor, list[StepPlan]]:
        """The latents, and the plans by which the steps ran; `watched`: step by step."""
        plans: list[StepPlan] = []
        rule = Remembering(draw.rule, plans)
        policy = Policy("drawn", rule, draw.slots(self.predictor))
        with torch.no_grad():
            latents = self.denoiser.denoise(
                draw.latents,
                draw.conditions,
                schedule=draw.schedule,
                policy=policy,
                guidance=Guidance(None, SCALE if draw.guided else None),
                stopwatch=Stopwatch(CPU),
                on_step=(lambda event: None) if watched else None,
            )
        setting = Setting(tuple(draw.schedule), len(draw.conditions), len(policy.slots))
        return latents, plans if rule.probes else list(policy.known_plans(setting))


def sampled(built: Models, draw: "Draw", text: str, watched: bool = False) -> Tensor:
    """The latents of a draw's inputs by the policy that `text` describes."""
    with torch.no_grad():
        return built.denoiser.denoise(
            draw.latents,
            draw.conditions,
            schedule=draw.schedule,
            policy=build_policy(text, Parts(CONFIG, OPS)),
            guidance=Guidance(None, SCALE if draw.guided else None),
            stopwatch=Stopwatch(CPU),
            on_step=(lambda event: None) if watched else None,
        )


class Remembering:
    """A rule, whose plans are noted down; equal where the rules are."""

    def __init__(self, rule: object, plans: list[StepPlan]) -> None:
        self.rule, self.plans = rule, plans
        self.probes, self.start, self.decide = rule.probes, rule.start, rule.decide
        self.head, self.gives, self.network = rule.head, rule.gives, rule.network

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remembering) and self.rule == other.rule

    def __hash__(self) -> int:
        return hash(self.rule)

    def remember(self, setting, step, plan, seen, memory):
        self.plans.append(plan)
        return self.rule.remember(setting, step, plan, seen, memory)


def models(attention: Attention | None = None, graphs: GraphRunner | None = None) -> Models:
    """The same weights each time."""
    built = {"ops": OPS, "attention": attention, "device": CPU, "dtype": torch.float32}
    dit = build_dit(CONFIG, **built)
    predictor = build_predictor(predictor_config(CONFIG), **built)
    for seed, module in enumerate((dit, predictor)):
        fill_randomly(module, seed)
    return Models(Denoiser(dit, graphs), predictor)


class Draw(NamedTuple):
    """One drawn sample."""

    rule: object
    site: Site | tuple[Site, ...]
    stand_in: object
    schedule: Schedule
    guided: bool
    batch: int
    seed: int
    begins: bool = False  # with a clean first frame
    slots_of: tuple[Slot, ...] = ()  # of a policy, in place of `site` and `stand_in`

    def slots(self, predictor: torch.nn.Module) -> tuple[Slot, ...]:
        if self.slots_of:
            return self.slots_of
        sites = (self.site,) if isinstance(self.site, Site) else self.site
        learned = {Learned: Learned(predictor), Fed: Fed(predictor, OPS)}
        stand_in = learned.get(self.stand_in, self.stand_in)
        return tuple(Slot(site, stand_in) for site in sites)

    @property
    def latents(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(self.batch, CONFIG.in_channels, 2, 4, 4, generator=generator)

    @property
    def first_frame(self) -> Tensor:
        return self.latents[:, :, 1:].flip(3)

    @property
    def conditions(self) -> list[Conditioning]:
        generator = torch.Generator().manual_seed(self.seed + 1)
        mask = torch.ones(self.batch, 3, dtype=torch.long)
        mask[1:, 2] = 0  # a shorter text in the second sample
        positive = Conditioning(
            torch.randn(self.batch, 3, CONFIG.text_dim, generator=generator),
            mask,
            torch.randn(self.batch, CONFIG.text_dim_2, generator=generator),
            first_frame_latents=self.first_frame if self.begins else None,
        )
        negative = replace(positive, text_states=positive.text_states.flip(2))
        return [positive, negative] if self.guided else [positive]


@st.composite
def draws(draw: st.DrawFn) -> Draw:
    guided = draw(st.booleans())
    steps = draw(st.integers(2, 6))
    levels = ["blocks", "branch", "attention", "velocity", "rows"] + ["guidance"] * guided
    level = draw(st.sampled_from(levels))
    start = draw(st.integers(0, BLOCKS - 1))
    stop = draw(st.integers(start + 1, BLOCKS))
    branches = [Site("branch", start, stop, names) for names in (EVERY_BRANCH, NAMES, PART)]
    branches.append(branches[0]._replace(gated=True))
    site = {
        "blocks": Site("blocks", start, stop),
        "branch": draw(st.sampled_from(branches)),
        "attention": Site("attention", start, stop),
        "guidance": Site("guidance"),
        "velocity": Site("velocity"),
        "rows": (Site("branch", 0, BLOCKS, NAMES[:3]), Site("branch", 0, BLOCKS, MLPS)),
    }[level]
    stand_ins = [Reuse(), Taylor(OPS, draw(st.integers(0, 3))), Hermite(OPS, 1), draw(forecasts())]
    stand_ins += [AdamsBashforth(OPS, draw(st.integers(1, 3)), draw(st.booleans()))]
    stand_ins += [Reuse("delta"), Aligned(OPS), ScaledChange()] * (level not in IN_BLOCKS)
    stand_ins += [LastTwo(OPS, last_two=draw(st.sampled_from(["all", "computed"])))]
    stand_ins += [FrequencyBands(OPS, CONFIG)] * (level == "guidance")
    stand_ins += [LessNoise()] * (level == "velocity")
    stand_ins += [Learned, Fed, draw(bands())] * (level == "blocks")
    if level == "rows":
        stand_ins = [
            DrawnRows(OPS, 0, draw(st.integers(0, 9)), None, CONFIG, draw(st.sampled_from(RATIOS)))
        ]
    stand_in = draw(st.sampled_from([each for each in stand_ins if fits(each, level)]))
    placed = draw(st.sampled_from(PLACED)) if level == "branch" and draw(st.booleans()) else None
    above = [Site("guidance")] * guided + [Site("velocity")]
    is_below = level in ("blocks", "branch") and fits(stand_in, "velocity")
    if is_below and not placed and draw(st.booleans()):
        site = site, draw(st.sampled_from(above))
    later = draw(st.sets(st.integers(1, steps - 1)))
    before = start if level in ("blocks", *IN_BLOCKS) else 0
    threshold = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0, float("inf")]))
    rules = [
        Listed((0, *sorted(later))),
        Interval(draw(st.integers(1, 4)), draw(st.integers(1, 3))),
        Measuring(Probe("modulated"), threshold),
        Measuring(Probe("latents", "kept", norm="l2"), threshold),
        Measuring(Probe("residual", "kept", after=before), threshold),
        Measuring(Probe("tokens", after=before), threshold),
    ]
    rules += [ByNetwork(CONFIG, str(learned_network(steps)))]
    rules += [TeaCache(threshold, (1.0, 0.0)), EasyCache(threshold, 1), MagCache(threshold)]
    has_probe = level != "rows" and (level not in IN_BLOCKS or start > 0)
    rules += [DiCache(threshold, 0.0, max(before, 1))] * has_probe
    if guided and isinstance(site, Site) and level in ("blocks", "branch"):
        rules += [DiCache(threshold, 0.0, max(before, 1), per_pass=True)] * has_probe
        rules += [MagCache(threshold, mag_ratios=(1.0, 0.9), mag_ratios_2=(0.7, 1.2))]
    rules += [Verified(threshold)] * (level == "blocks" and isinstance(site, Site))
    rules += [SomeRows(draw(st.integers(1, 4)), draw(st.integers(1, 3)))] * 9 * (level == "rows")
    rules += [FirstBlock(threshold, draw(st.booleans()))] * (level == "blocks")
    if draw(st.integers(0, 7)) == 0:  # a rule that plans for its own slots
        site = tuple(each.site for each in middles(CONFIG, 1, 0))
        stand_in = draw(st.sampled_from([Reuse(), Reuse("delta"), Taylor(OPS, 1)]))
        separate = draw(st.booleans())
        rules = [DBCache(CONFIG, 1, 0, threshold, 1, cfg_diff_compute_separate=separate)]
        placed = None
    rule = draw(st.sampled_from(rules))
    if placed is not None:
        policy = build_policy(placed.format(file=learned_file(steps)), Parts(CONFIG, OPS))
        rule, site = policy.rule, tuple(slot.site for slot in policy.slots)
    return Draw(
        rule,
        site,
        stand_in,
        shifted(steps, 3.0),
        guided,
        draw(st.integers(1, 2)),
        draw(st.integers(0, 99)),
        draw(st.booleans()),
    )


@st.composite
def forecasts(draw: st.DrawFn) -> object:
    """A stand-in that forecasts, with options of any kind."""
    order, first = draw(st.integers(0, 3)), draw(st.integers(1, 4))
    few = draw(st.lists(st.sampled_from([*SOLVERS]), min_size=4, max_size=4))
    return draw(
        st.sampled_from(
            [
                TaylorSeer(OPS, order, first, 2, "fixed"),
                TaylorSeer(OPS, order, first),
                HiCache(OPS, order, first, hicache_scale_factor=0.7),
                HiCache(OPS, order, first, analytic_sigma=True),
                DiffusersTaylor(OPS, order),
                HalfTaylor(OPS),
                FoCa(OPS),
                FoCa(OPS, "cache-dit"),
                HyCa(OPS, tuple(few)),
            ]
        )
    )


@st.composite
def bands(draw: st.DrawFn) -> FreqCa:
    """A forecast by bands, with options of any kind."""
    order = draw(st.integers(0, 3))
    return FreqCa(
        OPS,
        order,
        draw(st.integers(0, order)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from(["hermite", "taylor"])),
        draw(st.sampled_from(["FFT", "DCT", "None"])),
        draw(st.sampled_from([0.1, 0.6, 1.0])),
    )


def fits(stand_in: object, level: str) -> bool:
    return ("branch" if level == "rows" else level) in stand_in.levels


NAMES = "img_attn", "txt_attn", "attn", "mlp"
MLPS = "img_mlp", "txt_mlp", "mlp"
RATIOS = 0.0, 0.1, 0.5, 1.0
PART = "txt_attn", "img_mlp", "mlp_part"
EVERY_BRANCH = (*DOUBLE, "total")  # all of a block of either kind

PLACED = (
    "pab:mlp_timesteps=900,500,mlp_blocks=14,spatial_attention_timestep_skip_range=0,1001",
    "feb-cache:interval=2,a=1.02,b=0.98",
    "adacache:codebook=0.3:3,1.0:2,9.0:1",
    "adacache:codebook=0.3:3,1.0:2,9.0:1,apply_moreg=true",
    "l2c:gates={file},thres=0.5",
    "lazydit:heads={file}",
)
"""Policies whose rules plan for slots of their own."""


@cache
def learned_file(steps: int) -> Path:
    """Random gates and heads of BranchPairs' slots, which nobody learned."""
    path = Path(_FOLDER.name) / f"{steps}.safetensors"
    generator = torch.Generator().manual_seed(steps)
    slots = sum(1 for _ in pairs(CONFIG))
    gates = torch.rand(steps, slots, generator=generator)
    heads = torch.randn(steps, slots, CONFIG.hidden, generator=generator)
    write_gates(path, {"gates": gates, "heads": heads}, CONFIG, "drawn")
    return path


@cache
def learned_network(steps: int, rho: int = 1) -> Path:
    """A random network of BlockDance-Ada's, which nobody trained, for the steps after `rho`."""
    path = Path(_FOLDER.name) / f"network-{steps}-{rho}.safetensors"
    generator = torch.Generator().manual_seed(steps)
    weights = {
        name: torch.randn(shape, generator=generator)
        for name, shape in shapes(CONFIG, steps - rho).items()
    }
    write_network(path, weights, rho, CONFIG)
    return path


_FOLDER = TemporaryDirectory()
