"""The authors' own keys, which are ours too, merged or split for tensor parallelism."""

from ...family import VIDEO_10, VIDEO_15
from .table import Layout, Sources, packed_rows, qkv_rows, whole

_DOUBLE = "double_blocks.{i}."


def _single_block(block: str) -> dict[str, Sources]:
    return {
        f"{block}linear1": qkv_rows(
            f"{block}linear1_q", f"{block}linear1_k", f"{block}linear1_v", f"{block}linear1_mlp"
        ),
        f"{block}linear2": whole(f"{block}linear2.fc"),
    }


_SPLIT_DOUBLE = {
    f"{_DOUBLE}{stream}_attn_qkv": qkv_rows(
        f"{_DOUBLE}{stream}_attn_q", f"{_DOUBLE}{stream}_attn_k", f"{_DOUBLE}{stream}_attn_v"
    )
    for stream in ("img", "txt")
}
_PACKED_DOUBLE = {  # as ComfyUI's files of 1.5 have them
    f"{_DOUBLE}{stream}_attn_{name}": packed_rows(f"{_DOUBLE}{stream}_attn_qkv", part)
    for stream in ("img", "txt")
    for part, name in enumerate("qkv")
}

OFFICIAL_10 = Layout(
    name="official",
    kind="dit",
    family=VIDEO_10.name,
    table=_SPLIT_DOUBLE | _single_block("single_blocks.{i}."),
    double="double_blocks",
    single="single_blocks",
)
OFFICIAL_15 = Layout(
    name="official",
    kind="dit",
    family=VIDEO_15.name,
    table=_PACKED_DOUBLE,
    double="double_blocks",
)
PREDICTOR_10 = Layout(
    name="official",
    kind="predictor",
    family=VIDEO_10.name,
    table=_single_block("mm_single_blocks.{i}."),
    single="mm_single_blocks",
)
PREDICTOR_15 = Layout(
    name="official",
    kind="predictor",
    family=VIDEO_15.name,
    table=_PACKED_DOUBLE,
    double="double_blocks",
)
