"""A sample over 1 to 8 ranks is one rank's, by the library and by the command line."""

from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from disca_rt.cli import main
from parallel.launch import forked, passes, torchrun
from refusal import refusal

HERE = Path(__file__).parent
PROMPT = "a red circle moving left on a black background"
FEW_STEPS = "--size", "48x40x9", "--seed", "3", "--steps", "4", "--step-list", "0,2"
GENERATE = ["generate", PROMPT, *FEW_STEPS]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_to_eight_ranks_sample_as_one() -> None:
    passes(forked(8, HERE / "sample_worker.py"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """One process's latents."""
    folder = tmp_path_factory.mktemp("alone")
    assert main([*GENERATE, *outputs(folder)]) == 0
    return load_file(folder / "a.safetensors")["latents"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "ranks", "flags"),
    [(torchrun, 2, []), (forked, 8, ["--ulysses-degree", "4", "--head-chunks", "2"])],
)
def test_ranks_generate_what_one_process_does(
    start: Callable[..., Popen], ranks: int, flags: list[str], alone: Tensor, tmp_path: Path
) -> None:
    output = passes(start(ranks, "-m", "disca_rt", *GENERATE, *outputs(tmp_path), *flags))
    assert output.count("wrote ") == 3  # by the first rank alone
    latents = load_file(tmp_path / "a.safetensors")["latents"]
    assert (latents - alone).abs().max() < 1e-5 * alone.abs().max()
    assert not torch.equal(alone, torch.zeros_like(alone))
    assert {each.name for each in tmp_path.iterdir()} == {"a.safetensors", "a.mp4", "a.png"}
    assert all(each.stat().st_size > 0 for each in tmp_path.iterdir())


def outputs(folder: Path) -> list[str]:
    return ["--out", f"{folder}/a.mp4", "--latents-out", f"{folder}/a.safetensors"]


@pytest.mark.parametrize("flag", ["--timeout", "--head-chunks", "--ulysses-degree"])
def test_flags_of_ranks_need_ranks(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(["generate", PROMPT, "--out", tmp_path / "a.mp4", flag, "2"], capsys)
    assert f"{flag} is for several ranks; start them with torchrun" in told
