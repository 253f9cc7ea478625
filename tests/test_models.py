"""Cases that the golden vectors lack: batches, unequal texts, text-to-video, hooks, refusals."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from disca_rt.cache.site import DOUBLE, SINGLE
from disca_rt.conditioning import Conditioning
from disca_rt.config import DiTConfig
from disca_rt.kernels.ops import get_ops
from disca_rt.models.blocks import run_blocks
from disca_rt.models.dit import DiT, StepInputs
from disca_rt.models.layers import PatchEmbed
from disca_rt.models.prepared import drop_padding
from disca_rt.models.rope import RopeTables
from disca_rt.models.stream import Branch, PendingSum, materialise
from disca_rt.weights.load import load_dit, load_predictor
from golden_vectors import NAMES, Golden, load_golden, relative_error

EXACT = 1e-6  # the same sums in another order, fp32


FEW = {"hyvideo10": (2, 4, 6), "hyvideo15": (2, 2, 3)}  # latents, of 12 image tokens each
TEXT = 6


class Fewer(Golden):
    """The same weights on fewer tokens: nothing here is compared with the authors' outputs."""

    @property
    def conditioning(self) -> Conditioning:
        whole = super().conditioning
        mask = whole.text_mask.clone()
        mask[:, TEXT:] = 0
        few = replace(whole, text_mask=mask)
        if few.cond_latents is None:
            return few
        return replace(few, cond_latents=cropped(few.cond_latents, FEW[self.folder.name]))


def cropped(latents: Tensor, sides: tuple[int, int, int]) -> Tensor:
    frames, height, width = sides
    return latents[..., :frames, :height, :width].contiguous()


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    whole, sides = load_golden(request.param), FEW[request.param]
    noise = {name: cropped(whole.io[name], sides) for name in ("latents", "latents_2")}
    return Fewer(whole.folder, whole.settings, whole.io | noise, whole.device)


INTERPRETED = pytest.mark.skipif(torch.cuda.is_available(), reason="these tensors are on the CPU")


@pytest.fixture(scope="module", params=["reference", pytest.param("triton", marks=INTERPRETED)])
def dit(golden: Golden, request: pytest.FixtureRequest) -> DiT:
    return load_dit(golden.dit, dtype=torch.float32, ops=get_ops(request.param))


def two_texts(conditioning: Conditioning) -> tuple[Conditioning, list[Conditioning]]:
    """A batch of two with different text lengths, and its rows on their own."""
    shorter = conditioning.text_mask.clone()
    shorter[:, 4:] = 0
    rows = [conditioning, replace(conditioning, text_mask=shorter)]
    if conditioning.byt5_text_mask is not None:
        no_glyphs = torch.zeros_like(conditioning.byt5_text_mask)
        rows[1] = replace(rows[1], byt5_text_mask=no_glyphs)
    return joined(rows), rows


def joined(rows: list[Conditioning]) -> Conditioning:
    names = rows[0].tensors()
    return Conditioning(**{name: torch.cat([getattr(r, name) for r in rows]) for name in names})


def repeated(step: StepInputs, batch: int) -> StepInputs:
    return StepInputs(*(None if field is None else field.expand(batch) for field in step))


def test_batch_of_unequal_texts_is_its_rows(golden: Golden, dit: DiT) -> None:
    batch, rows = two_texts(golden.conditioning)
    latents = torch.cat([golden.io["latents"], golden.io["latents_2"]])
    step = golden.step_inputs(3)
    together = dit(latents, repeated(step, 2), dit.prepare(batch, latents.shape))
    for i, row in enumerate(rows):
        prepared = dit.prepare(row, latents[i : i + 1].shape)
        alone = dit(latents[i : i + 1], step, prepared)
        assert relative_error(together[i : i + 1], alone) <= EXACT
    assert relative_error(together[:1], together[1:]) > 1e-2, "the rows should differ"


