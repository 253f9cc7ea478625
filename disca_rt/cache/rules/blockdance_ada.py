"""BlockDance-Ada's rules: which later steps reuse is a list, or a network's word on each sample."""

from dataclasses import dataclass, field

from ...config import DiTConfig
from ...schedule import Step
from ..decision_network import Network
from ..network_file import NetworkFile, read_network
from ..options import File, check_int
from ..plan import Probe, Seen, Setting, StepPlan
from ..rule import Memoryless, RuleDefaults

Later = tuple[bool, ...] | None
"""The later steps that are computed, True; None until they are chosen."""


@dataclass(frozen=True)
class Chosen(Memoryless):
    """Full in the first `rho` steps; then `reuse` says of each step whether it reuses (1) or not.

    As many as the later steps. In the paper a network chooses them for each sample; so does
    `ByNetwork`.
    """

    rho: int
    reuse: tuple[int, ...]

    def __post_init__(self) -> None:
        check_int("rho", self.rho, 1)
        if not {*self.reuse} <= {0, 1}:
            raise ValueError(f"reuse must be ones and zeros, got {list(self.reuse)}")

    def start(self, setting: Setting) -> None:
        later = len(setting.steps) - self.rho
        if len(self.reuse) != later:
            raise ValueError(
                f"reuse must be a 0 or 1 for each of the {later} steps after the first {self.rho}, "
                f"got {len(self.reuse)}"
            )

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: None) -> StepPlan:
        after = step.index - self.rho
        return setting.predicted if after >= 0 and self.reuse[after] else setting.full


@dataclass(frozen=True)
class ByNetwork(RuleDefaults):
    """Full in the first rho steps; then the network in the file `net` says which others are.

    BlockDance-Ada (arXiv 2503.15927): from the latents after step rho and the text it makes the
    probability m of each later step, and here u = 1, which computes the step, where m is at least
    one half (the paper draws u from m when it trains). rho and the number of steps are the file's.
    Choices: the network's form (`cache.decision_network`); the conditional pass's text decides for
    both passes; a batch that decides together takes the mean over its samples of the logits of m.
    """

    config: DiTConfig
    net: File
    digest: str = field(init=False, default="")
    probes: tuple[Probe, ...] = field(init=False, default=(), compare=False, repr=False)
    _file: NetworkFile | None = field(init=False, default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        file = read_network(self.net, self.config)
        probes = tuple(Probe("wanted", "network", output=i) for i in range(file.network.later))
        for name, value in (("digest", file.digest), ("probes", probes), ("_file", file)):
            object.__setattr__(self, name, value)

    @property
    def network(self) -> Network:
        """The network, on the CPU, for whoever measures the probes."""
        return self._file.network

    def start(self, setting: Setting) -> Later:
        """None: nothing is chosen yet. ValueError where the file is of other steps."""
        self._file.check_steps(self.net, len(setting.steps))
        return None

    def decide(self, setting: Setting, step: Step, seen: Seen, memory: Later) -> StepPlan:
        after = step.index - self._file.rho
        if after >= 0:
            return setting.full if memory[after] else setting.predicted
        return setting.full._replace(watch=self.probes if after == -1 else ())

    def remember(
        self, setting: Setting, step: Step, plan: StepPlan, seen: Seen, memory: Later
    ) -> Later:
        if step.index != self._file.rho - 1:
            return memory
        return tuple(seen[probe].ratio >= 0 for probe in self.probes)
