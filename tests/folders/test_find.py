"""Parts are found by what lies there, and a folder that cannot be used is refused in one line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disca_rt.encoders.hunyuan_10 import Prompts10
from disca_rt.encoders.hunyuan_15 import Prompts15
from disca_rt.folders.files import Files
from disca_rt.folders.find import find_model
from disca_rt.folders.layouts.choose import is_of_model
from disca_rt.folders.load import load_part
from disca_rt.weights.errors import CheckpointError
from folder_writers import (
    write_comfyui_10,
    write_comfyui_15,
    write_diffusers,
    write_official_10,
    write_official_15,
)
from golden_vectors import load_golden

Written = Callable[[str, str], Path]
Pipelines = Callable[[str], Any]
TEN, FIFTEEN = "hunyuan-video-1.0", "hunyuan-video-1.5"
TEXT = {"text_encoder", "tokenizer", "text_encoder_2"}
SHARED = TEXT | {"dit", "vae"}
IMAGES = {"image_encoder", "image_processor"}


@pytest.mark.parametrize(
    ("model", "layout", "family", "task", "others"),
    [
        ("1.0", "diffusers", TEN, "t2v", {"tokenizer_2", "scheduler"}),
        ("1.0", "official", TEN, "t2v", {"tokenizer_2"}),
        ("1.0", "comfyui", TEN, "t2v", {"tokenizer_2"}),
        ("1.5", "diffusers", FIFTEEN, "t2v", {"tokenizer_2", "scheduler"}),
        ("1.5", "official", FIFTEEN, "t2v", {"scheduler"}),
        ("1.5", "comfyui", FIFTEEN, "t2v", set()),
        ("1.5 images", "diffusers", FIFTEEN, "i2v", {"tokenizer_2", "scheduler"} | IMAGES),
        ("1.5 images", "official", FIFTEEN, "i2v", {"scheduler"} | IMAGES),
        ("1.5 images", "comfyui", FIFTEEN, "i2v", IMAGES),
    ],
)
def test_layouts(
    written: Written, model: str, layout: str, family: str, task: str, others: set[str]
) -> None:
    root = written(model, layout)
    folder = find_model(root)
    assert (folder.family, folder.task) == (family, task)
    assert folder.layout == {"comfyui": "comfy"}.get(layout, layout)
    assert folder.parts.keys() == SHARED | others
    assert all(p.path.exists() and p.path.is_relative_to(root) for p in folder.parts.values())
    assert folder.config.family == family
    folder.require("dit", "vae", *TEXT, "tokenizer_2")


def test_every_root_of_tencents_folder_of_1_0(written: Written) -> None:
    ckpts = written("1.0", "official")
    parts = find_model(ckpts).parts
    for root in (ckpts.parent, ckpts / "hunyuan-video-t2v-720p"):
        others = find_model(root).parts
        assert {n: p.path for n, p in others.items()} == {n: p.path for n, p in parts.items()}


def test_split_files_may_be_named(written: Written) -> None:
    root = written("1.0", "comfyui")
    assert find_model(root / "split_files").parts.keys() == find_model(root).parts.keys()


def test_variants_of_tencents_folder(pipeline: Pipelines, tmp_path: Path) -> None:
    names = ("480p_t2v", "720p_t2v_distilled", "720p_sr_distilled")
    root = write_official_15(pipeline("1.5"), tmp_path, names)
    listed = r"480p_t2v, 720p_t2v_distilled$"
    with pytest.raises(ValueError, match=rf"holds 2 variants; name one, --variant: {listed}"):
        find_model(root)
    with pytest.raises(ValueError, match=r"variant must be one of 480p_t2v, .* got '720p_i2v'"):
        find_model(root, variant="720p_i2v")
    folder = find_model(root, variant="720p_t2v_distilled")
    assert folder.parts["dit"].path == root / "transformer" / "720p_t2v_distilled"
    settings = folder.settings
    assert (settings.shift, settings.classifier_free_scale) == (9.0, None)


def test_variants_of_comfyuis_folder(pipeline: Pipelines, tmp_path: Path) -> None:
    models = ("480p_t2v_fp16", "720p_t2v_cfg_distilled_fp16", "720p_sr_distilled_fp16")
    root = write_comfyui_15(pipeline("1.5"), tmp_path, models)
    write_comfyui_10(pipeline("1.0"), tmp_path)
    listed = "hunyuanvideo1.5_480p_t2v_fp16, hunyuanvideo1.5_720p_t2v_cfg_distilled_fp16"
    with pytest.raises(ValueError, match=f"holds 2 variants; name one, --variant: {listed}"):
        find_model(root)
    for variant in ("720p_t2v_distilled", "720p_t2v_cfg_distilled", listed.split(", ")[1]):
        folder = find_model(root, variant=variant)
        assert folder.parts["dit"].path.stem == "hunyuanvideo1.5_720p_t2v_cfg_distilled_fp16"
        assert folder.settings.variant == "720p_t2v_distilled"
    with pytest.raises(ValueError, match=f"variant must be one of {listed} in"):
        find_model(root, variant="480p_i2v")


def test_a_folder_of_both_families_is_told_by_the_dit(pipeline: Pipelines, tmp_path: Path) -> None:
    write_comfyui_15(pipeline("1.5"), tmp_path)
    root = write_comfyui_10(pipeline("1.0"), tmp_path) / "split_files"
    for folder in ("diffusion_models", "text_encoders", "vae"):
        for file in (root / folder).iterdir():
            shutil.move(file, tmp_path / folder / file.name)
    fifteen = find_model(tmp_path, variant="480p_t2v")
    assert fifteen.parts["text_encoder"].path.stem == "qwen_2.5_vl_7b"
    ten = find_model(tmp_path, variant="hunyuan_video_t2v_720p_bf16")
    assert ten.parts["text_encoder"].path.stem == "llava_llama3_fp16"
    with pytest.raises(ValueError, match="name one"):
        find_model(tmp_path)


def test_both_models_share_a_folder_with_tokenizers_of_their_own(
    pipeline: Pipelines, tmp_path: Path
) -> None:
    """Whichever is asked for; a name that both may have goes to neither's own."""
    write_comfyui_15(pipeline("1.5"), tmp_path)
    root = write_comfyui_10(pipeline("1.0"), tmp_path) / "split_files"
    for folder in ("diffusion_models", "text_encoders", "vae"):
        for file in (root / folder).iterdir():
            shutil.move(file, tmp_path / folder / file.name)
    (tmp_path / "tokenizer").rename(tmp_path / "tokenizer_qwen")
    ten = "hunyuan_video_t2v_720p_bf16"
    with pytest.raises(ValueError, match=f"put it at {tmp_path}/tokenizer_llama$"):
        find_model(tmp_path, variant=ten).require("tokenizer")
    (root / "tokenizer").rename(tmp_path / "tokenizer_llama")
    (root / "tokenizer_2").rename(tmp_path / "tokenizer_clip")
    parts = find_model(tmp_path, variant=ten).parts
    found = [parts[name].path.name for name in ("tokenizer", "tokenizer_2")]
    assert found == ["tokenizer_llama", "tokenizer_clip"]
    fifteen = find_model(tmp_path, variant="480p_t2v").parts
    assert fifteen["tokenizer"].path.name == "tokenizer_qwen"
    assert "tokenizer_2" not in fifteen


