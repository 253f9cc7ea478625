"""huggingface_hub over a local folder, for tests."""

from pathlib import Path
from types import ModuleType, SimpleNamespace


class NotThere(Exception):
    pass


class Refused(Exception):
    pass


class FakeHub(ModuleType):
    """huggingface_hub over a local folder; `fetched` is what was asked for and there."""

    errors = SimpleNamespace(
        EntryNotFoundError=NotThere, LocalEntryNotFoundError=NotThere, HfHubHTTPError=Refused
    )

    def __init__(self, root: Path) -> None:
        super().__init__("huggingface_hub")
        self.root, self.fetched, self.revisions = root, [], set()
        self.trouble: Exception | None = None

    def hf_hub_download(self, repo: str, file: str, revision: str | None) -> str:
        self.revisions.add(revision)
        path = self.root / repo / file
        if not path.is_file():
            raise NotThere(f"no {file} in {repo}")
        self.fetched.append(file)
        return str(path)

    def HfApi(self) -> SimpleNamespace:
        def list_repo_files(repo: str, revision: str | None) -> list[str]:
            if self.trouble is not None:
                raise self.trouble
            root = self.root / repo
            return [str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()]

        return SimpleNamespace(list_repo_files=list_repo_files)

    def snapshot_download(self, repo: str, revision: str | None, local_files_only: bool) -> str:
        assert local_files_only
        if not (self.root / repo).is_dir():
            raise NotThere(f"no {repo}")
        return str(self.root / repo)
