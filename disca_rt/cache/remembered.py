"""Results that are remembered by policy, and forgotten with the networks that a policy may hold."""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

F = TypeVar("F", bound=Callable)

_CACHES: list = []


def remembered(maxsize: int) -> Callable[[F], F]:
    """Cache a function of hashable arguments, the policy or its slots among them.

    `lru_cache` itself, whose hits cost no Python call: a replayed step asks several times.
    """

    def decorate(function: F) -> F:
        cached = lru_cache(maxsize)(function)
        _CACHES.append(cached)
        return cached

    return decorate


def forget() -> None:
    """Let go of all policies; what they are asked for again is computed again."""
    for cached in _CACHES:
        cached.cache_clear()
