"""Judges a generated clip against its prompt by looking at the pixels only.

Per region (the frame, or each half for two objects) and per frame: the median colour is the
background, the largest connected blob that differs from it is the object, and drawn templates at
the blob's centroid tell its shape and size. It knows the drawing rules of `clips`, and nothing of
the generator, the model or how the clip was made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import torch

from .blobs import LargestBlob, dilate, find_blob
from .clips import BACKGROUND_RGB, COLOUR_RGB, DIRECTION, RADIUS, coverage
from .prompts import SHAPES, SIZES, Scene

COLOUR_DISTANCE = 0.22  # half of 0.47, blue to purple, the closest pair of object colours
BACKGROUND_DISTANCE = 0.108  # half of 0.216, black to navy
TEMPLATE_MATCH = 0.65  # least overlap with a template; a square's with a circle is 0.85
MOVING, STILL = 3.0, 1.5  # pixels of displacement: at least, at most
ACROSS = 0.5  # a motion's largest displacement across its direction, as a share of that along it

# (value up to which the score is 1, value from which it is 0). The first are just above what
# clips from `clips.render` show, the second what a clearly broken clip shows.
AREA_RANGE = (0.05, 0.35)  # standard deviation of the area over time / its mean
COLOUR_RANGE = (0.04, 0.2)  # RGB distance to the mean object colour, mean over time
BACKGROUND_RANGE = (0.01, 0.15)  # RGB change of a background pixel from frame to frame, mean
ACCELERATION_RANGE = (0.2, 1.5)  # pixels per frame^2, mean length
BLUR_RANGE = (0.05, 0.6)  # rim pixels beyond the template's, per pixel of outline


@dataclass(frozen=True)
class Verdict:
    """Marks of a clip: what is right (None: the prompt does not name it), and how good it looks.

    The tuples hold one entry per object of the scene; the scores are in [0, 1], 1 for a clip
    from `clips.render`.
    """

    colour: tuple[bool, ...]
    shape: tuple[bool, ...]
    size: tuple[bool | None, ...]
    motion: tuple[bool, ...]
    background: bool | None
    count: bool  # exactly the named objects, in every frame
    flicker: float
    smoothness: float
    sharpness: float

    @property
    def named(self) -> tuple[bool, ...]:
        """Marks of the things that the prompt names, True where right."""
        marks = (*self.colour, *self.shape, *self.size, *self.motion, self.background, self.count)
        return tuple(mark for mark in marks if mark is not None)

    @property
    def correct(self) -> bool:
        """True where everything that the prompt names is right."""
        return all(self.named)

    @property
    def semantic(self) -> float:
        """Share of the named things that are right."""
        return sum(self.named) / len(self.named)

    @property
    def quality(self) -> float:
        """Mean of the three quality scores."""
        return (self.flicker + self.smoothness + self.sharpness) / 3

    @property
    def total(self) -> float:
        """(semantic + 4 quality) / 5, VBench's weights."""
        return (self.semantic + 4 * self.quality) / 5


class _Track(NamedTuple):
    """One object as seen over the frames; a name is None where nothing in the vocabulary fits."""

    colour: str | None
    shape: str | None
    size: str | None
    motion: str | None
    flicker: float
    smoothness: float
    sharpness: float


_NOTHING = _Track(None, None, None, None, 0.0, 0.0, 0.0)


