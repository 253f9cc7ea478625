"""Issue time of a launch against the time of its bytes, from machine code: a model, no measurement.

A kernel that streams has to issue its instructions while memory is at work: from about half of the
time of its bytes on, few reach 0.85 of a copy. Knows no kernel.
"""

import re
from math import prod
from typing import Any, NamedTuple

from .compiled import JUMP
from .launches import Launch


class Chip(NamedTuple):
    """A GPU's name, architecture, multiprocessors, clock and rate of a copy.

    A multiprocessor issues an instruction of a warp in each of `slots` per clock, and does
    `special_lanes` special functions (powers, reciprocals, unpacked conversions) per clock.
    """

    name: str
    architecture: int
    multiprocessors: int
    clock_hz: float
    copy_bytes_per_s: float
    slots: int = 4
    special_lanes: int = 16
    registers: int = 65536
    max_warps: int = 64


H200 = Chip("NVIDIA H200", 90, 132, 1.98e9, 4.3e12)
IN_FLIGHT = 32 * 1024  # bytes of loads per multiprocessor: the copy's rate for a microsecond

ANY = re.compile("")
SPECIAL = re.compile(r"\b(?:MUFU|F2F|F2I|I2F)\b")


class Code(NamedTuple):
    """A warp's instructions: all that run once, and those of the loop, as lines of SASS."""

    once: list[str]
    loop: list[str]

    def count(self, pattern: re.Pattern[str], turns: int) -> int:
        """How many that match are executed when the loop runs `turns` times."""
        once, loop = (sum(bool(pattern.search(line)) for line in each) for each in self)
        return once + loop * turns


def parse(sass: str) -> Code:
    """The code up to its last exit; what follows are subroutines for rare values, and filling.

    ValueError where it has more than one loop.
    """
    lines = sass.splitlines()
    lines = lines[: 1 + max(i for i, line in enumerate(lines) if "EXIT" in line)]
    jumps = ((i, JUMP.search(line)) for i, line in enumerate(lines))
    targets = ((i, int(jump[2], 16) // 16) for i, jump in jumps if jump)
    loops = [(target, i) for i, target in targets if target <= i]
    if len(loops) > 1:
        raise ValueError(f"the model knows one loop in a kernel, got {len(loops)}")
    first, last = loops[0] if loops else (len(lines), len(lines))
    once, loop = lines[:first] + lines[last + 1 :], lines[first : last + 1]
    return Code(*([line for line in each if "NOP" not in line] for each in (once, loop)))


class Estimate(NamedTuple):
    """Seconds of a launch on a chip, each as if nothing else took time."""

    issue: float
    special: float
    memory: float
    resident: int
    in_flight: int
    programs: int

    @property
    def ratio(self) -> float:
        """Issue time over the time of its bytes."""
        return self.issue / self.memory

    def seconds(self, chip: Chip = H200) -> float:
        """A guess to order launches by: nothing overlaps, and the last wave may be half empty."""
        waves = self.programs / (self.resident * chip.multiprocessors)
        tail = max(1.0, -(-waves // 1) / waves)
        return (self.memory * max(1.0, IN_FLIGHT / self.in_flight) + self.issue) * tail


def estimate(launch: Launch, sass: str, registers: int, chip: Chip = H200) -> Estimate:
    """Times of `launch`, compiled to `sass`, on `chip`; for launches that bytes limit."""
    code, turns = parse(sass), _turns(launch.options)
    warps = launch.options["num_warps"]
    launched = warps * prod(launch.grid)
    clocks = chip.multiprocessors * chip.clock_hz
    resident = min(chip.max_warps // warps, chip.registers // (32 * warps * registers), 32)
    loads = sum("LDG.E.128" in line for line in code.loop or code.once)
    return Estimate(
        issue=launched * code.count(ANY, turns) / (chip.slots * clocks),
        special=launched * 32 * code.count(SPECIAL, turns) / (chip.special_lanes * clocks),
        memory=launch.minimum_bytes / chip.copy_bytes_per_s,
        resident=resident,
        in_flight=max(1, loads) * 16 * 32 * warps * resident,
        programs=prod(launch.grid),
    )


def _turns(options: dict[str, Any]) -> int:
    """How often the loop of a kernel with these constants runs."""
    if "BLOCK_K" in options:
        return -(-options["C"] // options["BLOCK_K"])
    return options.get("TURNS", 1)
