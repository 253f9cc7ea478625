"""BlockDance-Ada (arXiv 2503.15927): a network that chooses each sample's later steps, by rewards.

From the latents after the first rho steps and the text it makes a probability m of each later step;
u ~ Bernoulli(m) says which of them compute all blocks (1), the others reuse the output of the first
blocks. The reward of u is R = C + lambda·Q with C = 1 - sum(u)/(n - rho); the policy gradient is
the mean of (R - baseline)·grad log P(u).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cache.decision_network import features, network_of, shapes
from ..cache.network_file import write_network
from ..cache.placements.ranges import Prefix
from ..conditioning import Conditioning
from ..config import DiTConfig
from ..models.blocks import run_blocks
from ..models.dit import DiT
from ..models.prepared import Prepared
from ..sampling.forward import Forward
from ..seeds import generator
from .branch_cache import CacheStage, CacheStageConfig
from .cached_student import stepped_on
from .config import check_positive
from .data import Batch
from .draws import Draws
from .flow import Point, step_inputs, velocity_of
from .stage import Loss


@dataclass(frozen=True)
class BlockDanceAdaStageConfig(CacheStageConfig):
    """`rho` early steps are full, 0.4 of the sampler's by default, as BlockDance has it.

    `rollouts` are the draws of u for each sample in a step of training, `lambda_q` the weight of
    the quality Q.
    """

    rho: int | None = None
    lambda_q: float = 2.0
    rollouts: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("lambda_q", self.lambda_q)
        if self.rollouts < 2:
            raise ValueError(
                f"rollouts must be at least 2, got {self.rollouts}: each is compared with others"
            )
        if not 1 <= self.first_steps < self.sampling_steps:
            raise ValueError(
                f"rho must be from 1 to {self.sampling_steps - 1}, below the sampler's steps, got "
                f"{self.rho}"
            )

    @property
    def first_steps(self) -> int:
        """The full steps before the network decides."""
        return max(1, int(0.4 * self.sampling_steps)) if self.rho is None else self.rho


class Decisions(nn.Module):
    """The network's weights: the hidden layer at random, the last one zeros, so that m is 1/2."""

    def __init__(self, config: BlockDanceAdaStageConfig, dit: DiTConfig) -> None:
        super().__init__()
        wanted = shapes(dit, config.sampling_steps - config.first_steps)
        numbers = torch.Generator().manual_seed(config.run.seed)
        for name, shape in wanted.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        nn.init.normal_(
            self.hidden_weight, std=wanted["hidden_weight"][1] ** -0.5, generator=numbers
        )

    def forward(self, entering: Tensor) -> Tensor:
        """Compute the logits of m, `[B, later]`, of features `[B, features]`."""
        return network_of(dict(self.named_parameters()))(entering)


