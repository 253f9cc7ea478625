"""Exchanges over NCCL, a rank on every GPU that is here: streams, events, overlap."""

from pathlib import Path

import pytest
import torch

from parallel.launch import passes


@pytest.mark.gpu
def test_exchanges_on_gpus() -> None:
    passes(torch.cuda.device_count(), Path(__file__).with_name("gpu_worker.py"))
