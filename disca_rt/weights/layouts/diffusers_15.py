"""The keys of diffusers' `HunyuanVideo15Transformer3DModel`."""

from ...family import VIDEO_15
from .diffusers_10 import SHARED
from .table import Layout, whole

_BLOCK = "transformer_blocks.{i}.attn."

DIFFUSERS_15 = Layout(
    name="diffusers",
    kind="dit",
    family=VIDEO_15.name,
    own_names=False,
    double="transformer_blocks",
    table=SHARED
    | {
        "time_in.mlp.0": whole("time_embed.timestep_embedder.linear_1"),
        "time_in.mlp.2": whole("time_embed.timestep_embedder.linear_2"),
        "time_r_in.mlp.0": whole("time_embed.timestep_embedder_r.linear_1"),
        "time_r_in.mlp.2": whole("time_embed.timestep_embedder_r.linear_2"),
        "byt5_in.layernorm": whole("context_embedder_2.norm"),
        "byt5_in.fc1": whole("context_embedder_2.linear_1"),
        "byt5_in.fc2": whole("context_embedder_2.linear_2"),
        "byt5_in.fc3": whole("context_embedder_2.linear_3"),
        "vision_in.proj.0": whole("image_embedder.norm_in"),
        "vision_in.proj.1": whole("image_embedder.linear_1"),
        "vision_in.proj.3": whole("image_embedder.linear_2"),
        "vision_in.proj.4": whole("image_embedder.norm_out"),
        "cond_type_embedding": whole("cond_type_embed"),
        "double_blocks.{i}.img_attn_q": whole(f"{_BLOCK}to_q"),
        "double_blocks.{i}.img_attn_k": whole(f"{_BLOCK}to_k"),
        "double_blocks.{i}.img_attn_v": whole(f"{_BLOCK}to_v"),
        "double_blocks.{i}.txt_attn_q": whole(f"{_BLOCK}add_q_proj"),
        "double_blocks.{i}.txt_attn_k": whole(f"{_BLOCK}add_k_proj"),
        "double_blocks.{i}.txt_attn_v": whole(f"{_BLOCK}add_v_proj"),
    },
)