def test_comfyuis_files_in_folders_of_their_own(pipeline: Pipelines, tmp_path: Path) -> None:
    root = write_comfyui_15(pipeline("1.5"), tmp_path)
    for folder in ("diffusion_models", "text_encoders", "vae"):
        inner = root / folder / "hunyuan"
        inner.mkdir()
        for file in list((root / folder).glob("*.*")):
            shutil.move(file, inner / file.name)
    parts = find_model(root).parts
    assert parts.keys() == SHARED
    assert parts["dit"].path.parent.name == parts["vae"].path.parent.name == "hunyuan"


def test_fp8_of_tencent_is_a_variant(pipeline: Pipelines, tmp_path: Path) -> None:
    root = write_official_10(pipeline("1.0"), tmp_path)
    plain = root / "hunyuan-video-t2v-720p" / "transformers" / "mp_rank_00_model_states.pt"
    with pytest.raises(CheckpointError, match=r"holds no mp_rank_00_model_states_fp8\.pt"):
        find_model(root, variant="fp8")
    shutil.copy(plain, plain.with_name("mp_rank_00_model_states_fp8.pt"))
    assert find_model(root).parts["dit"].path == plain.parent
    assert find_model(root, variant="fp8").parts["dit"].path.stem.endswith("_fp8")


def test_a_part_may_be_replaced(written: Written, pipeline: Pipelines, tmp_path: Path) -> None:
    root = written("1.5", "diffusers")
    other = written("1.5 images", "official") / "transformer" / "480p_i2v"
    folder = find_model(root, dit=other)
    assert folder.parts["dit"].path == other
    assert folder.task == "i2v"
    assert "named 480p_i2v" in folder.settings.reasons["shift"]
    with pytest.raises(
        ValueError, match=r"has no image_encoder \(SigLIP of .*; put it at .*image_"
    ):
        folder.require("vae", "image_encoder")


def test_the_only_dit_may_be_given(pipeline: Pipelines, tmp_path: Path, written: Written) -> None:
    dit = find_model(written("1.0", "diffusers")).parts["dit"].path
    for number, write in enumerate((write_diffusers, write_official_10, write_comfyui_10)):
        root = write(pipeline("1.0"), tmp_path / str(number))
        own = find_model(root).parts["dit"].path
        for file in own.iterdir() if own.is_dir() else [own]:
            file.unlink()
        assert find_model(root, dit=dit).parts["dit"].path == dit
        with pytest.raises(ValueError, match=r"has no dit \(DiT of HunyuanVideo 1\.0\), found in"):
            find_model(root).require("dit")


