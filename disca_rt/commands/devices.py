"""Choice of device, dtype and ops by their flags, refused before a load rather than amid it."""

import torch

from ..kernels.ops import default_ops

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str, flag: str = "--device") -> torch.device:
    """Device that `flag` names; ValueError for one that does not exist here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{flag} must be such as cpu, cuda, cuda:1, got {name!r}") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ValueError(f"{flag} must be cpu or cuda, got {name!r}")
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise ValueError(f"{flag} {name} is not here: PyTorch sees {count} CUDA devices; use cpu")
    return device


def choose_dtype(
    name: str | None, device: torch.device, flag: str = "--dtype"
) -> torch.dtype | None:
    """Dtype of `flag`; by default float32 on a CPU, where bf16 is slow, else None: the file's."""
    if name is None:
        return torch.float32 if device.type == "cpu" else None
    if name not in DTYPES:
        raise ValueError(f"{flag} must be one of {sorted(DTYPES)}, got {name!r}")
    return DTYPES[name]


def choose_ops(name: str | None, device: torch.device) -> str:
    """Name of the ops; by default the device's fastest."""
    return name or default_ops(device)


def choose_workers(asked: int | None, device: torch.device) -> int:
    """Number of processes to run in, more than one on a CPU only; ValueError for another."""
    if asked is None:
        return 1 if device.type == "cuda" else torch.get_num_threads()
    if asked < 1 or (asked > 1 and device.type == "cuda"):
        most = "1 on a GPU" if device.type == "cuda" else "at least 1"
        raise ValueError(f"--workers must be {most}, got {asked}")
    return asked
