"""Shards, rows and values that a model cannot learn from, refused by their names."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from disca_rt.tiny.training_clips import TrainingClips
from disca_rt.train.data import check_sample, collate, make_reader, read_batch
from disca_rt.train.latent_shards import LatentShards
from train.small import SMALL, SMALL_15, conditioning_15

TWO = torch.zeros(2, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": None, "text_mask": None}, "lacks latents, text_mask"),
        ({"text_mask": torch.zeros(3, 1)}, "different lengths"),
        ({"latents": torch.tensor(1.0)}, "different lengths"),
        ({}, r"must be \[N, C, T, H, W\], got \[2, 1\]"),
        ({"clip": TWO}, "not known: clip"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_shard_is_refused_by_name(
    changes: dict[str, Tensor | None] | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"no \*\.safetensors files"):
        LatentShards(tmp_path)
    path = tmp_path / "a.safetensors"
    if changes is None:
        path.write_bytes(b"torn")
    else:
        tensors = {"latents": TWO, "text_states": TWO, "text_mask": TWO} | changes
        save_file({name: own.clone() for name, own in tensors.items() if own is not None}, path)
    with pytest.raises(ValueError, match=f"a.safetensors.*{message}"):
        LatentShards(tmp_path)


CLIPS = TrainingClips(drop_word=0.0, pairs=0.0)
STATES_15 = "text_states", "byt5_text_states", "vision_states", "cond_latents"
NAN, INF = float("nan"), float("inf")


def clips_shard(path: Path, rows: int = 3, **changes: Callable[[Tensor], Tensor]) -> LatentShards:
    """Write drawn clips as one more shard of a folder, single tensors changed."""
    samples = [CLIPS.at(position) for position in range(rows)]
    conditioning = collate([each for _, each in samples])
    tensors = {"latents": torch.stack([each for each, _ in samples]), **conditioning.tensors()}
    tensors |= {name: change(tensors[name]) for name, change in changes.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return LatentShards(path.parent)


def row_2(value: float) -> Callable[[Tensor], Tensor]:
    """Set one value, or all of a mask, in the last of three rows."""

    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        place = tensor[2] if value == 0 else tensor[2].view(-1)[:1]
        place.fill_(value)
        return tensor

    return change


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("latents", row_2(NAN), "latents have values that are not finite"),
        ("latents", row_2(-INF), "latents have values that are not finite"),
        ("latents", lambda x: row_2(1e300)(x.double()), "latents have values that are not fin"),
        ("text_states", row_2(NAN), "text_states has values that are not finite"),
        ("text_states_2", row_2(INF), "text_states_2 has values that are not finite"),
        ("text_mask", row_2(7), "text_mask must hold 1 for valid and 0 for padding"),
        ("text_mask", lambda x: row_2(NAN)(x.float()), "text_mask must hold 1 for valid"),
        ("text_mask", row_2(0), "text_mask must leave at least one valid token"),
    ],
)
def test_a_bad_value_is_named_by_shard_and_row_when_it_is_read(
    field: str, change: Callable[[Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    clips_shard(tmp_path / "a.safetensors")
    data = clips_shard(tmp_path / "b.safetensors", **{field: change})
    data.check(SMALL, micro_batch=4)  # reads the first row of each shard
    reader = make_reader(data, 0)
    position = next(p for p in range(6) if reader.name(p).endswith("b.safetensors, row 2"))
    with pytest.raises(ValueError, match=rf"b\.safetensors, row 2: {message}"):
        read_batch(reader, range(6), SMALL)
    others = [p for p in range(6) if p != position]
    assert torch.isfinite(read_batch(reader, others, SMALL).latents).all()


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("latents", lambda x: x[:, :3], r"latents must be \[12, T, H, W\], got \[3, 5, 12, 16\]"),
        ("latents", lambda x: x[..., :5], r"latents must divide into patches of \(1, 2, 2\)"),
        ("latents", lambda x: x[:, :, :0], r"latents must divide into patches of \(1, 2, 2\)"),
        ("latents", lambda x: x.to(torch.uint8), "latents cannot be of torch.uint8"),
        ("text_states", lambda x: x[..., :4], rf"text_states must be \[1, L, {SMALL.text_dim}\]"),
        ("text_states", lambda x: x[:, 0], r"text_states must be \[B, L, D\], got"),
        ("text_states", lambda x: x.long(), "text_states cannot be of torch.int64"),
        ("text_states_2", lambda x: x[:, None], r"text_states_2 must be \[1, "),
        ("text_mask", lambda x: x[:, :2], "text_mask must be"),
        ("text_mask", lambda x: x.to(torch.complex64), "text_mask cannot be of torch.complex64"),
    ],
)
def test_a_shard_that_does_not_fit_the_model_is_refused_by_name(
    field: str, change: Callable[[Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    clips_shard(tmp_path / "a.safetensors").check(SMALL, micro_batch=4)
    data = clips_shard(tmp_path / "b.safetensors", **{field: change})
    with pytest.raises(ValueError, match=rf"b\.safetensors, row 0: {message}"):
        data.check(SMALL, micro_batch=4)


def test_shards_of_several_sizes_are_taken_one_sample_at_a_time(tmp_path: Path) -> None:
    clips_shard(tmp_path / "a.safetensors", 2)
    data = clips_shard(tmp_path / "b.safetensors", 2, latents=lambda x: x[:, :, :3])
    with pytest.raises(ValueError, match=r"several sizes, \[12, 5.* in a.safeten.*micro_batch 1"):
        data.check(SMALL, micro_batch=2)
    data.check(SMALL, micro_batch=1)
    with pytest.raises(ValueError, match=r"one shape, got .*micro_batch 1"):
        read_batch(make_reader(data, 0), range(4), SMALL)


def test_a_bad_sample_of_another_source_is_named_by_its_place() -> None:
    latents, conditioning = CLIPS.at(0)
    pair = replace(conditioning, **collate([conditioning] * 2).tensors())
    for bad, message in (
        ((latents * NAN, conditioning), "not finite"),
        ((latents[None], conditioning), r"must be \[12, T, H, W\]"),
        ((latents, pair), "of one sample, got 2"),
    ):
        with pytest.raises(ValueError, match=rf"sample 0 of the training data: .*{message}"):
            read_batch(make_reader([bad], 0), [0], SMALL)
        with pytest.raises(ValueError, match=rf"the sample at position 0: .*{message}"):
            read_batch(make_reader(iter([bad]), 0), [0], SMALL)


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        *(
            (name, lambda x: x * NAN, f"{name} has values that are not finite")
            for name in STATES_15
        ),
        ("byt5_text_mask", lambda x: x * 7, "byt5_text_mask must hold 1 for valid"),
        ("cond_latents", lambda x: x[..., :2], r"cond_latents must have the sides \(2, 4, 4\)"),
        ("vision_states", lambda x: x.int(), "vision_states cannot be of torch.int32"),
    ],
)
def test_bad_fields_of_1_5_are_named(
    field: str, change: Callable[[Tensor], Tensor], message: str
) -> None:
    good = conditioning_15(1)
    bad = replace(good, **{field: change(getattr(good, field))})
    latents = torch.zeros(4, 2, 4, 4)
    check_sample(latents, good, SMALL_15)
    with pytest.raises(ValueError, match=f"^{message}"):
        check_sample(latents, bad, SMALL_15)
