"""The README's library examples run as printed."""

import re
from pathlib import Path

import torch

from disca_rt.runtime.runtime import Runtime

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_run() -> None:
    embedded, big = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    namespace: dict = {}
    exec(embedded, namespace)
    assert namespace["sample"].video.shape == (2, 3, 5, 24, 32)
    assert namespace["sample"].latents.shape == (2, 12, 5, 12, 16)
    golden = Path(__file__).parent / "golden" / "hyvideo10"
    big = big.replace('"dit.', f'"{golden}/dit.').replace('"predictor.', f'"{golden}/predictor.')
    big = big.replace("conditioning.safetensors", f"{golden}/io.safetensors")
    big = big.replace('device="cuda"', 'device="cpu", dtype=torch.float32')
    big = big.replace("(16, 33, 88, 88)", "(4, 3, 8, 12)")
    exec(big, {"torch": torch, "Runtime": Runtime, "get_preset": namespace["get_preset"]})
