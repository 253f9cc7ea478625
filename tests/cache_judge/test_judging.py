"""The judge: what it measures, what it writes down, and how it goes on."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from disca_rt.cache.policies import POLICIES as POLICY_ROWS
from disca_rt.cache.stand_ins.kept_elsewhere import STATES
from disca_rt.cache_judge.judging import Judging
from disca_rt.cache_judge.page import page
from disca_rt.cache_judge.picture import _curves, _ticks, write_picture
from disca_rt.cache_judge.record import Record
from disca_rt.cache_judge.similarity import SAME, eight_bits, likeness, psnr, ssim
from disca_rt.cache_judge.subject import UNCACHED, Clip
from disca_rt.cache_judge.summary import Summary, family_of, frontier, summaries
from disca_rt.tiny.statistics import ConfidenceInterval
from made_up_subject import MadeUp

POLICIES = ("reuse:interval=2", "reuse:interval=4", "reuse:interval=8", "taylor:interval=4")


def judged(path: Path, subject: MadeUp) -> dict[str, Summary]:
    Judging(subject, Record(path), lambda text: None).run(POLICIES)
    return {row.policy: row for row in summaries(Record(path), subject.name)}


def test_each_policy_is_measured_against_the_uncached_run(tmp_path: Path) -> None:
    subject = MadeUp()
    rows = judged(tmp_path / "caches.jsonl", subject)
    assert [*rows] == [UNCACHED, *POLICIES]
    assert rows[UNCACHED].full_steps == 8
    assert rows[UNCACHED].psnr.mean == SAME
    for policy in POLICIES:
        row, errors = rows[policy], [subject.errors(policy, number)[-1] for number in range(3)]
        assert row.l2_mean == pytest.approx(sum(errors) / 3)
        assert row.l2_median == pytest.approx(sorted(errors)[1])
        assert row.far == sum(error > 0.1 for error in errors) / 3
        assert row.full_steps == pytest.approx(8 / row.speedup)
        assert row.ratio == pytest.approx(1, abs=1e-6)
        assert row.state_bytes == 1000
    assert 4 < rows["reuse:interval=2"].full_steps < 5, "four steps without blocks are not free"


def test_at_equal_cost_a_quarter_of_the_error_is_a_quarter(tmp_path: Path) -> None:
    rows = judged(tmp_path / "caches.jsonl", MadeUp())
    against = rows["taylor:interval=4"].against_reuse
    assert against.mean == pytest.approx(0.25)
    assert against.low <= against.mean <= against.high
    assert rows["reuse:interval=4"].against_reuse is None


def test_the_frontier_leaves_out_what_something_cheaper_is_as_near_as(tmp_path: Path) -> None:
    rows = judged(tmp_path / "caches.jsonl", MadeUp())
    best = [row.policy for row in frontier([*rows.values()])]
    assert best == ["reuse:interval=8", "taylor:interval=4", "reuse:interval=2", "full"]


def test_an_interrupted_judging_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, path = MadeUp(), tmp_path / "caches.jsonl"
    expected = judged(tmp_path / "other.jsonl", whole)
    for stop_after in (2, 3, 4):
        subject = MadeUp()
        subject.stop_after = stop_after
        with pytest.raises(KeyboardInterrupt):
            judged(path, subject)
    with path.open("a") as file:
        file.write('{"kind": "clip", "cut o')
    last = MadeUp()
    assert judged(path, last) == expected
    assert len(last.sampled) == len(whole.sampled) - 2 - 3 - 4
    again = MadeUp()
    assert judged(path, again) == expected
    assert not again.sampled


def test_a_record_of_other_facts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "caches.jsonl"
    judged(path, MadeUp())
    with pytest.raises(ValueError, match=r"was written with prompts 3, now it is 4; give another"):
        judged(path, MadeUp(prompts=4))
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()].count("cost") == 4


def test_a_wrong_policy_is_refused_before_anything_runs(tmp_path: Path) -> None:
    subject = MadeUp()
    judging = Judging(subject, Record(tmp_path / "caches.jsonl"), lambda text: None)
    with pytest.raises(ValueError, match="interval must be a whole number"):
        judging.run(("reuse:interval=2", "reuse:interval=0"))
    assert not subject.sampled


def test_page_and_picture(tmp_path: Path) -> None:
    rows = {"made-up": [*judged(tmp_path / "caches.jsonl", MadeUp()).values()]}
    text = page(rows, "facts")
    assert "**`taylor:interval=4`**" in text
    assert "| `reuse:interval=4` |" in text
    assert "- **`disca`** (DisCa, arXiv 2602.05449): " in text
    write_picture(tmp_path / "caches.png", rows)
    assert (tmp_path / "caches.png").read_bytes()[:4] == b"\x89PNG"


def made_up_rows(methods: Sequence[str]) -> list[Summary]:
    """Rows of methods at several strengths, each a bit farther than the one before it."""
    one = ConfidenceInterval(1.0, 0.9, 1.1)
    fields = {"subject": "s", "ratio": 0.98, "state_bytes": 1000, "ssim": one, "scores": {}}
    fields |= {"l2_median": 0.1, "l2_geometric": 0.1, "l2_mean": 0.1, "far": 0.0}
    return [
        Summary(
            policy=f"{method}:state={STATES[strength]}",
            family=family_of(method),
            full_steps=20 / speedup,
            speedup=speedup,
            psnr=ConfidenceInterval(psnr, psnr - 1, psnr + 1),
            against_reuse=one,
            **fields,
        )
        for number, method in enumerate(methods)
        for strength in range(len(STATES))
        for speedup in (1.5 + strength + number / 50,)
        for psnr in (45 - 4 * strength - number / 3,)
    ]


def test_many_methods_get_a_panel_for_each_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (figures.append(f), save(f, *a, **k)))
    methods = [name for name, row in POLICY_ROWS.items() if row.places]
    rows = made_up_rows(methods)
    write_picture(tmp_path / "caches.png", {"made-up": rows})
    large, *panels = [axis for axis in figures[0].axes if axis.axison]
    families = {family_of(name) for name in methods}
    assert {axis.get_title() for axis in panels} == families
    told = [text.get_text() for text in large.get_legend().get_texts()]
    assert {*told} == families | {"frontier of all"}
    for axis in panels:
        named = {text.get_text() for text in axis.get_legend().get_texts()} - {"frontier of all"}
        assert named == {name for name in methods if family_of(name) == axis.get_title()}
        assert axis.get_ylim() == large.get_ylim()
    text = page({"made-up": rows}, "facts")
    first, every = text.split("All policies:")
    assert first.count("| **`") == len(frontier(rows)) == every.count("| **`")
    assert every.count("| `") == len(rows) - len(frontier(rows))


def test_names_of_points_stay_within_their_panel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: (figures.append(f), save(f, *a, **k)))
    write_picture(
        tmp_path / "caches.png", {"s": made_up_rows(["taylorseer-attention", "teacache"])}
    )
    (figure,) = figures
    renderer = FigureCanvasAgg(figure).get_renderer()
    large = figure.axes[0]
    frame = large.get_window_extent(renderer)
    assert len(large.texts) > 1
    for text in large.texts:
        box = text.get_window_extent(renderer)
        assert box.x1 <= frame.x1
        assert box.y1 <= frame.y1


def test_lines_join_settings_that_differ_in_one_option() -> None:
    texts = (
        *("dicache:rel_l1_thresh=0.1,ret_ratio=0.1", "dicache:rel_l1_thresh=0.3,ret_ratio=0.1"),
        *("dicache:rel_l1_thresh=0.2", "reuse:step_list=0,1", "reuse:step_list=0,2"),
        *("mixcache:theta=0.1,N=4,3,2", "mixcache:theta=0.2,N=5,4,3", "reuse:interval=2"),
    )
    row = made_up_rows(["reuse"])[0]
    joined = _curves([row._replace(policy=text) for text in texts[:3]])
    assert [[each.policy for each in curve] for curve in joined] == [[*texts[:2]]]
    joined = _curves([row._replace(policy=text) for text in (*texts[3:5], texts[7])])
    assert [[each.policy for each in curve] for curve in joined] == [[*texts[3:5]]]
    assert _curves([row._replace(policy=text) for text in texts[5:7]]) == []


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 1.09), (0.9, 1.4), (1.0, 3.0), (0.7, 12.0), (3, 40)]
)
def test_an_axis_has_several_ticks_of_plain_numbers(low: float, high: float) -> None:
    for most in (9, 14):
        numbered, others = _ticks(low, high, most)
        assert 3 <= len(numbered) <= most
        assert all(low <= tick <= high for tick in (*numbered, *others))


def test_frames_are_compared_a_few_at_a_time() -> None:
    torch.manual_seed(0)
    video, reference = (torch.randint(0, 256, (3, 11, 9, 8), dtype=torch.uint8) for _ in range(2))
    each = [ssim(video[:, i : i + 1], reference[:, i : i + 1]) for i in range(11)]
    assert ssim(video, reference) == pytest.approx(sum(each) / 11)
    error = (video.double() / 255 - reference.double() / 255).square().mean()
    assert psnr(video, reference) == pytest.approx(-10 * error.log10().item())


def test_without_frames_nearness_is_of_latents(tmp_path: Path) -> None:
    class Undecoded(MadeUp):
        def clips(self, policy: str, first: int) -> Iterator[Clip]:
            for clip in super().clips(policy, first):
                yield clip._replace(frames=None)

    rows = judged(tmp_path / "caches.jsonl", Undecoded())
    row = rows["reuse:interval=4"]
    assert row.psnr is None is row.ssim
    assert row.nearness == pytest.approx(-20 * math.log10(row.l2_geometric))
    best = [row.policy for row in frontier([*rows.values()])]
    assert best == ["reuse:interval=8", "taylor:interval=4", "reuse:interval=2", "full"]
    assert "PSNR |" not in page({"made-up": [*rows.values()]}, "facts")
    write_picture(tmp_path / "caches.png", {"made-up": [*rows.values()]})


def test_likeness_by_hand() -> None:
    reference = torch.zeros(3, 2, 9, 8)
    video = reference + 0.1
    assert psnr(video, reference) == pytest.approx(20)
    assert psnr(reference, reference) == SAME
    # A constant difference leaves the means' term alone: C1 / (0.1² + C1).
    assert ssim(video, reference) == pytest.approx(1e-4 / (0.01 + 1e-4))
    torch.manual_seed(0)
    a, b = torch.rand(3, 1, 7, 7).double(), torch.rand(3, 1, 7, 7).double()
    mean_a, mean_b = a.mean((2, 3)), b.mean((2, 3))
    var_a, var_b = a.var((2, 3), correction=0), b.var((2, 3), correction=0)
    both = ((a - mean_a[..., None, None]) * (b - mean_b[..., None, None])).mean((2, 3))
    expected = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
    expected /= (mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)
    assert ssim(a, b) == pytest.approx(expected.mean().item())


def test_latents_that_are_not_finite_are_infinitely_far() -> None:
    latents, frames = torch.ones(1, 1, 4, 4), torch.ones(3, 1, 8, 8)
    broken = likeness(latents / 0, eight_bits(frames / 0 * 0), latents, eight_bits(frames))
    assert broken.l2 == float("inf")
    assert broken.psnr == 0
