"""Reading one .safetensors file through the safetensors library, tensor by tensor."""

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from .errors import CheckpointError, first_line
from .tensor_file import TensorSpec

TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
}


class SafetensorsFile:
    """A `TensorFile`; raises CheckpointError where the header or the size is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = safe_open(str(path), framework="pt")
            self.specs = {name: self._spec(name) for name in self._file.keys()}  # noqa: SIM118
        except Exception as error:  # the library raises types of its own and of Rust's
            raise CheckpointError(
                f"{path} is not a whole .safetensors file ({first_line(error)}); "
                "it may be truncated or damaged: download or copy it again"
            ) from error

    def read(self, name: str) -> Tensor:
        try:
            return self._file.get_tensor(name)
        except Exception as error:
            raise CheckpointError(
                f"{self.path}: {name} cannot be read ({first_line(error)}); "
                "download or copy the file again"
            ) from error

    def _spec(self, name: str) -> TensorSpec:
        header = self._file.get_slice(name)
        dtype = header.get_dtype()
        return TensorSpec(tuple(header.get_shape()), TORCH_NAMES.get(dtype, dtype.lower()))
