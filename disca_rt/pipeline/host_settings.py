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
    """Within, nothing of this thread's settings reaches what runs on the CPU or on `device`.

    Warns, as a RuntimeWarning, where fp32 products are allowed to be less than fp32.
    """
    precision = torch.get_float32_matmul_precision()
    if precision != "highest":
        warnings.warn(
            f"torch's float32 matmul precision is {precision!r}: samples of float32 models may "
            "differ by about 1e-3 from those at 'highest'",
            RuntimeWarning,
            stacklevel=2,
        )
    with ExitStack() as settings:
        settings.enter_context(torch.inference_mode(False))
        settings.enter_context(torch.no_grad())
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                settings.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # else it would cost a call per operator
            settings.enter_context(torch.device("cpu"))
        yield