def test_tokens_are_embedded_into_one_tensor_where_ops_can(golden: Golden, dit: DiT) -> None:
    batch, _ = two_texts(golden.conditioning)
    latents = torch.cat([golden.io["latents"], golden.io["latents_2"]])
    step, prepared = repeated(golden.step_inputs(3), 2), dit.prepare(batch, latents.shape)
    joined_after, _ = dit.embed(latents, step, prepared)
    forward = PatchEmbed.forward
    with torch.no_grad(), patch.object(PatchEmbed, "forward", autospec=True) as embed:
        embed.side_effect = forward
        tokens, _ = dit.embed(latents, step, prepared)
    assert relative_error(tokens, joined_after) <= EXACT
    is_fused = dit.ops.buffer(tokens.detach(), (1,)) is not None
    assert ("out" in embed.call_args.kwargs) == is_fused


def test_predictor_on_a_batch_of_unequal_texts(golden: Golden, dit: DiT) -> None:
    predictor = load_predictor(golden.predictor, dit.config, dtype=torch.float32, ops=dit.ops)
    batch, rows = two_texts(golden.conditioning)
    latents = torch.cat([golden.io["latents"], golden.io["latents_2"]])
    step = golden.step_inputs(3)

    def predict(conditioning: Conditioning, latents: Tensor) -> Tensor:
        prepared = dit.prepare(conditioning, latents.shape)
        tokens, context = dit.embed(latents, repeated(step, len(latents)), prepared)
        return dit.velocity(predictor(tokens, tokens.roll(1, dims=2), context), context, prepared)

    together = predict(batch, latents)
    for i, row in enumerate(rows):
        assert relative_error(together[i : i + 1], predict(row, latents[i : i + 1])) <= EXACT


def test_padding_never_changes_the_result(golden: Golden, dit: DiT) -> None:
    conditioning = golden.conditioning
    latents, step = golden.io["latents"], golden.step_inputs(3)
    padding = conditioning.text_states.new_full((1, 5, conditioning.text_states.shape[2]), 7.0)
    longer = replace(
        conditioning,
        text_states=torch.cat([conditioning.text_states, padding], dim=1),
        text_mask=torch.cat([conditioning.text_mask, torch.zeros(1, 5).long()], dim=1),
    )
    prepared = dit.prepare(longer, latents.shape)
    assert prepared.lengths is None, "at batch 1 padding is dropped, not masked"
    expected = dit(latents, step, dit.prepare(conditioning, latents.shape))
    assert torch.equal(dit(latents, step, prepared), expected)


def test_drop_padding_keeps_order_and_counts() -> None:
    tokens = torch.arange(2 * 5 * 1.0).reshape(2, 5, 1)
    mask = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0]])
    valid, lengths, counts = drop_padding(tokens, mask)
    assert valid[0, :, 0].tolist() == [1, 3, 4]
    assert valid[1, 0, 0] == 5
    assert lengths.tolist() == [3, 1]
    assert counts == (3, 1)
    assert drop_padding(tokens[:1], mask[:1])[1:] == (None, None)
    padded, lengths, counts = drop_padding(tokens, mask, 4)
    assert padded[0, :, 0].tolist() == [1, 3, 4, 0]
    assert (lengths.tolist(), counts) == ([3, 1], None), "known to the device alone"
    assert drop_padding(tokens, mask, 7).tokens[:, 5:].eq(0).all(), "more than there are"


def test_text_padded_to_a_multiple_changes_no_result(golden: Golden, dit: DiT) -> None:
    batch, rows = two_texts(golden.conditioning)
    latents, step = torch.cat([golden.io["latents"], golden.io["latents_2"]]), golden.step_inputs(3)
    for given, x in ((batch, latents), (rows[1], latents[1:])):
        wanted, padded = (dit.prepare(given, x.shape, multiple) for multiple in (1, 8))
        assert padded.counts is None
        assert (padded.tokens - len(padded.freqs_cos)) % 8 == 0
        same = repeated(step, len(x))
        assert relative_error(dit(x, same, padded), dit(x, same, wanted)) <= EXACT


