"""Samples of a whole model by our pipeline and by diffusers', stage by stage, as contenders.

Facts of diffusers' interfaces only; knows no clock but that of the stages, and no file of results.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from disca_rt.commands.generate import write_videos
from disca_rt.folders.find import find_model
from disca_rt.folders.load import quiet
from disca_rt.folders.parts import ModelFolder
from disca_rt.instruments.stopwatch import StageTime, Stopwatch, added
from disca_rt.measure.harness import Comparison, Contender
from disca_rt.measure.session import StageTimes
from disca_rt.pipeline.defaults import scales
from disca_rt.pipeline.media import to_frames
from disca_rt.pipeline.mp4 import Mp4Writer
from disca_rt.pipeline.outputs import FPS, VideoFiles
from disca_rt.pipeline.pipeline import Pipeline
from disca_rt.pipeline.request import Request
from disca_rt.schedule import preset
from disca_rt.vae.sizes import SIZES
from disca_rt.work.flops import image_tokens

TOLERANCE = 1e-4
GOAL = 0.9
SAMPLES = 7
CPU = torch.device("cpu")
THEIRS, OURS = "diffusers", "ours"
# diffusers' words for the stages -> ours; each is a call of the pipeline or of a part.
STAGES = {"encode_prompt": "prompts", "transformer.forward": "full steps", "vae.decode": "decode"}

Times = dict[str, list[StageTimes]]
"""Stages of each sample, by contender."""


@dataclass(frozen=True)
class Job:
    """One sample of the model in `folder`: of `size` (frames, height, width), all steps full."""

    name: str
    folder: Path
    prompt: str
    size: tuple[int, int, int]
    steps: int
    seed: int = 0

    @cached_property
    def model(self) -> ModelFolder:
        """The parts of the model."""
        return find_model(self.folder)

    @property
    def scales(self) -> dict[str, float | None]:
        """Guidance, as the folder has it."""
        return scales(self.model.settings, None, None)

    @property
    def shape(self) -> dict[str, Any]:
        """What the time depends on, for the lines of results."""
        config = self.model.config
        frames, height, width = self.size
        latents = (config.in_channels, *SIZES[config.family].latent_shape(*self.size)[1:])
        return {
            "model": self.name,
            "family": config.family,
            "batch": 1,
            "size": f"{width}x{height}x{frames}",
            "steps": self.steps,
            "passes": 1 + (self.scales["classifier_free_scale"] is not None),
            "latents": list(latents),
            "image tokens": image_tokens(config, latents),
            "hidden": config.hidden,
            "heads": config.heads,
            "blocks": f"{config.double}+{config.single}",
        }


class Made(NamedTuple):
    """A sample's frames `[1, 3, T, H, W]` in [0, 1], None where a file has them, and its stages."""

    video: Tensor | None
    times: StageTimes


@dataclass
class Ours:
    """Our pipeline; `kept` is one with all parts in memory."""

    job: Job
    kept: Pipeline = field(init=False)

    def __post_init__(self) -> None:
        self.kept = self._load(keep_resident=True)

    def resident(self) -> Made:
        sample = self.kept.run(self._request())
        return Made(sample.video, sample.times)

    def whole(self, video: Path) -> Made:
        with self._load() as pipeline:
            sample = pipeline.run(self._request(), decode=False)
            written = write_videos(pipeline, sample.latents, [VideoFiles(video)], is_first=True)
        return Made(None, added(sample.times, written))

    def _load(self, **options: Any) -> Pipeline:
        given = {"dtype": torch.float32, "tiles": "diffusers"}
        return Pipeline.load(self.job.folder, **given, **options)

    def _request(self) -> Request:
        job = self.job
        return Request(
            prompts=[job.prompt],
            size=job.size,
            schedule=preset(job.steps, job.model.settings.shift),
            policy="full",
            seed=job.seed,
            noise="diffusers",
            **job.scales,
        )


