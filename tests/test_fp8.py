"""Models in FP8: which layers are, what they compute, and what stays of a checkpoint's values."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from disca_rt.attention.local import LocalAttention
from disca_rt.attention.protocol import Attention, AttentionInputs
from disca_rt.attention.scaled import ScaledAttention
from disca_rt.models import fp8
from disca_rt.models.blocks import run_blocks
from disca_rt.models.branches import Compute
from disca_rt.models.dit import DiT
from disca_rt.models.fp8 import Fp8Product, check_device, layers_of
from disca_rt.models.fp8_table import COMPUTE, WEIGHTS, Fp8Table, fp8_table
from disca_rt.models.linear import Fp8Linear
from disca_rt.models.stream import Branch
from disca_rt.pipeline.runtime import Runtime
from disca_rt.sampling.loop import StepEvent
from disca_rt.schedule import preset
from disca_rt.tokens import StepContext, TokenLayout, Vector
from disca_rt.weights.load import load_dit
from golden_vectors import NAMES, Golden, load_golden, relative_error
from weights.fp8_writer import coded, write

# Rounding of e4m3 is within 2⁻⁴ of a value, 2.6 % of it as a root mean square; a dot product of
# many has a few per cent of that of one, and the last of several steps less than the first.
LEAST, MOST = 2e-3, 4e-2
SHORT = preset(2, 5.0, (0,))


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load_golden(request.param)


@pytest.fixture(scope="module")
def runtime(golden: Golden) -> Runtime:
    return Runtime.load(golden.dit, golden.predictor, dtype=torch.float32, fp8="compute")


def sample(runtime: Runtime, golden: Golden, policy: str, seed: int | None = None) -> Tensor:
    """The latents from the authors' noise at all steps or, with a seed, of two steps."""
    start = {"latents": golden.io["latents"]}
    if seed is not None:
        start = {"latent_shape": tuple(golden.io["latents"].shape[1:]), "seed": seed}
    return runtime.sample(
        golden.conditioning,
        **start,
        schedule=golden.schedule if seed is None else SHORT,
        policy=policy,
        guidance_scale=6.0 if runtime.config.guidance_embed else None,
    ).latents


@pytest.mark.parametrize(
    ("policy", "expected"), [("full", "restricted_meanflow"), ("disca", "disca")]
)
def test_samples_are_near_the_authors(
    runtime: Runtime, golden: Golden, policy: str, expected: str
) -> None:
    error = relative_error(sample(runtime, golden, policy), golden.io[f"latents_{expected}"])
    assert LEAST < error < MOST


def test_blocks_but_the_ends_are_in_fp8_and_so_is_the_predictor(runtime: Runtime) -> None:
    first, *middle, last = runtime.dit.blocks
    for block in (*middle, *runtime.predictor.blocks):
        kinds = {n: type(m) for n, m in layers_of([block], block).items() if "mod" not in n}
        assert isinstance(block.attention, ScaledAttention)
        assert set(kinds.values()) - {type(block)} == {Fp8Product}, kinds
    for block in (first, last):
        assert not any(isinstance(each, Fp8Linear) for each in block.modules())
        assert isinstance(block.attention, LocalAttention)
    of_dit = [n for n, m in runtime.dit.named_modules() if isinstance(m, Fp8Linear)]
    assert all("blocks" in name and "mod" not in name for name in of_dit)
    fusions = [n for n, m in runtime.predictor.named_modules() if isinstance(m, Fp8Product)]
    assert any(name.startswith("fusion_mlp") for name in fusions)


def test_a_sample_does_not_depend_on_those_before(runtime: Runtime, golden: Golden) -> None:
    """The scales of v are taken anew: those of another sample are another rounding."""
    alone = sample(runtime, golden, "disca", seed=1)
    other = sample(runtime, golden, "disca", seed=2)
    assert not torch.equal(alone, other)
    assert torch.equal(sample(runtime, golden, "disca", seed=1), alone)