def test_rotary_tables_are_kept_by_grid(dit: DiT, golden: Golden) -> None:
    shape = golden.io["latents"].shape
    with torch.inference_mode():
        first = dit.prepare(golden.conditioning, shape)
    again = dit.prepare(golden.conditioning, shape)
    assert first.freqs_cos is again.freqs_cos
    assert not again.freqs_cos.is_inference(), "a gradient may pass them later"
    tables = RopeTables((2, 2, 2))
    cos, sin = tables.of((1, 1, 3), torch.device("cpu"))
    torch.testing.assert_close(cos[:, 2], torch.arange(3.0).cos())
    torch.testing.assert_close(sin[:, 2], torch.arange(3.0).sin())
    for width in range(5):
        tables.of((1, 1, 4 + width), torch.device("cpu"))
    assert tables.of((1, 1, 3), torch.device("cpu"))[0] is not cos, "the oldest goes"


def test_all_zero_vision_states_are_text_to_video() -> None:
    golden = load_golden("hyvideo15")
    dit = load_dit(golden.dit, dtype=torch.float32)
    conditioning = golden.conditioning
    zeros = torch.zeros_like(conditioning.vision_states)
    text_to_video = replace(conditioning, vision_states=zeros)
    prepared = dit.prepare(text_to_video, golden.io["latents"].shape)
    with_image = dit.prepare(conditioning, golden.io["latents"].shape)
    counts = [len(each.condition_tokens[0]) for each in (with_image, prepared)]
    assert counts[0] - counts[1] == zeros.shape[1]
    fewer = replace(conditioning, vision_states=zeros[:, :1])
    step = golden.step_inputs(2)
    latents = golden.io["latents"]
    same = dit(latents, step, dit.prepare(fewer, latents.shape))
    assert torch.equal(dit(latents, step, prepared), same)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_mixes_image_and_text_to_video(batch: int) -> None:
    golden = load_golden("hyvideo15")
    dit = load_dit(golden.dit, dtype=torch.float32)
    image = golden.conditioning
    text = replace(image, vision_states=torch.zeros_like(image.vision_states))
    rows = [image, text][:batch]
    latents = golden.io["latents"].repeat(batch, 1, 1, 1, 1)
    step = golden.step_inputs(2)
    together = dit(latents, repeated(step, batch), dit.prepare(joined(rows), latents.shape))
    for i, row in enumerate(rows):
        alone = dit(latents[:1], step, dit.prepare(row, latents[:1].shape))
        assert relative_error(together[i : i + 1], alone) <= EXACT


def test_time_r_is_averaged_in_1_0_and_summed_in_1_5(golden: Golden, dit: DiT) -> None:
    prepared = dit.prepare(golden.conditioning, golden.io["latents"].shape)
    step = golden.step_inputs(3)
    vec = dit.modulation_vector(step, prepared)
    others = vec * 0
    if prepared.pooled is not None:
        others = others + prepared.pooled
    if dit.config.guidance_embed:
        others = others + dit.guidance_in(step.guidance)
    both = dit.time_in(step.timestep) + dit.time_r_in(step.timestep_r)
    expected = both / 2 if dit.config.traits.averages_r else both
    assert relative_error(vec - others, expected) <= EXACT


class AllBranches:
    """Stands between a block and each of its branches."""

    names = frozenset((*DOUBLE, *SINGLE))

    def around(self, attention):
        return attention


def test_a_hook_that_computes_changes_nothing_and_sees_every_branch(
    golden: Golden, dit: DiT
) -> None:
    prepared = dit.prepare(golden.conditioning, golden.io["latents"].shape)
    tokens, context = dit.embed(golden.io["latents"], golden.step_inputs(3), prepared)
    for block in dit.blocks:
        seen: list[str] = []

        class Seeing(AllBranches):
            def __call__(self, name, compute, gate=None, seen=seen):
                seen.append(name)
                return Branch(compute(), gate)

        stream = (PendingSum(tokens),)
        hooked, plain = (
            materialise(block(stream, context, each), block.ops) for each in (Seeing(), None)
        )
        assert relative_error(hooked, plain) <= EXACT
        assert set(seen) == set(DOUBLE if hasattr(block, "img_mod") else SINGLE)


def test_blocks_compile_without_a_break(golden: Golden, dit: DiT) -> None:
    prepared = dit.prepare(golden.conditioning, golden.io["latents"].shape)
    for block in {type(block): block for block in dit.blocks}.values():
        torch._dynamo.reset()
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
        with torch.no_grad():
            tokens, context = dit.embed(golden.io["latents"], golden.step_inputs(3), prepared)
            expected = materialise(block((PendingSum(tokens),), context), block.ops)
            actual = materialise(compiled((PendingSum(tokens),), context), block.ops)
        assert relative_error(actual, expected) <= EXACT


