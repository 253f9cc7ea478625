"""Methods that compute a subset of rows: against their authors' runs, and what they cost."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file

from authors_runs import FOLDER, Run, inputs, load_run, names, sample
from cache_draws import CONFIG, CPU, OPS, SCALE, Draw, models, sampled
from disca_rt.cache.map_file import Maps, write_maps
from disca_rt.cache.method import sketched
from disca_rt.cache.moving_rows import moving_rows
from disca_rt.cache.plan import Act, Setting, StepPlan
from disca_rt.cache.policies import build_policy
from disca_rt.cache.policy import Policy, Slot
from disca_rt.cache.rules.between import SomeRows
from disca_rt.cache.site import Site
from disca_rt.cache.stand_in import ALL_HERE, WHOLE, Moment, TensorSpec
from disca_rt.cache.stand_ins.cluster_rows import ClusterRows
from disca_rt.cache.stand_ins.clusters import Clusters, kmeans
from disca_rt.cache.stand_ins.drawn_rows import DrawnRows
from disca_rt.cache.stand_ins.important_rows import ImportantRows
from disca_rt.cache.stand_ins.kept_elsewhere import KeptElsewhere, smaller
from disca_rt.cache.stand_ins.linear_map import LinearMap, Mapped
from disca_rt.cache.stand_ins.reuse import Reuse
from disca_rt.config import MODELS
from disca_rt.graphs.runner import GraphRunner
from disca_rt.models.blocks import run_blocks
from disca_rt.models.dit import StepInputs
from disca_rt.models.row_groups import layer_norm_modulate, take_rows
from disca_rt.schedule import shifted
from disca_rt.tokens import RowVectors, StepContext, TokenLayout
from disca_rt.work.flops import PassFlops
from golden_vectors import relative_error
from mixed_attention import Mixed, velocity_of
from recorded import record

IMG, TXT = 75, 20  # rows of the model of the runs; text with its padding, of which 13 are valid
DOUBLE, SINGLE = 4, 3


@pytest.mark.parametrize("name", [*names("toca"), *names("duca")])
def test_the_authors_rows_give_the_authors_latents(name: str, tmp_path: Path) -> None:
    run = load_run(name)
    save_file(_rows_by_place(run), tmp_path / "rows.safetensors")
    text = ",".join(f"{key}={value}" for key, value in run.options.items())
    ours = sample(
        f"{run.facts['method']}:{text},fresh_rows={tmp_path}/rows.safetensors", run.schedule
    )
    assert [plan.label for plan in ours.plans] == run.facts["kinds"]
    assert ours.full_steps == run.facts["full_steps"]
    assert relative_error(ours.latents, run.latents) <= 1e-4
    drawn = sample(f"{run.facts['method']}:{text}", run.schedule)
    assert 1e-3 < relative_error(drawn.latents, run.latents) < 0.1, "other rows, as many"


def _rows_by_place(run: Run) -> dict[str, torch.Tensor]:
    """The rows of a run by step, block and branch, padding text among them.

    They lie one draw after another; -1, and the draws of single blocks, may be there or not.
    """
    drawn = load_file(FOLDER / run.facts["file"])[f"{run.facts['name']}.fresh_rows"].flatten()
    drawn, draws = drawn[drawn >= 0], list(_draws(run))
    counts = [int(torch.tensor(_share(run, *place)).clamp(0, 1) * n) for _, place, n in draws]
    if sum(counts) != len(drawn):
        draws = [each for each in draws if each[1][1] != "total"]
        counts = [int(torch.tensor(_share(run, *place)).clamp(0, 1) * n) for _, place, n in draws]
    return {
        f"{step}.{block}.{branch}": rows.clone()
        for (step, (block, branch), _), rows in zip(draws, drawn.split(counts), strict=True)
        if branch != "total"
    }


def _draws(run: Run) -> Iterator[tuple[int, tuple[int, str], int]]:
    """Step, place and number of rows of each draw."""
    for step, kind in enumerate(run.facts["kinds"]):
        if kind == "ToCa":
            for block in range(DOUBLE):
                yield step, (block, "img_mlp"), IMG
                yield step, (block, "txt_mlp"), TXT
            for block in range(SINGLE):
                yield step, (block, "total"), IMG + TXT


def _share(run: Run, block: int, branch: str) -> float:
    return run.options["fresh_ratio"] * (1 + 0.5 - block / 27) * (1.6 if branch == "total" else 0.4)


@pytest.mark.parametrize("name", names("clusca"))
def test_clusters_and_their_rows_are_the_authors(name: str, tmp_path: Path) -> None:
    """K-means is run here, from the rows with which theirs began."""
    run = load_run(name)
    tensors = load_file(FOLDER / run.facts["file"])
    drawn = iter(tensors[f"{name}.fresh_rows"])
    rows = {
        f"{step}.{block}.{branch}": next(drawn).clone()
        for step, kind in enumerate(run.facts["kinds"])
        if kind == "ClusCa"
        for block in range(DOUBLE)
        for branch in ("img_mlp", "txt_mlp")
    }
    rows |= {
        f"0.{i}.centroids": each.clone() for i, each in enumerate(tensors[f"{name}.centroids"])
    }
    save_file(rows, tmp_path / "rows.safetensors")
    text = "clusca:" + ",".join(f"{key}={value}" for key, value in run.options.items())
    ours = sample(f"{text},fresh_rows={tmp_path}/rows.safetensors", run.schedule)
    assert [plan.label for plan in ours.plans] == run.facts["kinds"]
    assert relative_error(ours.latents, run.latents) <= 1e-4
    drawn_here = sample(text, run.schedule)
    assert 1e-3 < relative_error(drawn_here.latents, run.latents) < 0.1, "other rows, as many"


def test_k_means_is_a_written_out_loop() -> None:
    """Two samples, one of which settles early; padding is in no mean."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 40, 6, generator=generator)
    x[0, 20:] += 9
    weights = torch.ones(2, 40, 1)
    weights[1, 35:] = 0
    begin = torch.stack([x[0, [0, 39]], x[1, [3, 4]]])
    found, labels = kmeans(x, begin, weights)
    for sample_, centroids in enumerate(begin):
        own = x[sample_]
        for _ in range(10):
            nearest = (own[:, None] - centroids).abs().sum(-1).argmin(1)
            valid = weights[sample_, :, 0] > 0
            means = torch.stack([own[(nearest == k) & valid].mean(0) for k in range(2)])
            if torch.allclose(centroids, means, rtol=1e-4):
                break
            centroids = means
        assert torch.equal(labels[sample_], nearest)
        torch.testing.assert_close(found[sample_], centroids)


