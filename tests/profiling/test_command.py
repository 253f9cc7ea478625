"""`disca-rt profile` as a user types it, and the files that it writes."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from disca_rt.cli import build_parser, main
from disca_rt.commands.profile import sample_flags
from disca_rt.measure.ceilings import Ceilings
from disca_rt.profiling.ncu import function_name, ncu_lines
from disca_rt.profiling.page import page_html
from disca_rt.profiling.roofline import dots, roofline_svg
from disca_rt.profiling.table import Kernel, Row
from disca_rt.profiling.work import Work
from golden_vectors import load_golden
from refusal import refusal

FILES = ["profile.html", "table.jsonl", "table.md", "trace.json"]
SMALL = ["--steps", "3", "--step-list", "0,2", "--size", "16x8x3"]
CORE = "GEMM", "attention"
POINTWISE = Work(0, 1000, 500)
CEILINGS = Ceilings(8e14, 4e12, 8192, "bfloat16", 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("profile") / "deep" / "folder"
    assert main(["profile", *SMALL, "--out", str(out)]) == 0
    return out


def test_writes_four_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_shares_of_each_kind_of_step_add_up(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "table.jsonl").read_text().splitlines()]
    assert {line["kind"]: line["steps_of_kind"] for line in lines} == {"full": 2, "predicted": 1}
    for kind in ("full", "predicted"):
        shares = {line["class"]: line["share"] for line in lines if line["kind"] == kind}
        assert sum(shares.values()) - shares["all"] == pytest.approx(1)
        assert {"GEMM", "attention", "rms_norm_rope_pair", "head", "euler_step", "gap"} <= set(
            shares
        )
    named = {(line["kind"], line["class"]): line for line in lines}
    assert ("full", "cache op") not in named, "the last block writes into the buffer"
    assert named["predicted", "fuse_cached"]["calls"] > 0
    assert ("full", "fuse_cached") not in named
    gemm = named["full", "GEMM"]
    assert gemm["tflops_per_s"] * 1e12 == pytest.approx(gemm["flops"] / gemm["busy_s"])
    most = gemm["ceilings"]
    rates = gemm["tflops_per_s"] * 1e12, gemm["gb_per_s"] * 1e9
    nearest = max(rates[0] / most["flops_per_s"], rates[1] / most["bytes_per_s"])
    assert gemm["fraction_of_ceiling"] == pytest.approx(nearest)
    for name in ("device", "torch", "dtype", "ops", "attention", "policy", "latent_shape"):
        assert gemm[name]


def test_the_trace_has_steps_blocks_and_ops_within_each_other(folder: Path) -> None:
    trace = json.loads((folder / "trace.json").read_text())
    assert not {"traceName", "host_name"} & set(trace)
    events = [e for e in trace["traceEvents"] if e.get("cat") == "user_annotation"]
    spans = {level: [] for level in ("step", "middle", "block", "op")}
    for event in events:
        spans[event["name"].split()[0]].append((event["ts"], event["ts"] + event["dur"]))
    names = [event["name"] for event in events if event["name"].startswith("step")]
    assert names == ["step 0 full", "step 1 predicted", "step 2 full"]
    assert any(event["name"] == "block predictor.mm_single_blocks.1" for event in events)
    for outer, inner in (("step", "middle"), ("step", "block"), ("step", "op")):
        for start, end in spans[inner]:
            assert any(first <= start and end <= last for first, last in spans[outer])


def test_the_page_needs_nothing_from_elsewhere(folder: Path) -> None:
    page = (folder / "profile.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r'(src|href)="|@import|url\(', page)
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    lanes = json.loads(data)
    assert [lane["name"] for lane in lanes["lanes"]] == ["step", "block", "op", "operator"]
    for lane in lanes["lanes"]:
        starts = [span[0] for span in lane["spans"]]
        assert starts == sorted(starts)
        assert all(0 <= start <= lanes["end"] for start in starts)
    assert "<svg" in page
    assert ">rms_norm_rope_pair<" in page


def test_the_table_reads_as_markdown(folder: Path) -> None:
    text = (folder / "table.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0].startswith("| step kind | class | calls |")
    assert len({line.count("|") for line in rows}) == 1
    assert "ceilings measured in this run" in text


def test_random_weights_need_no_file(tmp_path: Path) -> None:
    flags = ["--random", "tiny", "--steps", "2", "--step-list", "0", "--size", "16x8x1"]
    assert main(["profile", *flags, "--out", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"full", "predicted"}
    assert {tuple(line["latent_shape"]) for line in lines} == {(1, 12, 1, 4, 8)}
    shares = [row["share"] for row in lines if row["kind"] == "full" and row["class"] in CORE]
    assert f"{1 - sum(shares):.1%} of a full step" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--random", "tiny", "a red circle"], "leave prompt out"),
        (["--random", "tiny", "--dit", "x"], "leave --dit out"),
        (["--random", "small"], "--random must be one of"),
        (["--random", "hunyuan-video"], "--random hunyuan-video needs a --size"),
        (["--random", "hunyuan-video-meanflow", "--size", "704x704x130"], "130"),
        (["a red dog moving left"], "dog"),
        (["--steps", "30"], "give --step-list, such as 0,1,2,5, or --policy"),
        (["--device", "tpu"], "--device must be"),
        (["--policy", "teecache"], "policy must be one of"),
        (["--ops", "cutlass"], "ops must be one of"),
        (["--attention", "fa9"], "attention backend must be one of"),
        (["--nvtx-only"], "give --device cuda"),
        (["--nvtx-only", "--out", "x"], "--nvtx-only writes nothing"),
        (["--dit", "no/such.safetensors"], "give either a prompt or --conditioning"),
        (["--out", "/proc/disca/x"], "--out cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refusal(["profile", *arguments], capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_sample_that_fails_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = load_golden("hyvideo10")
    weights = load_file(golden.dit)
    weights["final_layer.linear.weight"][0, 0] = float("nan")
    broken = tmp_path / "broken.safetensors"
    save_file(weights, broken)
    (tmp_path / "config.json").write_bytes((golden.folder / "config.json").read_bytes())
    conditioning = golden.folder / "io.safetensors"
    arguments = ["--dit", broken, "--conditioning", conditioning, "--dtype", "float32"]
    out = tmp_path / "out"
    command = ["profile", *arguments, "--steps", "2", "--policy", "full", "--out", out]
    assert main([str(part) for part in command]) == 2
    assert "not finite" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("fp8", [["--fp8"], ["--fp8-weights"], ["--fp8-table", "t.json"]])
def test_flags_make_the_same_sample_again(fp8: list[str]) -> None:
    given = ["profile", "a red circle", "--size", "16x8x3", "--step-list", "0,2", "--no-guidance"]
    args = build_parser().parse_args([*given, *fp8, "--out", "x", "--seed", "7"])
    again = build_parser().parse_args(["profile", "--nvtx-only", *sample_flags(args)])
    expected = {**vars(args), "out": None, "nvtx_only": True}
    assert vars(again) == expected


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("_rms_norm_rope_kernel", "_rms_norm_rope_kernel"),
        ("nvjet_tst_256x128_64x4_1x2_h_bz_coopA_NNT", "nvjet_tst_256x128_64x4_1x2_h_bz_coopA_NNT"),
        ("void at::native::elementwise_kernel<128, 4, f(int)>(int, f)", "elementwise_kernel"),
        ("void (anonymous namespace)::softmax_warp<float>(float*)", "softmax_warp"),
    ],
)
def test_names_as_ncu_has_them(kernel: str, name: str) -> None:
    assert function_name(kernel) == name


def test_ncu_lines() -> None:
    kernels = [
        Kernel("full", "cache op", "Memcpy DtoD (Device -> Device)", 4, 19.0),
        Kernel("full", "collective", "ncclDevKernel_SendRecv", 4, 15.0),
        Kernel("predicted", "rms_norm_rope", "_rms_norm_rope_kernel", 4, 9.0),
    ]
    [line] = ncu_lines(kernels, ["python", "-m", "disca_rt", "profile", "a red circle"], "out/x")
    [other] = ncu_lines([kernels[2]._replace(kind="decode", is_stage=True)], ["run"], "out")
    assert "--nvtx-include 'stage decode/'" in other
    assert line == (
        "ncu --set full --nvtx --nvtx-include 'middle predicted/' "
        "-k 'regex:^_rms_norm_rope_kernel$' -c 3 -o out/x/1-predicted-_rms_norm_rope_kernel "
        "python -m disca_rt profile 'a red circle'"
    )


def made_row(name: str, work: Work = POINTWISE) -> Row:
    return Row("full", name, 3, 1, 10.0, 10.0, 0.5, work)


def test_a_dot_stands_as_far_below_the_roof_as_the_fraction_says() -> None:
    works = {"gate_residual": POINTWISE, "GEMM": Work(4000, 20), "gap": Work()}
    rows = [made_row(name, work) for name, work in works.items()]
    points = {dot.row.class_name: dot for dot in dots(rows)}
    assert set(points) == {"gate_residual", "GEMM"}
    dot = points["gate_residual"]
    slope = dot.intensity * CEILINGS.bytes_per_s
    assert dot.rate / slope == pytest.approx(dot.row.fraction(CEILINGS))
    assert points["GEMM"].rate == pytest.approx(4000 / 10e-6)


def test_labels_of_dots_in_one_place_do_not_meet() -> None:
    names = "layer_norm", "layer_norm_modulate", "gate_residual", "head", "euler_step"
    svg = roofline_svg([made_row(name) for name in names], CEILINGS)
    tops = [float(y) for y in re.findall(r'y="([0-9.]+)"[^>]*class="halo"', svg)]
    assert len(tops) == len(names)
    texts = re.findall(r'<text x="([0-9.]+)" y="([0-9.]+)"[^>]*halo', svg)
    assert len(set(texts)) == len(names)


def test_no_name_ends_the_script_early() -> None:
    lanes = {"lanes": [], "names": ["</script><b>"], "colours": [], "end": 1}
    page = page_html("<t>", ["a < b"], [], CEILINGS, "<svg></svg>", lanes, ["ncu 'x' && y"])
    assert page.count("</script>") == 2
    assert "<title>&lt;t&gt;</title>" in page


@pytest.mark.gpu
def test_on_a_gpu_ncu_lines_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--device", "cuda", "--dtype", "bfloat16", "--out", str(tmp_path / "out")]
    assert main(["profile", *SMALL, *flags]) == 0
    said = capsys.readouterr().out
    assert said.count("ncu --set full --nvtx") == 5
    assert "nsys profile" in said
    lines = [json.loads(line) for line in (tmp_path / "out" / "table.jsonl").open()]
    assert {line["kind"] for line in lines} == {"full", "predicted"}
    assert torch.cuda.get_device_name() in lines[0]["device"]
    assert main(["profile", *SMALL, *flags[:4], "--nvtx-only"]) == 0
