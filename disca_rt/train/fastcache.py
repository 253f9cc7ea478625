"""FastCache (arXiv 2505.20353): linear maps that take the place of blocks, and of all together.

Each map learns by its own error on full steps of the sampler, from noised data: |W·h + b − h'|² of
a sample's tokens h before a block and h' after it, over |h' − h|²: 1 of the identity.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cache.map_file import Maps, calibrated_maps, write_maps
from ..conditioning import Conditioning
from ..models.dit import DiT
from ..tokens import StepContext
from .branch_cache import CacheStage, CacheStageConfig
from .data import Batch
from .draws import Draws
from .flow import noised
from .stage import Loss


@dataclass(frozen=True)
class FastCacheStageConfig(CacheStageConfig):
    """`calibration` is a file of `disca-rt calibrate --maps`, whose maps are the start.

    Without it they start as the identity. The authors publish neither maps nor how they train them.
    """

    calibration: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.run.sequence_parallel > 1:
            raise ValueError(
                f"sequence_parallel must be 1 for fastcache, got {self.run.sequence_parallel}: an "
                "error is of all of a sample's tokens"
            )


class LearnedMaps(nn.Module):
    """The maps of each block, and of all blocks together, `[blocks + 1, C, C]` and `[..., C]`."""

    def __init__(self, start: Maps) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.weight.float().clone())
        self.bias = nn.Parameter(start.bias.float().clone())

    def forward(self, number: int, tokens: Tensor) -> Tensor:
        """Map `tokens [B, S, C]` by the map of that number."""
        return F.linear(tokens, self.weight[number], self.bias[number])


class FastCacheStage(CacheStage):
    """Trains the maps that `--policy fastcache:maps=FILE` takes; those of blocks on all tokens.

    That of all blocks learns on image rows, which alone it maps.
    """

    method, kind = "fastcache", "maps"

    def __init__(self, config: FastCacheStageConfig, dit: DiT, unconditional: Conditioning | None):
        super().__init__(config, LearnedMaps(_start(config, dit)), dit, unconditional)

    def loss(self, batch: Batch, draws: Draws, step: int) -> Loss:
        steps, maps = self.config.sampling_steps, self.trained["cache"]
        number = (draws.time * steps).long().clamp(max=steps - 1)
        sigma = self.sigmas.to(draws.time.device)[number]
        point = self.point(noised(batch.latents, draws.noise, sigma), number)
        errors = []
        for prepared in self.student.prepare(batch.conditioning, batch.latents.shape):
            tokens, context = self.student.hidden(point, prepared)
            rows = _valid(tokens[0], context)
            img = slice(0, context.layout.img_len)
            ends = [(tokens[i], tokens[i + 1], rows) for i in range(len(tokens) - 1)]
            ends.append((tokens[0][:, img], tokens[-1][:, img], rows[:, img]))
            errors.append(
                torch.stack([_error(maps(i, x), x, y, of) for i, (x, y, of) in enumerate(ends)])
            )
        each = torch.stack(errors).mean(0)
        terms = {"loss": each.mean(), "blocks": each[:-1].mean(), "static": each[-1]}
        return Loss(terms["loss"], {name: term.detach() for name, term in terms.items()})

    def write(self, path: Path, weights: Mapping[str, Tensor]) -> None:
        maps = Maps(weights["weight"], weights["bias"])
        write_maps(path, maps, self.dit_config, self.method)


def _start(config: FastCacheStageConfig, dit: DiT) -> Maps:
    """The maps of the calibration, else the identity."""
    count, hidden = len(dit.blocks) + 1, dit.config.hidden
    if config.calibration is None:
        return Maps(torch.eye(hidden).repeat(count, 1, 1), torch.zeros(count, hidden))
    from ..calibration.file import read_calibration

    maps = calibrated_maps(read_calibration(Path(config.calibration)), dit.config)
    if maps is None:
        raise ValueError(
            f"calibration {config.calibration} has no maps; make them: disca-rt calibrate --maps"
        )
    return maps


def _error(mapped: Tensor, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """|mapped − y|² over |y − x|² of each sample, of `rows [B, S, 1]` that are 1; their mean."""
    missed, moved = (((each - y).square() * rows).sum((1, 2)) for each in (mapped, x))
    return (missed / moved).mean()


def _valid(tokens: Tensor, context: StepContext) -> Tensor:
    """1 of rows that are no padding, otherwise 0: `[B, S, 1]`."""
    rows = torch.arange(tokens.shape[1], device=tokens.device)
    if context.layout.lengths is None:
        return torch.ones_like(rows, dtype=tokens.dtype)[None, :, None]
    return (rows < context.layout.lengths[:, None])[..., None].to(tokens.dtype)