@pytest.mark.parametrize("speaks", ["sum", "mean"])
@pytest.mark.parametrize("add_slope", [True, False])
def test_a_cluster_moves_towards_its_fresh_row(add_slope: bool, speaks: str) -> None:
    stand_in = ClusterRows(
        OPS, 1, cluster_num=3, propagation_ratio=0.25, add_slope=add_slope, speaks=speaks
    )
    generator = torch.Generator().manual_seed(2)
    factors = torch.randn(2, 1, 7, 4, generator=generator)
    labels = torch.tensor([[0, 0, 1, 1, 0, 1, 0]])  # cluster 2 has none, and draws row 0
    tokens = torch.zeros(1, 9, 4)
    beside = (({}, {}, {WHOLE: (tokens, torch.cat([labels, labels[:, :2]], 1), tokens)}),)
    numbers = torch.tensor([2.0, 2.0, 1.0, 3.0, 5.0])  # forecast: F + 3 slope; step 5
    layout = TokenLayout(7, None)
    at = Moment(
        None,
        StepContext(tokens, tokens, tokens, layout),
        numbers,
        place=(1, "img_mlp"),
        beside=beside,
    )
    before, seen = factors.clone(), []

    def compute(rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows[0])
        return torch.full((1, 3, 4), 10.0) + rows[..., None]

    value = stand_in.refresh((factors,), compute, at)[0]
    (rows,) = seen
    assert rows[2] == 0
    assert [labels[0, row].item() for row in rows[:2]] == [0, 1]
    slope = 3 * before[1, 0]
    base = before[0, 0] + (0 if add_slope else slope)
    for row in rows:
        base[row] = 10.0 + row
    assert rows[0] != 0, "of cluster 0 there are row 0 and its own"
    said = {k: base[[r.item() for r in rows if labels[0, r] == k]].sum(0) for k in (0, 1)}
    if speaks == "mean":
        said[0] /= 2
    expected = torch.stack(
        [0.25 * said[k] + 0.75 * base[i] for i, k in enumerate(labels[0].tolist())]
    )
    torch.testing.assert_close(value, expected + (slope if add_slope else 0))
    assert torch.equal(factors[1], before[1]), "slopes stay"


