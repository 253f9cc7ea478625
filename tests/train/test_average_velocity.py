"""Benchmark of the average velocity: what it integrates, and what it calls an error."""

import pytest
import torch
from torch import Tensor

from bench import average_velocity
from disca_rt.train.data import Batch

CLIPS = Batch(torch.zeros(2, 1, 1, 1, 3), None)


def test_the_average_is_that_of_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A velocity of 2t moves by t² − r²: its average is t + r, but for Euler's first order."""

    def grows(dit: None, clips: Batch, x: Tensor, t: float, r: float) -> Tensor:
        return torch.full_like(x, 2 * t)

    monkeypatch.setattr(average_velocity, "_velocity", grows)
    averaged = average_velocity.integrated(None, CLIPS, CLIPS.latents, t=0.9, r=0.4)
    late = 0.5 / average_velocity.PARTS  # each part has the velocity of its beginning
    torch.testing.assert_close(averaged, torch.full_like(averaged, 0.9 + 0.4 + late))


def test_errors_are_relative_and_of_each_sample() -> None:
    expected = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    actual = torch.tensor([[3.0, 4.0], [1.0, 2.0]])
    assert average_velocity.relative(actual, expected).tolist() == [0.0, 0.5]
