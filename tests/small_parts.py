"""Small parts of both models with random weights, of the libraries' own classes.

`changed` are fields of a part's configuration, for parts of other sizes.

Tokenizers know single bytes and no merges, so that a template has about six times the tokens of the
real ones. `save_pretrained` of the pipelines made here gives diffusers' folders.
"""

from typing import Any

import diffusers
import torch
import transformers
from diffusers.guiders import ClassifierFreeGuidance
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn

LATENT_CHANNELS = 4
TEXT_WIDTH, POOLED_WIDTH, GLYPH_WIDTH, IMAGE_WIDTH = 16, 8, 32, 12
LLAMA_TOKENS = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<pad>",
)
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
SHIFT_10, SHIFT_15 = 7.0, 5.0


def randomized(module: nn.Module, seed: int) -> nn.Module:
    """Fill every weight with small normal values, so that none is left at zero or one."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.named_parameters():
        noise = torch.randn(tensor.shape, generator=generator) * 0.2
        is_norm = tensor.ndim == 1 and name.endswith("weight")
        tensor.data = noise + 1.0 if is_norm else noise / max(tensor[0].numel(), 1) ** 0.5 * 5
    return module.eval().requires_grad_(False)


def byte_tokenizer(
    specials: tuple[str, ...], **settings: Any
) -> transformers.PreTrainedTokenizerFast:
    """Byte-level tokenizer without merges; padding on the right, as the real ones are used."""
    vocabulary = {symbol: i for i, symbol in enumerate(BYTES)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="right", **settings
    )


def llama_tokenizer() -> transformers.PreTrainedTokenizerFast:
    return byte_tokenizer(
        LLAMA_TOKENS, bos_token=LLAMA_TOKENS[0], eos_token="<|eot_id|>", pad_token="<pad>"
    )


def llama(**changed: Any) -> transformers.LlamaModel:
    sizes = {
        "vocab_size": len(BYTES) + len(LLAMA_TOKENS),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": len(BYTES) + LLAMA_TOKENS.index("<pad>"),
    }
    config = transformers.LlamaConfig(**{**sizes, **changed})
    return randomized(transformers.LlamaModel(config), 1)


def clip_tokenizer() -> transformers.CLIPTokenizer:
    symbols = [*BYTES, *(f"{symbol}</w>" for symbol in BYTES), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def clip(**changed: Any) -> transformers.CLIPTextModel:
    sizes = {
        "vocab_size": 2 * len(BYTES) + 2,
        "hidden_size": POOLED_WIDTH,
        "intermediate_size": 16,
        "projection_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": 2 * len(BYTES),
        "eos_token_id": 2 * len(BYTES) + 1,
        "pad_token_id": 2 * len(BYTES) + 1,
    }
    config = transformers.CLIPTextConfig(**{**sizes, **changed})
    return randomized(transformers.CLIPTextModel(config), 2)


def qwen_tokenizer() -> transformers.PreTrainedTokenizerFast:
    return byte_tokenizer(
        QWEN_TOKENS, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=QWEN_CHAT
    )


def qwen(**changed: Any) -> transformers.Qwen2_5_VLTextModel:
    sizes = {
        "vocab_size": len(BYTES) + len(QWEN_TOKENS),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
    }
    config = transformers.Qwen2_5_VLTextConfig(**{**sizes, **changed})
    return randomized(transformers.Qwen2_5_VLTextModel(config), 3)


def glyph_encoder(**changed: Any) -> transformers.T5EncoderModel:
    sizes = {
        "vocab_size": 390,  # 384 of byT5, and a few colours and fonts
        "d_model": GLYPH_WIDTH,
        "d_ff": 32,
        "d_kv": 16,
        "num_layers": 2,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "use_cache": False,
    }
    config = transformers.T5Config(**{**sizes, **changed})
    return randomized(transformers.T5EncoderModel(config), 4)


def image_encoder() -> transformers.SiglipVisionModel:
    config = transformers.SiglipVisionConfig(
        image_size=28,
        patch_size=14,
        hidden_size=IMAGE_WIDTH,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    return randomized(transformers.SiglipVisionModel(config), 5)


def image_processor() -> Any:
    return transformers.SiglipImageProcessorPil(size={"height": 28, "width": 28})


def vae_10(**changed: Any) -> diffusers.AutoencoderKLHunyuanVideo:
    sizes = {
        "latent_channels": LATENT_CHANNELS,
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
    }
    vae = diffusers.AutoencoderKLHunyuanVideo(**{**sizes, **changed})
    return _softened(randomized(vae, 6))


def vae_15(**changed: Any) -> diffusers.AutoencoderKLHunyuanVideo15:
    sizes = {
        "latent_channels": LATENT_CHANNELS,
        "block_out_channels": (16,) * 5,
        "layers_per_block": 1,
    }
    vae = diffusers.AutoencoderKLHunyuanVideo15(**{**sizes, **changed})
    return _softened(randomized(vae, 7))


def _softened(vae: nn.Module) -> nn.Module:
    """Scale the last convolution, so that pixels are seldom clamped."""
    vae.decoder.conv_out.conv.weight.mul_(0.2)
    return vae


def transformer_10(**changed: Any) -> diffusers.HunyuanVideoTransformer3DModel:
    sizes = {
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_single_layers": 2,
        "text_embed_dim": TEXT_WIDTH,
        "pooled_projection_dim": POOLED_WIDTH,
        "rope_axes_dim": (4, 6, 6),
    }
    return randomized(diffusers.HunyuanVideoTransformer3DModel(**{**sizes, **changed}), 8)


def transformer_15(**changed: Any) -> diffusers.HunyuanVideo15Transformer3DModel:
    sizes = {
        "in_channels": 2 * LATENT_CHANNELS + 1,
        "out_channels": LATENT_CHANNELS,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "text_embed_dim": TEXT_WIDTH,
        "text_embed_2_dim": GLYPH_WIDTH,
        "image_embed_dim": IMAGE_WIDTH,
        "rope_axes_dim": (4, 6, 6),
        "target_size": 64,
        "task_type": "t2v",
    }
    return randomized(diffusers.HunyuanVideo15Transformer3DModel(**{**sizes, **changed}), 9)


def pipeline_10(**changed: Any) -> diffusers.HunyuanVideoPipeline:
    """Text-to-video of HunyuanVideo 1.0; `changed` are fields of the transformer."""
    return diffusers.HunyuanVideoPipeline(
        text_encoder=llama(),
        tokenizer=llama_tokenizer(),
        transformer=transformer_10(**changed),
        vae=vae_10(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT_10),
        text_encoder_2=clip(),
        tokenizer_2=clip_tokenizer(),
    )


def _shared_15(**changed: Any) -> dict[str, Any]:
    return {
        "text_encoder": qwen(),
        "tokenizer": qwen_tokenizer(),
        "transformer": transformer_15(**changed),
        "vae": vae_15(),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT_15),
        "text_encoder_2": glyph_encoder(),
        "tokenizer_2": transformers.ByT5Tokenizer(),
        "guider": ClassifierFreeGuidance(guidance_scale=6.0),
    }


def pipeline_15(**changed: Any) -> diffusers.HunyuanVideo15Pipeline:
    """Text-to-video of HunyuanVideo 1.5; `changed` are fields of the transformer."""
    return diffusers.HunyuanVideo15Pipeline(**_shared_15(**changed))


def pipeline_15_image(**changed: Any) -> diffusers.HunyuanVideo15ImageToVideoPipeline:
    """Image-to-video of HunyuanVideo 1.5; `changed` are fields of the transformer."""
    return diffusers.HunyuanVideo15ImageToVideoPipeline(
        **_shared_15(task_type="i2v", **changed),
        image_encoder=image_encoder(),
        feature_extractor=image_processor(),
    )
