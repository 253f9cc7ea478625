"""Average velocity of MeanFlow on the embedded model: `python -m bench.average_velocity`.

For each file of weights the relative error over five steps of a sampler of ten, against the teacher
integrated in ten parts of each step, over twelve clips of training prompts; then how far central
differences are from the exact derivative. Some minutes of one core.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from disca_rt.attention.local import LocalAttention
from disca_rt.markdown import table_lines
from disca_rt.models.dit import DiT
from disca_rt.schedule import shifted
from disca_rt.tiny.runtime import DIT
from disca_rt.tiny.training_clips import TrainingClips
from disca_rt.train.data import Batch, make_reader, read_batch
from disca_rt.train.flow import Point, noised, velocity
from disca_rt.train.meanflow import difference, exact_derivative
from disca_rt.weights.load import load_dit

TEACHER = Path("ladder") / "cfg-distilled.safetensors"
STEPS, SHOWN, PARTS, SHIFT, GUIDANCE = 10, (0, 1, 3, 6, 9), 10, 5.0, 4.0
CLIPS, RESTRICTION = 12, 0.2
DIFFERENCES, TIMES, DERIVED = (5e-3, 1e-3, 2e-4), 8, 8  # steps of t; times, and clips at each


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.average_velocity", description=__doc__)
    parser.add_argument("weights", nargs="*", type=Path, default=[DIT], help="default: ours")
    parser.add_argument("--teacher", type=Path, default=TEACHER)
    args = parser.parse_args(argv)
    teacher, clips = _load(args.teacher), _clips(args.teacher, CLIPS)
    models = {path.stem: _load(path) for path in (args.teacher, *args.weights)}
    print("\n".join(average_lines(models, teacher, clips)), flush=True)
    for step, found in derivatives(_load(args.weights[0]), teacher, clips).items():
        print(f"difference step {step:g}: {min(found):.1%} to {max(found):.1%} from the derivative")


@torch.no_grad()
def average_lines(models: Mapping[str, DiT], teacher: DiT, clips: Batch) -> list[str]:
    """Table of the mean relative errors of the clips, a row for each model."""
    steps, noise = [list(shifted(STEPS, SHIFT))[i] for i in SHOWN], _noise(clips)
    rows = {name: [name] for name in models}
    for step in steps:
        place = step.sigma, step.sigma_next
        x_t = noised(clips.latents, noise, torch.full((CLIPS,), step.sigma))
        expected = integrated(teacher, clips, x_t, *place)
        for name, model in models.items():
            actual = _velocity(model, clips, x_t, *place)
            rows[name].append(f"{relative(actual, expected).mean():.3f}")
    return table_lines(("", *(f"t = {step.sigma:.3f}" for step in steps)), rows.values())


def integrated(teacher: DiT, clips: Batch, x_t: Tensor, t: float, r: float) -> Tensor:
    """Average velocity from t to r, by Euler steps of equal length."""
    x, length = x_t, (r - t) / PARTS
    for part in range(PARTS):
        x = x + length * _velocity(teacher, clips, x, t + part * length, r)
    return (x - x_t) / (r - t)


def derivatives(model: DiT, teacher: DiT, clips: Batch) -> dict[float, list[float]]:
    """Relative errors of du/dt at each of several times, by the step of the difference."""
    clips = Batch(clips.latents[:DERIVED], clips.conditioning.rows(slice(DERIVED)))
    noise, found = _noise(clips), {step: [] for step in DIFFERENCES}
    prepared = model.prepare(clips.conditioning, clips.latents.shape)
    for t in torch.linspace(0.06, 0.94, TIMES).tolist():
        point = _point(
            noised(clips.latents, noise, torch.full((DERIVED,), t)), t, max(0, t - RESTRICTION)
        )
        with torch.no_grad():
            v = velocity(teacher, point, teacher.prepare(clips.conditioning, clips.latents.shape))
            exact = exact_derivative(model, point, v, prepared)[1]
        for step, errors in found.items():
            estimate = difference(model, point, v, prepared, step)
            errors.append(((estimate - exact).norm() / exact.norm()).item())
    return found


def relative(actual: Tensor, expected: Tensor) -> Tensor:
    """‖a − b‖ / ‖b‖ of each sample."""
    return (actual - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)


def _velocity(dit: DiT, clips: Batch, x: Tensor, t: float, r: float) -> Tensor:
    return velocity(dit, _point(x, t, r), dit.prepare(clips.conditioning, x.shape))


def _point(x: Tensor, t: float, r: float) -> Point:
    rows = (torch.full((len(x),), float(value)) for value in (t, r, GUIDANCE))
    return Point(x, *rows)


def _load(path: Path) -> DiT:
    return load_dit(path, dtype=torch.float32, attention=LocalAttention("math"))


def _noise(clips: Batch) -> Tensor:
    return torch.randn(clips.latents.shape, generator=torch.Generator().manual_seed(1))


def _clips(teacher: Path, count: int) -> Batch:
    return read_batch(make_reader(TrainingClips(seed=1), 0), range(count), _load(teacher).config)


if __name__ == "__main__":
    main()
