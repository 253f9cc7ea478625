"""Models on the Hub: only the files of the parts that are needed are fetched."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from disca_rt.folders.find import find_model
from disca_rt.folders.load import load_part
from disca_rt.weights.errors import CheckpointError
from fake_hub import FakeHub
from folder_writers import write_comfyui_15, write_diffusers, write_official_15
from weights.layout_writers import write_sharded

REPO = "community/HunyuanVideo-1.5-Diffusers-720p_i2v"
Pipelines = Callable[[str], Any]
CONFIGS = {"model_index.json", "guider/guider_config.json"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    (fake.root / REPO).mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


@pytest.fixture
def repository(hub: FakeHub, pipeline: Pipelines) -> Path:
    """A pipeline of 1.5, its text encoder in shards, with files that nobody needs."""
    root = write_diffusers(pipeline("1.5 images"), hub.root / REPO)
    file = root / "text_encoder" / "model.safetensors"
    write_sharded(file.parent, load_file(file))
    file.unlink()
    for name in ("vae/diffusion_pytorch_model.bin", "assets/demo.mp4", "text_encoder/tf_model.h5"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"never fetched")
    return root


def test_files_of_all_parts(hub: FakeHub, repository: Path, pipeline: Pipelines) -> None:
    folder = find_model(REPO)
    others = {"vae/diffusion_pytorch_model.bin", "assets/demo.mp4", "text_encoder/tf_model.h5"}
    there = {p.relative_to(repository).as_posix() for p in repository.rglob("*") if p.is_file()}
    assert set(hub.fetched) == there - others
    assert folder.root == repository
    assert folder.settings.variant == "720p_i2v"  # named so, which its small config.json is not
    encoder, expected = load_part(folder, "text_encoder"), pipeline("1.5 images").text_encoder
    assert (encoder.embed_tokens.weight == expected.embed_tokens.weight).all()


def test_files_of_some_parts(hub: FakeHub, repository: Path) -> None:
    find_model(REPO, parts=("vae",))
    vae = {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}
    assert set(hub.fetched) == vae | CONFIGS


def test_a_dit_that_is_replaced_is_not_fetched(hub: FakeHub, repository: Path) -> None:
    dit = repository / "transformer"
    moved = shutil.copytree(dit, hub.root / "480p_i2v_step_distilled")
    find_model(REPO, dit=moved)
    assert not any(name.startswith("transformer/") for name in hub.fetched)


def test_one_variant_of_tencents_repository(hub: FakeHub, pipeline: Pipelines) -> None:
    repo = "tencent/HunyuanVideo-1.5"
    write_official_15(pipeline("1.5"), hub.root / repo, ("480p_t2v", "720p_t2v"))
    with pytest.raises(CheckpointError, match=r"holds 2 variants; name one"):
        find_model(repo)
    assert hub.fetched == []
    folder = find_model(repo, variant="720p_t2v")
    dits = {name for name in hub.fetched if name.startswith("transformer/")}
    names = ("config.json", "diffusion_pytorch_model.safetensors")
    assert dits == {f"transformer/720p_t2v/{name}" for name in names}
    assert "text_encoder/Glyph-SDXL-v2/checkpoints/byt5_model.pt" in hub.fetched
    assert folder.settings.shift == 9.0


def test_a_folder_inside_a_repository(hub: FakeHub, pipeline: Pipelines) -> None:
    repo = "someone/models"
    write_comfyui_15(pipeline("1.5"), hub.root / repo / "fifteen")
    folder = find_model(f"{repo}:fifteen@main")
    assert folder.root == hub.root / repo / "fifteen"
    assert folder.layout == "comfy"
    assert hub.revisions == {"main"}
    folder.require("dit", "vae", "text_encoder", "text_encoder_2", "tokenizer")


def test_a_repository_of_a_dit_alone(hub: FakeHub, pipeline: Pipelines) -> None:
    alone = hub.root / "Skywork" / "SkyReels-V1-Hunyuan-T2V"
    pipeline("1.0").transformer.save_pretrained(alone)
    folder = find_model("Skywork/SkyReels-V1-Hunyuan-T2V")
    assert folder.parts.keys() == {"dit"}
    assert folder.settings.variant == "skyreels_t2v"


def test_without_the_hub(hub: FakeHub) -> None:
    hub.trouble = ConnectionError("no route to host")
    with pytest.raises(CheckpointError, match=r"could not be fetched from the Hub \(no route"):
        find_model("tencent/absent")
