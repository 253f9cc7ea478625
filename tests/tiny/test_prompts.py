"""The toy language: parsing, the train/held-out split, sampling and the prompt encoding."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from disca_rt.tiny import prompts
from disca_rt.tiny.prompts import ObjectSpec, Scene, encode, is_held_out, parse

SPECS = {
    "colour": st.sampled_from(prompts.COLOURS),
    "shape": st.sampled_from(prompts.SHAPES),
    "motion": st.sampled_from(prompts.MOTIONS),
}
PLAIN = st.builds(ObjectSpec, **SPECS)
SIZED = st.builds(ObjectSpec, **SPECS, size=st.sampled_from((None, *prompts.SIZES)))
SCENES = st.builds(
    Scene,
    st.one_of(st.tuples(SIZED), st.tuples(PLAIN, PLAIN)),
    st.sampled_from((None, *prompts.BACKGROUNDS)),
)
SINGLES = [
    Scene((ObjectSpec(colour, shape, motion, size),), background)
    for colour, shape, motion, size, background in itertools.product(
        prompts.COLOURS, prompts.SHAPES, prompts.MOTIONS, prompts.SIZES, prompts.BACKGROUNDS
    )
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(SCENES)
def test_prompt_round_trips(scene: Scene) -> None:
    assert parse(scene.prompt) == scene
    assert parse(scene.prompt.upper() + ".") == scene


def test_canonical_prompts() -> None:
    one = Scene((ObjectSpec("red", "circle", "still", "small"),), "gray")
    assert one.prompt == "a small red circle standing still on a gray background"
    assert parse("A small red circle standing  still on a GREY background") == one
    two = parse("a red circle moving left and a blue square moving up")
    assert two == Scene((ObjectSpec("red", "circle", "left"), ObjectSpec("blue", "square", "up")))


def test_unknown_words_are_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'blob', 'mauve'") as caught:
        parse("a mauve blob moving left")
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in prompts.VOCABULARY[1:])
    assert "<begin>" not in message


@pytest.mark.parametrize("prompt", ["", "red circle", "a red circle moving still", "a a a", "and"])
def test_grammar_errors_give_the_form_and_an_example(prompt: str) -> None:
    with pytest.raises(ValueError, match="must have the form") as caught:
        parse(prompt)
    message = str(caught.value)
    assert "\n" not in message
    example = message.split("for example ")[1].split('"')[1]
    assert parse(example).objects[0].colour == "red"


def test_size_word_is_illegal_with_two_objects() -> None:
    with pytest.raises(ValueError, match="two objects are always small, so 'large'"):
        parse("a red circle moving left and a large blue square moving up")


def test_scene_values_are_checked() -> None:
    with pytest.raises(ValueError, match=r"colour must be one of red, .*, got 'mauve'"):
        ObjectSpec("mauve", "circle", "left")
    with pytest.raises(ValueError, match="objects must hold 1 or 2 objects, got 0"):
        Scene(())


def test_one_scene_in_five_is_held_out() -> None:
    assert len(SINGLES) == 1120
    assert sum(map(is_held_out, SINGLES)) == 226  # a change would leak training into evaluation
    plain = [replace(scene.objects[0], size=None) for scene in SINGLES[::9]]
    pairs = {Scene(pair, "gray") for pair in itertools.product(plain, plain[::3])}
    assert 0.18 < sum(map(is_held_out, pairs)) / len(pairs) < 0.22


def test_samples_keep_to_their_side_of_the_split() -> None:
    draws = generator(1)
    train = [prompts.sample_scene(draws, held_out=False) for _ in range(800)]
    held_out = [prompts.sample_scene(draws, held_out=True) for _ in range(200)]
    assert train[0] == prompts.sample_scene(generator(1), held_out=False)
    assert not any(map(is_held_out, train))
    assert all(map(is_held_out, held_out))
    assert all(map(leaves_nothing_open, train + held_out))
    share = sum(len(scene.objects) == 2 for scene in train) / len(train)
    assert share == pytest.approx(prompts.TWO_OBJECT_SHARE, abs=0.06)


def leaves_nothing_open(scene: Scene) -> bool:
    return bool(scene.background and (scene.objects[0].size or len(scene.objects) == 2))


def test_held_out_prompts_are_fixed_distinct_and_mixed() -> None:
    chosen = prompts.held_out_prompts(200, seed=3)
    assert chosen == prompts.held_out_prompts(200, seed=3)
    assert chosen[:37] == prompts.held_out_prompts(37, seed=3)
    assert chosen != prompts.held_out_prompts(200, seed=4)
    assert len(set(chosen)) == 200
    scenes = [parse(prompt) for prompt in chosen]
    assert all(is_held_out(scene) and leaves_nothing_open(scene) for scene in scenes)
    assert sum(len(scene.objects) == 2 for scene in scenes) == 50
    assert len(set(prompts.held_out_prompts(301, seed=0))) == 301
    with pytest.raises(ValueError, match="count must be from 0 to 301, got 302"):
        prompts.held_out_prompts(302, seed=0)


def test_encoding_puts_words_and_slots() -> None:
    text = "a red circle moving left and a blue square moving up on a gray background"
    states, mask, pooled = encode([text, ""]).tensors().values()
    assert states.shape == (2, 16, prompts.TEXT_DIM)
    assert states.dtype == torch.float32
    assert mask.dtype == torch.int64
    assert mask.sum(dim=1).tolist() == [16, 1]
    assert mask[1].tolist() == [1] + [0] * 15
    words = prompts.VOCABULARY
    read = [words[int(row[: len(words)].argmax())] for row in states[0]]
    assert read == ["<begin>", *text.split()]
    slots = [int(row[len(words) :].argmax()) for row in states[0]]
    assert slots == [0] + [1] * 5 + [0] + [2] * 5 + [0] * 4
    assert torch.equal((states[0] > 0).sum(dim=1), torch.full((16,), 2))
    assert not states[1, 1:].any()
    first, second, common = (bag.nonzero().flatten().tolist() for bag in pooled[0].chunk(3))
    assert {words[index] for index in first} == {"a", "red", "circle", "moving", "left"}
    assert {words[index] for index in second} == {"a", "blue", "square", "moving", "up"}
    assert {words[index] for index in common} == {"<begin>", "and", "on", "a", "gray", "background"}
    assert pooled[1].nonzero().flatten().tolist() == [2 * len(words)]


def test_encoding_has_about_unit_scale_and_separates_scenes() -> None:
    draws = generator()
    texts = {prompts.sample_scene(draws, held_out=False).prompt for _ in range(300)}
    states, mask, pooled = encode(sorted(texts)).tensors().values()
    assert states[mask.bool()].square().mean().sqrt().item() == pytest.approx(1.0)
    assert 0.5 < pooled.square().mean().sqrt().item() < 1.0
    assert states.shape[1] <= 20
    assert len(pooled.unique(dim=0)) == len(texts)


def test_encoding_ignores_case_and_its_neighbours() -> None:
    alone = encode(["a red circle moving left"])
    batch = encode(["", "A RED circle moving left", "a small red cross standing still"])
    length = alone.text_states.shape[1]
    assert torch.equal(batch.text_states[1, :length], alone.text_states[0])
    assert torch.equal(batch.text_states_2[1], alone.text_states_2[0])
    assert not batch.text_states[1, length:].any()
    with pytest.raises(ValueError, match="unknown word"):
        encode(["a mauve circle moving left"])
