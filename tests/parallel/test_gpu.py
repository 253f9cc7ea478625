"""Exchanges over NCCL, a rank on every GPU that is here: streams, events, overlap."""

from pathlib import Path

import pytest
import torch

from parallel.launch import passes, torchrun


@pytest.mark.gpu
def test_exchanges_on_gpus() -> None:
    passes(torchrun(torch.cuda.device_count(), Path(__file__).with_name("gpu_worker.py")))