class BlockDanceAdaStage(CacheStage):
    """Trains the network on samples from noise.

    Choices, as no code of the authors is public: Q is one less the relative L2 distance of the last
    latents to those of the sample whose steps are all full, where the paper scores pictures; the
    baseline of a draw is the mean reward of the sample's other draws. All draws of a batch and its
    full samples are one forward, in which all blocks run and what is reused is put in their place,
    so that ranks that share a sharded model call it alike.
    """

    method: ClassVar[str] = "blockdance-ada"

    def __init__(
        self, config: BlockDanceAdaStageConfig, dit: DiT, unconditional: Conditioning | None
    ) -> None:
        super().__init__(config, Decisions(config, dit.config), dit, unconditional)
        (site,) = Prefix().sites(dit.config)
        self.stop = site.stop

    def loss(self, batch: Batch, draws: Draws, step: int) -> Loss:
        config, later = self.config, self.config.sampling_steps - self.config.first_steps
        begun, prepared = self._begun(batch.conditioning, draws.noise)
        text = prepared[0]
        logits = self.trained["cache"](
            features(begun.latents, text.text_states, text.text_lengths)
        )  # [B, later]
        uniform = self._uniform(draws, later).to(logits.device)  # [B, rollouts, later]
        computes = uniform < logits.detach().sigmoid()[:, None]
        rewards, quality = self._rewards(batch.conditioning, begun, computes)
        others = (rewards.sum(1, keepdim=True) - rewards) / (config.rollouts - 1)
        spread = logits[:, None].expand(computes.shape)
        likely = -F.binary_cross_entropy_with_logits(
            spread, computes.float(), reduction="none"
        ).sum(2)
        gradient = -((rewards - others) * likely).mean()
        total = gradient - gradient.detach() - rewards.mean()
        terms = {
            "loss": -rewards.mean(),
            "quality": quality.mean(),
            "computed": computes.float().mean(),
        }
        return Loss(total, terms)

    def write(self, path: Path, weights: Mapping[str, Tensor]) -> None:
        network = network_of(weights)._asdict()
        write_network(path, network, self.config.first_steps, self.dit_config)

    def _uniform(self, draws: Draws, later: int) -> Tensor:
        """Draw from [0, 1) for every draw of every step, by each sample's own random numbers."""
        shape = self.config.rollouts, later
        numbers = (int(each * 2**24) for each in draws.interval.tolist())
        return torch.stack(
            [
                torch.rand(shape, generator=generator("rollouts", self.config.run.seed, number))
                for number in numbers
            ]
        )

    @torch.no_grad()
    def _begun(self, conditioning: Conditioning, noise: Tensor) -> tuple["_State", list[Prepared]]:
        """Take the first steps, in full."""
        prepared = self.student.prepare(conditioning, noise.shape)
        state = _State(noise, ())
        for number in range(self.config.first_steps):
            state = self._step(state, number, prepared, None)
        return state, prepared

    @torch.no_grad()
    def _rewards(
        self, conditioning: Conditioning, begun: "_State", computes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Reward each draw and tell its quality, both `[B, rollouts]`: sample on with all of them.

        `computes [B, rollouts, later]` are u; one more draw of each sample has all steps full.
        """
        batch, rollouts, later = computes.shape
        full = torch.ones_like(computes[:, :1])
        every = torch.cat([computes, full], dim=1).flatten(0, 1)
        rows = torch.arange(batch, device=every.device).repeat_interleave(rollouts + 1)
        conditionings = _rows_of(conditioning, rows)
        state = _State(begun.latents[rows], tuple(each[rows] for each in begun.kept))
        prepared = self.student.prepare(conditionings, state.latents.shape)
        for number in range(later):
            at = self.config.first_steps + number
            state = self._step(state, at, prepared, every[:, number])
        samples = state.latents.unflatten(0, (batch, rollouts + 1)).flatten(2)
        reference = samples[:, -1:]
        distance = (samples[:, :-1] - reference).norm(dim=2) / reference.norm(dim=2)
        quality = 1 - distance
        saved = 1 - computes.float().mean(2)
        return saved + self.config.lambda_q * quality, quality

    def _step(
        self, state: "_State", number: int, prepared: list[Prepared], computes: Tensor | None
    ) -> "_State":
        """Take step `number`: rows where `computes [rows]` is false reuse; None: none does."""
        place = torch.full((len(state.latents),), number, device=state.latents.device)
        point = self.point(state.latents, place)
        kept = state.kept or (None,) * len(prepared)
        passes = [
            self._pass(point, each, before, computes)
            for each, before in zip(prepared, kept, strict=True)
        ]
        velocities, kept = zip(*passes, strict=True)
        velocity = self.student.guided(list(velocities))
        return _State(stepped_on(point, velocity, point.r), kept)

    def _pass(
        self, point: Point, prepared: Prepared, kept: Tensor | None, computes: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Take one pass; give its velocity and the tokens after its first blocks."""
        dit = self.student.dit
        tokens, context = Forward(dit).embed(point.x_t, step_inputs(dit, point), prepared)
        tokens = run_blocks(dit.blocks[: self.stop], tokens, context)
        if computes is not None:
            tokens = torch.where(computes[:, None, None], tokens, kept)
        kept = tokens
        tokens = run_blocks(dit.blocks[self.stop :], tokens, context)
        return velocity_of(dit, tokens, context, prepared), kept


def _rows_of(conditioning: Conditioning, rows: Tensor) -> Conditioning:
    """Choose samples, some of them several times."""
    return Conditioning(**{name: each[rows] for name, each in conditioning.tensors().items()})


class _State(NamedTuple):
    """Latents between two steps, and the tokens of each pass after its first blocks."""

    latents: Tensor
    kept: tuple[Tensor, ...]
