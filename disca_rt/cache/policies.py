"""The table of cache policies, by name."""

from collections.abc import Callable

from ..kernels.ops import Ops
from ..models.predictor import Predictor
from .disca import DisCaPolicy
from .full import FullPolicy
from .hermite import HermitePolicy
from .policy import CachePolicy
from .reuse import ReusePolicy
from .taylor import TaylorPolicy


def _disca(predictor: Predictor | None, ops: Ops) -> DisCaPolicy:
    if predictor is None:
        raise ValueError("policy 'disca' needs a predictor; give one, or choose policy 'full'")
    return DisCaPolicy(predictor)


POLICIES: dict[str, Callable[[Predictor | None, Ops], CachePolicy]] = {
    "full": lambda predictor, ops: FullPolicy(),
    "disca": _disca,
    "reuse": lambda predictor, ops: ReusePolicy(),
    "taylor": lambda predictor, ops: TaylorPolicy(ops),
    "hermite": lambda predictor, ops: HermitePolicy(ops),
}


def build_policy(name: str, predictor: Predictor | None, ops: Ops) -> CachePolicy:
    """The policy called `name`, over the model's `ops`; ValueError lists the known names."""
    check_policy(name)
    return POLICIES[name](predictor, ops)


def check_policy(name: str) -> None:
    """Raises ValueError listing the known names unless `name` is one of them."""
    if name not in POLICIES:
        raise ValueError(f"policy must be one of {sorted(POLICIES)}, got {name!r}")
