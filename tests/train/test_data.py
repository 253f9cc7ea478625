"""Training data: the same sample at a position, whoever reads it."""

from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from disca_rt.conditioning import Conditioning
from disca_rt.tiny import training_clips
from disca_rt.tiny.clips import render
from disca_rt.tiny.prompts import is_held_out
from disca_rt.tiny.training_clips import TrainingClips
from disca_rt.train.data import collate, make_reader, read_batch, replace_rows
from disca_rt.train.draws import draw
from disca_rt.train.latent_shards import LatentShards
from train.small import SMALL

TOY = replace(SMALL, in_channels=2, embed_channels=2, text_dim=4, text_dim_2=None)


def sample(value: int, tokens: int = 2) -> tuple[Tensor, Conditioning]:
    states = torch.full((1, tokens, 4), float(value))
    mask = torch.ones(1, tokens, dtype=torch.int64)
    return torch.full((2, 1, 2, 2), float(value)), Conditioning(states, mask)


def shards(folder: Path, sizes: tuple[int, ...]) -> LatentShards:
    value = count()
    for index, size in enumerate(sizes):
        latents, conditionings = zip(*(sample(next(value)) for _ in range(size)), strict=True)
        tensors = {"latents": torch.stack(latents), **collate(conditionings).tensors()}
        save_file(tensors, folder / f"{index:03d}.safetensors")
    return LatentShards(folder)


def values(samples: list[tuple[Tensor, Conditioning]]) -> list[int]:
    return [int(latents[0, 0, 0, 0]) for latents, _ in samples]


def test_shards_give_their_samples_in_order(tmp_path: Path) -> None:
    data = shards(tmp_path, (3, 1, 2))
    assert len(data) == 6
    assert values(list(data)) == list(range(6))
    latents, conditioning = data[4]
    assert latents.shape == (2, 1, 2, 2)
    assert conditioning.text_states.shape == (1, 2, 4)
    with pytest.raises(IndexError):
        data[6]