def test_only_fresh_rows_are_computed_and_counted() -> None:
    dit = MODELS["hunyuan-video-meanflow"]
    policy = build_policy("toca:hunyuan", sketched(dit))
    forward = PassFlops(dit, (16, 33, 88, 88), 256)
    plans = policy.known_plans(Setting(tuple(shifted(50, 7.0)), 1, 2))
    assert [plan.label for plan in plans].count("full") == 10
    full, some = (forward.planned(policy, plan, 0) for plan in plans[:2])
    none = forward.planned(policy, StepPlan(((Act.STAND_IN,) * 2,)), 0)
    fresh = sum(
        2 * int(0.1 * (1.5 - block / 27) * 0.4 * rows) * 8 * 3072**2
        for block in range(20)
        for rows in (63_888, 256)
    )
    assert some - none == pytest.approx(fresh, rel=1e-3)
    assert full > 60 * some


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_no_fresh_rows_are_reuse_and_all_are_the_mlp_itself(ratio: float) -> None:
    """A share above 1 is cut to 1: ratio 1 of a single block's rows are all of them."""
    eager = models()
    kept, mlps = Site("branch", 0, 4, ("img_attn", "txt_attn", "attn")), Site("branch", 2, 4, MLP)
    drawn = Draw(SomeRows(9), (kept, mlps), _drawn(ratio), shifted(4, 3.0), True, 2, 0)
    if ratio:
        other = drawn._replace(rule=Alternating(), site=kept, stand_in=Reuse())
    else:
        other = drawn._replace(rule=Alternating(), stand_in=Reuse())
    assert relative_error(eager.sample(drawn)[0], eager.sample(other)[0]) <= 1e-6


MLP = ("mlp",)


def _drawn(ratio: float) -> DrawnRows:
    return DrawnRows(OPS, config=CONFIG, fresh_ratio=ratio)


class Alternating(SomeRows):
    """Full at step 0, then every slot stands in."""

    def decide(self, setting, step, seen, memory):
        return setting.predicted if step.index else setting.full


def test_seeds_and_steps_draw_other_rows() -> None:
    eager = models()
    sites = Site("branch", 0, 4, ("txt_attn",)), Site("branch", 0, 4, ("img_mlp",))
    draw = Draw(SomeRows(9), sites, _drawn(0.7), shifted(5, 3.0), False, 1, 0)
    first, _ = eager.sample(draw)
    assert torch.equal(eager.sample(draw)[0], first)
    assert not torch.equal(
        eager.sample(draw._replace(stand_in=replace(_drawn(0.7), seed=1)))[0], first
    )


def test_rows_of_several_groups_have_their_own_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 8, generator=generator)
    vectors = [
        RowVectors(torch.randn(2, 3, 8, generator=generator), (2, 5)),
        RowVectors(torch.randn(2, 3, 8, generator=generator), (2, 5)),
    ]
    rows = torch.tensor([[8, 0, 4], [1, 2, 5]])
    some = layer_norm_modulate(OPS, x, *vectors, rows=rows)
    torch.testing.assert_close(some, take_rows(layer_norm_modulate(OPS, x, *vectors), rows))


@pytest.mark.parametrize(
    ("sites", "stand_in", "reason"),
    [
        ((Site("branch", 0, 4, ("attn",)),), _drawn(0.5), "use a stand-in of rows at branches of"),
        ((Site("branch", 0, 4, ("mlp",)),), Reuse(), "is to compute some rows anew, and .* cannot"),
    ],
)
def test_a_slot_without_rows_of_its_own_is_refused(
    sites: tuple[Site, ...], stand_in: object, reason: str
) -> None:
    policy = Policy("mine", Refreshing(), tuple(Slot(site, stand_in) for site in sites))
    with pytest.raises(ValueError, match=reason):
        policy.known_plans(Setting(tuple(shifted(2, 3.0)), 1, 1))


