"""`disca-rt generate` and `decode` over ranks with whole models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from disca_rt.cli import main
from parallel.launch import forked, passes

pytest.importorskip("diffusers")
import small_parts
from pipeline.whole_folders import generate

TILES = "--tiles=64x48,8x4"
SIZE = ("--size", "96x96x9", "--steps=2", TILES)
DYING = Path(__file__).with_name("dying_rank.py")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("whole models over ranks")]


def three_heads() -> Any:
    return small_parts.pipeline_15(num_attention_heads=3)


def pngs(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@pytest.mark.parametrize(("make", "ranks"), [(small_parts.pipeline_10, 2), (three_heads, 3)])
def test_ranks_make_the_frames_of_one(make: Callable[[], Any], ranks: int, tmp_path: Path) -> None:
    """Latents add up in another order over ranks; the decode of the same ones is bitwise equal."""
    make().save_pretrained(tmp_path / "model")
    kept = {name: tmp_path / f"{name}.safetensors" for name in ("one", "all")}
    words = {
        name: generate(tmp_path / "model", *SIZE, f"--latents-out={path}")
        for name, path in kept.items()
    }
    words["all"].append(f"--frames-out={tmp_path / 'all'}")
    output = passes(forked(ranks, "-m", "disca_rt", *words["all"]))
    for said in ("sampling: ", "memory by stage: ", " tiles of ", "where the time", "wrote "):
        assert output.count(said) == (2 if said == "wrote " else 1), output
    assert main(words["one"]) == 0
    one, several = (load_file(path)["latents"] for path in kept.values())
    assert (one - several).abs().max() / one.abs().max() < 1e-5
    decode = ["decode", str(kept["all"]), "--model", str(tmp_path / "model"), TILES]
    assert main([*decode, f"--frames-out={tmp_path / 'one'}"]) == 0
    assert len(pngs(tmp_path / "one")) == 9
    assert pngs(tmp_path / "one") == pngs(tmp_path / "all")


def test_a_rank_that_dies_is_named_and_the_latents_are_kept(tmp_path: Path) -> None:
    small_parts.pipeline_10().save_pretrained(tmp_path / "model")
    words = generate(tmp_path / "model", *SIZE, "--timeout=20", f"--out={tmp_path / 'v.mp4'}")
    process = forked(2, DYING, *words)
    output, _ = process.communicate()
    assert process.returncode == 1, output
    assert output.count("disca-rt: error: ") == 1, output
    assert "disca-rt: error: rank 1 died or was stopped" in output
    assert f"; the latents are kept in {tmp_path}/v.latents.safetensors; go on with: " in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "v.latents.safetensors"]
