"""Every method that a calibration has options for: taken where it fits, or told why not."""

import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from cache_draws import CONFIG, CPU, OPS, SCALE
from disca_rt.cache.calibration import Calibration, Subject, Uncalibrated
from disca_rt.cache.policies import POLICIES, fitted_options
from disca_rt.cache.policy import Policy
from disca_rt.calibration.file import read_calibration, write_calibration
from disca_rt.calibration.places import Found
from disca_rt.calibration.session import Session
from disca_rt.calibration.store import Store
from disca_rt.calibration.tables import Tables, fit_tables
from disca_rt.conditioning import Conditioning
from disca_rt.measure.random_models import fill_randomly
from disca_rt.models.build import build_dit
from disca_rt.pipeline.request import Request
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import Preset, shifted

STEPS = 9

METHODS = {
    "teacache": ("teacache", ("coefficients",)),
    "magcache": ("magcache:thresh=0.3,K=2", ("mag_ratios", "mag_ratios_2")),
    "block-caching": ("block-caching:delta=0.5", ("curves",)),
    "mixcache": ("mixcache:acc", ("I_block", "I_cfg", "I_step", "theta")),
    "hyca": ("hyca:fresh_threshold=3", ("solvers",)),
    "feb-cache": ("feb-cache", ("attention_errors", "both_errors")),
    "ertacache": ("ertacache:threshold=0.3", ("errors", "scales")),
    "omnicache": ("omnicache:full_steps=4", ("curvature", "gamma")),
    "ditfastattn": ("ditfastattn:window_size=2", ("plan",)),
}
"""A text of each method, and the options that it leaves to a calibration."""

NEEDED = "block-caching", "ertacache", "omnicache"
"""Methods whose texts above mean nothing without one."""


def runtime(seed: int = 0) -> Runtime:
    dit = build_dit(CONFIG, ops=OPS, attention=None, device=CPU, dtype=torch.float32)
    fill_randomly(dit, seed)
    return Runtime(dit)


def request(policy: str = "full", steps: int = STEPS, shift: float = 3.0, **changed) -> Request:
    generator = torch.Generator().manual_seed(3)
    positive = Conditioning(
        torch.randn(1, 3, CONFIG.text_dim, generator=generator),
        torch.ones(1, 3, dtype=torch.long),
        torch.randn(1, CONFIG.text_dim_2, generator=generator),
    )
    asked = Request(
        schedule=Preset(shifted(steps, shift), None, shift),
        policy=policy,
        conditioning=positive,
        negative=replace(positive, text_states=positive.text_states.flip(2)),
        classifier_free_scale=SCALE,
        latent_shape=(CONFIG.in_channels, 2, 4, 4),
    )
    return replace(asked, **changed)


class Calibrated(NamedTuple):
    """A model, and the file of its calibration."""

    runtime: Runtime
    path: Path


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    folder, model = tmp_path_factory.mktemp("calibrated"), runtime()
    session = Session(model, [request()], Store(folder / "recording"), 2**40, attention=0.6)
    path = folder / "c.json"
    write_calibration(path, session.subject, fit_tables(session.record()), {})
    return Calibrated(model, path)


def options_of(policy: Policy) -> dict[str, object]:
    """The options of its rule and its stand-ins."""
    parts = [policy.rule, *(slot.stand_in for slot in policy.slots)]
    return {each.name: getattr(part, each.name) for part in parts for each in fields(part)}


@pytest.mark.parametrize("name", METHODS)
def test_a_calibration_that_fits_gives_the_options_that_are_left_out(
    name: str, calibrated: Calibrated
) -> None:
    text, taken = METHODS[name]
    table = read_calibration(calibrated.path).tables[name]
    assert set(taken) == set(table), "a table has what its method takes, and no more"
    for source in (read_calibration(calibrated.path), Found((calibrated.path.parent,))):
        model = calibrated.runtime.twin(calibration=source)
        built = options_of(model.resolved(request(text))[1])
        if name == "ditfastattn":
            built["plan"] = built["plan"].ways
        assert {key: built[key] for key in taken} == {key: table[key] for key in taken}
        parts = model.parts._replace(calibration=read_calibration(calibrated.path))
        assert fitted_options(text, parts) == sorted(taken)
    labels: list[str] = []
    sample = model.run(request(text), on_step=lambda event: labels.append(event.kind))
    assert bool(sample.latents.isfinite().all())
    assert labels[0] == "full"


