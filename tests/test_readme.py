"""The README's library examples run as printed."""

import re
from pathlib import Path

import torch
import torch.distributed as dist

from disca_rt.runtime.runtime import Runtime

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_run() -> None:
    embedded, big, shared = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    namespace: dict = {}
    exec(embedded, namespace)
    assert namespace["sample"].video.shape == (2, 3, 5, 24, 32)
    assert namespace["sample"].latents.shape == (2, 12, 5, 12, 16)
    golden = Path(__file__).parent / "golden" / "hyvideo10"
    for here, there in (
        ('"dit.', f'"{golden}/dit.'),
        ('"predictor.', f'"{golden}/predictor.'),
        ("conditioning.safetensors", f"{golden}/io.safetensors"),
        ('device="cuda"', 'device="cpu", dtype=torch.float32'),
        ("(16, 33, 88, 88)", "(4, 3, 8, 12)"),
    ):
        big, shared = big.replace(here, there), shared.replace(here, there)
    known = {"torch": torch, "Runtime": Runtime, "get_preset": namespace["get_preset"]}
    exec(big, known)
    alone = known["sample"].latents
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        exec(shared, known)
        exec(big.partition("saved = ")[1] + big.partition("saved = ")[2], known)
    finally:
        dist.destroy_process_group()
    assert torch.equal(known["sample"].latents, alone)
