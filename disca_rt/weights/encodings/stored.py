"""A weight as its file has it: values, and the encoding that says what they stand for."""

from typing import NamedTuple, Protocol

from torch import Tensor


class Encoding(Protocol):
    """The meaning of the values of one tensor of a file."""

    def decode_into(self, value: Tensor, target: Tensor) -> None:
        """Fill `target` with the weights that `value`, of the same shape, stands for."""

    def of_rows(self, rows: slice) -> "Encoding":
        """The encoding of those rows of the tensor alone."""


class Stored(NamedTuple):
    """One weight: `value` is a view of the mapped file."""

    value: Tensor
    encoding: Encoding

    def of_rows(self, rows: slice) -> "Stored":
        return Stored(self.value[rows], self.encoding.of_rows(rows))


class Plain:
    """Values that are the weights, in any float dtype."""

    def decode_into(self, value: Tensor, target: Tensor) -> None:
        target.copy_(value)

    def of_rows(self, rows: slice) -> "Plain":
        return self


class Scaled(NamedTuple):
    """Values to be multiplied by `scale`, `[]` or `[N, 1]`, both in the model's dtype."""

    scale: Tensor

    def decode_into(self, value: Tensor, target: Tensor) -> None:
        target.copy_(value).mul_(self.scale.to(target))

    def of_rows(self, rows: slice) -> "Scaled":
        return Scaled(self.scale[rows]) if self.scale.ndim else self


PLAIN = Plain()
