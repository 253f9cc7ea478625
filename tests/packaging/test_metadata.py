"""The package's metadata, and the pins that must agree with it."""

from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import disca_rt

pytestmark = pytest.mark.xdist_group("metadata")  # built by one worker for all tests

PYTHONS = ("3.10", "3.11", "3.12", "3.13")


@pytest.fixture(scope="module")
def metadata(dist_info: Path) -> Message:
    return Parser().parsestr((dist_info / "METADATA").read_text())


@pytest.fixture(scope="module")
def requirements(metadata: Message) -> list[Requirement]:
    return [Requirement(line) for line in metadata.get_all("Requires-Dist")]


def test_version_is_the_packages(metadata: Message) -> None:
    assert metadata["Version"] == disca_rt.__version__


def test_python_range(metadata: Message) -> None:
    supported = SpecifierSet(metadata["Requires-Python"])
    assert [v for v in ("3.9", *PYTHONS, "3.14") if v in supported] == list(PYTHONS)


def test_requirements_are_ranges(requirements: list[Requirement]) -> None:
    assert all(s.operator == ">=" for r in requirements for s in r.specifier)
    (torch,) = (r for r in requirements if r.name == "torch")
    assert [v for v in ("2.10.2", "2.11.0", "2.13.0") if v in torch.specifier] == [
        "2.11.0",
        "2.13.0",
    ]


@pytest.mark.parametrize("version", PYTHONS)
def test_every_requirement_has_one_pin_within_its_range(
    version: str, root: Path, requirements: list[Requirement]
) -> None:
    lines = (root / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    here = [p for p in pins if not p.marker or p.marker.evaluate({"python_version": version})]
    pinned = {canonicalize_name(p.name): str(p.specifier).removeprefix("==") for p in here}
    assert len(pinned) == len(here)
    for requirement in requirements:
        if requirement.name != "disca_rt":
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_entry_point(dist_info: Path) -> None:
    lines = (dist_info / "entry_points.txt").read_text().splitlines()
    assert "disca-rt = disca_rt.cli:main" in lines


def test_the_oldest_stack_is_what_the_ranges_begin_with(
    root: Path, requirements: list[Requirement]
) -> None:
    lines = (root / "constraints-oldest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for requirement in requirements:
        if requirement.name in ("torch", "triton"):
            (least,) = (specifier.version for specifier in requirement.specifier)
            assert pins[requirement.name].startswith(f"{least}.")
