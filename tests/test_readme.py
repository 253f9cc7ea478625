"""The README's results are those measured; its library examples run as printed."""

import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.readme_results import results, with_results
from bench.run import RESULTS
from disca_rt.measure.record import read_records, write_records

README = Path(__file__).parents[1] / "README.md"


def test_the_results_are_those_of_the_lines() -> None:
    assert with_results(README.read_text(), results()) == README.read_text()


def test_what_is_a_cpu_s_is_said(tmp_path: Path) -> None:
    cpu = read_records(RESULTS / "cpu-2026-11-21.jsonl")
    ours = [record for record in cpu if record.contender != record.baseline]
    older = replace(ours[0], median_s=9.0, time="2026-01-01")
    gpu = replace(ours[0], device="GPU: NVIDIA Abacus", weights="random", median_s=2.0)
    write_records(tmp_path / "a.jsonl", [*cpu, gpu])
    write_records(tmp_path / "b.jsonl", [older])
    said = results(tmp_path)
    assert said.startswith("**Figures of devices called CPU are a CPU's**, the others a GPU's")
    rows = [line for line in said.splitlines() if line.startswith("| CPU")]
    assert len(rows) == len(ours)
    assert "9 s" not in said, "a newer line is there"
    assert "| GPU: NVIDIA Abacus | predicted step, float32, random weights | predicted step" in said
    (tmp_path / "a.jsonl").unlink()
    assert results(tmp_path).startswith("**Every figure here is a CPU's**")
    with pytest.raises(ValueError, match=r"README\.md must have <!-- results"):
        with_results("# disca_rt", said)


def test_the_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    embedded, big, shared, served = blocks
    namespace: dict = {}
    exec(embedded, namespace)
    assert namespace["sample"].video.shape == (2, 3, 5, 24, 32)
    assert namespace["sample"].latents.shape == (2, 12, 5, 12, 16)
    golden = Path(__file__).parent / "golden" / "hyvideo10"
    for here, there in (
        ('"dit.', f'"{golden}/dit.'),
        ('"predictor.', f'"{golden}/predictor.'),
        ("conditioning.safetensors", f"{golden}/io.safetensors"),
        ('device="cuda"', 'device="cpu", dtype=torch.float32'),
        ('device("cuda")', 'device("cpu")'),
        ("device=ranks.device", "device=ranks.device, dtype=torch.float32"),
        ("(16, 33, 88, 88)", "(4, 3, 8, 12)"),
        ("(129, 704, 704)", "(9, 64, 96)"),
    ):
        big, shared, served = (each.replace(here, there) for each in (big, shared, served))
    known = {name: namespace[name] for name in ("Runtime", "get_preset")} | {"torch": torch}
    exec(big, known)
    alone = known["sample"].latents
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in (address | {"RANK": "0", "WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(name, value)
    for example in (shared, served):
        exec(example, known)
        assert torch.equal(known.pop("sample").latents, alone)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