def judge(video: torch.Tensor, scene: Scene) -> Verdict:
    """Judge one clip, [3, T, H, W] RGB in [0, 1], against the scene its prompt names."""
    if video.ndim != 4 or video.shape[0] != 3:
        raise ValueError(f"video must be [3, T, H, W], got {list(video.shape)}")
    frames = video.detach().float().cpu().transpose(0, 1)  # [T, 3, H, W]
    background = frames.flatten(2).median(dim=2).values  # [T, 3]
    distance = (frames - background[:, :, None, None]).norm(dim=1)  # [T, H, W]
    regions = _regions(frames.shape[3], len(scene.objects))
    blobs = [find_blob(distance[:, :, columns]) for columns in regions]
    tracks = [
        _follow(frames[:, :, :, columns], background, blob)
        for columns, blob in zip(regions, blobs, strict=True)
    ]
    steadiness = _background_steadiness(frames, torch.cat([blob.mask for blob in blobs], dim=2))
    seen = list(zip(tracks, scene.objects, strict=True))
    background_name = _nearest(background.mean(dim=0), BACKGROUND_RGB, BACKGROUND_DISTANCE)
    return Verdict(
        colour=tuple(track.colour == spec.colour for track, spec in seen),
        shape=tuple(track.shape == spec.shape for track, spec in seen),
        size=tuple(track.size == spec.size if spec.size else None for track, spec in seen),
        motion=tuple(track.motion == spec.motion for track, spec in seen),
        background=background_name == scene.background if scene.background else None,
        count=all(blob.alone for blob in blobs),
        flicker=fmean([track.flicker for track in tracks]) * steadiness,
        smoothness=fmean([track.smoothness for track in tracks]),
        sharpness=fmean([track.sharpness for track in tracks]),
    )


