"""Sessions that stop and go on, files of calibrations, and the one that is found for a sample."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from disca_rt.cache import policies
from disca_rt.cache.calibration import Calibration, Subject, Uncalibrated
from disca_rt.cache.method import Method, everywhere
from disca_rt.cache.rules.listed import Listed
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.calibration.file import read_calibration, tensors_of, write_calibration
from disca_rt.calibration.places import Found, cache_folder, search, usual_path
from disca_rt.calibration.records import Records
from disca_rt.calibration.session import Session
from disca_rt.calibration.store import Store
from disca_rt.calibration.tables import Tables, fit_tables
from disca_rt.conditioning import Conditioning
from disca_rt.config import DiTConfig
from disca_rt.kernels.ops import get_ops
from disca_rt.measure.random_models import fill_randomly
from disca_rt.models.build import build_dit
from disca_rt.pipeline.request import Request
from disca_rt.pipeline.runtime import Runtime
from disca_rt.pipeline.subject import weights_digest
from disca_rt.schedule import Preset, shifted

CONFIG = DiTConfig(
    in_channels=2, hidden=32, heads=4, double=1, single=1, rope=(4, 2, 2), text_dim=8, text_dim_2=6
)
BIG = 2**40
SUBJECT = Subject(CONFIG, "ab", (2, 4, 4), shifted(4, 3.0).sigmas, (None, None))


def model(seed: int = 0, dtype: torch.dtype = torch.float32, blocks: int = 1) -> Runtime:
    placed = {"device": torch.device("cpu"), "dtype": torch.float32}
    dit = build_dit(
        replace(CONFIG, single=blocks), ops=get_ops("reference"), attention=None, **placed
    )
    fill_randomly(dit, seed)
    return Runtime(dit.to(dtype))


def request(seed: int = 0, policy: str = "full", batch: int = 1, **changed: object) -> Request:
    generator = torch.Generator().manual_seed(seed)
    conditioning = Conditioning(
        torch.randn(batch, 3, CONFIG.text_dim, generator=generator),
        torch.ones(batch, 3, dtype=torch.long),
        torch.randn(batch, CONFIG.text_dim_2, generator=generator),
    )
    fields = {"schedule": Preset(shifted(4, 3.0), None, 3.0), "latent_shape": (2, 2, 4, 4)}
    return Request(policy=policy, conditioning=conditioning, seed=seed, **{**fields, **changed})


class Stopped(Exception):
    pass


def test_a_session_goes_on_where_it_was_left(tmp_path: Path) -> None:
    runtime, requests = model(), [request(0), request(1)]
    whole = Session(runtime, requests, Store(tmp_path / "whole"), BIG)
    expected = fit_tables(whole.record())
    assert whole.samples == 6

    def stop_at(last: int) -> object:
        def on_sample(done: int) -> None:
            if done == last:
                raise Stopped

        return on_sample

    store, steps = Store(tmp_path / "parts"), []
    for last in (1, 4):
        with pytest.raises(Stopped):
            Session(runtime, requests, store, BIG).record(stop_at(last))
        assert len([*store.folder.glob("*.safetensors")]) == last
    fitted = fit_tables(
        Session(runtime, requests, store, BIG).record(on_step=lambda: steps.append(1))
    )
    assert fitted == expected
    assert len(steps) == 2 * 4, "two samples of four steps were left"


def test_a_recording_of_something_else_is_made_anew(tmp_path: Path) -> None:
    store, steps = Store(tmp_path), []
    Session(model(), [request(0)], store, BIG).record()
    for runtime, asked in ((model(), request(1)), (model(1), request(1))):
        steps.clear()
        Session(runtime, [asked], store, BIG).record(on_step=lambda: steps.append(1))
        assert len(steps) == 3 * 4
    (first, *_) = sorted(tmp_path.iterdir())
    first.write_bytes(first.read_bytes()[:-9])  # a damaged one, too
    steps.clear()
    Session(model(1), [request(1)], store, BIG).record(on_step=lambda: steps.append(1))
    assert len(steps) == 4


def test_prompts_of_a_calibration_are_alike_and_one_a_sample(tmp_path: Path) -> None:
    other = request(1, schedule=Preset(shifted(5, 3.0), None, 3.0))
    for requests, reason in (([request(), other], "steps 4, not 5"), ([request(batch=2)], "got 2")):
        with pytest.raises(ValueError, match=reason):
            Session(model(), requests, Store(tmp_path), BIG)


def test_trials_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    deep = model(blocks=9)
    assert Session(deep, [request()], Store(tmp_path), BIG).left_out == []
    tight = Session(deep, [request()], Store(tmp_path), 20_000)
    assert tight.left_out == ["branches"]
    assert len(tight.runs) > 5
    tables = fit_tables(tight.record()).values
    assert "feb-cache" not in tables
    assert "magcache" in tables


def test_a_file_holds_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "c.json"
    values = {
        "magcache": {"mag_ratios": (1.0, 0.1), "mag_ratios_2": None},
        "ditfastattn": {"plan": (("full_attn",), ("output_share",))},
        "mixcache": {"theta": 1},
        "changes": {"velocity": (0.0, 0.5)},
    }
    tensor = torch.randn(2, 3)
    written = write_calibration(path, SUBJECT, Tables(values, {"a.map": tensor}), {"prompts": 1})
    assert written == [path, tensors_of(path)]
    read = read_calibration(path)
    assert (read.subject, read.tables) == (SUBJECT, values)
    assert torch.equal(read.tensor("a.map"), tensor)
    with pytest.raises(Uncalibrated, match="--maps"):
        read.tensor("a.other")
    assert json.loads(path.read_text())["version"] == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "is not a file; make one: disca-rt calibrate"),
        ("{", "is no JSON"),
        ("[]", "give a file that disca-rt calibrate wrote"),
        (
            '{"kind": "disca-rt calibration", "version": 2}',
            "has version 2, and this program reads 1",
        ),
        ('{"kind": "disca-rt calibration", "version": 1, "tables": {}}', "is damaged"),
        (
            '{"kind": "disca-rt calibration", "version": 1, "tables": {}, '
            '"subject": {"model": {"hidden": 3, "colour": 1}}}',
            "is damaged",
        ),
    ],
)
def test_what_is_no_calibration_is_refused_in_one_line(tmp_path, text, reason) -> None:
    path = tmp_path / "c.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match="calibrat") as raised:
        read_calibration(path)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_values_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_calibration(tmp_path / "c.json", SUBJECT, Tables({"a": {"b": float("nan")}}, {}), {})
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ('{"teacup": {}}', "has table 'teacup', and there are block-caching, changes, "),
        ('{"teacache": 3}', "table teacache must be options, got 3; "),
        (
            '{"teacache": {"coefs": [1]}}',
            "table teacache has no option 'coefs'; its options: coefficients; ",
        ),
        (
            '{"teacache": {"coefficients": "abc"}}',
            "table teacache: coefficients must be finite numbers such as 0,1,2,5, got 'abc'; ",
        ),
        ('{"teacache": {"coefficients": [1, NaN]}}', ": coefficients must be finite numbers "),
        ('{"teacache": {"coefficients": [1, NaN]}}', ", got nan; "),
        ('{"teacache": {"coefficients": [1, "2"]}}', ", got '2'; "),
        ('{"mixcache": {"theta": Infinity}}', "theta must be a finite number, got inf; "),
        ('{"mixcache": {"theta": true}}', "theta must be a finite number, got True; "),
        ('{"hyca": {"solvers": [1]}}', "solvers must be words, commas between them, got "),
        ('{"ditfastattn": {"plan": [[0]]}}', "plan must be the path of a file"),
        ('{"changes": {"velocity": [null]}}', "velocity must be finite numbers"),
    ],
)
def test_a_table_that_no_method_can_take_is_refused_when_it_is_read(
    tmp_path: Path, tables: str, reason: str
) -> None:
    path = tmp_path / "c.json"
    write_calibration(path, SUBJECT, Tables({}, {}), {})
    path.write_text(path.read_text().replace('"tables": {}', f'"tables": {tables}'))
    with pytest.raises(ValueError, match="calibrate again, or take it out") as raised:
        read_calibration(path)
    assert f"calibration {path}" in str(raised.value)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


class Fitted(Listed):
    fitted_in = "listed"
    fitted = ("step_list",)


@pytest.fixture
def fitted_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(policies.POLICIES, "fitted", Method((Fitted,), everywhere(Reuse)))


def write(folder: Path, name: str, subject: Subject, value: int) -> Path:
    path = folder / f"{name}.json"
    write_calibration(path, subject, Tables({"listed": {"step_list": (0, value)}}, {}), {})
    return path


def test_the_newest_that_fits_is_found(fitted_row, tmp_path: Path) -> None:
    other = Subject(CONFIG, "cd", (2, 4, 4), SUBJECT.sigmas, (None, None))
    (tmp_path / "broken.json").write_text("{")
    for age, (name, subject) in enumerate([("c", other), ("b", SUBJECT), ("a", SUBJECT)]):
        path = write(tmp_path, name, subject, age)
        os.utime(path, (1e9 - age, 1e9 - age))
    found = Found([tmp_path / "absent", tmp_path])
    assert found.fitting(SUBJECT).tables["listed"]["step_list"] == (0, 1)
    assert found.fitting(other).tables["listed"]["step_list"] == (0, 0)
    assert found.fitting(Subject(CONFIG, "ef")) is None
    assert "is of weights" in found.why_not(Subject(CONFIG, "ef"))
    assert Found([tmp_path / "absent"]).why_not(SUBJECT) == ""


def test_the_usual_place_is_the_users_cache(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "disca-rt" / "calibrations"
    assert usual_path(SUBJECT) == usual_path(SUBJECT)
    assert usual_path(SUBJECT) != usual_path(Subject(CONFIG, "cd", sigmas=SUBJECT.sigmas))
    assert search(tmp_path / "model").folders == (
        tmp_path / "model" / "calibrations",
        cache_folder(),
    )


def test_a_pipeline_takes_options_from_a_calibration_that_fits(fitted_row, tmp_path) -> None:
    runtime = model()
    subject = runtime.subject(request())
    assert subject == Subject(
        CONFIG, weights_digest(runtime.dit), (2, 4, 4), SUBJECT.sigmas, (None, None)
    )
    path = write(tmp_path, "c", subject, 2)
    for source in (read_calibration(path), Found([tmp_path])):
        runtime = model().twin(calibration=source).twin()
        kinds: list[str] = []
        runtime.run(request(0, "fitted"), on_step=lambda event, to=kinds: to.append(event.kind))
        assert kinds == ["full", "predicted", "full", "predicted"]
    with pytest.raises(Uncalibrated, match="disca-rt calibrate"):
        model().run(request(0, "fitted"))


def test_a_calibration_that_does_not_fit_is_refused_with_the_reason(fitted_row, tmp_path) -> None:
    path = write(tmp_path, "c", model().subject(request()), 2)
    named, found = read_calibration(path), Found([tmp_path])
    five = request(0, "fitted", schedule=Preset(shifted(5, 3.0), None, 3.0))
    cases = [(model(), five, "steps 4, not 5"), (model(1), request(0, "fitted"), "weights ")]
    for runtime, asked, reason in cases:
        for source in (named, found):
            runtime.calibration = source
            with pytest.raises(ValueError, match="disca-rt calibrate") as raised:
                runtime.run(asked)
            assert reason in str(raised.value)
        runtime.run(request(0, "full"))  # which takes nothing from it
    runtime = model()
    runtime.calibration = Calibration(named.subject, {"other": {}}, "file.json")
    with pytest.raises(Uncalibrated, match=r"file\.json has tables other"):
        runtime.run(request(0, "fitted"))


def test_weights_are_told_apart_in_any_dtype() -> None:
    digest = weights_digest(model().dit)
    assert weights_digest(model().dit) == digest != weights_digest(model(1).dit)
    assert weights_digest(model(dtype=torch.bfloat16).dit) == digest
    assert weights_digest(model().dit.to("meta")) is None


def test_blocks_stand_in_order_of_their_numbers() -> None:
    names = [f"block/l1/0/{block}" for block in range(12)]
    stored = Records([{name: torch.zeros(1) for name in sorted(names)}])
    assert stored.names("block/l1/0/") == names
