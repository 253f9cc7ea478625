"""DisCa on HunyuanVideo, from published checkpoint to video.

What a program needs is imported from here; each name is loaded when it is first asked for, so that
importing the package loads neither PyTorch nor any submodule.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention.local import LocalAttention
    from .conditioning import Conditioning
    from .graphs.runner import GraphRunner
    from .parallel.attention import UlyssesAttention
    from .parallel.ranks import joined
    from .pipeline.media import to_frames, write_contact_sheet, write_mp4
    from .pipeline.pipeline import Busy, Closed, Pipeline, Sample
    from .pipeline.request import Request
    from .pipeline.runtime import Runtime
    from .pipeline.saved_conditioning import SavedConditioning, load_conditioning
    from .sampling.engine import Cancelled, StepEvent
    from .schedule import Schedule, full_schedule, get_preset
    from .tiny.runtime import load_tiny

__version__ = "0.1.0"
__all__ = [
    "Busy",
    "Cancelled",
    "Closed",
    "Conditioning",
    "GraphRunner",
    "LocalAttention",
    "Pipeline",
    "Request",
    "Runtime",
    "Sample",
    "SavedConditioning",
    "Schedule",
    "StepEvent",
    "UlyssesAttention",
    "__version__",
    "full_schedule",
    "get_preset",
    "joined",
    "load_conditioning",
    "load_tiny",
    "to_frames",
    "write_contact_sheet",
    "write_mp4",
]
_HOMES = {  # as for type checkers above; a test compares the two
    "Busy": "pipeline.pipeline",
    "Cancelled": "sampling.engine",
    "Closed": "pipeline.pipeline",
    "Conditioning": "conditioning",
    "GraphRunner": "graphs.runner",
    "LocalAttention": "attention.local",
    "Pipeline": "pipeline.pipeline",
    "Request": "pipeline.request",
    "Runtime": "pipeline.runtime",
    "Sample": "pipeline.pipeline",
    "SavedConditioning": "pipeline.saved_conditioning",
    "Schedule": "schedule",
    "StepEvent": "sampling.engine",
    "UlyssesAttention": "parallel.attention",
    "full_schedule": "schedule",
    "get_preset": "schedule",
    "joined": "parallel.ranks",
    "load_conditioning": "pipeline.saved_conditioning",
    "load_tiny": "tiny.runtime",
    "to_frames": "pipeline.media",
    "write_contact_sheet": "pipeline.media",
    "write_mp4": "pipeline.media",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'disca_rt' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
