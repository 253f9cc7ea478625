"""1.0 with an image: diffusers' folders, ComfyUI's files, SkyReels, and LLaVA in both ways."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import small_parts
from disca_rt.family import VIDEO_10
from disca_rt.folders.find import find_model
from disca_rt.folders.llava import load_llava
from disca_rt.folders.load import load_part
from folder_writers import write_comfyui_10, write_diffusers

Pipelines = Callable[[str], Any]
IMAGE_TOKEN, PATCHES = 250, 4
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.fixture(scope="module")
def llava() -> transformers.LlavaForConditionalGeneration:
    text = small_parts.llama().config.to_dict()
    config = transformers.LlavaConfig(
        text_config=text, vision_config=VISION, image_token_index=IMAGE_TOKEN
    )
    return small_parts.randomized(transformers.LlavaForConditionalGeneration(config), 11)


@pytest.fixture(scope="module")
def states(llava: Any) -> Callable[[Any], torch.Tensor]:
    """States of a prompt with an image, of the whole LLaVA or of one that is cut."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, 28, 28, generator=generator)
    ids = torch.tensor([[5, *[IMAGE_TOKEN] * PATCHES, 9, 40, 41]])

    def run(model: Any) -> torch.Tensor:
        is_whole = model is llava
        with torch.no_grad():
            output = model(ids, pixel_values=pixels, output_hidden_states=is_whole, use_cache=False)
        return output.hidden_states[-3] if is_whole else output.last_hidden_state

    return run


def image_model(pipeline: Any, llava: Any, folder: Path, **changed: Any) -> Path:
    """diffusers' folder of an image-to-video model of 1.0."""
    root = write_diffusers(pipeline, folder)
    for name in ("transformer", "text_encoder"):
        shutil.rmtree(root / name)
    small_parts.transformer_10(**changed).save_pretrained(root / "transformer")
    llava.save_pretrained(root / "text_encoder")
    index = json.loads((root / "model_index.json").read_text())
    index["_class_name"] = "HunyuanVideoImageToVideoPipeline"
    (root / "model_index.json").write_text(json.dumps(index))
    return root


@pytest.mark.parametrize(("channels", "kind"), [(9, "latent_concat"), (4, "token_replace")])
def test_diffusers_folder(
    pipeline: Pipelines,
    llava: Any,
    states: Callable[[Any], torch.Tensor],
    tmp_path: Path,
    channels: int,
    kind: str,
) -> None:
    changed = {"in_channels": channels, "image_condition_type": kind}
    folder = find_model(image_model(pipeline("1.0"), llava, tmp_path, **changed))
    assert (folder.task, folder.settings.variant, folder.text_sees_image) == ("i2v", "i2v", True)
    assert folder.missing("text_encoder", "image_encoder", "image_processor") == []
    encoder = load_part(folder, "text_encoder")
    assert len(encoder.language_model.layers) == 2
    assert torch.equal(states(encoder), states(llava))
    with pytest.raises(ValueError, match="is loaded with its text_encoder"):
        load_part(folder, "image_encoder")
    processor = load_part(folder, "image_processor")
    assert (processor.size["shortest_edge"], processor.crop_size["height"]) == (336, 336)


def test_older_names(llava: Any, states: Callable[[Any], torch.Tensor], tmp_path: Path) -> None:
    """As transformers 4 saved it: a level `vision_model` in the vision tower."""
    llava.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {
        n.replace("vision_tower.", "vision_tower.vision_model."): t for n, t in tensors.items()
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert torch.equal(states(load_llava(tmp_path, tmp_path, VIDEO_10.name)), states(llava))


def test_comfyuis_files(
    pipeline: Pipelines, llava: Any, states: Callable[[Any], torch.Tensor], tmp_path: Path
) -> None:
    """Language model and vision tower apart, the tower's sizes told by its tensors alone."""
    root = write_comfyui_10(pipeline("1.0"), tmp_path, "hunyuan_video_image_to_video_720p")
    text = root / "split_files" / "text_encoders" / "llava_llama3_fp16.safetensors"
    with pytest.raises(ValueError, match=r"has no image_encoder \(vision tower of LLaVA"):
        find_model(root).require("text_encoder", "image_encoder")
    save_file({f"model.{n}": t for n, t in llava.model.language_model.state_dict().items()}, text)
    told = json.loads(text.with_suffix(".json").read_text())
    llava_config = llava.config.to_dict() | {"text_config": told}
    llava_config.pop("vision_config")
    text.with_suffix(".json").write_text(json.dumps(llava_config))
    towers = {f"vision_model.{n}": t for n, t in llava.model.vision_tower.state_dict().items()}
    towers |= {
        f"multi_modal_projector.{n}": t
        for n, t in llava.model.multi_modal_projector.state_dict().items()
    }
    place = root / "split_files" / "clip_vision" / "llava_llama3_vision.safetensors"
    place.parent.mkdir()
    save_file(towers, place)
    folder = find_model(root)
    assert folder.task == "i2v"
    assert torch.equal(states(load_part(folder, "text_encoder")), states(llava))


def test_skyreels(pipeline: Pipelines, tmp_path: Path) -> None:
    """A DiT of 32 channels beside the parts of 1.0: no LLaVA, guidance by two passes."""
    dit = tmp_path / "SkyReels-V1-Hunyuan-T2V"
    pipeline("1.0").transformer.save_pretrained(dit)
    root = write_diffusers(pipeline("1.0"), tmp_path / "base")
    folder = find_model(root, dit=dit)
    assert (folder.task, folder.settings.variant) == ("t2v", "skyreels_t2v")
    assert "FPS-24" in folder.settings.note
    small_parts.transformer_10(in_channels=8).save_pretrained(tmp_path / "images")
    folder = find_model(root, dit=tmp_path / "images")
    assert (folder.task, folder.settings.variant) == ("i2v", "skyreels_i2v")
    assert not folder.text_sees_image
    assert folder.missing("text_encoder", "image_encoder") == []
    assert type(load_part(folder, "text_encoder")).__name__ == "LlamaModel"


def test_fast_hunyuan(pipeline: Pipelines, tmp_path: Path) -> None:
    folder = find_model(write_diffusers(pipeline("1.0"), tmp_path / "FastHunyuan-diffusers"))
    assert folder.settings.variant == "fast"
    assert folder.settings.steps == 6