def test_every_method_that_takes_a_table_is_here(calibrated: Calibrated) -> None:
    named = {table for row in POLICIES.values() for table in row.tables}
    assert named == METHODS.keys()
    assert named | {"changes"} == read_calibration(calibrated.path).tables.keys()


OTHERS: dict[str, Callable[[str], Request]] = {
    "steps 9, not 8": lambda text: request(text, steps=8),
    "shift 3, not 5": lambda text: request(text, shift=5.0),
    "latents 2x4x4, not 2x4x8": lambda text: request(
        text, latent_shape=(CONFIG.in_channels, 2, 4, 8)
    ),
    "scales none": lambda text: request(text, classifier_free_scale=2 * SCALE),
    "passes 2, not 1": lambda text: request(text, negative=None, classifier_free_scale=None),
}
"""Samples that the calibration is not of, by what is said of them."""


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("reason", [*OTHERS, "weights"])
def test_one_of_another_sample_is_refused_with_the_reason(
    reason: str, name: str, calibrated: Calibrated
) -> None:
    """A named one always, one that was found where the method needs it; else it is left out."""
    text, _ = METHODS[name]
    asked = OTHERS.get(reason, request)(text)
    model = runtime(1) if reason == "weights" else calibrated.runtime
    model = model.twin(calibration=read_calibration(calibrated.path))
    with pytest.raises(ValueError, match="does not fit this sample") as raised:
        model.resolved(asked)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)
    model = model.twin(calibration=Found((calibrated.path.parent,)))
    if name in NEEDED:
        with pytest.raises(Uncalibrated, match="disca-rt calibrate") as raised:
            model.resolved(asked)
        assert f"{calibrated.path} is of " in str(raised.value)
        assert reason in str(raised.value)
    else:
        built = model.resolved(asked)[1]
        assert built == model.twin(calibration=None).resolved(asked)[1]


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        ("magcache:table=544p", {"mag_ratios": None, "mag_ratios_2": None}),
        ("magcache:544p-fast", {"mag_ratios": None}),
        ("magcache:mag_ratios=1,1.1", {"mag_ratios": (1.0, 1.1), "mag_ratios_2": None}),
        ("mixcache:blocks=0", {"I_block": (1.0,), "theta": 0.1}),
        ("mixcache:I_block=3", {"I_block": (3.0,), "I_cfg": 10.0}),
        ("feb-cache:interval=4", {"both_errors": ()}),
        ("feb-cache:states=0,1,1,1,0,1,2,1,1", {"both_errors": ()}),
        ("teacache:coefficients=1,0", {"coefficients": (1.0, 0.0)}),
        ("hyca:solvers=reuse", {"solvers": ("reuse",)}),
        ("ertacache:step_list=0,4", {"step_list": (0, 4), "error_scale": None}),
        ("omnicache:interval=3,gamma=0.5", {"gamma": (0.5,)}),
    ],
)
def test_what_the_user_says_otherwise_wins_over_a_table(
    text: str, replaced: dict[str, object], calibrated: Calibrated
) -> None:
    model = calibrated.runtime.twin(calibration=read_calibration(calibrated.path))
    built = options_of(model.resolved(request(text))[1])
    assert {key: built[key] for key in replaced} == replaced
    parts = model.parts._replace(calibration=model.calibration)
    assert not {*fitted_options(text, parts)} & replaced.keys()


def test_a_stand_in_takes_its_table_behind_another_rule(calibrated: Calibrated) -> None:
    model = calibrated.runtime.twin(calibration=read_calibration(calibrated.path))
    tables = model.calibration.tables
    built = options_of(model.resolved(request("teacache+hyca"))[1])
    assert built["solvers"] == tables["hyca"]["solvers"]
    assert built["coefficients"] == tables["teacache"]["coefficients"]
    parts = model.parts._replace(calibration=model.calibration)
    assert fitted_options("teacache+hyca", parts) == ["coefficients", "solvers"]
    assert fitted_options("teacache+taylor", parts) == ["coefficients"]


def test_a_folder_is_read_again_only_when_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path) -> Calibration:
        read.append(path)
        return read_calibration(path)

    monkeypatch.setattr("disca_rt.calibration.file.read_calibration", counted)
    path, subject, found = tmp_path / "c.json", Subject(CONFIG), Found((tmp_path,))
    for value in (1.0, 2.0):
        write_calibration(path, subject, Tables({"mixcache": {"theta": value}}, {}), {})
        os.utime(path, ns=(0, int(value)))
        for _ in range(3):
            assert found.fitting(subject).tables == {"mixcache": {"theta": value}}
    assert read == [path, path]
