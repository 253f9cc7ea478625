"""Table of docs/memory.md, by formula: `python -m bench.memory_table`. Nothing is measured."""

from disca_rt.config import MODELS, predictor_config
from disca_rt.markdown import table_lines
from disca_rt.units import byte_text
from disca_rt.work.memory import Footprint, Need, footprint

MODEL = MODELS["hunyuan-video-meanflow"]
NEED = Need(
    MODEL,
    predictor_config(MODEL),
    size=(33, 88, 88),  # latents of 704x704x129
    text=256,
    itemsize=2,
    ops="triton",
    graphs=True,
)
HEADER = "", "weights", "cache", "activations", "graphs", "in all", "without graphs"


def lines() -> list[str]:
    """Lines of the table: a DisCa sample of 13B as loaded, and in FP8 of both kinds."""
    rows = {
        "as loaded": NEED,
        "`--fp8-weights`": NEED._replace(fp8="weights"),
        "`--fp8`": NEED._replace(fp8="compute"),
    }
    return table_lines(HEADER, [_row(name, footprint(need)) for name, need in rows.items()])


def _row(name: str, bytes_of: Footprint) -> tuple[str, ...]:
    without = bytes_of.total - bytes_of.graphs
    return name, *(byte_text(size) for size in (*bytes_of[:4], bytes_of.total, without))


if __name__ == "__main__":
    print("\n".join(lines()))
