"""Writes the parts of a diffusers pipeline as each layout of models' folders has them.

Every function takes a pipeline of `small_parts` and an empty folder, and returns the folder to name
as the model.
"""

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from disca_rt.weights.load import load_dit
from weights.layout_writers import packed

Tensors = dict[str, Tensor]
SMALL_VISION = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
SMALL_QWEN_VISION = {
    "depth": 1,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_heads": 2,
    "out_hidden_size": 16,
    "fullatt_block_indexes": [0],
}
# diffusers' names of 1.5's VAE -> official.
VAE_15 = (
    (r"\.(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", r".\1.\2.block.\3."),
    (r"\.(down|up)_blocks\.(\d+)\.(down|up)samplers\.0\.", r".\1.\2.\3sample."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
)


def write_diffusers(pipeline: Any, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    return folder


def write_official_10(pipeline: Any, folder: Path, model: str = "hunyuan-video-t2v-720p") -> Path:
    """Tencent's folder of 1.0: returns `ckpts`."""
    root = folder / "ckpts"
    dit = official_dit(pipeline.transformer)
    _save_pickle({"module": dit}, root / model / "transformers" / "mp_rank_00_model_states.pt")
    _write_json(root / model / "transformers" / "config.json", _rope(pipeline))
    vae = {f"vae.{name}": tensor for name, tensor in pipeline.vae.state_dict().items()}
    vae["loss.logvar"] = torch.zeros(())
    _save_pickle({"state_dict": vae}, root / model / "vae" / "pytorch_model.pt")
    told = dict(pipeline.vae.config)
    told["time_compression_ratio"] = told.pop("temporal_compression_ratio")
    told["down_block_types"] = told["up_block_types"] = ["BlockCausal3D"] * 4
    _write_json(root / model / "vae" / "config.json", told)
    pipeline.text_encoder.save_pretrained(root / "text_encoder")
    pipeline.tokenizer.save_pretrained(root / "text_encoder")
    whole_clip(pipeline.text_encoder_2).save_pretrained(root / "text_encoder_2")
    pipeline.tokenizer_2.save_pretrained(root / "text_encoder_2")
    return root


def write_official_15(pipeline: Any, folder: Path, variants: tuple[str, ...] = ()) -> Path:
    """Tencent's folder of 1.5, as its users complete it; all `variants` hold the same DiT."""
    for variant in variants or (f"480p_{_task(pipeline)}",):
        place = folder / "transformer" / variant
        _save(official_dit(pipeline.transformer), place / "diffusion_pytorch_model.safetensors")
        task, resolution = ("i2v" if "i2v" in variant else "t2v"), variant[:4]
        told = {"ideal_task": task, "ideal_resolution": resolution, **_rope(pipeline)}
        _write_json(place / "config.json", told)
    _save(_official_vae(pipeline.vae), folder / "vae" / "diffusion_pytorch_model.safetensors")
    told = dict(pipeline.vae.config)
    told["ffactor_spatial"] = told.pop("spatial_compression_ratio")
    told["ffactor_temporal"] = told.pop("temporal_compression_ratio")
    _write_json(folder / "vae" / "config.json", {**told, "shift_factor": None, "sample_size": 256})
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    whole_qwen(pipeline.text_encoder).save_pretrained(folder / "text_encoder" / "llm")
    pipeline.tokenizer.save_pretrained(folder / "text_encoder" / "llm")
    glyphs = folder / "text_encoder" / "Glyph-SDXL-v2" / "checkpoints" / "byt5_model.pt"
    _save_pickle({"state_dict": glyph_file(pipeline.text_encoder_2)}, glyphs)
    if _task(pipeline) == "i2v":
        siglip = folder / "vision_encoder" / "siglip"
        pipeline.image_encoder.save_pretrained(siglip / "image_encoder")
        pipeline.feature_extractor.save_pretrained(siglip / "feature_extractor")
    return folder


def write_comfyui_10(pipeline: Any, folder: Path, model: str = "hunyuan_video_t2v_720p") -> Path:
    """Comfy-Org's files of 1.0 under `split_files/`, tokenizers added beside them."""
    root = folder / "split_files"
    _save(
        official_dit(pipeline.transformer), root / "diffusion_models" / f"{model}_bf16.safetensors"
    )
    _write_json(root / "diffusion_models" / "config.json", _rope(pipeline))
    _beside(pipeline.vae, pipeline.vae.state_dict(), root / "vae" / "hunyuan_video_vae_bf16")
    text = root / "text_encoders"
    llama = _prefixed("model.", pipeline.text_encoder.state_dict())
    llama["lm_head.weight"] = torch.zeros(3, 2)
    llama["tokenizer"] = torch.zeros(5, dtype=torch.uint8)
    _beside(pipeline.text_encoder, llama, text / "llava_llama3_fp16")
    clip = _prefixed("text_model.", pipeline.text_encoder_2.state_dict())
    clip["text_projection.weight"] = torch.zeros(2, 2)
    _beside(pipeline.text_encoder_2, clip, text / "clip_l")
    pipeline.tokenizer.save_pretrained(root / "tokenizer")
    pipeline.tokenizer_2.save_pretrained(root / "tokenizer_2")
    return folder


def write_comfyui_15(pipeline: Any, folder: Path, models: tuple[str, ...] = ()) -> Path:
    """Comfy-Org's files of 1.5, in ComfyUI's own folders; all `models` hold the same DiT."""
    for model in models or (f"480p_{_task(pipeline)}_fp16",):
        file = folder / "diffusion_models" / f"hunyuanvideo1.5_{model}.safetensors"
        _save(packed(official_dit(pipeline.transformer)), file)
    _write_json(folder / "diffusion_models" / "config.json", _rope(pipeline))
    _beside(pipeline.vae, _official_vae(pipeline.vae), folder / "vae" / "hunyuanvideo15_vae_fp16")
    text = folder / "text_encoders"
    qwen = _prefixed("model.", pipeline.text_encoder.state_dict())
    qwen |= {"lm_head.weight": torch.zeros(3, 2), "visual.patch_embed.proj.weight": torch.zeros(2)}
    _beside(pipeline.text_encoder, qwen, text / "qwen_2.5_vl_7b")
    _save(pipeline.text_encoder_2.state_dict(), text / "byt5_small_glyphxl_fp16.safetensors")
    pipeline.tokenizer.save_pretrained(folder / "tokenizer")
    if _task(pipeline) == "i2v":
        siglip = _prefixed("vision_model.", pipeline.image_encoder.state_dict())
        name = folder / "clip_vision" / "sigclip_vision_patch14_384"
        _beside(pipeline.image_encoder, siglip, name)
        pipeline.feature_extractor.save_pretrained(folder / "image_processor")
    return folder


WRITERS_10: dict[str, Callable[[Any, Path], Path]] = {
    "diffusers": write_diffusers,
    "official": write_official_10,
    "comfyui": write_comfyui_10,
}
WRITERS_15: dict[str, Callable[[Any, Path], Path]] = {
    "diffusers": write_diffusers,
    "official": write_official_15,
    "comfyui": write_comfyui_15,
}


def official_dit(transformer: nn.Module) -> Tensors:
    """The tensors of a diffusers transformer by the authors' names."""
    with tempfile.TemporaryDirectory() as folder:
        transformer.save_pretrained(folder)
        return load_dit(folder).state_dict()


def whole_clip(text_model: nn.Module) -> nn.Module:
    """CLIP with its vision tower, of which `text_model` is the text model."""
    config = transformers.CLIPConfig(
        text_config=text_model.config.to_dict(), vision_config=SMALL_VISION, projection_dim=8
    )
    whole = transformers.CLIPModel(config)
    whole.text_model.load_state_dict(text_model.state_dict())
    return whole


def whole_qwen(text_model: nn.Module) -> nn.Module:
    """Qwen2.5-VL with its vision tower and head, of which `text_model` is the language model."""
    config = transformers.Qwen2_5_VLConfig(
        text_config=text_model.config.to_dict(), vision_config=SMALL_QWEN_VISION
    )
    whole = transformers.Qwen2_5_VLForConditionalGeneration(config)
    whole.model.language_model.load_state_dict(text_model.state_dict())
    return whole


def glyph_file(encoder: nn.Module) -> Tensors:
    """Tensors of Glyph-SDXL-v2's `byt5_model.pt`: the encoder's, and others of its model."""
    own = {n: t for n, t in encoder.state_dict().items() if n.startswith("encoder.")}
    named = _prefixed("module.text_tower.", own)
    return named | {
        "module.visual_tower.proj": torch.zeros(2),
        "module.logit_scale": torch.ones(()),
    }


def _task(pipeline: Any) -> str:
    return "i2v" if getattr(pipeline, "image_encoder", None) is not None else "t2v"


def _official_vae(vae: nn.Module) -> Tensors:
    named = {}
    for name, tensor in vae.state_dict().items():
        for pattern, official in VAE_15:
            name = re.sub(pattern, official, name)
        named[name] = tensor
    return named


def _rope(pipeline: Any) -> dict[str, Any]:
    """What tensors of a small DiT cannot tell: the axes of heads that are not 128 wide."""
    return {"rope": list(pipeline.transformer.config.rope_axes_dim)}


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _beside(part: Any, tensors: Tensors, path: Path) -> None:
    """Write NAME.safetensors, and the configuration of `part` as NAME.json beside it."""
    _save(tensors, path.with_name(f"{path.name}.safetensors"))
    config = part.config if isinstance(part.config, Mapping) else part.config.to_dict()
    _write_json(path.with_name(f"{path.name}.json"), dict(config))


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)


def _save_pickle(content: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
