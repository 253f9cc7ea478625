"""The plan of one step, as a rule gives it and the sampler carries it out. Hashable: no tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

from ..schedule import Step
from .labels import FULL, PARTIAL, PARTLY, PREDICTED


class Act(IntEnum):
    """One slot's part in one pass of a step."""

    RUN = 0  # compute
    KEEP = 1  # compute, and keep the result for later steps
    STAND_IN = 2  # compute nothing: the stand-in's value is used
    CHECK = 3  # compute for comparison with the stand-in's value, which is used
    REFRESH = 4  # the kept value, some rows of which the stand-in computes anew and keeps


@dataclass(frozen=True)
class Probe:
    """A change that is measured on the device: how far a tensor is from an earlier one.

    `of` says which tensor:

    - "modulated": the input of the first block after LayerNorm and modulation, image rows;
    - "tokens", "image": the tokens after the first `after` blocks, or their image rows;
    - "residual": "image" less the image rows after the first `since` blocks;
    - "latents": those before the step;
    - "patches": the velocity patches of a pass;
    - "velocity": the guided one, in latent space;
    - "slot": the value that slot number `slot` computes under CHECK or KEEP;
    - "score": the mean over image rows of what the rule's linear head of `slot` makes of the
      modulated input of that slot's branch, from the tokens after `after` blocks;
    - "wanted": the mean over samples of output number `output` of the rule's network, which sees
      the latents after the step and the first pass's text.

    `against` says what it is compared with: the same tensor of the step "previous" to this one in
    which it was measured; that of the last step that "kept" something (that slot `kept_by` kept,
    where it is given), or that of the one "before" that; of a slot the "stand-in" 's value; of
    patches those of the "conditional" pass. A score is of a "head", and "wanted" of a "network".

    `norm`: a key of `sampling.probes.NORMS`, or "motion": of a slot's image rows from frame to
    frame, or "moving": image rows of "tokens" that move (`moving_rows`) by `threshold`, over all of
    them. Tensors of one pass are those of pass number `which_pass`.
    """

    of: Literal[
        "modulated",
        "tokens",
        "image",
        "residual",
        "latents",
        "patches",
        "velocity",
        "slot",
        "score",
        "wanted",
    ]
    against: Literal["previous", "kept", "before", "stand-in", "conditional", "head", "network"] = (
        "previous"
    )
    _: KW_ONLY
    norm: str = "l1"
    which_pass: int = 0
    after: int = 0
    since: int = 0
    slot: int = 0
    output: int = 0
    kept_by: int | None = None
    threshold: float = 0.0

    @property
    def stored(self) -> "Stored | None":
        """The tensor that later steps compare with; None where none is stored."""
        if self.against not in STORED:
            return None
        when = "previous" if self.against == "previous" else "kept"
        return Stored(self.of, self.after, self.which_pass, self.since, self.kept_by, when)


STORED = "previous", "kept", "before"


class Stored(NamedTuple):
    """A probe's tensor as it is stored: those of several norms are one.

    `when`: "previous", at every step in which it was measured, or "kept", where something was.
    """

    of: str
    after: int
    which_pass: int
    since: int
    kept_by: int | None
    when: str

    def is_renewed(self, plan: "StepPlan") -> bool:
        """True where a step by `plan` in which it was measured stores it anew."""
        if self.when == "previous":
            return True
        if self.kept_by is None:
            return plan.keeps()
        return plan.passes[self.which_pass][self.kept_by] == Act.KEEP


class Measured(NamedTuple):
    """The two sums of a norm over all ranks; both NaN where nothing is there to compare with."""

    numerator: float
    denominator: float

    @property
    def ratio(self) -> float:
        """numerator / denominator; infinite or NaN over zero."""
        if self.denominator == 0:
            return float("inf") if self.numerator > 0 else float("nan")
        return self.numerator / self.denominator


Seen = Mapping[Probe, Measured]
"""Measurements of the step under way, by probe."""


