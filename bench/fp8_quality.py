"""The quality of FP8 on the embedded model and on the golden ones: errors, PSNR and scores.

`python -m bench.fp8_quality` prints three tables. Layers: the error of a step's velocity where one
layer alone computes in FP8, and where all do. Golden models: the error of latents against the
authors' after all steps. Samples: PSNR against the run in fp32, and the judge's semantic score.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from disca_rt.cache_judge.similarity import eight_bits, psnr
from disca_rt.conditioning import Conditioning
from disca_rt.kernels.ops import get_ops
from disca_rt.markdown import table_lines
from disca_rt.models.dit import DiT, StepInputs
from disca_rt.models.fp8 import layers_of
from disca_rt.models.fp8_table import COMPUTE, Fp8, Fp8Table, read_table
from disca_rt.pipeline.runtime import Runtime
from disca_rt.schedule import preset
from disca_rt.tiny.codec import PixelUnshuffleCodec
from disca_rt.tiny.config import SHIFT
from disca_rt.tiny.evaluate import PROMPT_SEED, SIZE, JudgedClips, generate_and_judge
from disca_rt.tiny.ladder import BASE, FOLDERS, RESTRICTED, RUNGS, Rung, load_rung, rung_weights
from disca_rt.tiny.prompts import encode, held_out_prompts
from disca_rt.tiny.statistics import mean_interval, paired_difference
from disca_rt.weights.load import load_dit

CPU = torch.device("cpu")
BASE_RUNG = Rung("base, 20 steps x 2", (), BASE, preset(20, SHIFT))
DISTILLED = Rung(f"{RESTRICTED}, 20 steps", (), RESTRICTED, preset(20, SHIFT))
PREDICTED = next(rung for rung in RUNGS if rung.name == "DisCa N=4")


class Precision(NamedTuple):
    """A way to run a model: what it is called, the dtype of 16 bits, and the table of FP8."""

    name: str
    dtype: torch.dtype
    fp8: Fp8 = None


def precisions(table: Fp8Table) -> list[Precision]:
    bf16 = torch.bfloat16
    return [
        Precision("bf16", bf16),
        Precision("bf16, FP8 weights", bf16, "weights"),
        Precision("bf16, FP8", bf16, table),
    ]


def beside_fp32(table: Fp8Table) -> list[Precision]:
    fp32 = torch.float32
    return [Precision("fp32, FP8 weights", fp32, "weights"), Precision("fp32, FP8", fp32, table)]


def velocity(dit: DiT, conditioning: Conditioning, latents: Tensor, step: StepInputs) -> Tensor:
    dit.attention.local.begin_sample()
    return dit(latents, step, dit.prepare(conditioning, latents.shape))


def distance(ours: Tensor, theirs: Tensor) -> float:
    """‖a − b‖ / ‖b‖."""
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


def layer_errors(path: Path, prompt: str, table: Fp8Table) -> Iterator[tuple[str, str, float]]:
    """Name, way and error of each layer of the embedded DiT in `path`, then those of all."""
    conditioning = encode([prompt])
    shape = (1, *PixelUnshuffleCodec().latent_shape(**SIZE))
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def run(fp8: Fp8) -> Tensor:
        from disca_rt.attention.local import LocalAttention

        given = {"ops": get_ops("reference"), "attention": LocalAttention("auto")}
        dit = load_dit(path, dtype=torch.float32, fp8=fp8, **given)
        levels = torch.full((1,), 900.0), torch.full((1,), 850.0)
        step = StepInputs(levels[0], levels[1] if dit.config.meanflow else None, None)
        if dit.config.guidance_embed:
            step = step._replace(guidance=torch.full((1,), 4000.0))
        return velocity(dit, conditioning, latents, step)

    plain = load_dit(path)
    names = {id(each): name for name, each in plain.named_modules()}
    layers = list(layers_of(plain.blocks, plain))
    ways = table.ways(layers, [names[id(each)] for each in plain.blocks], is_dit=True)
    exact = run(None)
    for layer in layers:
        alone = Fp8Table((("*", "16 bits"), (layer, "fp8")))
        yield layer, ways[layer], distance(run(alone), exact)
    yield "all of the table", "", distance(run(table), exact)


def sample_rows(
    rung: Rung, prompts: Sequence[str], table: Fp8Table, folders: Sequence[Path]
) -> Iterator[list[str]]:
    """A row of each precision: PSNR against fp32, semantic score, and its difference to bf16's."""
    exact = _judged(rung, prompts, Precision("fp32", torch.float32), folders)
    yield [rung.name, "fp32", "-", f"{_semantic(exact):.3f}", "-"]
    first: list[float] | None = None
    for precision in precisions(table):
        judged = _judged(rung, prompts, precision, folders)
        pairs = zip(judged.video, exact.video, strict=True)
        nearness = mean_interval([psnr(eight_bits(a), eight_bits(b)) for a, b in pairs])
        scores = [mark.semantic for mark in judged.marks]
        first = first or scores
        apart = paired_difference(scores, first)
        less = f"{apart.mean:+.3f} ({apart.low:+.3f} to {apart.high:+.3f})"
        yield [
            rung.name,
            precision.name,
            f"{nearness.mean:.1f} dB ({nearness.low:.1f} to {nearness.high:.1f})",
            f"{_semantic(judged):.3f}",
            "-" if first is scores else less,
        ]


