"""Whole models in every layout: settings, stages that come and go, batches, refusals."""

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from disca_rt import Cancelled, Pipeline, Request, preset
from disca_rt.config import predictor_config
from disca_rt.models.build import build_predictor
from disca_rt.weights.load import load_dit

pytest.importorskip("diffusers")
import folder_writers
import small_parts

REQUEST = {"size": (5, 32, 48), "schedule": preset(2, 5.0), "policy": "full"}
LAYOUTS: dict[str, list[Callable[[Any, Path], Path]]] = {
    "1.0": [folder_writers.write_official_10, folder_writers.write_comfyui_10],
    "1.5": [folder_writers.write_official_15, folder_writers.write_comfyui_15],
}
MAKERS = {
    "1.0": lambda: small_parts.pipeline_10(guidance_embeds=True),
    "1.5": small_parts.pipeline_15,
}


def sampled(folder: Path, **options: Any) -> torch.Tensor:
    with Pipeline.load(folder, dtype=torch.float32, **options) as pipeline:
        return pipeline.generate("a cat", frames=5, height=32, width=48, **SCHEDULE).video


SCHEDULE = {"schedule": preset(2, 5.0), "policy": "full"}


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_writers.write_diffusers(MAKERS["1.0"](), tmp_path_factory.mktemp("ten"))


@pytest.mark.parametrize("family", MAKERS)
def test_every_layout_gives_the_same_video(family: str, tmp_path: Path) -> None:
    made = MAKERS[family]()
    video = sampled(folder_writers.write_diffusers(made, tmp_path / "diffusers"))
    for write in LAYOUTS[family]:
        assert torch.equal(sampled(write(made, tmp_path / write.__name__)), video), write


def test_a_batch_of_prompts_is_the_prompts_one_by_one(ten: Path) -> None:
    prompts = ["a cat", "a much longer prompt about two dogs in the rain", "x"]
    with Pipeline.load(ten, dtype=torch.float32, keep_resident=True) as pipeline:
        together = pipeline.run(Request(prompts=prompts, **REQUEST)).latents
        for i, prompt in enumerate(prompts):
            alone = pipeline.run(Request(prompts=[prompt], seed=i, **REQUEST)).latents
            assert torch.allclose(together[i], alone[0], rtol=1e-5, atol=1e-5)


def parts_alive(refs: dict[str, list[weakref.ref]]) -> set[str]:
    return {name for name, weights in refs.items() if any(ref() is not None for ref in weights)}


@pytest.mark.parametrize("keeps", [False, True])
def test_a_part_lives_as_long_as_its_stage(ten: Path, keeps: bool) -> None:
    refs: dict[str, list[weakref.ref]] = {}  # to every weight
    alive: dict[str, set[str]] = {}

    def watch(part: Any, name: str, module: str | None) -> None:
        """Have the loading of a part note which parts are alive then."""
        load = part._load

        def watched() -> Any:
            loaded = load()
            owner = getattr(loaded, module) if module else loaded
            refs[name] = list(map(weakref.ref, owner.parameters()))
            alive[name] = parts_alive(refs)
            return loaded

        part._load = watched

    with Pipeline.load(ten, dtype=torch.float32, keep_resident=keeps) as pipeline:
        for name, module in (("text_encoder", "llama"), ("dit", None), ("codec", "vae")):
            watch(getattr(pipeline, f"_{name}"), name, module)
        pipeline.run(Request(prompts=["a cat"], **REQUEST))
    if keeps:
        assert alive["codec"] == {"text_encoder", "dit", "codec"}
    else:
        assert alive == {name: {name} for name in alive}
    del pipeline
    gc.collect()
    assert parts_alive(refs) == set()


@pytest.mark.parametrize("stage", ["conditioning", "denoise", "decode"])
def test_a_cancelled_stage_frees_its_part(ten: Path, stage: str) -> None:
    cancel = threading.Event()

    def on_stage(begun: str) -> None:
        if begun == stage:
            cancel.set()

    with Pipeline.load(ten, dtype=torch.float32) as pipeline:
        with pytest.raises(Cancelled):
            pipeline.run(Request(prompts=["a cat"], **REQUEST), on_stage=on_stage, cancel=cancel)
        parts = pipeline._text_encoder, pipeline._dit, pipeline._codec
        assert [part.loaded for part in parts] == [None, None, None]


def test_a_vae_of_other_ratios_gives_the_size_that_was_asked_for(tmp_path: Path) -> None:
    made = MAKERS["1.5"]()
    made.register_modules(
        vae=small_parts.randomized(
            small_parts.diffusers.AutoencoderKLHunyuanVideo15(
                latent_channels=small_parts.LATENT_CHANNELS,
                block_out_channels=(16, 16),
                layers_per_block=1,
                spatial_compression_ratio=4,
                temporal_compression_ratio=2,
                downsample_match_channel=False,
                upsample_match_channel=False,
            ),
            7,
        )
    )
    made.save_pretrained(tmp_path)
    with Pipeline.load(tmp_path, dtype=torch.float32) as pipeline:
        video = pipeline.generate("a cat", frames=7, height=20, width=28, **SCHEDULE).video
    assert video.shape == (1, 3, 7, 20, 28)


def test_a_predictor_is_freed_with_its_stage(tmp_path: Path) -> None:
    """No cache of the process may hold it: each sample loads another one."""
    small_parts.pipeline_15(use_meanflow=True).save_pretrained(tmp_path / "model")
    config = predictor_config(load_dit(tmp_path / "model").config)
    predictor = small_parts.randomized(build_predictor(config, None, None, "cpu"), 12)
    save_file(predictor.state_dict(), tmp_path / "predictor.safetensors")
    refs: dict[str, list[weakref.ref]] = {}
    fields = {"frames": 5, "height": 32, "width": 32, "schedule": preset(3, 5.0, (0, 2))}
    options = {"dtype": torch.float32}
    with Pipeline.load(tmp_path / "model", tmp_path / "predictor.safetensors", **options) as made:
        load = made._predictor._load

        def watched() -> Any:
            loaded = load()
            refs[str(len(refs))] = list(map(weakref.ref, loaded.parameters()))
            return loaded

        made._predictor._load = watched
        for count in (1, 2):
            sample = made.generate("a cat", **fields)
            assert "predicted steps" in sample.times
            assert (len(refs), parts_alive(refs)) == (count, set())


def test_sizes_of_a_request_are_taken_by_generate_too(ten: Path) -> None:
    with Pipeline.load(ten, dtype=torch.float32) as pipeline:
        by_size = pipeline.generate("a cat", size=(5, 32, 48), **SCHEDULE)
        by_shape = pipeline.generate("a cat", latent_shape=(4, 2, 4, 6), **SCHEDULE)
        assert by_size.video.shape == (1, 3, 5, 32, 48)
        assert torch.equal(by_shape.latents, by_size.latents)
        with pytest.raises(ValueError, match="give frames, height and width together; width"):
            pipeline.generate("a cat", frames=5, height=32, **SCHEDULE)
