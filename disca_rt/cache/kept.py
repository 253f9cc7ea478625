"""Buffers of a policy for one sample, by slot and place, and the bytes that they take."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from ..config import DiTConfig
from .plan import Probe, Stored
from .policy import Policy
from .site import DOUBLE, SINGLE, Site
from .stand_in import ATTENTION, WHOLE, Beside, Place, TensorSpec

GATE_GROUPS = 2  # of rows: those of a clean first frame have a gate of their own


def gate_of(place: Place) -> Place:
    """The place of the gate `[B, 2, C]` that goes with a branch."""
    return place[0], f"gate of {place[1]}"


class SampleShape(NamedTuple):
    """The facts that the buffers of a sample depend on.

    `rows` are this rank's (image, text) tokens in each pass, `latents` is `[B, C, T, H, W]`.
    `attended` are the numbers of all tokens and of this rank's heads in an attention of each pass;
    None where one rank has all rows and heads, or no slot is at attention.
    """

    config: DiTConfig
    dtype: torch.dtype
    device: torch.device
    latents: tuple[int, ...]
    img_tokens: int
    rows: tuple[tuple[int, int], ...]
    attended: tuple[tuple[int, int], ...] | None = None

    def tokens(self, which_pass: int) -> TensorSpec:
        """The joint tokens `[B, S, C]` of this rank in pass number `which_pass`."""
        shape = self.latents[0], sum(self.rows[which_pass]), self.config.hidden
        return TensorSpec(shape, self.dtype, self.device)

    def attention(self, which_pass: int) -> TensorSpec:
        """The output `[B, S, H, D]` of an attention in a pass: all tokens, heads at hand."""
        whole = sum(self.rows[which_pass]), self.config.heads
        tokens, heads = whole if self.attended is None else self.attended[which_pass]
        shape = self.latents[0], tokens, heads, self.config.head_dim
        return TensorSpec(shape, self.dtype, self.device)

    def velocity(self) -> TensorSpec:
        """A velocity in latent space."""
        return TensorSpec(self.latents, torch.float32, self.device)


def places(site: Site, shape: SampleShape, which_pass: int) -> Iterator[tuple[Place, TensorSpec]]:
    """The places of a site in pass number `which_pass`, with the form of the value at each."""
    if not site.is_in(which_pass):
        return
    tokens, config = shape.tokens(which_pass), shape.config
    batch, (img, txt) = shape.latents[0], shape.rows[which_pass]
    if site.level == "blocks":
        yield WHOLE, tokens
    elif site.level == "branch":
        rows = {"img": img, "txt": txt, "joint": img + txt}
        for block in range(site.start, site.stop):
            for name, form in (DOUBLE if block < config.double else SINGLE).items():
                if name in site.names:
                    value = batch, rows[form.rows], form.width * config.hidden
                    yield (block, name), tokens._replace(shape=value)
                    if site.gated:
                        gates = batch, GATE_GROUPS, config.hidden
                        yield gate_of((block, name)), tokens._replace(shape=gates)
    elif site.level == "attention":
        for block in range(site.start, site.stop):
            yield (block, ATTENTION), shape.attention(which_pass)
    elif site.level == "guidance":
        yield WHOLE, tokens._replace(shape=(batch, shape.img_tokens, config.patch_width))
    elif site.level == "velocity":
        yield WHOLE, shape.velocity()


def allocate(policy: Policy, shape: SampleShape) -> Beside:
    """New buffers, zeros."""
    return tuple(
        tuple(
            {
                place: tuple(spec.zeros() for spec in stand_in.kept_specs(like))
                for place, like in places(site, shape, which_pass)
            }
            for site, stand_in in policy.slots
        )
        for which_pass in range(len(shape.rows))
    )


class StateBytes(NamedTuple):
    """The bytes of a sample's state, all passes together: on the device, and on the host."""

    device: int
    host: int


def kept_bytes(policy: Policy, shape: SampleShape) -> StateBytes:
    """The bytes of what `allocate` makes, and of what probes compare with."""
    specs = [
        spec
        for which_pass in range(len(shape.rows))
        for site, stand_in in policy.slots
        for _, like in places(site, shape, which_pass)
        for spec in stand_in.kept_specs(like)
    ]
    probes = policy.probes(len(shape.rows))
    specs += [spec for _, of_steps in looked_at(probes, shape) for spec in of_steps]
    on_host = sum(spec.nbytes for spec in specs if spec.device != shape.device)
    return StateBytes(sum(spec.nbytes for spec in specs) - on_host, on_host)


def looked_at(
    probes: Iterable[Probe], shape: SampleShape
) -> Iterator[tuple[Stored, list[TensorSpec]]]:
    """The tensors that probes compare with, each as often as it is stored."""
    found: dict[Stored, tuple[Probe, int]] = {}
    for probe in probes:
        if probe.stored is not None:
            _, depth = found.get(probe.stored, (probe, 1))
            found[probe.stored] = probe, max(depth, 1 + (probe.against == "before"))
    for stored, (probe, depth) in found.items():
        yield stored, [_of_probe(probe, shape)] * depth


def _of_probe(probe: Probe, shape: SampleShape) -> TensorSpec:
    if probe.of in ("latents", "velocity"):
        return shape.velocity()
    tokens = shape.tokens(probe.which_pass)
    if probe.of == "patches":
        patches = tokens.shape[0], shape.img_tokens, shape.config.patch_width
        return tokens._replace(shape=patches)
    rows = tokens.shape[1] if probe.of == "tokens" else shape.rows[probe.which_pass][0]
    return tokens._replace(shape=(tokens.shape[0], rows, tokens.shape[2]))
