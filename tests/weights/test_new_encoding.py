"""An encoding that nothing knows of is a class and a row: int8 with a step beside each weight."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from disca_rt.models.linear import Fp8Linear, weight_slots
from disca_rt.weights.encodings import choose
from disca_rt.weights.inspect import inspect_checkpoint
from disca_rt.weights.load import load_dit
from golden_vectors import Golden
from weights.fp8_writer import is_coded


class Step:
    def __init__(self, step: Tensor) -> None:
        self.step = step

    def decode_into(self, value: Tensor, target: Tensor) -> None:
        target.copy_(value * self.step)

    def of_rows(self, rows: slice) -> "Step":
        return Step(self.step[rows])


class Int8:
    name, dtypes = "int8", ("int8",)

    def recognises(self, checkpoint) -> bool:
        return any(name.endswith(".step") for name in checkpoint.entries)

    def helpers(self, checkpoint) -> set[str]:
        return {name for name in checkpoint.entries if name.endswith(".step")}

    def encodings(self, checkpoint, coded) -> dict[str, Step]:
        names = (each.source for each in coded)
        return {n: Step(checkpoint.read(n.removesuffix("weight") + "step")) for n in names}


@pytest.mark.parametrize("fp8", [None, "weights"])
def test_an_encoding_of_our_own(
    folder: Path, vectors_10: Golden, monkeypatch: pytest.MonkeyPatch, fp8: str | None
) -> None:
    monkeypatch.setattr(choose, "KINDS", (*choose.KINDS, Int8()))
    tensors, expected = {}, {}
    for name, tensor in load_file(vectors_10.dit).items():
        tensors[name] = expected[name] = tensor
        if is_coded(name, tensor):
            step = tensor.float().abs().amax(1, keepdim=True) / 127
            tensors[name] = (tensor / step).round().to(torch.int8)
            tensors[name.removesuffix("weight") + "step"] = step
            expected[name] = (tensors[name] * step).bfloat16()
    torch.save(tensors, folder / "int8.pt")
    assert inspect_checkpoint(folder).encoding == "int8"
    for name, slot in weight_slots(load_dit(folder, fp8=fp8)).items():
        if isinstance(slot, Fp8Linear):
            assert (slot.dense()[0] - expected[name]).abs().max() <= expected[name].abs().max() / 16
        else:
            assert torch.equal(slot, expected[name]), name
