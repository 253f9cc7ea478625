"""Loader of a folder's parts, as modules of transformers or diffusers that are ready to run.

Modules are in eval mode, without gradients, on the device and in the dtype asked for; host memory
peaks at one module. The DiT and the predictor are loaded by `weights.load`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..family import VIDEO_10, VIDEO_15, Family
from .encoders import load_byt5, load_clip, load_siglip
from .language import load_language_model
from .llava import load_llava
from .parts import WITH_LLAVA, ModelFolder, PartName
from .tokenizers import load_image_processor, load_second_tokenizer, load_tokenizer
from .vaes import load_vae

Device = torch.device | str
# Family -> loader of its second text encoder.
SECOND: dict[Family, Callable[..., Any]] = {VIDEO_10.name: load_clip, VIDEO_15.name: load_byt5}


def load_part(
    folder: ModelFolder,
    name: PartName,
    device: Device = "cpu",
    dtype: torch.dtype | None = None,
) -> Any:
    """Load the part `name` of `folder`; `dtype` None keeps the file's.

    A text encoder, VAE or image encoder is a module; tokenizers and the image processor are
    transformers'. Raises ValueError where the part is not there, CheckpointError where its files
    are not of such a model, ImportError without the extra.
    """
    _check_extra()
    folder.require(name)
    family, part = folder.family, folder.parts.get(name)
    path = None if part is None else part.path
    loaders: dict[PartName, Callable[[], Any]] = {
        "vae": lambda: load_vae(path, family, device, dtype),
        "text_encoder": lambda: _text_encoder(folder, device, dtype),
        "text_encoder_2": lambda: SECOND[family](path, device, dtype),
        "image_encoder": lambda: load_siglip(path, device, dtype),
        "tokenizer": lambda: load_tokenizer(path, family),
        "tokenizer_2": lambda: load_second_tokenizer(path, family),
        "image_processor": lambda: load_image_processor(path, family),
    }
    if name == "image_encoder" and family in WITH_LLAVA:
        raise ValueError("image_encoder of LLaVA is loaded with its text_encoder; ask for that")
    if name not in loaders:
        raise ValueError(f"part must be one of {', '.join(loaders)}, got {name!r}")
    with quiet():
        return loaders[name]()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' remarks on classes and settings, which no user can mend, off stderr."""
    import diffusers
    import transformers

    logs = [library.utils.logging for library in (diffusers, transformers)]
    levels = [log.get_verbosity() for log in logs]
    try:
        for log in logs:
            log.set_verbosity_error()
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.set_verbosity(level)


def _text_encoder(folder: ModelFolder, device: Device, dtype: torch.dtype | None) -> Any:
    path = folder.parts["text_encoder"].path
    if not folder.text_sees_image:
        return load_language_model(path, folder.family, device, dtype)
    eyes = folder.parts.get("image_encoder", folder.parts["text_encoder"])
    return load_llava(path, eyes.path, folder.family, device, dtype)


def _check_extra() -> None:
    """Raise ImportError, in one line, where transformers or diffusers is missing."""
    try:
        import diffusers  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"the encoders and the VAE need transformers and diffusers ({error}): "
            'pip install "disca_rt[pipeline]"'
        ) from error
