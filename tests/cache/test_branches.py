"""Methods that reuse branches: their step lists, their slots, and samples written out."""

import pytest

from cache_draws import CONFIG, OPS
from disca_rt.cache.plan import Act, Setting
from disca_rt.cache.policies import build_policy
from disca_rt.cache.policy import Policy
from disca_rt.cache.row import Parts, sketched
from disca_rt.cache.site import Site
from disca_rt.config import MODELS
from disca_rt.schedule import Schedule, from_timesteps, shifted

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
    assert policy.slots[1].site == Site("branch", 0, 2, ("img_mlp", "txt_mlp", "mlp"))


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
