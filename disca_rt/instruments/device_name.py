"""Name of a device in results, where a figure without one means nothing."""

import platform
from pathlib import Path

import torch

CPU_INFO = Path("/proc/cpuinfo")


def device_name(device: torch.device) -> str:
    """Name such as "GPU: NVIDIA H200" or "CPU: Intel(R) Xeon(R) Processor"."""
    if device.type == "cuda":
        return f"GPU: {torch.cuda.get_device_name(device)}"
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU: {names[0] if names else platform.processor() or platform.machine()}"
