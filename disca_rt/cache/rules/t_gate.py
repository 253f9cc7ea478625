"""T-GATE: until a gate both passes, and self-attention now and then; after it one pass, text fixed.

HunyuanVideo has no cross-attention: this is a mapping (choice). What T-GATE does to cross-attention
is done to the text rows' attention and MLP of double blocks, and what it does to self-attention, to
the image rows' attention there and to the attention of single blocks.
"""

from dataclasses import dataclass

from ..labels import FULL, PREDICTED
from ..options import check_int
from ..plan import Act, Setting, StepPlan, kept_before_use
from ..rule import Planned


@dataclass(frozen=True)
class TGate(Planned):
    """The phases of T-GATE (arXiv 2404.02747; tgate_utils.py, tgate_scheduler).

    Before step `gate_step` - 1 self-attention is computed in steps up to `warm_up` and in those
    that `sp_interval` divides; in that step everything is; from `gate_step` on in steps that
    `fi_interval` divides, text outputs are the mean of both passes' in step `gate_step` - 1, and
    the unconditional pass is dropped. Intervals of 1 are the first version. By default the gate is
    at 2/5 of the steps, the published 10 of 25 (choice).

    Joint attention is one computation, so that self-attention alone saves none of it in double
    blocks while the text's is computed. After the gate the code reuses the mean of both passes'
    self-attention until the next one computed, this the conditional pass's own (choice).
    """

    gate_step: int | None = None
    sp_interval: int = 5
    fi_interval: int = 1
    warm_up: int = 2

    def __post_init__(self) -> None:
        check_int("warm_up", self.warm_up, 0)
        for name in ("sp_interval", "fi_interval"):
            check_int(name, getattr(self, name), 1)
        if self.gate_step is not None:
            check_int("gate_step", self.gate_step, 1)

    def plans(self, setting: Setting) -> tuple[StepPlan, ...]:
        steps = range(len(setting.steps))
        gate = self.gate_step or max(1, round(len(steps) * 2 / 5))
        is_open, attends = [i < gate for i in steps], [self._attends(i, gate) for i in steps]
        text = guidance = kept_before_use(is_open, 1)
        attention = kept_before_use(attends, 1)
        plans = []
        for i in steps:
            first = [text[i], attention[i], Act.RUN]
            second = [*(first[:2] if is_open[i] else [Act.RUN] * 2), guidance[i]]
            if not self.reuses_attention:
                del first[1], second[1]
            label = FULL if is_open[i] and attends[i] else PREDICTED
            plans.append(StepPlan((tuple(first), tuple(second))[: setting.passes], label))
        return tuple(plans)

    @property
    def reuses_attention(self) -> bool:
        """True where there is a slot for self-attention: see `SelfAttentions`."""
        return max(self.sp_interval, self.fi_interval) > 1

    def _attends(self, step: int, gate: int) -> bool:
        """True where self-attention is computed."""
        if step < gate - 1:
            return step <= self.warm_up or step % self.sp_interval == 0
        return step == gate - 1 or step % self.fi_interval == 0
