"""A sample over 1 to 8 ranks is one rank's, by the library and by the command line."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from disca_rt.cli import main
from parallel.launch import passes, torchrun

HERE = Path(__file__).parent
PROMPT = "a red circle moving left on a black background"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_to_eight_ranks_sample_as_one() -> None:
    passes(8, HERE / "sample_worker.py")


@pytest.mark.slow
def test_torchrun_generate_writes_what_one_process_does(tmp_path: Path) -> None:
    flags = ["generate", PROMPT, "--size", "48x40x9", "--seed", "3"]
    for name, ranks in (("one", 1), ("three", 3)):
        out = ["--out", str(tmp_path / f"{name}.mp4")]
        out += ["--latents-out", str(tmp_path / f"{name}.safetensors")]
        if ranks == 1:
            assert main([*flags, *out]) == 0
            continue
        process = torchrun(ranks, "-m", "disca_rt", *flags, *out, "--head-chunks", "2")
        output, _ = process.communicate()
        assert process.returncode == 0, output[-4000:]
        assert output.count("wrote ") == 3  # by the first rank alone
    one, three = (
        load_file(tmp_path / f"{name}.safetensors")["latents"] for name in ("one", "three")
    )
    assert (one - three).abs().max() < 1e-5 * one.abs().max()
    assert not torch.equal(one, torch.zeros_like(one))
    assert (tmp_path / "three.mp4").stat().st_size > 0
    assert (tmp_path / "three.png").exists()


@pytest.mark.parametrize("flag", ["--timeout", "--head-chunks", "--ulysses-degree"])
def test_flags_of_ranks_need_ranks(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", PROMPT, "--out", str(tmp_path / "a.mp4"), flag, "2"]) == 2
    assert f"{flag} is for several ranks; start them with torchrun" in capsys.readouterr().err