def test_scales_are_those_of_the_first_step(runtime: Runtime, golden: Golden) -> None:
    attention = runtime.dit.blocks[1].attention
    seen: list[Tensor] = []

    def look(event: StepEvent) -> None:
        seen.extend(scale.clone() for scale in attention._of_v.values())

    settings = {"schedule": SHORT, "policy": "full", "on_step": look}
    settings |= {"guidance_scale": 6.0} if runtime.config.guidance_embed else {}
    runtime.sample(golden.conditioning, latents=golden.io["latents"], **settings)
    assert len(seen) == SHORT.steps
    assert all(torch.equal(each, seen[0]) and (each > 0).all() for each in seen)


def drawn() -> tuple[DiT, Tensor, StepContext]:
    """The 1.0 model, with tokens and a step's context for its blocks."""
    dit = Runtime.load(*_files(), dtype=torch.float32, fp8="compute").dit
    generator = torch.Generator().manual_seed(0)
    hidden, half = dit.config.hidden, dit.config.head_dim // 2
    x, vec, cos, sin = (
        torch.randn(each, generator=generator)
        for each in ((1, 9, hidden), (1, hidden), (6, half), (6, half))
    )
    return dit, x, StepContext(vec, cos, sin, TokenLayout(6, None))


class _Nothing:
    """Branches of which nothing is replaced."""

    names = frozenset()

    def around(self, attention: Attention) -> Attention:
        return attention

    def __call__(self, name: str, compute: Compute, gate: Vector | None = None) -> Branch:
        return Branch(compute(), gate)


def test_branches_that_nothing_replaces_change_no_more_than_rounding() -> None:
    """A cache at branches has GELU taken before it, and quantizes what it is given."""
    dit, x, context = drawn()
    blocks = dit.blocks[1:4]
    with torch.no_grad():
        plain = run_blocks(blocks, x, context)
        through = run_blocks(blocks, x, context, branches=[_Nothing() for _ in blocks])
    assert relative_error(through, plain) < 1e-6


def test_heads_are_quantized_by_their_norm_or_later() -> None:
    """What stands between a block and its backend, as ranks do, gets the same attention."""
    dit, x, context = drawn()
    block = dit.blocks[1]
    with torch.no_grad():
        direct = run_blocks([block], x, context)
        scaled = block.attention
        block.attention = _Between(scaled)
        between = run_blocks([block], x, context)
        block.attention = scaled.attention
        in_16_bits = run_blocks([block], x, context)
    assert torch.equal(direct, between)
    assert relative_error(in_16_bits, direct) > 1e-4


class _Between:
    def __init__(self, attention: ScaledAttention) -> None:
        self._attention, self.local = attention, attention.local

    def begin(self, layout: TokenLayout) -> object:
        return self._attention.begin(layout, AttentionInputs.to_all_keys)


def _files() -> tuple[Path, Path]:
    golden = load_golden("hyvideo10")
    return golden.dit, golden.predictor


@pytest.mark.parametrize("name", NAMES)
def test_official_values_and_scales_are_multiplied_as_they_are(name: str, tmp_path: Path) -> None:
    golden = load_golden(name)
    (tmp_path / "config.json").write_text((golden.folder / "config.json").read_text())
    weights, scales = coded(load_file(golden.dit))
    dit = load_dit(write(tmp_path, weights, scales), dtype=torch.float32, fp8="compute")
    products = {n: m for n, m in dit.named_modules() if isinstance(m, Fp8Product)}
    assert products
    for layer, linear in products.items():
        assert torch.equal(linear.quantized.view(torch.uint8), _bytes(weights[f"{layer}.weight"]))
        assert linear.scale.dtype == torch.float32
        assert (linear.scale == scales[layer].float()).all()
    first = dit.double_blocks[0].img_mlp.fc1
    name = "double_blocks.0.img_mlp.fc1"
    decoded = weights[f"{name}.weight"].float() * scales[name].float()
    assert torch.equal(first.weight, decoded)


