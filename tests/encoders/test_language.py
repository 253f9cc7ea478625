"""The cut of language models: the state that the DiTs read, and no layer after it."""

import pytest
import torch
from torch import nn

import small_parts
from disca_rt.encoders.language import cut, token_states
from disca_rt.encoders.prompts import padded

MODELS = {"llama": small_parts.llama, "qwen": small_parts.qwen}
ROWS = [[7, 1, 9, 30, 2], [8], [5, 5, 4]]


def states_of_all(model: nn.Module, rows: list[list[int]], length: int) -> torch.Tensor:
    ids, mask = padded(rows, 3, length)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[
            -3
        ]


@pytest.mark.parametrize("name", MODELS)
def test_cut_model_ends_in_the_state_that_is_read(name: str) -> None:
    whole = MODELS[name]()
    shorter = cut(whole)
    expected = states_of_all(whole, ROWS, 6)
    assert torch.equal(token_states(shorter, padded(ROWS, 3, 6), runs_padding=True), expected)
    assert (len(shorter.layers), shorter.config.num_hidden_layers) == (2, 2)
    assert (len(whole.layers), whole.config.num_hidden_layers) == (4, 4)
    assert shorter.embed_tokens.weight is whole.embed_tokens.weight
    assert cut(shorter) is shorter


def test_layers_that_nothing_reads_are_not_run() -> None:
    whole, ran = small_parts.llama(), []
    for index, layer in enumerate([*whole.layers, whole.norm]):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    token_states(cut(whole), padded(ROWS, 3, 6), runs_padding=False)
    assert ran == [0, 1]


@pytest.mark.parametrize("name", MODELS)
def test_padding_that_is_not_run_leaves_tokens_as_they_are(name: str) -> None:
    model = cut(MODELS[name]())
    batch = padded(ROWS, 3, 40)
    whole, short = (token_states(model, batch, runs_padding=runs) for runs in (True, False))
    valid = batch.mask.bool()
    torch.testing.assert_close(short[valid], whole[valid], rtol=1e-6, atol=1e-6)
    assert not short[:, 5:].any()
    assert short.shape == whole.shape


@pytest.mark.parametrize("wrong", [nn.Linear(2, 2), small_parts.clip()])
def test_other_networks_are_refused(wrong: nn.Module) -> None:
    with pytest.raises(ValueError, match="must be a LlamaModel or a Qwen2_5_VLTextModel, got"):
        cut(wrong)
