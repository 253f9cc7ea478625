"""How much of a GPU NCCL's kernels may take from those that run beside them."""

from datetime import timedelta
from typing import Any

import torch.distributed as dist


def nccl_options(max_ctas: int | None, timeout: timedelta) -> Any | None:
    """Options of a group whose kernels have at most `max_ctas` thread blocks, one on an SM each.

    None, PyTorch's own options, where `max_ctas` is: NCCL then chooses, 16 to 32 on NVLink.
    """
    if max_ctas is None:
        return None
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    options.config.max_ctas = max_ctas
    return options
