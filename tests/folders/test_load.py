"""Every part of every layout loads bit-equal to what was written; nothing else is read."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from disca_rt.family import VIDEO_10, VIDEO_15
from disca_rt.folders.encoders import load_byt5, load_clip, load_siglip
from disca_rt.folders.find import find_model
from disca_rt.folders.language import load_language_model
from disca_rt.folders.load import load_part
from disca_rt.folders.vaes import load_vae
from disca_rt.weights.errors import CheckpointError
from disca_rt.weights.files.safetensors import SafetensorsFile
from disca_rt.weights.load import load_dit
from folder_writers import glyph_file, official_dit, write_diffusers
from small_parts import randomized

Written = Callable[[str, str], Path]
Pipelines = Callable[[str], Any]
MODELS = ("1.0", "1.5", "1.5 images")
LAYOUTS = ("diffusers", "official", "comfyui")
IDS = torch.arange(40)[None]


def is_equal(loaded: nn.Module, expected: nn.Module) -> bool:
    ours, theirs = loaded.state_dict(), expected.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_parts_are_bit_equal(
    pipeline: Pipelines, written: Written, model: str, layout: str
) -> None:
    folder, whole = find_model(written(model, layout)), pipeline(model)
    images = ("image_encoder",) if model == "1.5 images" else ()
    for name in ("vae", "text_encoder_2", *images):
        part, expected = load_part(folder, name), getattr(whole, name)
        assert type(part) is type(expected)
        assert len(part.state_dict()) == len(expected.state_dict())
        assert is_equal(part, expected), name
        assert not part.training
        assert not any(p.requires_grad for p in part.parameters())
    assert is_equal(load_part(folder, "text_encoder"), whole.text_encoder)
    dit = load_dit(folder.parts["dit"].path).state_dict()
    expected = official_dit(whole.transformer)
    assert all(torch.equal(dit[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_outputs_are_those_of_the_pipelines_own(
    pipeline: Pipelines, written: Written, model: str, layout: str
) -> None:
    """Buffers that no file holds are right too: rotations, positions."""
    folder, whole = find_model(written(model, layout)), pipeline(model)
    with torch.no_grad():
        text = load_part(folder, "text_encoder")(IDS, use_cache=False)
        expected = whole.text_encoder(IDS, output_hidden_states=True).hidden_states[-3]
        assert torch.equal(text.last_hidden_state, expected)
        second = load_part(folder, "text_encoder_2")(IDS)[0]
        assert torch.equal(second, whole.text_encoder_2(IDS)[0])
        if model == "1.5 images":
            pixels = torch.randn(1, 3, 28, 28)
            states = load_part(folder, "image_encoder")(pixels).last_hidden_state
            assert torch.equal(states, whole.image_encoder(pixels).last_hidden_state)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_tokenizers_give_the_same_ids(
    pipeline: Pipelines, written: Written, model: str, layout: str
) -> None:
    folder, whole = find_model(written(model, layout)), pipeline(model)
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer = load_part(folder, name)
        texts = ["a cat\n\n walks", '"Text" éß']
        given = {"padding": "max_length", "max_length": 60}
        ids = tokenizer(texts, **given)["input_ids"]
        assert ids == getattr(whole, name)(texts, **given)["input_ids"]
    assert load_part(folder, "tokenizer").padding_side == "right"


def test_image_processor(pipeline: Pipelines, written: Written) -> None:
    from PIL import Image

    image = Image.linear_gradient("L").convert("RGB").resize((50, 41))
    for layout in LAYOUTS:
        folder = find_model(written("1.5 images", layout))
        expected = pipeline("1.5 images").feature_extractor(image, return_tensors="pt")
        given = load_part(folder, "image_processor")(image, return_tensors="pt")
        assert torch.equal(given["pixel_values"], expected["pixel_values"])
    without = load_part(find_model(written("1.5", "official")), "image_processor")
    assert (without.size["height"], *without.image_mean, without.resample) == (384, *[0.5] * 3, 3)


@pytest.mark.parametrize("model", ["1.0", "1.5"])
def test_skipped_layers_are_never_read(
    written: Written, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    read, original = [], SafetensorsFile.read
    monkeypatch.setattr(
        SafetensorsFile, "read", lambda self, name: read.append(name) or original(self, name)
    )
    for layout in LAYOUTS:
        folder = find_model(written(model, layout))
        read.clear()
        module = load_part(folder, "text_encoder")
        layers = {int(match[1]) for name in read if (match := re.search(r"layers\.(\d+)", name))}
        assert layers == {0, 1}
        assert len(read) == len(module.state_dict())
        assert not any(re.search(r"(^|model\.)norm|lm_head|visual|^tokenizer", n) for n in read)


def test_dtype_and_the_wide_weights_of_t5(written: Written) -> None:
    folder = find_model(written("1.5", "diffusers"))
    for dtype, widened in ((torch.float16, 2), (torch.bfloat16, 0)):
        byt5 = load_part(folder, "text_encoder_2", dtype=dtype)
        wide = [n for n, p in byt5.named_parameters() if p.dtype == torch.float32]
        assert len(wide) == widened
        assert all(name.endswith(".wo.weight") for name in wide)
        assert load_part(folder, "text_encoder", dtype=dtype).dtype == dtype


def _llama() -> transformers.LlamaModel:
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=256,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )
    return randomized(transformers.LlamaModel(config), 1)


def _qwen() -> transformers.Qwen2_5_VLTextModel:
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
    config = transformers.Qwen2_5_VLTextConfig(
        vocab_size=300,
        hidden_size=256,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        rms_norm_eps=1e-6,
        rope_parameters=rope,
    )
    return randomized(transformers.Qwen2_5_VLTextModel(config), 2)


@pytest.mark.parametrize(("make", "family"), [(_llama, VIDEO_10), (_qwen, VIDEO_15)])
def test_language_models_without_a_config(tmp_path: Path, make: Any, family: Any) -> None:
    """Heads as wide as the published ones: all sizes and facts are known from the tensors."""
    whole = make()
    save_file({f"model.{n}": t for n, t in whole.state_dict().items()}, tmp_path / "m.safetensors")
    model = load_language_model(tmp_path / "m.safetensors", family.name)
    with torch.no_grad():
        expected = whole(IDS, output_hidden_states=True).hidden_states[-3]
        assert torch.equal(model(IDS).last_hidden_state, expected)


def test_clip_and_siglip_without_a_config(tmp_path: Path) -> None:
    sizes = {"intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = transformers.CLIPTextConfig(
        vocab_size=50, hidden_size=128, bos_token_id=48, eos_token_id=49, **sizes
    )
    clip = randomized(transformers.CLIPTextModel(text), 1)
    vision = transformers.SiglipVisionConfig(hidden_size=144, image_size=42, patch_size=14, **sizes)
    siglip = randomized(transformers.SiglipVisionModel(vision), 2)
    for module, prefix in ((clip, "text_model."), (siglip, "vision_model.")):
        tensors = {prefix + name: tensor for name, tensor in module.state_dict().items()}
        save_file(tensors, tmp_path / f"{prefix}safetensors")
    ids, pixels = torch.tensor([[48, 3, 4, 49, 49]]), torch.randn(1, 3, 42, 42)
    with torch.no_grad():
        ours = load_clip(tmp_path / "text_model.safetensors")(ids).pooler_output
        assert torch.equal(ours, clip(ids).pooler_output)
        ours = load_siglip(tmp_path / "vision_model.safetensors")(pixels).last_hidden_state
        assert torch.equal(ours, siglip(pixels).last_hidden_state)


def test_a_vae_of_another_number_of_blocks(tmp_path: Path) -> None:
    vae = diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8),
        down_block_types=("HunyuanVideoDownBlock3D",) * 3,
        up_block_types=("HunyuanVideoUpBlock3D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        spatial_compression_ratio=4,
    )
    vae.save_pretrained(tmp_path)
    assert is_equal(load_vae(tmp_path, VIDEO_10.name), vae)


def test_vaes_without_a_config(pipeline: Pipelines, tmp_path: Path) -> None:
    import diffusers

    wide = diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(32,) * 4, layers_per_block=1
    )
    for vae, family in ((wide, VIDEO_10), (pipeline("1.5").vae, VIDEO_15)):
        save_file(vae.state_dict(), tmp_path / "vae.safetensors")
        ours = load_vae(tmp_path / "vae.safetensors", family.name)
        told = {k: v for k, v in ours.config.items() if k[0] != "_"}
        assert told == {k: v for k, v in vae.config.items() if k[0] != "_"}
        assert is_equal(ours, vae)


def test_rows_of_glyphs_are_the_files(pipeline: Pipelines, tmp_path: Path) -> None:
    encoder = pipeline("1.5").text_encoder_2
    torch.save({"state_dict": glyph_file(encoder)}, tmp_path / "byt5_model.pt")
    ours = load_byt5(tmp_path / "byt5_model.pt")
    assert ours.shared.weight.shape[0] == 390
    assert ours.shared.weight is ours.encoder.embed_tokens.weight
    assert is_equal(ours, encoder)


@pytest.mark.parametrize("model", ["1.0", "1.5"])
def test_scaled_fp8_is_decoded(written: Written, tmp_path: Path, model: str) -> None:
    source = find_model(written(model, "comfyui"))
    path = source.parts["text_encoder"].path
    tensors, coded = load_file(path), {}
    for name, tensor in tensors.items():
        if "layers." in name and tensor.ndim == 2:
            scale = tensor.abs().max() / 448
            coded[name] = (tensor / scale).to(torch.float8_e4m3fn)
            coded[f"{name.removesuffix('.weight')}.scale_weight"] = scale
    coded["scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    save_file(tensors | coded, tmp_path / "text_fp8_scaled.safetensors")
    shutil.copy(path.with_suffix(".json"), tmp_path / "text_fp8_scaled.json")
    model = load_language_model(
        tmp_path / "text_fp8_scaled.safetensors", source.family, dtype=torch.float32
    )
    for name, tensor in model.state_dict().items():
        stored = f"model.{name}"
        expected = tensors[stored]
        if stored in coded:
            scale = coded[f"{stored.removesuffix('.weight')}.scale_weight"]
            expected = coded[stored].float() * scale
        assert torch.equal(tensor, expected), name


def _changed(path: Path, change: Callable[[dict], None]) -> None:
    file = next(path.glob("*.safetensors"))
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("text_encoder", lambda t: t.pop("layers.1.mlp.up_proj.weight"), "1 missing: layers.1"),
        ("text_encoder", lambda t: t.update(x=torch.zeros(1)), "1 unexpected: x"),
        ("text_encoder_2", lambda t: t.clear() or t.update(y=torch.ones(1)), "none of its tensors"),
        (
            "vae",
            lambda t: t.update({"quant_conv.bias": torch.zeros(7)}),
            r"1 mis-shaped: quant_conv.bias is \[7\], should be \[8\]",
        ),
        (
            "text_encoder",
            lambda t: t["layers.0.mlp.up_proj.weight"].fill_(float("nan")),
            "1 tensors are not finite as float32: layers.0.mlp.up_proj.weight",
        ),
    ],
    ids=["missing", "unexpected", "another model", "mis-shaped", "not finite"],
)
def test_wrong_tensors(
    pipeline: Pipelines, tmp_path: Path, part: str, change: Any, said: str
) -> None:
    root = write_diffusers(pipeline("1.0"), tmp_path)
    _changed(root / part, change)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_part(find_model(root), part)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("text_encoder", {"hidden_size": "wide"}),
        ("text_encoder", {"num_attention_heads": 3}),
        ("text_encoder_2", {"num_attention_heads": 3}),
        ("vae", {"block_out_channels": 8}),
        ("vae", {"norm_num_groups": 3}),
    ],
)
def test_configurations_that_make_no_model(
    pipeline: Pipelines, tmp_path: Path, part: str, told: dict[str, Any]
) -> None:
    root = write_diffusers(pipeline("1.0"), tmp_path)
    file = root / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | told))
    with pytest.raises(CheckpointError, match=r"can be made as its config\.json says") as caught:
        load_part(find_model(root), part)
    assert "\n" not in str(caught.value)


def test_layers_that_a_configuration_does_not_have(pipeline: Pipelines, tmp_path: Path) -> None:
    root = write_diffusers(pipeline("1.0"), tmp_path)
    file = root / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 5}))
    with pytest.raises(CheckpointError, match=r"has 4 layers, and its config\.json says 5"):
        load_part(find_model(root), "text_encoder")


def test_an_encoder_of_the_other_family(written: Written) -> None:
    ten = find_model(written("1.0", "diffusers"))
    with pytest.raises(CheckpointError, match=r"not a Qwen2\.5-VL for HunyuanVideo 1\.5"):
        load_language_model(ten.parts["text_encoder"].path, VIDEO_15.name)


def test_without_the_extra(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r'pip install "disca_rt\[pipeline\]"'):
        load_part(find_model(written("1.0", "diffusers")), "vae")
