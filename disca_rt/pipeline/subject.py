"""The facts of a sample that a calibration must be of: from a request and the models it runs on."""

import hashlib
from weakref import WeakKeyDictionary

import torch

from ..cache.calibration import Subject
from ..models.dit import DiT
from ..schedule import Preset
from ..vae.codec import Codec
from ..vae.sizes import VideoSizes
from .fit import guidance_of
from .load import Facts
from .request import Request

VALUES = 16  # of each parameter: enough to tell checkpoints of one size apart
_DIGESTS: WeakKeyDictionary[DiT, str] = WeakKeyDictionary()


def subject_of(
    request: Request, facts: Facts, sizes: Codec | VideoSizes, dit: DiT | None
) -> Subject:
    """The subject of a request's samples; of a `dit` that is not loaded the weights are unknown.

    `sizes` are the size rules of the request's video.
    """
    preset = request.schedule if isinstance(request.schedule, Preset) else Preset(request.schedule)
    guidance = guidance_of(request, facts.config)
    has_weights = dit is not None and not facts.fp8
    return Subject(
        model=facts.config,
        weights=weights_digest(dit) if has_weights else None,
        latents=sides_of(request, sizes),
        sigmas=preset.schedule.sigmas,
        scales=(guidance.embedded, guidance.classifier_free),
    )


def weights_digest(dit: DiT) -> str | None:
    """Sixteen hexadecimal digits of the first values of every parameter, rounded to bf16.

    So one checkpoint has the same in every dtype that it is loaded in. None of a model without
    values.
    """
    if dit.device.type == "meta":
        return None
    if dit not in _DIGESTS:
        named = sorted(dit.named_parameters())
        with torch.inference_mode():
            values = [each.flatten()[:VALUES].to(torch.bfloat16) for _, each in named]
            read = torch.cat(values).float().cpu().numpy().tobytes()
        names = " ".join(name for name, _ in named).encode()
        _DIGESTS[dit] = hashlib.sha256(names + read).hexdigest()[:16]
    return _DIGESTS[dit]


def sides_of(request: Request, sizes: Codec | VideoSizes) -> tuple[int, int, int]:
    """The latents (T, H, W) of a request's samples."""
    if request.size is not None:
        shape = sizes.latent_shape(*request.size)
    else:
        shape = request.latent_shape or request.latents.shape
    t, h, w = shape[-3:]
    return int(t), int(h), int(w)
