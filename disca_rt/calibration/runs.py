"""The runs of a recording: which quantities are watched together, so that they fit into memory.

A run is a sample of every prompt. What is watched of a step as a whole is one group, what is
watched of a block another; groups go together into a run as long as its buffers stay within the
budget. Nothing is sampled here.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch

from ..cache.kept import SampleShape
from ..cache.plan import Probe
from ..cache.policy import Policy, Slot
from ..cache.site import DOUBLE, Site, whole
from ..cache.stand_ins.reuse import Reuse
from ..config import DiTConfig
from ..sampling.state import new_state
from ..units import byte_text
from .recording import Recording, Regressed, RegressedJoint, Sampled

ROWS = 64  # image rows that are sampled
NORM_BYTES = 4 * 2  # of a norm's fp32 temporaries, over the bytes of a bf16 tensor

EMPTY: Mapping = MappingProxyType({})


class Group(NamedTuple):
    """Quantities by name, each a probe; `sites` are slots', by name, whose changes are watched.

    `samples` are slots that take rows, by name.
    """

    quantities: dict[str, Probe]
    sites: Mapping[str, Site] = EMPTY
    samples: Mapping[str, tuple[Site, type[Sampled]]] = EMPTY


class Run(NamedTuple):
    """One pass over the prompts: its policy, the probe of each quantity, the slots of samples."""

    policy: Policy
    quantities: dict[str, Probe]
    samples: dict[str, int]

    @property
    def content(self) -> str:
        """A text that says what is recorded: equal ones record the same."""
        return " ".join([*self.quantities, *self.samples])


def step_group(config: DiTConfig, passes: int, has_maps: bool = False) -> Group:
    """The quantities of whole steps.

    "modulated", "residual" (image rows, all blocks) and "patches" of each pass, "velocity", and
    "guidance": the unconditional pass against the conditional one; rows of the hidden state.
    """
    last = config.double + config.single
    found = {f"velocity/{norm}": Probe("velocity", norm=norm) for norm in ("l1", "l2")}
    for number in range(passes):
        at = {"which_pass": number}
        found[f"modulated/l1/{number}"] = Probe("modulated", **at)
        for norm in ("l1", "l2"):
            found[f"patches/{norm}/{number}"] = Probe("patches", norm=norm, **at)
        for norm in ("l1", "l2", "row_size"):
            probe = Probe("residual", norm=norm, after=last, **at)
            found[f"residual/{norm}/{number}"] = probe
    if passes == 2:
        found["guidance/l1"] = Probe("patches", "conditional", which_pass=1)
    samples = {"hidden": (whole(config), Sampled)}
    if has_maps:  # of all blocks together, after those of each
        samples[f"map/{last}"] = whole(config), Regressed
    return Group(found, samples=samples)


def block_group(config: DiTConfig, passes: int, block: int, has_maps: bool) -> Group:
    """The quantities of one block: "tokens" after it, "block" (its change of image rows), and
    "branch", each of its branches before their gates."""
    found = {}
    for number in range(passes):
        at = {"which_pass": number, "after": block + 1}
        for norm in ("l1", "l2"):
            found[f"tokens/{norm}/{number}/{block}"] = Probe("tokens", norm=norm, **at)
        for norm in ("l1", "size"):
            change = Probe("residual", norm=norm, since=block, **at)
            found[f"block/{norm}/{number}/{block}"] = change
    names = DOUBLE if block < config.double else ("total",)
    sites = {f"{block}/{name}": Site("branch", block, block + 1, (name,)) for name in names}
    maps = {f"map/{block}": (Site("blocks", block, block + 1), RegressedJoint)} if has_maps else {}
    return Group(found, sites, maps)


def plan_runs(shape: SampleShape, budget: int, has_maps: bool = False) -> list[Run]:
    """The runs whose buffers take at most `budget` bytes each.

    MemoryError where one group alone takes more.
    """
    config, passes = shape.config, len(shape.rows)
    blocks = range(config.double + config.single)
    groups = [step_group(config, passes, has_maps)]
    groups += (block_group(config, passes, each, has_maps) for each in blocks)
    return [build_run(each, shape) for each in _joined(groups, shape, budget)]


def _joined(groups: Sequence[Group], shape: SampleShape, budget: int) -> Iterator[list[Group]]:
    """The groups in order, as many together as fit."""
    together: list[Group] = []
    for group in groups:
        if together and run_bytes(build_run([*together, group], shape), shape) > budget:
            yield together
            together = []
        together.append(group)
        needed = run_bytes(build_run(together, shape), shape) if len(together) == 1 else 0
        if needed > budget:
            raise MemoryError(
                f"a recording needs {byte_text(needed)} at once, beside the model, and has "
                f"{byte_text(budget)}; would help: more ranks, --memory, or a smaller --size"
            )
    yield together


def build_run(groups: Sequence[Group], shape: SampleShape) -> Run:
    """The run of several groups."""
    quantities: dict[str, Probe] = {}
    slots: list[Slot] = []
    samples: dict[str, int] = {}
    for group in groups:
        quantities |= group.quantities
        for name, site in group.sites.items():
            for number in range(len(shape.rows)):
                for norm in ("l1", "l2", "size"):
                    probe = Probe("slot", "stand-in", norm=norm, slot=len(slots), which_pass=number)
                    quantities[f"branch/{norm}/{number}/{name}"] = probe
            slots.append(Slot(site, Reuse()))
        for name, (site, stand_in) in group.samples.items():
            samples[name] = len(slots)
            slots.append(Slot(site, stand_in(sampled_places(shape.img_tokens))))
    rule = Recording(tuple(quantities.values()), tuple(samples.values()))
    return Run(Policy("calibrate", rule, tuple(slots)), quantities, samples)


def sampled_places(tokens: int) -> tuple[int, ...]:
    """At most `ROWS` numbers of image rows, evenly spread over `tokens`."""
    count = min(ROWS, tokens)
    return tuple((2 * i + 1) * tokens // (2 * count) for i in range(count))


def run_bytes(run: Run, shape: SampleShape) -> int:
    """The bytes of a run's buffers, of the tensors that it compares with them, and of the norms."""
    state = new_state(run.policy, shape._replace(device=torch.device("meta")))
    kept = sum(
        tensor.nbytes
        for of_slots in state.slots
        for of_slot in of_slots
        for buffers in of_slot.values()
        for tensor in buffers
    )
    stored = sum(tensor.nbytes for tensors in state.probes.values() for tensor in tensors)
    return kept + 2 * stored + NORM_BYTES * shape.tokens(0).nbytes