class StepPlan(NamedTuple):
    """The act of every slot in every pass: `passes[pass][slot]`.

    A pass whose value a "guidance" or "velocity" slot stands in for does not run at all. `watch`
    are probes measured while the plan runs. `given` are scalars for the stand-ins, on the device,
    and after them those of `given_by_pass[pass]`; the step's velocity counts `scale` times. Plans
    that differ in these alone share a graph. Reports count and time steps by their `label`; no
    computation depends on it. `probed`, which the sampler notes and no rule gives, are the blocks
    of each pass that ran for probes before there was a plan; None: the pass was not begun.
    `given_up`, noted likewise, are the drafts that ran before it in vain.
    """

    passes: tuple[tuple[Act, ...], ...]
    label: str = FULL
    watch: tuple[Probe, ...] = ()
    given: tuple[float, ...] = ()
    given_by_pass: tuple[tuple[float, ...], ...] = ()
    scale: float = 1.0
    probed: tuple[int | None, ...] = ()
    given_up: "tuple[StepPlan, ...]" = ()

    @property
    def decisive(self) -> tuple[object, ...]:
        """All that decides the latents after the step: equal ones give the same."""
        return self.passes, self.given, self.given_by_pass, self.scale

    def given_to(self, which_pass: int) -> tuple[float, ...]:
        """The scalars for the stand-ins of pass number `which_pass`."""
        return self.given + (self.given_by_pass[which_pass] if self.given_by_pass else ())

    def replaces(self) -> bool:
        """True where a stand-in is used for something, or for some rows of it."""
        computed = Act.RUN, Act.KEEP
        return any(act not in computed for acts in self.passes for act in acts)

    def keeps(self) -> bool:
        """True where any slot keeps something."""
        return any(Act.KEEP in acts for acts in self.passes)

    def changes(self) -> bool:
        """True where any slot keeps something, or some rows of something."""
        return self.keeps() or any(Act.REFRESH in acts for acts in self.passes)


def labelled(passes: tuple[tuple[Act, ...], ...], watch: tuple[Probe, ...] = ()) -> StepPlan:
    """The plan of these acts: full where nothing stands in, otherwise predicted."""
    stands = any(act in (Act.STAND_IN, Act.CHECK) for acts in passes for act in acts)
    return StepPlan(passes, PREDICTED if stands else FULL, watch)


def label_of_branches(acts: Sequence[Act]) -> str:
    """The label of a step in which the slots of branches act so: some, all or none stand in."""
    if Act.STAND_IN not in acts:
        return FULL
    return PARTIAL if Act.KEEP in acts else PREDICTED


class Ask(NamedTuple):
    """A rule's answer that it must see `probe` before it can plan the step.

    `under` is a plan for the blocks before the probe, whose acts there are final; None: they run.
    """

    probe: Probe
    under: "StepPlan | None" = None


class Draft(NamedTuple):
    """A rule's answer that `plan` is to be run, what it watches told, and the rule asked again.

    A draft keeps nothing. It becomes the step where the rule then answers with the same plan, and
    leaves no trace where it answers otherwise.
    """

    plan: StepPlan


Answer = StepPlan | Ask | Draft


def kept_before_use(computes: Sequence[bool], depth: int) -> list[Act]:
    """A slot's act in each step, whose stand-in is made of the last `depth` values computed.

    `computes` says which steps compute it. A value is kept where fewer than `depth` others follow
    before a step that does not, so that nothing is kept that no step will use.
    """
    acts, since = [], depth
    for is_computed in reversed(computes):
        since = since + 1 if is_computed else 0
        acts.append(Act.STAND_IN if not is_computed else Act.KEEP if since <= depth else Act.RUN)
    return acts[::-1]


class Setting(NamedTuple):
    """The facts of a sample that a rule may use: its steps, and each step's passes and slots."""

    steps: tuple[Step, ...]
    passes: int
    slots: int

    def uniform(self, act: Act, label: str, watch: tuple[Probe, ...] = ()) -> StepPlan:
        """The plan with one act for every slot of every pass."""
        return StepPlan(((act,) * self.slots,) * self.passes, label, watch)

    def by_pass(self, computes: Sequence[bool], watch: tuple[Probe, ...] = ()) -> StepPlan:
        """The plan that computes and keeps everything in some passes, and stands in in others."""
        kinds = {FULL if each else PREDICTED for each in computes}
        acts = tuple((Act.KEEP if each else Act.STAND_IN,) * self.slots for each in computes)
        return StepPlan(acts, kinds.pop() if len(kinds) == 1 else PARTLY, watch)

    @property
    def full(self) -> StepPlan:
        """The plan that computes everything and keeps it."""
        return self.uniform(Act.KEEP, FULL)

    @property
    def predicted(self) -> StepPlan:
        """The plan in which every slot's stand-in is used."""
        return self.uniform(Act.STAND_IN, PREDICTED)
