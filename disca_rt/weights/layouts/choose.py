"""The choice of a layout, by the modules at the top level of a file's names; first hit wins."""

from collections.abc import Collection

from .diffusers_10 import DIFFUSERS_10
from .diffusers_15 import DIFFUSERS_15
from .official import OFFICIAL_10, OFFICIAL_15, PREDICTOR_10, PREDICTOR_15
from .table import Layout

_DIFFUSERS_BLOCKS = {"transformer_blocks", "single_transformer_blocks"}

# (any of these, and any of those) -> layout
ROWS: tuple[tuple[set[str], set[str], Layout], ...] = (
    (_DIFFUSERS_BLOCKS, {"context_embedder_2", "image_embedder", "cond_type_embed"}, DIFFUSERS_15),
    (_DIFFUSERS_BLOCKS, {"context_embedder", "x_embedder", "time_text_embed"}, DIFFUSERS_10),
    ({"fusion_mlp_img", "fusion_mlp_txt"}, {"double_blocks"}, PREDICTOR_15),
    ({"fusion_mlp"}, {"mm_single_blocks"}, PREDICTOR_10),
    ({"double_blocks"}, {"byt5_in", "vision_in", "cond_type_embedding"}, OFFICIAL_15),
    ({"double_blocks"}, {"img_in", "txt_in", "time_in", "final_layer"}, OFFICIAL_10),
)


def choose_layout(names: Collection[str]) -> Layout | None:
    """The layout of a checkpoint's names, or None where they are of no model known here."""
    roots = {name.split(".", 1)[0] for name in names}
    return next((layout for some, others, layout in ROWS if roots & some and roots & others), None)
