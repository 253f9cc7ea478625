"""Settings of torch that a host program may have made, and what a sample does about them.

Those of a thread are set aside while it samples: default device, autocast, gradients, inference
mode. The default dtype is nowhere asked for. Those of a process are its own, for other threads work
under them too: a sample follows them, and says so where they change its numbers.
"""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def set_aside(device: torch.device) -> Iterator[None]:
    """Keep this thread's settings away from what runs within, on the CPU or on `device`."""
    with ExitStack() as settings:
        settings.enter_context(torch.inference_mode(False))
        settings.enter_context(torch.no_grad())
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                settings.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # else it would cost a call per operator
            settings.enter_context(torch.device("cpu"))
        yield


def warn_of_precision(dtype: torch.dtype) -> None:
    """Warn, as a RuntimeWarning, where products in `dtype` are allowed to be less exact."""
    precision = torch.get_float32_matmul_precision()
    if dtype == torch.float32 and precision != "highest":
        warnings.warn(
            f"torch's float32 matmul precision is {precision!r}: a sample in float32 may differ by "
            "about 1e-3 from one at 'highest'",
            RuntimeWarning,
            stacklevel=2,
        )
