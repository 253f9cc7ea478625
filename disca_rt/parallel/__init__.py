"""Sequence parallelism: tokens are shared out over ranks, and attention trades them for heads."""

import torch  # noqa: F401  # loads the libraries that _native is linked with
