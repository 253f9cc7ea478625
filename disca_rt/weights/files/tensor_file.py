"""The seam of file formats: what the loader needs of one file of tensors."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

DTYPES: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
"""The dtypes weights may have, by torch's names."""


class StoredSpec(NamedTuple):
    """Shape and dtype, known without the data; `dtype` is torch's name where torch has one."""

    shape: tuple[int, ...]
    dtype: str


class TensorFile(Protocol):
    """`read` returns a view of the mapped file, so it costs no memory until it is copied."""

    specs: dict[str, StoredSpec]

    def read(self, name: str) -> Tensor: ...
