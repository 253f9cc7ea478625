"""A batch under a policy that measures: decided together, or each sample by itself."""

import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cache_draws import CONFIG, OPS, Draw, models
from cache_rules import Measuring
from disca_rt.cache.method import Parts
from disca_rt.cache.plan import Probe
from disca_rt.cache.policies import build_policy
from disca_rt.cache.policy import Policy, Slot
from disca_rt.cache.site import Site
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.commands.progress import Bar
from disca_rt.conditioning import Conditioning
from disca_rt.graphs.runner import GraphRunner
from disca_rt.pipeline.request import Request
from disca_rt.pipeline.runtime import Runtime
from disca_rt.sampling.loop import Cancelled, StepEvent
from disca_rt.schedule import shifted
from recorded import record

STEPS = 8
DRAW = Draw(None, (), None, shifted(STEPS, 3.0), True, 3, 7)
MEASURING = Policy(
    "measuring",
    Measuring(Probe("modulated"), 0.2),
    (Slot(Site("blocks", 0, 4), Reuse("delta")),),
)
MIXED = build_policy("mixcache:theta=inf,d=0.5,0.8,I_cfg=0.5", Parts(CONFIG, OPS))
CHOOSING = build_policy("ras:scheduler_end_step=8,scheduler_start_step=2", Parts(CONFIG, OPS))
STATIC = build_policy("taylor:interval=3", Parts(CONFIG, OPS))


def runtime(graphs: GraphRunner | None = None) -> Runtime:
    return Runtime(models().denoiser.dit, graphs=graphs)


def request(policy: Policy, row: slice = slice(None), **more: object) -> Request:
    positive, negative = DRAW.conditions
    return Request(
        conditioning=positive.rows(row),
        negative=negative.rows(row),
        latents=DRAW.latents[row],
        schedule=DRAW.schedule,
        policy=policy,
        classifier_free_scale=3.0,
        **more,
    )


def alone(runtime: Runtime, policy: Policy) -> Tensor:
    """The samples, each sampled as if there was no other."""
    rows = [slice(i, i + 1) for i in range(3)]
    return torch.cat([runtime.run(request(policy, row)).latents for row in rows])


@pytest.mark.parametrize("policy", [MEASURING, MIXED, CHOOSING])
def test_each_sample_is_what_it_is_alone_unless_all_decide_together(policy: Policy) -> None:
    ours = runtime()
    expected = alone(ours, policy)
    assert len({*DRAW.conditions[0].text_mask.sum(1).tolist()}) > 1, "texts of unequal lengths"
    assert torch.equal(ours.run(request(policy)).latents, expected)
    assert torch.equal(ours.run(request(policy, decide="per-sample")).latents, expected)
    together = ours.run(request(policy, decide="together")).latents
    assert (together - expected).abs().max() > 1e-3, "one decision for all"


def test_known_plans_run_in_one_batch_unless_it_is_asked_for() -> None:
    ours, counts = runtime(), {}
    for decide in (None, "together", "per-sample"):
        events: list[StepEvent] = []
        sample = ours.run(request(STATIC, decide=decide), on_step=events.append)
        counts[decide] = len(events), sample.times["full steps"].count
        if decide == "per-sample":
            assert torch.equal(sample.latents, alone(ours, STATIC))
    assert counts == {None: (8, 3), "together": (8, 3), "per-sample": (24, 9)}


def test_steps_of_samples_run_one_after_the_other_are_counted_through() -> None:
    events: list[StepEvent] = []
    shapes: list[torch.Size] = []

    def note(event: StepEvent) -> None:
        events.append(event)
        shapes.append(event.latents.shape)

    sample = runtime().run(request(MEASURING), on_step=note)
    assert [event.done for event in events] == [*range(1, 3 * STEPS + 1)]
    assert {event.total for event in events} == {3 * STEPS}
    assert [event.turn.sample for event in events] == [0] * STEPS + [1] * STEPS + [2] * STEPS
    assert {shape[0] for shape in shapes} == {1}
    assert sum(t.count for name, t in sample.times.items() if name.endswith("steps")) == 3 * STEPS
    with Bar("sampling", STEPS, is_shown=False) as bar:
        bar.on_step(events[-1])
        (task,) = bar._progress.tasks
        assert (task.completed, task.total) == (3 * STEPS, 3 * STEPS)


def test_a_batch_is_cancelled_within_a_sample_and_leaves_no_trace() -> None:
    ours, cancel = runtime(), threading.Event()

    def stop(event: StepEvent) -> None:
        if event.done == STEPS + 3:
            cancel.set()

    with pytest.raises(Cancelled, match="cancelled before step 3 of 8, sample 1 of 3"):
        ours.run(request(MEASURING), on_step=stop, cancel=cancel)
    assert torch.equal(ours.run(request(MEASURING)).latents, alone(runtime(), MEASURING))


@pytest.mark.parametrize("policy", [MEASURING, STATIC])
def test_captured_samples_of_a_batch_are_eager_ones(policy: Policy) -> None:
    captured, graphs = runtime(GraphRunner(torch.device("cpu"), record)), runtime()
    expected = alone(graphs, policy)
    for _ in range(3):
        latents = captured.run(request(policy, decide="per-sample")).latents
        assert torch.equal(latents, expected)
    assert captured.graphs.captures > 0


def test_a_wrong_way_to_decide_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"decide must be one of \['together', 'per-sample'\]"):
        request(STATIC, decide="each")


def test_rows_of_a_conditioning_are_those_of_all_its_tensors() -> None:
    whole = replace(DRAW.conditions[0], vision_states=torch.zeros(3, 2, 4))
    second = whole.rows(slice(1, 2))
    assert isinstance(second, Conditioning)
    for name, tensor in whole.tensors().items():
        assert torch.equal(getattr(second, name), tensor[1:2])