def _judged(
    rung: Rung, prompts: Sequence[str], precision: Precision, folders: Sequence[Path]
) -> JudgedClips:
    given = {"dtype": precision.dtype, "fp8": precision.fp8}
    runtime = load_rung(rung, folders, CPU, **given)
    return generate_and_judge(
        runtime, prompts, rung.schedule, rung.policy, guidance_scale=rung.guidance_scale
    )


def _semantic(judged: JudgedClips) -> float:
    return sum(mark.semantic for mark in judged.marks) / len(judged.marks)


def golden_rows(folder: Path, table: Fp8Table) -> Iterator[list[str]]:
    """Errors of the golden models' latents against the authors', for each policy and precision.

    FP8 beside fp32: guidance, which a model takes in its dtype, is another number in bf16.
    """
    import sys

    sys.path.insert(0, str(folder.parent))
    from golden_vectors import NAMES, load_golden

    for name in NAMES:
        golden = load_golden(name)
        for precision in (precisions(table)[0], *beside_fp32(table)):
            runtime = Runtime.load(
                golden.dit, golden.predictor, dtype=precision.dtype, fp8=precision.fp8
            )
            errors = []
            for policy, expected in (("full", "restricted_meanflow"), ("disca", "disca")):
                sample = runtime.sample(
                    golden.conditioning,
                    latents=golden.io["latents"],
                    schedule=golden.schedule,
                    policy=policy,
                    guidance_scale=6.0 if runtime.config.guidance_embed else None,
                )
                errors.append(distance(sample.latents, golden.io[f"latents_{expected}"]))
            yield [name, precision.name, *(f"{each:.2e}" for each in errors)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fp8_quality", description=__doc__)
    parser.add_argument("--prompts", type=int, default=20, help="of the distilled model")
    parser.add_argument("--base-prompts", type=int, default=10)
    parser.add_argument("--table", type=Path, help="a table of layers in place of the default")
    parser.add_argument("--only", choices=("layers", "golden", "samples"), nargs="+")
    args = parser.parse_args()
    table = COMPUTE if args.table is None else read_table(args.table)
    parts = args.only or ("layers", "golden", "samples")
    if "layers" in parts:
        path = rung_weights(DISTILLED, FOLDERS)[0]
        (prompt,) = held_out_prompts(1, PROMPT_SEED)
        rows = [[a, b, f"{c:.2e}"] for a, b, c in layer_errors(path, prompt, table)]
        print("\n".join(table_lines(["layer", "runs in", "error of the velocity"], rows)), "\n")
    if "golden" in parts:
        rows = list(golden_rows(Path("tests/golden"), table))
        print("\n".join(table_lines(["model", "precision", "full", "DisCa"], rows)), "\n")
    if "samples" in parts:
        counts = (
            (DISTILLED, args.prompts),
            (PREDICTED, args.prompts),
            (BASE_RUNG, args.base_prompts),
        )
        rows = [
            row
            for rung, count in counts
            for row in sample_rows(rung, held_out_prompts(count, PROMPT_SEED), table, FOLDERS)
        ]
        header = ["sampling", "precision", "PSNR to fp32", "semantic", "less bf16's"]
        print("\n".join(table_lines(header, rows)))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
