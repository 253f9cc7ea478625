"""The reference vectors of both models: weights, inputs, and the authors' outputs."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from disca_rt.conditioning import Conditioning
from disca_rt.models.dit import StepInputs
from disca_rt.pipeline.saved_conditioning import load_conditioning
from disca_rt.schedule import Preset, shifted

FOLDER = Path(__file__).parent / "golden"
NAMES = ("hyvideo10", "hyvideo15")


@dataclass(frozen=True)
class Golden:
    """One model's folder; `io` are its tensors, on the device asked for, `settings` its config."""

    folder: Path
    settings: dict
    io: dict[str, Tensor]
    device: str

    @property
    def dit(self) -> Path:
        return self.folder / "dit.safetensors"

    @property
    def predictor(self) -> Path:
        return self.folder / "predictor.safetensors"

    @property
    def conditioning(self) -> Conditioning:
        return load_conditioning(self.folder / "io.safetensors").positive.to(self.device)

    @property
    def schedule(self) -> Preset:
        levels = shifted(self.settings["steps"], self.settings["shift"])
        return Preset(levels, tuple(self.settings["step_list"]))

    def step_inputs(self, index: int) -> StepInputs:
        timesteps = torch.cat([self.io["timesteps"], torch.zeros(1, device=self.device)])
        t, r = timesteps[index : index + 1], timesteps[index + 1 : index + 2]
        return StepInputs(t, r, self.io.get("guidance"))


def load_golden(name: str, device: str = "cpu") -> Golden:
    folder = FOLDER / name
    settings = json.loads((folder / "config.json").read_text())
    return Golden(folder, settings, load_file(folder / "io.safetensors", device), device)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """‖a − b‖ / ‖b‖ in fp64."""
    difference = actual.double() - expected.double().to(actual.device)
    return (difference.norm() / expected.double().norm()).item()
