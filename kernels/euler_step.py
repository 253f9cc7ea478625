"""Guidance, unpatchify and the Euler step in one pass over the latents.

Places within a sample are int32, so one of 2³¹ latents is refused: in int64 the kernel takes twice
the instructions. Samples are int64 apart.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gradients import recomputed
from .launch import SPAN, LaunchConfig, cdiv, check_rows, check_shape, launch, launch_config
from .registration import register_op

OP = "euler_step"
DEFAULT = LaunchConfig(rows=1, num_warps=4)
MAX_PLACES = 2**31  # of int32


@triton.jit(do_not_specialize_on_alignment=["dt_ptr"])  # an element of a table of steps
def _euler_step_kernel(
    latents_ptr,
    patches_ptr,
    uncond_ptr,
    dt_ptr,
    out_ptr,
    scale,
    CHANNELS: tl.constexpr,
    T: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
    R: tl.constexpr,
    IS_GUIDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`T, H, W` patches of `P, Q, R` latents: token (t, h, w), column (c, o, p, q)."""
    N: tl.constexpr = CHANNELS * P * Q * R
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    batch = tl.program_id(1).to(tl.int64)
    mask = place < N * T * H * W
    x = place % (W * R)
    y = place // (W * R) % (H * Q)
    t = place // (W * R * H * Q) % (T * P)
    channel = place // (W * R * H * Q * T * P)
    token = (t // P * H + y // Q) * W + x // R
    column = ((channel * P + t % P) * Q + y % Q) * R + x % R
    patch_offs = (batch * (T * H * W) + token) * N + column
    velocity = tl.load(patches_ptr + patch_offs, mask=mask, other=0.0).to(tl.float32)
    if IS_GUIDED:
        uncond = tl.load(uncond_ptr + patch_offs, mask=mask, other=0.0).to(tl.float32)
        velocity = uncond + scale * (velocity - uncond)
    offs = batch * (N * T * H * W) + place
    latents = tl.load(latents_ptr + offs, mask=mask, other=0.0)
    tl.store(out_ptr + offs, latents + velocity * tl.load(dt_ptr), mask=mask)


@register_op(mutates=["out"])
def euler_step_into(
    latents: Tensor,
    patches: Tensor,
    uncond: Tensor | None,
    scale: float,
    dt: Tensor,
    grid: list[int],
    patch: list[int],
    out: Tensor,
) -> None:
    batch, channels = latents.shape[:2]
    columns = channels * patch[0] * patch[1] * patch[2]
    given = {"patches": patches} | ({} if uncond is None else {"uncond": uncond})
    check_rows(OP, latents=latents, dt=dt.reshape(1), out=out, **given)
    check_shape(OP, "out", out, latents.shape)
    check_shape(OP, "latents", latents, (batch, channels, *(g * p for g, p in zip(grid, patch))))  # noqa: B905
    for name, tensor in given.items():
        check_shape(OP, name, tensor, (batch, grid[0] * grid[1] * grid[2], columns))
    for name, tensor in {"latents": latents, **given}.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{OP}: {name} must be contiguous")
    if not latents.dtype == dt.dtype == out.dtype == torch.float32:
        raise ValueError(f"{OP}: latents and dt must be fp32, got {latents.dtype}, {dt.dtype}")
    if latents.numel() == 0:
        return
    config = launch_config(OP, SPAN, latents.device, DEFAULT)
    block = config.rows * SPAN
    if latents[0].numel() > MAX_PLACES - block:
        raise ValueError(
            f"{OP}: a sample must have at most {MAX_PLACES - block} latents, "
            f"got {latents[0].numel()}; choose a smaller size"
        )
    launch(
        _euler_step_kernel,
        (cdiv(latents[0].numel(), block), batch),
        latents,
        patches,
        patches if uncond is None else uncond,
        dt,
        out,
        scale,
        channels,
        *grid,
        *patch,
        IS_GUIDED=uncond is not None,
        BLOCK=block,
        num_warps=config.num_warps,
        on=latents,
    )


@recomputed()
def euler_step(
    latents: Tensor,
    patches: Tensor,
    uncond: Tensor | None,
    scale: float,
    dt: Tensor,
    grid: tuple[int, int, int],
    patch: tuple[int, int, int],
) -> Tensor:
    latents = latents.contiguous()
    out = torch.empty_like(latents)
    euler_step_into(latents, patches, uncond, scale, dt, list(grid), list(patch), out)
    return out
