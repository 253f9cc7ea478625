"""The keys of diffusers' `HunyuanVideoTransformer3DModel`.

Its chunks of every adaLN projection have our order, except those of the last, `norm_out`.
"""

from ...family import VIDEO_10
from .table import Layout, qkv_rows, swapped_halves, whole

_REFINER = "context_embedder.token_refiner.refiner_blocks.{i}."
_OUR_REFINER = "txt_in.individual_token_refiner.blocks.{i}."
_DOUBLE = "transformer_blocks.{i}."
_SINGLE = "single_transformer_blocks.{i}."

# What both models' classes call the same.
SHARED = {
    "img_in.proj": whole("x_embedder.proj"),
    "txt_in.input_embedder": whole("context_embedder.proj_in"),
    "txt_in.t_embedder.mlp.0": whole("context_embedder.time_text_embed.timestep_embedder.linear_1"),
    "txt_in.t_embedder.mlp.2": whole("context_embedder.time_text_embed.timestep_embedder.linear_2"),
    "txt_in.c_embedder.linear_1": whole("context_embedder.time_text_embed.text_embedder.linear_1"),
    "txt_in.c_embedder.linear_2": whole("context_embedder.time_text_embed.text_embedder.linear_2"),
    f"{_OUR_REFINER}norm1": whole(f"{_REFINER}norm1"),
    f"{_OUR_REFINER}self_attn_qkv": qkv_rows(
        f"{_REFINER}attn.to_q", f"{_REFINER}attn.to_k", f"{_REFINER}attn.to_v"
    ),
    f"{_OUR_REFINER}self_attn_proj": whole(f"{_REFINER}attn.to_out.0"),
    f"{_OUR_REFINER}norm2": whole(f"{_REFINER}norm2"),
    f"{_OUR_REFINER}mlp.fc1": whole(f"{_REFINER}ff.net.0.proj"),
    f"{_OUR_REFINER}mlp.fc2": whole(f"{_REFINER}ff.net.2"),
    f"{_OUR_REFINER}adaLN_modulation.1": whole(f"{_REFINER}norm_out.linear"),
    "double_blocks.{i}.img_mod.linear": whole(f"{_DOUBLE}norm1.linear"),
    "double_blocks.{i}.txt_mod.linear": whole(f"{_DOUBLE}norm1_context.linear"),
    "double_blocks.{i}.img_attn_q_norm": whole(f"{_DOUBLE}attn.norm_q"),
    "double_blocks.{i}.img_attn_k_norm": whole(f"{_DOUBLE}attn.norm_k"),
    "double_blocks.{i}.txt_attn_q_norm": whole(f"{_DOUBLE}attn.norm_added_q"),
    "double_blocks.{i}.txt_attn_k_norm": whole(f"{_DOUBLE}attn.norm_added_k"),
    "double_blocks.{i}.img_attn_proj": whole(f"{_DOUBLE}attn.to_out.0"),
    "double_blocks.{i}.txt_attn_proj": whole(f"{_DOUBLE}attn.to_add_out"),
    "double_blocks.{i}.img_mlp.fc1": whole(f"{_DOUBLE}ff.net.0.proj"),
    "double_blocks.{i}.img_mlp.fc2": whole(f"{_DOUBLE}ff.net.2"),
    "double_blocks.{i}.txt_mlp.fc1": whole(f"{_DOUBLE}ff_context.net.0.proj"),
    "double_blocks.{i}.txt_mlp.fc2": whole(f"{_DOUBLE}ff_context.net.2"),
    "final_layer.adaLN_modulation.1": swapped_halves("norm_out.linear"),
    "final_layer.linear": whole("proj_out"),
}

DIFFUSERS_10 = Layout(
    name="diffusers",
    kind="dit",
    family=VIDEO_10.name,
    own_names=False,
    double="transformer_blocks",
    single="single_transformer_blocks",
    table=SHARED
    | {
        "time_in.mlp.0": whole("time_text_embed.timestep_embedder.linear_1"),
        "time_in.mlp.2": whole("time_text_embed.timestep_embedder.linear_2"),
        "vector_in.in_layer": whole("time_text_embed.text_embedder.linear_1"),
        "vector_in.out_layer": whole("time_text_embed.text_embedder.linear_2"),
        "guidance_in.mlp.0": whole("time_text_embed.guidance_embedder.linear_1"),
        "guidance_in.mlp.2": whole("time_text_embed.guidance_embedder.linear_2"),
        "double_blocks.{i}.img_attn_qkv": qkv_rows(
            f"{_DOUBLE}attn.to_q", f"{_DOUBLE}attn.to_k", f"{_DOUBLE}attn.to_v"
        ),
        "double_blocks.{i}.txt_attn_qkv": qkv_rows(
            f"{_DOUBLE}attn.add_q_proj", f"{_DOUBLE}attn.add_k_proj", f"{_DOUBLE}attn.add_v_proj"
        ),
        "single_blocks.{i}.linear1": qkv_rows(
            f"{_SINGLE}attn.to_q",
            f"{_SINGLE}attn.to_k",
            f"{_SINGLE}attn.to_v",
            f"{_SINGLE}proj_mlp",
        ),
        "single_blocks.{i}.linear2": whole(f"{_SINGLE}proj_out"),
        "single_blocks.{i}.q_norm": whole(f"{_SINGLE}attn.norm_q"),
        "single_blocks.{i}.k_norm": whole(f"{_SINGLE}attn.norm_k"),
        "single_blocks.{i}.modulation.linear": whole(f"{_SINGLE}norm.linear"),
    },
)