def test_a_hook_stands_in_for_a_branch_without_running_it(golden: Golden, dit: DiT) -> None:
    prepared = dit.prepare(golden.conditioning, golden.io["latents"].shape)
    tokens, context = dit.embed(golden.io["latents"], golden.step_inputs(3), prepared)
    block = dit.blocks[0]
    kept: dict[str, Tensor] = {}

    class Keep(AllBranches):
        def __call__(self, name, compute, gate=None):
            kept[name] = compute()
            return Branch(kept[name], gate)

    class Replace(AllBranches):
        def __call__(self, name, compute, gate=None):
            return Branch(kept[name], gate)

    stream = (PendingSum(tokens),)
    expected = materialise(block(stream, context, Keep()), block.ops)

    class NeverAttends:
        def begin(self, layout):
            raise AssertionError("attention ran although its branches were replaced")

    attention, block.attention = block.attention, NeverAttends()
    try:
        replaced = block(stream, context, Replace())
        assert torch.equal(materialise(replaced, block.ops), expected)
    finally:
        block.attention = attention


def test_inputs_of_the_other_family_are_refused() -> None:
    ten, fifteen = (load_golden(name) for name in NAMES)
    with pytest.raises(ValueError, match="does not take"):
        extra = replace(ten.conditioning, vision_states=fifteen.conditioning.vision_states)
        load_dit(ten.dit).prepare(extra, ten.io["latents"].shape)
    with pytest.raises(ValueError, match="lacks cond_latents"):
        less = replace(fifteen.conditioning, cond_latents=None)
        load_dit(fifteen.dit).prepare(less, fifteen.io["latents"].shape)
    with pytest.raises(ValueError, match="as large as the latents"):
        load_dit(fifteen.dit).prepare(fifteen.conditioning, (1, 4, 3, 7, 6))


def test_step_inputs_must_fit_the_variant(golden: Golden, dit: DiT) -> None:
    prepared = dit.prepare(golden.conditioning, golden.io["latents"].shape)
    step = golden.step_inputs(3)
    with pytest.raises(ValueError, match="meanflow model needs timestep_r"):
        dit(golden.io["latents"], step._replace(timestep_r=None), prepared)


def test_latents_that_do_not_divide_into_patches() -> None:
    golden = load_golden("hyvideo10")
    dit = load_dit(golden.dit)
    with pytest.raises(ValueError, match="H must be a positive multiple of 2, got 7"):
        dit.prepare(golden.conditioning, (1, 4, 3, 7, 12))


def test_config_refuses_axes_that_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="rope must be three even numbers"):
        DiTConfig(rope=(16, 56, 50))
    with pytest.raises(ValueError, match="heads must divide hidden"):
        DiTConfig(heads=23)


@torch.no_grad()
def test_blocks_that_add_kept_branches_leave_their_input(golden: Golden, dit: DiT) -> None:
    """Their sums are taken in place, but not in the tokens that they were given."""
    latents = golden.io["latents"]
    prepared = dit.prepare(golden.conditioning, latents.shape)
    tokens, context = dit.embed(latents, golden.step_inputs(2), prepared)
    rows = {"img": context.layout.img_len, "joint": tokens.shape[1]}
    rows["txt"] = rows["joint"] - rows["img"]

    class Kept:
        """Something in the place of every branch."""

        names = frozenset((*DOUBLE, "total"))

        def around(self, attention):
            return attention

        def __call__(self, name, compute, gate=None):
            kept = {**DOUBLE, **SINGLE}[name]
            return Branch(torch.full_like(tokens[:, : rows[kept.rows]], len(name)), gate)

    before = tokens.clone()
    found = run_blocks(dit.blocks, tokens, context, None, [Kept()] * len(dit.blocks))
    assert torch.equal(tokens, before)
    stream = before
    for block in dit.blocks:
        stream = materialise(block((PendingSum(stream),), context, Kept()), block.ops)
    assert torch.equal(found, stream)