@dataclass
class Theirs:
    """The pipeline that diffusers makes of the folder; `crop` tokens are its template's."""

    job: Job
    crop: int
    kept: Any = field(init=False)

    def __post_init__(self) -> None:
        self.kept = self._load()

    def resident(self) -> Made:
        stopwatch = Stopwatch(CPU)
        return Made(self._sample(self.kept, stopwatch), stopwatch.times())

    def whole(self, video: Path) -> Made:
        stopwatch = Stopwatch(CPU)
        with stopwatch.stage("loading"):
            pipeline = self._load()
        frames = self._sample(pipeline, stopwatch)[0]
        with stopwatch.stage("writing"):
            pixels = to_frames(frames)
            with Mp4Writer(video, *pixels.shape[1:3], fps=FPS) as writer:
                writer.write(pixels)
        return Made(None, stopwatch.times())

    def _load(self) -> Any:
        import diffusers

        diffusers.utils.logging.disable_progress_bar()
        with quiet():
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                self.job.folder, dtype=torch.float32
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _sample(self, pipeline: Any, stopwatch: Stopwatch) -> Tensor:
        job, scales = self.job, self.job.scales
        frames, height, width = job.size
        given = {"num_frames": frames, "height": height, "width": width}
        if scales["guidance_scale"] is not None:
            given["guidance_scale"] = scales["guidance_scale"]
        if job.model.config.traits.has_glyphs:
            pipeline.prompt_template_encode_start_idx = self.crop
        else:
            from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video

            template = pipeline_hunyuan_video.DEFAULT_PROMPT_TEMPLATE["template"]
            given["prompt_template"] = {"template": template, "crop_start": self.crop}
        with quiet(), _timed_calls(pipeline, stopwatch):
            made = pipeline(
                prompt=job.prompt,
                num_inference_steps=job.steps,
                generator=torch.Generator().manual_seed(job.seed),
                output_type="pt",
                **given,
            )
        return made.frames.transpose(1, 2)


@contextmanager
def _timed_calls(pipeline: Any, stopwatch: Stopwatch) -> Iterator[None]:
    """Have the pipeline's calls of `STAGES` timed while the context lasts."""
    with ExitStack() as stack:
        for path, stage in STAGES.items():
            *owners, name = path.split(".")
            owner = reduce(getattr, owners, pipeline)
            setattr(owner, name, stopwatch.stage(stage)(getattr(owner, name)))
            stack.callback(delattr, owner, name)
        yield


def comparisons(
    job: Job, against_diffusers: bool, video: Path
) -> Iterator[tuple[Comparison, Times]]:
    """Comparisons of `job`, each with the stages of the samples that its contenders take.

    With all parts in memory, from the prompt to frames, and from the folder to the file `video`.
    RuntimeError, before anything is timed, where frames differ by more than `TOLERANCE`.
    """
    ours = Ours(job)
    makers: dict[str, Ours | Theirs] = {OURS: ours}
    difference = None
    if against_diffusers:
        theirs = Theirs(job, _crop(ours.kept))
        makers = {THEIRS: theirs, OURS: ours}
        difference = _check_equal(ours, theirs)
    for way, run in (
        ("parts resident", lambda maker: maker.resident()),
        ("folder to mp4", lambda maker: maker.whole(video)),
    ):
        times: Times = {name: [] for name in makers}
        contenders = [
            Contender(
                name,
                partial(_timed, partial(run, maker), times[name]),
                goal=GOAL if maker is ours and against_diffusers else None,
                warm_up=partial(run, maker),
            )
            for name, maker in makers.items()
        ]
        name = f"{job.name}, {way}"
        yield (
            Comparison(name, job.shape, "float32", contenders, SAMPLES, difference),
            times,
        )


def _crop(pipeline: Pipeline) -> int:
    """Number of the template's tokens before a prompt, by the tokenizer that is there."""
    prompts = pipeline.text_encoder.prompts
    return prompts.template.crop if pipeline.config.traits.has_glyphs else prompts.video.crop


def _timed(run: Callable[[], Made], times: list[StageTimes]) -> None:
    """Add the stages of one sample to `times`, and as "other" what is in none of them."""
    start = time.perf_counter()
    made = run()
    whole = time.perf_counter() - start
    other = whole - sum(stage.time_s for stage in made.times.values())
    times.append({**made.times, "other": StageTime(1, other)})


def _check_equal(ours: Ours, theirs: Theirs) -> float:
    """Largest difference of frames in [0, 1]; RuntimeError above the tolerance."""
    with torch.inference_mode():
        actual, expected = ours.resident().video, theirs.resident().video
    difference = float((actual - expected).abs().max())
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"our frames differ from diffusers' by {difference:.1e}, more than {TOLERANCE}: these "
            "are not the same computation, so nothing was timed"
        )
    return difference