def _regions(width: int, objects: int) -> list[slice]:
    """Choose the columns where each object belongs: all, or the left and the right half."""
    if objects == 1:
        return [slice(0, width)]
    return [slice(0, width // 2), slice(width // 2, width)]


def _follow(frames: torch.Tensor, background: torch.Tensor, blob: LargestBlob) -> _Track:
    """Measure a region's object over the frames, [T, 3, h, w], that show it."""
    present = blob.present
    if not present.any():
        return _NOTHING
    frames, background, mask = frames[present], background[present], blob.mask[present]
    colour = _core_colour(frames, background, mask)  # [P, 3]
    alpha = _opacity(frames, background, colour) * dilate(mask)
    area = alpha.sum(dim=(1, 2))
    centre_x, centre_y = _centroid(alpha, area)
    templates = _templates(centre_x, centre_y, *mask.shape[1:])
    overlap = _overlap(alpha, templates)  # [shapes x sizes]
    best = int(overlap.argmax())
    matched = bool(overlap[best] >= TEMPLATE_MATCH)
    area_over_time = torch.zeros(len(present)).masked_scatter(present, area)
    return _Track(
        colour=_nearest(colour.mean(dim=0), COLOUR_RGB, COLOUR_DISTANCE),
        shape=SHAPES[best // len(SIZES)] if matched else None,
        size=SIZES[best % len(SIZES)] if matched else None,
        motion=_motion(centre_x, centre_y),
        flicker=_constancy(area_over_time, colour),
        smoothness=_smoothness(centre_x, centre_y, bool(present.all())),
        sharpness=_sharpness(alpha, templates[best], area),
    )


def _core_colour(
    frames: torch.Tensor, background: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Average the colour, [P, 3], of the blob's pixels that differ most from the background."""
    distance = (frames - background[:, :, None, None]).norm(dim=1) * mask
    core = distance >= 0.8 * distance.amax(dim=(1, 2), keepdim=True)
    weight = core / core.sum(dim=(1, 2), keepdim=True)
    return (frames * weight[:, None]).sum(dim=(2, 3))


def _opacity(frames: torch.Tensor, background: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Place each pixel between background (0) and object colour (1): [P, h, w] in [0, 1]."""
    axis = colour - background
    towards = axis / (axis * axis).sum(dim=1, keepdim=True).clamp(min=1e-6)
    offset = frames - background[:, :, None, None]
    return (offset * towards[:, :, None, None]).sum(dim=1).clamp(0.0, 1.0)


def _centroid(alpha: torch.Tensor, area: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre x and y of the opacity, [P] pixels."""
    x = torch.arange(alpha.shape[2]) + 0.5
    y = torch.arange(alpha.shape[1]) + 0.5
    return (alpha.sum(dim=1) * x).sum(dim=1) / area, (alpha.sum(dim=2) * y).sum(dim=1) / area


def _templates(
    centre_x: torch.Tensor, centre_y: torch.Tensor, height: int, width: int
) -> torch.Tensor:
    """Draw every shape (outer) in every size (inner) at the centres: [8, P, h, w]."""
    shapes = torch.arange(len(SHAPES)).repeat_interleave(len(SIZES))
    radius = torch.tensor([RADIUS[size] for size in SIZES]).repeat(len(SHAPES))
    along = (len(shapes), -1)
    return coverage(shapes, radius, centre_x.expand(along), centre_y.expand(along), height, width)


def _overlap(alpha: torch.Tensor, templates: torch.Tensor) -> torch.Tensor:
    """Intersection over union of opacity and each template, mean over the frames: [8]."""
    both = torch.minimum(alpha, templates).sum(dim=(2, 3))
    either = torch.maximum(alpha, templates).sum(dim=(2, 3))
    return (both / either).mean(dim=1)


def _motion(centre_x: torch.Tensor, centre_y: torch.Tensor) -> str | None:
    """Name the displacement from the first frame to the last; None if it is none of the five."""
    travel = torch.stack([centre_x[-1] - centre_x[0], centre_y[-1] - centre_y[0]])
    if travel.norm() < STILL:
        return "still"
    for motion, direction in DIRECTION.items():
        along = travel @ torch.tensor(direction, dtype=torch.float32)
        across = (travel.square().sum() - along.square()).clamp(min=0).sqrt()
        if along >= MOVING and across <= ACROSS * along:
            return motion
    return None


def _nearest(
    colour: torch.Tensor, palette: Mapping[str, tuple[int, int, int]], limit: float
) -> str | None:
    """Name a colour, [3] RGB in [0, 1], by the palette; None when all are beyond the limit."""
    distance = (torch.tensor(list(palette.values())) / 255.0 - colour).norm(dim=1)
    index = int(distance.argmin())
    return list(palette)[index] if distance[index] <= limit else None


def _constancy(area: torch.Tensor, colour: torch.Tensor) -> float:
    """Score of an object's area, [T] with 0 where it is missing, and colour over time."""
    area_change = float(area.std(correction=0) / area.mean())
    colour_change = float((colour - colour.mean(dim=0)).norm(dim=1).mean())
    return fmean([_score(area_change, AREA_RANGE), _score(colour_change, COLOUR_RANGE)])


def _background_steadiness(frames: torch.Tensor, objects: torch.Tensor) -> float:
    """Score of the background's change from frame to frame, outside objects and their rims."""
    if len(frames) == 1:
        return 1.0
    outside = dilate(dilate(objects)) == 0
    both = outside[1:] & outside[:-1]
    change = (frames[1:] - frames[:-1]).norm(dim=1)[both].mean()
    return _score(float(change), BACKGROUND_RANGE)


def _smoothness(centre_x: torch.Tensor, centre_y: torch.Tensor, every_frame: bool) -> float:
    """Score of the centre's acceleration; 0 when a frame lacks the object."""
    if not every_frame:
        return 0.0
    if len(centre_x) < 3:
        return 1.0
    acceleration = torch.stack([centre_x, centre_y]).diff(n=2, dim=1).norm(dim=0).mean()
    return _score(float(acceleration), ACCELERATION_RANGE)


def _sharpness(alpha: torch.Tensor, template: torch.Tensor, area: torch.Tensor) -> float:
    """Score of the half-covered pixels beyond those of the same shape drawn sharply."""
    outline = 4 * area.sqrt()  # a square's; pixels
    excess = (_rim(alpha) - _rim(template)).clamp(min=0.0) / outline
    return _score(float(excess.mean()), BLUR_RANGE)


def _rim(alpha: torch.Tensor) -> torch.Tensor:
    """Number of half-covered pixels, [P], each counted by how near to half it is."""
    stretched = ((alpha - 0.15) / 0.7).clamp(0.0, 1.0)  # so that slight noise counts as nothing
    return (4 * stretched * (1 - stretched)).sum(dim=(1, 2))


def _score(value: float, span: tuple[float, float]) -> float:
    """Score a value: 1 up to the span's first number, 0 from its second or for NaN, else linear."""
    perfect, worst = span
    score = (worst - value) / (worst - perfect)
    return min(1.0, score) if score > 0 else 0.0