def test_scales_inside_a_file_are_multiplied_as_they_are(tmp_path: Path) -> None:
    """As ComfyUI writes them, in fp32."""
    golden = load_golden("hyvideo10")
    (tmp_path / "config.json").write_text((golden.folder / "config.json").read_text())
    weights, scales = coded(load_file(golden.dit))
    fine = {f"{name}.scale_weight": s.float() * 1.001 for name, s in scales.items()}
    save_file(weights | fine, tmp_path / "dit.safetensors")
    linear = load_dit(tmp_path, fp8="compute").single_blocks[0].linear2
    expected = _bytes(weights["single_blocks.0.linear2.weight"])
    assert torch.equal(linear.quantized.view(torch.uint8), expected)
    assert (linear.scale == fine["single_blocks.0.linear2.scale_weight"]).all()


def _bytes(weight: Tensor) -> Tensor:
    return weight.view(torch.uint8)


def test_a_file_edits_the_table(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    rows = {"single_blocks.*": "16 bits", "single_blocks.1.linear2": "fp8"}
    rows |= {"double_blocks.0.img_mod.linear": "weights", "*.attention": "16 bits"}
    file.write_text(json.dumps(rows))
    runtime = Runtime.load(*_files(), dtype=torch.float32, fp8=str(file))
    kinds = {name: type(m) for name, m in runtime.dit.named_modules() if isinstance(m, Fp8Linear)}
    singles = {name: kind for name, kind in kinds.items() if name.startswith("single")}
    assert singles == {"single_blocks.1.linear2": Fp8Product}
    assert kinds["double_blocks.0.img_mod.linear"] is Fp8Linear
    assert kinds["double_blocks.1.img_mlp.fc1"] is Fp8Product
    assert not any(isinstance(b.attention, ScaledAttention) for b in runtime.dit.blocks)
    golden = load_golden("hyvideo10")
    error = relative_error(sample(runtime, golden, "disca"), golden.io["latents_disca"])
    assert 1e-4 < error < MOST, "layers of all kinds side by side"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((("single_blocks.9.*", "fp8"),), "no layer is called 'single_blocks.9.*'; the first are"),
        ((("*", "fp4"),), "a way to run a layer is one of"),
    ],
)
def test_a_wrong_table_is_refused(rows: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        load_dit(_files()[0], fp8=Fp8Table(rows))


def test_linears_of_one_input_run_alike() -> None:
    golden = load_golden("hyvideo15")
    table = Fp8Table((("double_blocks.1.img_attn_k", "16 bits"),))
    with pytest.raises(ValueError, match="take one input, so they must run alike"):
        load_dit(golden.dit, fp8=table)


def test_names_and_files_of_tables(tmp_path: Path) -> None:
    assert fp8_table("compute") is COMPUTE
    assert fp8_table("weights") is WEIGHTS
    with pytest.raises(ValueError, match="fp8 must be one of"):
        fp8_table("e5m2")
    file = tmp_path / "bad.json"
    file.write_text('{"a": 8}')
    with pytest.raises(ValueError, match="must map patterns of layers"):
        fp8_table(str(file))


def test_a_gpu_without_units_for_fp8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8.torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(ValueError, match=r"8\.6, and FP8 products need 8\.9; choose --fp8-weights"):
        check_device(COMPUTE, torch.device("cuda"))
    check_device(WEIGHTS, torch.device("cuda"))


def test_halves_of_a_product_add_up() -> None:
    linear = load_dit(_files()[0], fp8="compute", dtype=torch.float32).single_blocks[0].linear2
    x = torch.randn(1, 5, linear.in_features, generator=torch.Generator().manual_seed(0))
    first, second = slice(linear.out_features), slice(linear.out_features, None)
    parts = [linear.share(x[..., first], first, False), linear.share(x[..., second], second, True)]
    whole = linear.product(x)
    assert relative_error(sum(parts), whole) < 2**-4
    weight, bias = linear.decoded()
    assert relative_error(whole, x @ weight.T + bias) < 2**-4


def test_weights_alone_take_no_more_work() -> None:
    assert not COMPUTE.decodes
    assert WEIGHTS.decodes
    assert replace(COMPUTE, rows=(("*", "weights"),)).decodes
