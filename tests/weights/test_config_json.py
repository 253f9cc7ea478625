"""The config.json beside tensors tells what they cannot, and must not contradict them."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from disca_rt.config import MODELS, DiTConfig
from disca_rt.models.build import build_dit
from disca_rt.weights.errors import CheckpointError
from disca_rt.weights.inspect import inspect_checkpoint
from disca_rt.weights.load import load_dit, load_predictor
from disca_rt.weights.save import save_safetensors
from golden_vectors import Golden


def beside(folder: Path, vectors: Golden, text: str | None) -> Path:
    shutil.copy(vectors.dit, folder / "dit.safetensors")
    if text is not None:
        (folder / "config.json").write_text(text)
    return folder / "dit.safetensors"


@pytest.mark.parametrize("key", ["rope", "rope_axes_dim", "rope_dim_list"])
def test_rope_by_any_name(tmp_path: Path, vectors: Golden, key: str) -> None:
    path = beside(tmp_path, vectors, json.dumps({key: [4, 20, 8]}))
    assert load_dit(path).config.rope == (4, 20, 8)


def test_without_a_config(tmp_path: Path, vectors: Golden) -> None:
    path = beside(tmp_path, vectors, None)
    with pytest.raises(CheckpointError, match=r'config\.json beside it with "rope"'):
        load_dit(path)


def test_a_predictor_needs_none(tmp_path: Path, vectors: Golden) -> None:
    shutil.copy(vectors.predictor, tmp_path / "predictor.safetensors")
    load_predictor(tmp_path / "predictor.safetensors")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ("\x00\x01", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"rope": "8,12,12"}', "three even numbers"),
        ('{"rope": [8, 12]}', "three even numbers"),
        ('{"rope": [8, 12, 12.0]}', "three even numbers"),
        ('{"rope": [-8, 20, 20]}', "three even numbers"),
        ('{"rope": [16, 56, 56]}', "rope must be three even numbers that add up"),
        ('{"rope": [8, 12, 12], "hidden": "64"}', "hidden must be an integer"),
        ('{"rope": [8, 12, 12], "hidden": 128}', "hidden is 128, the tensors say 64"),
        ('{"rope": [8, 12, 12], "heads": 4}', "heads is 4, the tensors say 2"),
        ('{"rope": [8, 12, 12], "num_layers": 20}', "num_layers is 20"),
        ('{"rope": [8, 12, 12], "patch": [2, 2, 2]}', "patch is"),
        ('{"rope": [8, 12, 12], "rope_theta": 10000.0}', "rope_theta is 10000.0"),
        ('{"rope": [8, 12, 12], "image_condition_type": "reference"}', "not supported"),
        ('{"rope": [8, 12, 12], "token_replace": "yes"}', "not supported"),
        ('{"rope": [8, 12, 12], "mlp_ratio": 2.5}', "mlp_ratio must be a whole number from 1"),
        ('{"rope": [8, 12, 12], "num_refiner_layers": "2"}', "must be a whole number from 1"),
    ],
)
def test_malformed_or_contradicting(
    tmp_path: Path, vectors: Golden, text: str, reason: str
) -> None:
    path = beside(tmp_path, vectors, text)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_dit(path)
    assert "config.json" in str(caught.value)
    assert "remove" not in str(caught.value)  # it may be all that says which model it is
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["image_condition_type", "i2v_condition_type", "token_replace"])
def test_a_clean_first_frame_is_what_the_config_says(tmp_path: Path, key: str) -> None:
    path = write_zeros(tmp_path, small_official())
    value = True if key == "token_replace" else "token_replace"
    (tmp_path / "config.json").write_text(json.dumps({key: value}))
    config = load_dit(path).config
    assert config == small_official(token_replace=True)
    assert config.inputs == "16 latent channels, a clean first frame among them"
    assert load_dit(write_zeros(tmp_path, config)).config == config, "as it is written down again"


def test_a_clean_first_frame_goes_with_no_other_condition(tmp_path: Path) -> None:
    path = write_zeros(tmp_path, small_official(embed_channels=33))
    (tmp_path / "config.json").write_text('{"image_condition_type": "token_replace"}')
    with pytest.raises(CheckpointError, match=r"config\.json: token_replace needs .* got .* 17"):
        load_dit(path)


def small_official(**changes: object) -> DiTConfig:
    return DiTConfig(
        **{"hidden": 256, "heads": 2, "double": 1, "single": 1, "text_dim": 8} | changes
    )


def write_zeros(folder: Path, config: DiTConfig) -> Path:
    dit = build_dit(config, device="cpu")
    zeros = {name: torch.zeros_like(t) for name, t in dit.state_dict().items()}
    save_safetensors(folder / "dit.safetensors", zeros, torch.bfloat16, config)
    return folder / "dit.safetensors"


def test_official_axes_without_a_config(tmp_path: Path) -> None:
    path = write_zeros(tmp_path, small_official())
    (tmp_path / "config.json").unlink()
    assert load_dit(path).config == small_official()


@pytest.mark.parametrize("channels", [16, 32, 33, 98])
@pytest.mark.parametrize("name", ["hunyuan-video", "hunyuan-video-1.5"])
def test_channels_in_are_those_of_the_checkpoint(tmp_path: Path, name: str, channels: int) -> None:
    """An image, its mask, a smaller video may follow the latents."""
    sizes = {"hidden": 128, "heads": 1, "double": 1, "text_dim": 9, "in_channels": 16}
    config = replace(MODELS[name], **sizes, embed_channels=channels)
    config = replace(config, single=min(1, config.single))
    path = write_zeros(tmp_path, config)
    assert load_dit(path).config == config
    assert load_dit(path).img_in.proj.weight.shape[1] == channels
    described = json.loads((tmp_path / "config.json").read_text())
    words = {16: "", 32: " + 16 image", 33: " + 16 image + 1 mask", 98: " + 82 condition"}
    assert config.inputs == f"16 latent{words[channels]} channels"
    for theirs in ({"in_channels": channels, "out_channels": 16}, {"embed_channels": 99}):
        (tmp_path / "config.json").write_text(json.dumps(described | theirs))
        with (
            nullcontext()
            if "embed_channels" not in theirs
            else pytest.raises(
                CheckpointError, match=f"embed_channels is 99, the tensors say {channels}"
            )
        ):
            load_dit(path)


def test_super_resolution_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden": 128, "heads": 1, "double": 1, "text_dim": 9}
    path = write_zeros(tmp_path, replace(MODELS["hunyuan-video-1.5"], **sizes, embed_channels=98))
    with pytest.raises(CheckpointError, match=r"super-resolution DiT.*98 channels in.*65 channels"):
        load_dit(path)


@pytest.mark.parametrize("name", MODELS)
def test_every_variant_is_read_back_from_its_tensors(tmp_path: Path, name: str) -> None:
    published = MODELS[name]
    single = 1 if published.single else 0
    config = DiTConfig(
        **vars(published)
        | {"hidden": 128, "heads": 1, "double": 2, "single": single, "text_dim": 9}
        | ({"byt5_hidden": 5} if published.byt5_dim else {})
    )
    path = write_zeros(tmp_path, config)
    (tmp_path / "config.json").unlink()
    info = inspect_checkpoint(path)
    assert info.config == config
    assert info.variant == published.variant


def test_saved_config_is_complete_and_reads_back(tmp_path: Path) -> None:
    config = small_official(hidden=64, rope=(8, 12, 12), guidance_embed=True, patch=(1, 1, 2))
    path = write_zeros(tmp_path, config)
    assert load_dit(path).config == config
    written = json.loads((tmp_path / "config.json").read_text())
    for key in ("in_channels", "hidden", "heads", "double", "single", "rope", "text_dim"):
        assert key in written
    assert sorted(item.name for item in tmp_path.iterdir()) == ["config.json", "dit.safetensors"]


def test_failed_save_leaves_what_was_there(tmp_path: Path) -> None:
    config = small_official()
    path = write_zeros(tmp_path, config)
    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        save_safetensors(path, {"x": torch.zeros(1, device="meta")}, torch.float32, config)
    assert path.read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["config.json", "dit.safetensors"]
