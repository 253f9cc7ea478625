"""Hub references: local paths first, only the needed files, one clear error without network."""

import builtins
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file

from disca_rt.weights.errors import CheckpointError
from disca_rt.weights.hub import Reference, parse_reference, resolve
from disca_rt.weights.load import load_dit, load_predictor
from fake_hub import FakeHub, Refused
from golden_vectors import Golden
from weights.layout_writers import write_sharded


@pytest.fixture
def hub(tmp_path: Path, vectors_10: Golden, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """`tencent/HunyuanVideo` with a sharded DiT in `t2v/` and a predictor at its root."""
    fake = FakeHub(tmp_path)
    repo = tmp_path / "tencent" / "HunyuanVideo"
    (repo / "t2v").mkdir(parents=True)
    write_sharded(repo / "t2v", load_file(vectors_10.dit))
    shutil.copy(vectors_10.folder / "config.json", repo / "t2v")
    shutil.copy(vectors_10.predictor, repo / "predictor.safetensors")
    (repo / "t2v" / "huge_other.pt").write_bytes(b"never fetched")
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


@pytest.mark.parametrize(
    "source",
    [
        "tencent/HunyuanVideo:t2v",
        "tencent/HunyuanVideo:t2v/model.safetensors.index.json",
        "hf://tencent/HunyuanVideo/t2v",
        "hf://tencent/HunyuanVideo/t2v/model.safetensors.index.json@main",
    ],
)
def test_fetches_index_shards_and_config_only(hub: FakeHub, source: str) -> None:
    load_dit(source)
    shards = [f"t2v/model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    expected = {"t2v/model.safetensors.index.json", "t2v/config.json", *shards}
    assert set(hub.fetched) == expected
    assert hub.revisions == {"main" if source.endswith("@main") else None}


def test_repository_alone(hub: FakeHub) -> None:
    load_predictor("tencent/HunyuanVideo")
    assert hub.fetched == ["predictor.safetensors"]


@pytest.mark.parametrize("source", ["tencent/HunyuanVideo:t2v", "tencent/HunyuanVideo"])
def test_a_cached_snapshot_where_the_hub_does_not_answer(hub: FakeHub, source: str) -> None:
    hub.trouble = ConnectionError("offline mode is enabled")
    (load_dit if source.endswith("t2v") else load_predictor)(source)
    with pytest.raises(CheckpointError, match="offline mode is enabled"):
        resolve("tencent/other")
    hub.trouble = Refused("no access")
    with pytest.raises(CheckpointError, match="no access"):
        resolve(source)


def test_the_repository_of_a_pipeline(hub: FakeHub) -> None:
    repo = hub.root / "tencent" / "HunyuanVideo"
    (repo / "predictor.safetensors").unlink()
    (repo / "t2v").rename(repo / "transformer")
    load_dit("tencent/HunyuanVideo")
    assert "transformer/model.safetensors.index.json" in hub.fetched


def test_a_format_that_is_not_read_is_not_fetched(hub: FakeHub) -> None:
    with pytest.raises(CheckpointError, match=r"x\.gguf \(GGUF\)"):
        resolve("tencent/HunyuanVideo:x.gguf")
    assert hub.fetched == []


def test_file_that_the_repository_lacks(hub: FakeHub) -> None:
    with pytest.raises(CheckpointError, match=r"no nope\.pt in .* check the reference"):
        resolve("tencent/HunyuanVideo:nope.pt")


def test_local_paths_come_first(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("tencent/HunyuanVideo") == Path("tencent/HunyuanVideo")
    assert hub.fetched == []


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("a/b", Reference("a/b", "", None)),
        ("a/b:c/d.pt", Reference("a/b", "c/d.pt", None)),
        ("a/b-1.5:c@v2", Reference("a/b-1.5", "c", "v2")),
        ("hf://a/b/c/d.pt@refs/pr/1", Reference("a/b", "c/d.pt", "refs/pr/1")),
        ("hf://a/b", Reference("a/b", "", None)),
        ("dit.safetensors", None),
        ("folder/dit.safetensors", None),
        ("./a/b", None),
        ("/a/b", None),
        ("a/b/c", None),
        ("", None),
    ],
)
def test_what_is_a_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reference: Reference | None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_reference(text) == reference


@pytest.mark.parametrize("source", ["nope.pt", "a/b/c.pt", "", "x" * 5000, "nul\0", Path("a/b")])
def test_neither_a_path_nor_a_reference(source: str | Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        resolve(source)


def test_misspelt_path_in_an_existing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no such file"):
        resolve("checkpoints/ditt")


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> ModuleType:
        if name == "huggingface_hub":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(CheckpointError, match="pip install huggingface_hub"):
        resolve("tencent/HunyuanVideo")


def test_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for source in ("tencent/HunyuanVideo:t2v/x.pt", "hf://tencent/HunyuanVideo/t2v"):
        with pytest.raises(CheckpointError, match="could not be fetched") as caught:
            resolve(source)
        assert source in str(caught.value)
        assert "\n" not in str(caught.value)