def test_each_epoch_has_every_sample_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    data = shards(tmp_path, (3, 4))
    epochs = [values(make_reader(data, 5).read(range(7 * e, 7 * e + 7))) for e in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    assert epochs[0] != values(make_reader(data, 6).read(range(7)))
    reader = make_reader(data, 5)
    halves = values(reader.read(range(5))) + values(reader.read(range(5, 14)))
    assert halves == epochs[0] + epochs[1]


def test_any_iterable_is_read_forwards_and_again() -> None:
    class Three:
        def __iter__(self):
            return map(sample, range(3))

    reader = make_reader(Three(), 0)
    assert values(reader.read([0, 1])) == [0, 1]
    assert values(reader.read([4, 5, 8])) == [1, 2, 2]  # other ranks have the positions between
    with pytest.raises(ValueError, match="position 3 is behind 9"):
        reader.read([3])
    with pytest.raises(ValueError, match="empty, or an iterator that can be read once"):
        make_reader(iter([sample(0)]), 0).read([0, 1])


def test_collated_rows_are_their_samples_with_padding_masked_out() -> None:
    rows = [sample(1, tokens=3), sample(2, tokens=1)]
    batch = read_batch(make_reader(rows, 0), [0, 1], TOY)
    for row, latents in enumerate(batch.latents):
        value = int(latents[0, 0, 0, 0])
        tokens = 3 if value == 1 else 1
        assert batch.conditioning.text_mask[row].tolist() == [1] * tokens + [0] * (3 - tokens)
        assert (batch.conditioning.text_states[row, :tokens] == value).all()


def test_rows_are_replaced_by_the_unconditional_one() -> None:
    conditioning = collate([sample(1)[1], sample(2)[1]])
    other = sample(9, tokens=4)[1]
    mixed = replace_rows(conditioning, other, torch.tensor([False, True]))
    assert mixed.text_mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert mixed.text_states[:, 0, 0].tolist() == [1, 9]


def test_drawn_clips_are_the_same_at_a_position_and_never_held_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scenes = []

    def spy(drawn, generator):
        scenes.extend(drawn)
        return render(drawn, generator)

    monkeypatch.setattr(training_clips, "render", spy)
    data = TrainingClips(seed=3)
    first = list(islice(data, 40))
    for position, (latents, conditioning) in enumerate(first):
        again = data.at(position)
        assert torch.equal(latents, again[0])
        assert torch.equal(conditioning.text_states, again[1].text_states)
    assert not any(map(is_held_out, scenes))
    assert 8 <= sum(len(scene.objects) == 2 for scene in scenes[:40]) <= 24
    assert not torch.equal(first[0][0], TrainingClips(seed=4).at(0)[0])


def test_single_frames_are_frames_of_clips() -> None:
    seen = set()
    for position in range(20):
        latents, _ = TrainingClips(single_frames=True, drop_word=0.0).at(position)
        clip, _ = TrainingClips(drop_word=0.0).at(position)
        assert latents.shape == (12, 1, 12, 16)
        same = [torch.equal(latents[:, 0], clip[:, frame]) for frame in range(clip.shape[1])]
        assert any(same)
        seen.add(same.index(True))
    assert len(seen) > 2


def test_words_are_left_out_now_and_then() -> None:
    full, bare = TrainingClips(drop_word=0.0), TrainingClips(drop_word=1.0)
    for position in range(10):
        lengths = [int(d.at(position)[1].text_mask.sum()) for d in (full, bare)]
        assert lengths[0] >= lengths[1] + 4  # "on a ... background"


def test_draws_belong_to_positions() -> None:
    shape = (3, 1, 2, 2)
    together = draw(7, range(8), shape, strata=4)
    apart = [draw(7, [position], shape, strata=4) for position in range(8)]
    for field, whole in zip(together._fields, together, strict=True):
        assert torch.equal(whole, torch.cat([getattr(each, field) for each in apart]))
    assert not torch.equal(together.noise[0], together.noise[1])
    assert not torch.equal(together.noise[1], draw(8, [0], shape, strata=4).noise[0])
    strata = together.time.mul(4).floor().reshape(2, 4)
    assert strata.sort(dim=1).values.tolist() == [[0, 1, 2, 3]] * 2


def test_a_sample_that_comes_again_gets_other_strata() -> None:
    """A data set as long as a batch: t must not belong to the sample."""
    seen = torch.stack([draw(0, range(4 * s, 4 * s + 4), (1,), strata=4).time for s in range(60)])
    assert (seen.min(dim=0).values < 0.1).all()
    assert (seen.max(dim=0).values > 0.9).all()


def test_draws_have_nothing_to_do_with_the_clip() -> None:
    """They are of the same seed and position, and must not be the same numbers."""
    positions = range(1500)
    draws = torch.stack(draw(0, positions, (1,), strata=1)[:-1])
    clips = [TrainingClips(drop_word=0.0).at(position)[1] for position in positions]
    words = torch.stack([c.text_states[0].amax(0) for c in clips]).T
    words = words[words.std(dim=1) > 0]
    correlation = torch.corrcoef(torch.cat([draws, words]))[: len(draws), len(draws) :]
    assert correlation.abs().max() < 0.12  # 4.6 standard deviations


def test_an_unconditional_conditioning_must_have_what_the_samples_have() -> None:
    with_pooled = replace(sample(1)[1], text_states_2=torch.zeros(1, 4))
    with pytest.raises(ValueError, match="unconditional conditioning lacks text_states_2"):
        replace_rows(with_pooled, sample(9)[1], torch.tensor([True]))


def test_draws_are_uniform_and_normal() -> None:
    draws = draw(0, range(4000), (2,), strata=1)
    for uniform in draws[:-1]:
        assert uniform.mean().item() == pytest.approx(0.5, abs=0.02)
        assert uniform.var().item() == pytest.approx(1 / 12, abs=0.004)
    assert torch.corrcoef(torch.stack(draws[:-1])).fill_diagonal_(0).abs().max() < 0.06
    assert draws.noise.std().item() == pytest.approx(1, abs=0.03)
