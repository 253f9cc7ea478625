"""The examples of docs/encoders.md, with small models of the classes that they name."""

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch
from safetensors.torch import save_file

from disca_rt.pipeline.saved_conditioning import load_conditioning

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")  # without it the pipelines are stand-ins
PAGE = Path(__file__).parents[1] / "docs" / "encoders.md"
PROMPT = "a cat walks on the grass, realistic style"
VALID, PADDED = 3, 7


def encode_prompt(prompt: str) -> tuple[torch.Tensor, ...]:
    assert prompt == PROMPT
    states = torch.randn(1, 2 * PADDED, 8)[:, PADDED:]  # a view, as theirs is
    mask = (torch.arange(PADDED) < VALID).long()[None]
    return states, torch.randn(1, 6), mask


def small_vae(repository: str, *, subfolder: str, torch_dtype: torch.dtype) -> torch.nn.Module:
    assert (repository, subfolder) == ("hunyuanvideo-community/HunyuanVideo", "vae")
    return diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )


def test_a_prompt_becomes_a_conditioning_and_latents_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = diffusers.HunyuanVideoPipeline
    parameters = inspect.signature(pipeline.encode_prompt).parameters
    assert [*parameters][:2] == ["self", "prompt"]
    returned = re.findall(r"return (.*)\n", inspect.getsource(pipeline.encode_prompt))
    assert returned == ["prompt_embeds, pooled_prompt_embeds, prompt_attention_mask"]
    encoders = SimpleNamespace(encode_prompt=encode_prompt, to=lambda device: None)
    monkeypatch.setattr(pipeline, "from_pretrained", lambda *_, **__: encoders)
    monkeypatch.setattr(diffusers.AutoencoderKLHunyuanVideo, "from_pretrained", small_vae)

    encode, decode = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    exec(encode, {})
    positive = load_conditioning("conditioning.safetensors").positive
    assert positive.text_states.shape == (1, PADDED, 8)
    assert positive.text_states_2.shape == (1, 6)
    assert positive.tokens == VALID

    save_file({"latents": torch.randn(1, 4, 2, 4, 6)}, "latents.safetensors")
    namespace: dict = {}  # of another process
    exec(decode.replace('.to("cuda")', ""), namespace)
    assert namespace["video"].shape == (1, 3, 5, 32, 48)
    with av.open("cat.mp4") as video:
        assert sum(1 for _ in video.decode(video=0)) == 5


def test_what_hunyuan_video_15_gives_is_in_the_order_of_the_table() -> None:
    source = inspect.getsource(diffusers.HunyuanVideo15Pipeline.encode_prompt)
    assert re.findall(r"return (.*)\n", source) == [
        "prompt_embeds, prompt_embeds_mask, prompt_embeds_2, prompt_embeds_mask_2"
    ]
