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
    from .parallel.topology import Topology
    from .pipeline.media import to_frames, write_contact_sheet
    from .pipeline.mp4 import write_mp4
    from .pipeline.pipeline import Pipeline
    from .pipeline.request import Request
    from .pipeline.runtime import Runtime
    from .pipeline.sample import Busy, Closed, Sample
    from .pipeline.saved_conditioning import SavedConditioning, load_conditioning
    from .sampling.loop import Cancelled, StepEvent
    from .schedule import Preset, Schedule, from_timesteps, get_preset, preset, shifted
    from .tiny.runtime import load_tiny

__version__ = "0.1.0"
# fmt: off
__all__ = [
    "Busy", "Cancelled", "Closed", "Conditioning", "GraphRunner", "LocalAttention", "Pipeline",
    "Preset", "Request", "Runtime", "Sample", "SavedConditioning", "Schedule", "StepEvent",
    "Topology", "UlyssesAttention", "__version__", "from_timesteps", "get_preset", "joined",
    "load_conditioning", "load_tiny", "preset", "shifted", "to_frames", "write_contact_sheet",
    "write_mp4",
]
# fmt: on
_HOMES = {  # the imports above; a test compares the two
    "attention.local": ("LocalAttention",),
    "conditioning": ("Conditioning",),
    "graphs.runner": ("GraphRunner",),
    "parallel.attention": ("UlyssesAttention",),
    "parallel.ranks": ("joined",),
    "parallel.topology": ("Topology",),
    "pipeline.media": ("to_frames", "write_contact_sheet"),
    "pipeline.mp4": ("write_mp4",),
    "pipeline.pipeline": ("Pipeline",),
    "pipeline.request": ("Request",),
    "pipeline.runtime": ("Runtime",),
    "pipeline.sample": ("Busy", "Closed", "Sample"),
    "pipeline.saved_conditioning": ("SavedConditioning", "load_conditioning"),
    "sampling.loop": ("Cancelled", "StepEvent"),
    "schedule": ("Preset", "Schedule", "from_timesteps", "get_preset", "preset", "shifted"),
    "tiny.runtime": ("load_tiny",),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'disca_rt' has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