class Refreshing(SomeRows):
    """Full at step 0, then its only slot computes some rows."""

    def decide(self, setting, step, seen, memory):
        return StepPlan(((Act.REFRESH,),)) if step.index else setting.full


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("fresh_ratio=1.1", "fresh_ratio must be from 0 to 1, got 1.1"),
        ("fresh_threshold=0", "fresh_threshold must be a whole number at least 1, got 0"),
        ("first_enhance=0", "first_enhance must be a whole number at least 1, got 0"),
        ("max_order=4", "max_order must be a whole number from 0 to 3, got 4"),
        ("fresh_rows=none.safetensors", "must be a safetensors file of row numbers, got 'none"),
        ("cache_type=attention", "cache_type must be random"),
    ],
)
def test_wrong_options(options: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_policy(f"toca:{options}", sketched(CONFIG))


def test_a_file_of_other_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.safetensors"
    save_file({"rows": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="must hold tensors called"):
        build_policy(f"toca:fresh_rows={path}", sketched(CONFIG))


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("method", ["toca", "duca", "clusca", "ras", "tokencache"])
def test_one_step_and_two(method: str, steps: int) -> None:
    ours = sample(method, shifted(steps, 7.0))
    assert ours.full_steps == [*range(steps)][: 4 if method == "ras" else 1]
    assert ours.latents.shape == inputs()[1].shape
    option = "sample_ratio=1" if method == "ras" else "fresh_threshold=1"
    every = sample(f"{method}:{option}", shifted(steps, 7.0))
    assert torch.equal(every.latents, sample("full", shifted(steps, 7.0)).latents)


def test_rows_kept_elsewhere_are_those_kept_here() -> None:
    eager = models()
    sites = Site("branch", 0, 4, ("img_attn", "txt_attn", "attn")), Site("branch", 0, 4, DOUBLE_MLP)
    draw = Draw(SomeRows(3), sites, _drawn(1.0), shifted(5, 3.0), True, 2, 0)
    expected, _ = eager.sample(draw)
    for fp8, on_host in ((False, True), (True, False)):
        found, _ = eager.sample(draw._replace(stand_in=KeptElsewhere(_drawn(1.0), fp8, on_host)))
        assert relative_error(found, expected) <= (0.05 if fp8 else 0)


DOUBLE_MLP = "img_mlp", "txt_mlp"


METHODS = (
    "toca:fresh_threshold=3,fresh_ratio=0.5",
    "duca:fresh_threshold=4,fresh_ratio=0.5",
    "clusca:fresh_threshold=3,cluster_num=3,propagation_ratio=0.1",
    "ras:scheduler_start_step=2,error_reset_steps=5,high_ratio=0.5",
    "tokencache:fresh_threshold=3",
    "fastcache:bound=0.02,motion_threshold=0.75",
)


@pytest.mark.parametrize("text", METHODS)
@pytest.mark.parametrize("begins", [False, True])
def test_captured_samples_are_eager_ones(text: str, begins: bool) -> None:
    eager, by_step, whole = (models(graphs=graphs) for graphs in (None, *_runners()))
    for seed in range(3):
        draw = Draw(None, (), None, shifted(7, 3.0), True, 2, seed, begins)
        latents = sampled(eager, draw, text)
        assert torch.equal(sampled(by_step, draw, text, watched=True), latents)
        assert torch.equal(sampled(whole, draw, text), latents)
    assert by_step.denoiser.graphs.captures > 0


def _runners() -> tuple[GraphRunner, GraphRunner]:
    return GraphRunner(CPU, record), GraphRunner(CPU, record)


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("guided", [False, True])
def test_regions_are_a_written_out_loop(begins: bool, guided: bool) -> None:
    """All rows run there, those dropped with keys that nobody reads; ratios 0.6 and 0.5 of 4."""
    steps, start, reset = 9, 2, 5
    text = f"ras:scheduler_start_step={start},error_reset_steps={reset},sample_ratio=0.4"
    draw = Draw(None, (), None, shifted(steps, 3.0), guided, 2, 3, begins)
    ours = sampled(models(), draw, text + ",high_ratio=0.5,scheduler_end_step=7")
    attentions = [Mixed() for _ in draw.conditions]
    denoisers = [models(attention=each).denoiser for each in attentions]
    latents = draw.latents
    drops, keep, velocity = torch.zeros(2, 4), torch.ones(2, 4, dtype=torch.bool), None
    for step in draw.schedule:
        index = step.index
        is_partial = start <= index <= 7 and index != reset
        fresh = keep.clone()
        fresh[0] |= begins  # the clean frame's rows
        rows = torch.cat([fresh.flatten(), torch.ones(3, dtype=torch.bool)])
        for attention in attentions:
            attention.calls, attention.mask = 0, rows if is_partial else None
        new = velocity_of(denoisers, draw, latents, step)
        if is_partial:
            pixels = keep.view(2, 2, 2).repeat_interleave(2, 1).repeat_interleave(2, 2)
            new = torch.where(pixels, new, velocity)
        velocity = new
        latents = latents + velocity * (step.sigma_next - step.sigma)
        if begins:
            latents[:, :, :1] = draw.first_frame
        if start <= index + 1 < 7 and index + 1 != reset:
            deviation = velocity.std(1).mean(0)  # [T, H, W]
            scores = torch.nn.functional.avg_pool2d(deviation, 2).flatten(1) * (0.1 * drops).exp()
            order = scores.argsort(1)
            keep = torch.ones(2, 4, dtype=torch.bool)
            keep.scatter_(1, torch.cat([order[:, :1], order[:, -1:]], 1), False)
            drops += ~keep
    assert relative_error(ours, latents) <= 1e-4
    assert relative_error(ours, sampled(models(), draw, "full")) > 1e-3


def test_regions_cost_their_rows() -> None:
    dit = MODELS["hunyuan-video-meanflow"]
    policy = build_policy("ras:30-steps", sketched(dit))
    plans = policy.known_plans(Setting(tuple(shifted(30, 7.0)), 1, 2))
    assert [plan.label for plan in plans].count("RAS") == 24
    forward = PassFlops(dit, (16, 33, 88, 88), 256)
    full, some = (forward.planned(policy, plan, 0) for plan in (plans[3], plans[4]))
    assert some / full == pytest.approx((63_888 / 2 + 256) / (63_888 + 256), rel=2e-3)


def test_keys_are_kept_on_the_device_only() -> None:
    with pytest.raises(ValueError, match="state must be device, for attention reads its keys"):
        build_policy("ras:state=fp8", sketched(CONFIG))
    assert smaller(build_policy("ras", sketched(CONFIG))) == []


def test_networks_that_are_not_those_of_the_branches_are_named(tmp_path: Path) -> None:
    path = tmp_path / "gates.safetensors"
    save_file({"gates": torch.ones(2, 3)}, path)
    stand_in = ImportantRows(0.34, importance=str(path))
    at = Moment(None, None, torch.tensor(stand_in.numbers((), 0, ())), place=(0, "img_mlp"))
    kept = torch.zeros(1, 3, 1), torch.zeros(1, 3), torch.zeros(1, 3)
    with pytest.raises(ValueError, match=r"importance .* has no tensor 0.img_mlp.w1"):
        stand_in.keep(kept, torch.ones(1, 3, 1), at)
    path.write_text("nothing")
    other = ImportantRows(0.5, importance=str(path.rename(tmp_path / "text.safetensors")))
    with pytest.raises(ValueError, match=r"text\.safetensors cannot be read"):
        other.keep(kept, torch.ones(1, 3, 1), at)


def test_more_clusters_than_tokens_are_refused() -> None:
    spec = TensorSpec((1, 9, 4), torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match="cluster_num must be at most the 9 tokens, got 10"):
        Clusters(cluster_num=10).kept_specs(spec)


@pytest.mark.parametrize("is_trained", [False, True])
def test_the_most_important_rows_are_computed(is_trained: bool, tmp_path: Path) -> None:
    """Three rows of which one is computed at a step; rows not computed gain by waiting."""
    options = {}
    if is_trained:  # importance = the row's only number, by a network that is nearly linear
        weights = {"w1": torch.full((1, 1), 1e3), "b1": torch.zeros(1)}
        weights |= {"w2": torch.full((1, 1), 1e-3), "b2": torch.zeros(1)}
        path = tmp_path / "networks.safetensors"
        save_file({f"0.img_mlp.{key}": each for key, each in weights.items()}, path)
        options = {"importance": str(path)}
    stand_in = ImportantRows(0.34, **options)
    at = Moment(None, None, torch.tensor(stand_in.numbers((), 0, ())), place=(0, "img_mlp"))
    kept = torch.full((1, 3, 1), 9.0), torch.zeros(1, 3), torch.zeros(1, 3)  # of another sample
    stand_in.keep(kept, torch.tensor([[[1.0], [5.0], [3.0]]]), at)
    drawn = []

    def compute(rows: torch.Tensor) -> torch.Tensor:
        drawn.append(rows.item())
        return torch.full((1, 1, 1), 100.0)

    for _ in range(4):
        value = stand_in.refresh(kept, compute, at)
    # 5·1 > 3·1; then 3·2 > 5·1; 5·2 > 3·1 and 1·3; 3·2 > 5·1 and 1·4
    assert drawn == [1, 2, 1, 2]
    assert value.flatten().tolist() == [1.0, 100.0, 100.0]


def test_a_linear_block_is_replaced_by_itself_and_others_by_the_nearest_map() -> None:
    generator = torch.Generator().manual_seed(3)
    x, noise = (torch.randn(2, 50, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    slope, intercept = torch.tensor([2.0, -1.0, 0.5, 0.0]), torch.tensor([1.0, 0.0, 3.0, -2.0])
    y = x * slope + intercept + 0.1 * noise
    kept = (torch.zeros(2, 2, 4),)
    LinearMap().keep(kept, y, Moment(x, None, None))
    for b in range(2):
        for c in range(4):
            columns = torch.stack([x[b, :, c], torch.ones(50, dtype=x.dtype)], 1)
            wanted = torch.linalg.lstsq(columns, y[b, :, c : c + 1]).solution[:, 0]
            torch.testing.assert_close(kept[0][b, :, c].double(), wanted, rtol=1e-4, atol=1e-5)
    value = LinearMap().value(kept, Moment(x, None, None))
    torch.testing.assert_close(value, x * slope + intercept, atol=0.2, rtol=0)


@pytest.mark.parametrize("bound", [0.0, 0.02, 0.3, float("inf")])
def test_blocks_are_replaced_where_their_input_has_hardly_changed(bound: float) -> None:
    """Against a loop over blocks that measures and decides as it goes."""
    draw = Draw(None, (), None, shifted(6, 3.0), False, 1, 4)
    built = models()
    dit, latents, before = built.denoiser.dit, draw.latents, {}
    (prepared,) = (dit.prepare(each, latents.shape) for each in draw.conditions)
    maps, replaced = {}, 0
    with torch.no_grad():
        for step in draw.schedule:
            tokens, context = dit.embed(latents, StepInputs(torch.tensor([step.t])), prepared)
            for i, block in enumerate(dit.blocks):
                old, before[i] = before.get(i), tokens
                change = None if old is None else (tokens - old).square().sum() / old.square().sum()
                if change is not None and change <= bound:
                    tokens, replaced = LinearMap().value(maps[i], Moment(tokens, None, None)), 1
                else:
                    entering, tokens = tokens, run_blocks([block], tokens, context)
                    maps[i] = (torch.zeros(1, 2, CONFIG.hidden),)
                    LinearMap().keep(maps[i], tokens, Moment(entering, None, None))
            velocity = dit.velocity(tokens, context, prepared)
            latents = latents + velocity * (step.sigma_next - step.sigma)
    assert bool(replaced) == (bound > 0)
    captured = models(graphs=GraphRunner(CPU, record))
    for each in (built, captured):
        ours = sampled(each, draw, f"fastcache:bound={bound}", watched=True)
        assert relative_error(ours, latents) <= 1e-4


def moving(now: torch.Tensor, before: torch.Tensor, threshold: float) -> torch.Tensor:
    """True of the rows of `[B, S, C]` that move in any sample: `[S]`."""
    changes = (now - before).square().sum(-1)
    return (changes / changes.max(1, keepdim=True).values > threshold).any(0)


def fitted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Slopes and intercepts `[2, B, C]` of each channel, by least squares over rows."""
    found = torch.empty(2, len(x), x.shape[2])
    for b in range(len(x)):
        for c in range(x.shape[2]):
            columns = torch.stack([x[b, :, c], torch.ones(x.shape[1])], 1).double()
            found[:, b, c] = torch.linalg.lstsq(columns, y[b, :, c, None].double()).solution[:, 0]
    return found


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize(("guided", "background"), [(False, 0.0), (True, 0.25)])
def test_rows_that_stand_still_are_mapped(guided: bool, background: float, begins: bool) -> None:
    """All rows run in the loop, those that stand still with keys that nobody reads."""
    draw = Draw(None, (), None, shifted(7, 3.0), guided, 2, 3, begins)
    text = f"fastcache:bound=0,motion_threshold=0.75,background={background}"
    policy, img = build_policy(text, sketched(CONFIG)), 8
    own = draw._replace(rule=policy.rule, slots_of=policy.slots)
    ours, plans = models().sample(own)
    passes = range(len(draw.conditions))
    denoisers = [models(attention=Mixed()).denoiser for _ in passes]
    latents, splits = draw.latents, []
    before, last, maps = ([None for _ in passes] for _ in range(3))
    for step in draw.schedule:
        patches = []
        for i, denoiser in enumerate(denoisers):
            dit, attention = denoiser.dit, denoiser.dit.attention
            with torch.no_grad():
                prepared = dit.prepare(draw.conditions[i], latents.shape)
                inputs = StepInputs(torch.full((2,), step.t))
                h0, context = dit.embed(latents, inputs, prepared)
                x, is_static = h0[:, :img], torch.zeros(img, dtype=torch.bool)
                if before[i] is not None:
                    moves = moving(x, before[i], 0.75)
                    is_split = moves.sum() <= img / 2
                    splits += [bool(is_split)] * (i == 0)
                    is_static = ~moves & is_split
                    is_static[: 4 * begins] = False  # the clean frame's rows
                else:
                    is_split = False
                keys = torch.cat([~is_static, torch.ones(3, dtype=torch.bool)])
                attention.calls, attention.mask = 0, keys if is_split else None
                tokens = run_blocks(dit.blocks, h0, context).clone()
                if is_split:
                    slope, intercept = (each[:, None] for each in maps[i])
                    mapped = (1 - background) * (slope * x + intercept) + background * last[i]
                    tokens[:, :img][:, is_static] = mapped[:, is_static]
                else:
                    maps[i] = fitted(x, tokens[:, :img])
                before[i], last[i] = x, tokens[:, :img].clone()
                patches.append(dit.velocity(tokens, context, prepared))
        velocity = patches[0] if not guided else patches[1] + SCALE * (patches[0] - patches[1])
        latents = latents + velocity * (step.sigma_next - step.sigma)
        if begins:
            latents[:, :, :1] = draw.first_frame
    assert [plan.label == "moving rows" for plan in plans[1:]] == splits
    assert any(splits), splits
    assert relative_error(ours, latents) <= 1e-4
    assert relative_error(ours, sampled(models(), draw, "full")) > 1e-4


def test_rows_move_by_their_change_over_the_largest_one() -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(1, 9, 4, generator=generator)  # seven image rows, and text
    now = before + torch.tensor([1.0, 0.0, 3.0, 2.0, 0.5, 0.0, 2.9, 50.0, 0.0])[None, :, None]
    layout = TokenLayout(7, None)
    for threshold, rows in ((0.0, [0, 2, 3, 4, 6]), (0.4, [2, 3, 6]), (0.5, [2, 6]), (1.0, [])):
        mask = moving_rows(now, before, threshold, ALL_HERE, layout)
        assert mask.nonzero().flatten().tolist() == rows
    assert not moving_rows(before, before, 0.0, ALL_HERE, layout).any(), "nothing has moved"
    both = torch.cat([now, before + torch.eye(9)[5][None, :, None]])
    twice = moving_rows(both, torch.cat([before, before]), 0.5, ALL_HERE, layout)
    assert twice.nonzero().flatten().tolist() == [2, 5, 6], "in any sample of a batch"


@pytest.mark.parametrize("text", ["fastcache:bound=0.3", "fastcache:bound=0,motion_threshold=0.75"])
def test_maps_of_a_file_take_the_place_of_fitted_ones(text: str, tmp_path: Path) -> None:
    """Maps that are the identity give what leaving blocks out gives."""
    path, count = tmp_path / "maps.safetensors", CONFIG.double + CONFIG.single + 1
    weight = torch.eye(CONFIG.hidden).repeat(count, 1, 1)
    bias = torch.arange(count, dtype=torch.float32)[:, None].repeat(1, CONFIG.hidden) / 100
    write_maps(path, Maps(weight, bias), CONFIG, "fastcache")
    policy = build_policy(f"{text},maps={path}", sketched(CONFIG))
    draw = Draw(policy.rule, (), None, shifted(6, 3.0), False, 1, 4, slots_of=policy.slots)
    given, mapped = {}, Mapped.mapped

    def watched(self, kept, x, number):
        given[number] = mapped(self, kept, x, number)
        torch.testing.assert_close(given[number], x + bias[number][0])
        return given[number]

    with patch.object(Mapped, "mapped", watched):
        models().sample(draw)
    assert given.keys() <= ({-1} if "motion" in text else {*range(count - 1)})
    assert given
    assert policy == build_policy(f"{text},maps={path}", sketched(CONFIG))
    write_maps(path, Maps(2 * weight, bias), CONFIG, "fastcache")
    assert policy != build_policy(f"{text},maps={path}", sketched(CONFIG)), "another file"


def test_what_moving_rows_and_maps_cost(tmp_path: Path) -> None:
    path, dit = tmp_path / "maps.safetensors", CONFIG
    shape, count, c = (2, 8, 16, 16), dit.double + dit.single + 1, dit.hidden
    write_maps(path, Maps(torch.zeros(count, c, c), torch.zeros(count, c)), dit, "fastcache")
    forward, rows = PassFlops(dit, shape, 3), 8 * 8 * 8
    plain, with_maps = (
        build_policy(f"fastcache:motion_threshold=0.1{more}", sketched(dit))
        for more in ("", f",maps={path}")
    )
    acts = {
        "some": (Act.REFRESH, *(Act.RUN,) * 4),
        "one": (Act.KEEP, Act.STAND_IN, *(Act.KEEP,) * 3),
    }
    some, one = (
        [forward.planned(each, StepPlan((acts[name],)), 0) for each in (plain, with_maps)]
        for name in ("some", "one")
    )
    full = forward.planned(plain, StepPlan(((Act.KEEP,) * 5,)), 0)
    blocks = full - forward.ends
    assert (some[0] - forward.ends) / blocks == pytest.approx(0.5, rel=0.02)
    assert some[1] - some[0] == 2 * rows * c * c
    assert one[0] == full - forward.block(0)
    assert one[1] - one[0] == 2 * (rows + 3) * c * c


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("motion_threshold=2", "motion_threshold must be a number from 0 to 1, got 2"),
        ("background=-1", "background must be a number from 0 to 1, got -1"),
        ("maps=none.safetensors", "none.safetensors cannot be read as a file of linear maps"),
    ],
)
def test_wrong_options_of_maps_and_rows(options: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_policy(
            f"fastcache:motion_threshold=0.1,{options}".replace(
                "motion_threshold=0.1,motion", "motion"
            ),
            sketched(CONFIG),
        )


def test_maps_of_another_model_are_refused(tmp_path: Path) -> None:
    path, count = tmp_path / "maps.safetensors", CONFIG.double + CONFIG.single + 1
    maps = Maps(torch.zeros(count, 4, 4), torch.zeros(count, 4))
    write_maps(path, maps, replace(CONFIG, single=3), "fastcache")
    with pytest.raises(ValueError, match="is for a model of single 3, and this one has 2"):
        build_policy(f"fastcache:maps={path}", sketched(CONFIG))
    write_maps(path, maps, CONFIG, "fastcache")
    with pytest.raises(ValueError, match=r"weight of .* must be \[5, 32, 32\], got \[5, 4, 4\]"):
        build_policy(f"fastcache:maps={path}", sketched(CONFIG))


def test_moving_rows_stay_on_the_device() -> None:
    assert len(build_policy("fastcache:state=host", sketched(CONFIG)).slots) == 4
    with pytest.raises(ValueError, match="state must be device, for attention reads its keys"):
        build_policy("fastcache:static-tokens,state=host", sketched(CONFIG))