def test_a_dit_alone(written: Written) -> None:
    path = written("1.0", "comfyui") / "split_files" / "diffusion_models"
    file = next(path.glob("*.safetensors"))
    for source in (file, load_golden("hyvideo15").dit):
        folder = find_model(source)
        assert folder.parts.keys() == {"dit"}
        assert folder.layout == "alone"
    transformer = written("1.0", "diffusers") / "transformer"
    assert find_model(transformer).parts.keys() == {"dit"}
    with pytest.raises(
        ValueError, match=r"has no vae \(VAE of HunyuanVideo 1\.0\), found in .*:vae"
    ):
        find_model(file).require("vae")


def test_disca_in_tencents_folder(pipeline: Pipelines, tmp_path: Path) -> None:
    golden = load_golden("hyvideo10")
    root = write_official_10(pipeline("1.0"), tmp_path)
    disca = root / "hyvideo10_t2v"
    disca.mkdir()
    shutil.copy(golden.folder / "config.json", disca)
    shutil.copy(golden.dit, disca / "hyvideo10_t2v_restricted_meanflow_540p.safetensors")
    shutil.copy(golden.predictor, disca / "hyvideo10_t2v_predictor_540p.safetensors")
    for source in (root, disca):
        folder = find_model(source)
        assert folder.parts["dit"].path.stem == "hyvideo10_t2v_restricted_meanflow_540p"
        assert folder.parts["predictor"].path.stem == "hyvideo10_t2v_predictor_540p"
        settings = folder.settings
        assert (settings.preset, settings.steps, settings.shift) == ("disca-n4", 20, 5.0)
        assert settings.size == (129, 704, 704)
    assert "vae" in find_model(root).parts


def test_a_predictor_of_another_model(written: Written) -> None:
    root, golden = written("1.0", "diffusers"), load_golden("hyvideo15")
    with pytest.raises(CheckpointError, match=r"predictor for another model: family is hunyuan-"):
        find_model(root, predictor=golden.predictor)
    with pytest.raises(CheckpointError, match="is a DiT, not a DisCa predictor"):
        find_model(root, predictor=golden.dit)
    with pytest.raises(CheckpointError, match="is a DisCa predictor, not a DiT"):
        find_model(root, dit=golden.predictor)


def test_a_dit_of_the_other_family(written: Written) -> None:
    dit = load_golden("hyvideo15").dit
    with pytest.raises(CheckpointError, match=r"is a DiT of HunyuanVideo 1\.5, and .* of .* 1\.0"):
        find_model(written("1.0", "diffusers"), dit=dit)


def test_folders_of_other_models(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    with pytest.raises(CheckpointError, match="holds a WanPipeline, which is not one of Hunyuan"):
        find_model(tmp_path)
    (tmp_path / "model_index.json").rename(tmp_path / "notes.json")
    with pytest.raises(CheckpointError, match="is no folder of a model in a layout known here"):
        find_model(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        find_model(tmp_path / "absent")


def test_other_folders_are_not_walked(written: Written, tmp_path: Path) -> None:
    """A model's folder in a large tree: only names that layouts have are looked into."""
    for name in ("node_modules", ".git", "output"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    assert Files.under(tmp_path, is_of_model).names == frozenset()
    (tmp_path / "vae").symlink_to(written("1.0", "diffusers") / "vae")
    names = {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}
    assert Files.under(tmp_path, is_of_model).names == names


@pytest.mark.parametrize("layout", ["diffusers", "official", "comfyui"])
@pytest.mark.parametrize(("own", "other"), [("1.0", "1.5"), ("1.5", "1.0")])
def test_a_tokenizer_of_another_model(
    pipeline: Pipelines, tmp_path: Path, own: str, other: str, layout: str
) -> None:
    from folders.conftest import WRITERS

    folder = find_model(WRITERS[own][layout](pipeline(own), tmp_path))
    pipeline(other).tokenizer.save_pretrained(folder.parts["tokenizer"].path)
    tokenizer = load_part(folder, "tokenizer")
    with pytest.raises(ValueError, match="has no token <") as caught:
        Prompts10(tokenizer) if own == "1.0" else Prompts15(tokenizer, None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
def test_comfyuis_folders_have_no_tokenizers(
    pipeline: Pipelines, tmp_path: Path, name: str
) -> None:
    root = write_comfyui_10(pipeline("1.0"), tmp_path)
    shutil.rmtree(root / "split_files" / name)
    place = f"put it at {root}/split_files/{name}$"
    with pytest.raises(ValueError, match=rf"found in hunyuanvideo-.*:{name}; {place}"):
        load_part(find_model(root), name)
