"""The run of the judge: every policy over every prompt, measured against the run without a cache.

Writes lines as it goes on, and leaves out what its record already has. Knows subjects by their
protocol, no model.
"""

import time
from collections.abc import Callable, Sequence
from itertools import islice

from .record import Line, Record
from .similarity import likeness
from .subject import UNCACHED, Clip, Subject

QUIET = 30.0  # seconds, after which a clip that is done is told
TIMED_TOGETHER = 8  # policies that take turns with the uncached run

Told = Callable[[str], None]
"""Hears what is begun, and in the end of each policy how it did."""


class Judging:
    """Judges policies on one subject, into `record`."""

    def __init__(self, subject: Subject, record: Record, tell: Told) -> None:
        self._subject, self._record, self._tell = subject, record, tell
        record.admit(subject)

    def run(self, policies: Sequence[str]) -> None:
        """Judges `policies`, then times them; ValueError for a wrong one before anything runs."""
        for policy in policies:
            self._subject.check(policy)
        for policy in (UNCACHED, *policies):
            self.sample(policy)
        self._time([policy for policy in policies if not self._has("cost", policy)])

    def _has(self, kind: str, policy: str) -> int:
        return len(self._record.of(kind, self._subject.name, policy))

    def sample(self, policy: str) -> None:
        """The clips of the prompts that have none yet."""
        subject, done = self._subject, self._has("clip", policy)
        left = len(subject.prompts) - done
        if not left:
            return
        self._tell(f"{subject.title}: {policy}, {left} prompts")
        told = time.monotonic()
        for number, clip in enumerate(islice(subject.clips(policy, done), left), done):
            if policy == UNCACHED:
                self._record.keep_reference(subject.name, number, clip.latents, clip.frames)
            line = self._clip_line(policy, number, clip)
            self._record.add(line)
            if time.monotonic() > told + QUIET:
                told = time.monotonic()
                self._tell(f"{policy}: {number + 1} of {len(subject.prompts)}, L2 {line['l2']:.4f}")

    def _clip_line(self, policy: str, number: int, clip: Clip) -> Line:
        subject = self._subject
        reference = self._record.reference(subject.name, number)
        like = likeness(clip.latents, clip.frames, reference["latents"], reference.get("frames"))
        flops = subject.flops(policy, clip.plans, number)
        return {
            "kind": "clip",
            "subject": subject.name,
            "policy": policy,
            "number": number,
            "full_steps": flops / subject.step_flops(number),
            "steps": "".join(plan.label[0] for plan in clip.plans),
            **like._asdict(),
            **clip.scores,
        }

    def _time(self, policies: Sequence[str]) -> None:
        """Seconds of each, beside an uncached run of the same minutes."""
        subject = self._subject
        for start in range(0, len(policies), TIMED_TOGETHER):
            group = policies[start : start + TIMED_TOGETHER]
            self._tell(f"{subject.title}: timing {', '.join(group)}")
            uncached, *seconds = subject.seconds([UNCACHED, *group])
            for policy, taken in zip(group, seconds, strict=True):
                state = subject.state(policy)
                self._record.add(
                    {
                        "kind": "cost",
                        "subject": subject.name,
                        "policy": policy,
                        "speedup": uncached / taken,
                        "state_bytes": state.device,
                        "host_bytes": state.host,
                    }
                )
