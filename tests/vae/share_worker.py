"""Run by several ranks: a decode that they share is one rank's, or ends on all of them."""

import threading
from collections.abc import Callable
from contextlib import closing

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import small_parts
from disca_rt.family import VIDEO_10, VIDEO_15
from disca_rt.sampling.loop import Cancelled
from disca_rt.vae.hunyuan import HunyuanCodec
from disca_rt.vae.share import AnotherRankFailed, GroupShare
from disca_rt.vae.tiles import Steps, Tiling

TILES_10 = Tiling(Steps(32, 24), Steps(8, 4))
TILES_15 = Tiling(Steps(64, 48))


class Failing(HunyuanCodec):
    def decode_tile(self, latents: Tensor) -> Tensor:
        if self.share.rank == 1:
            raise FloatingPointError("here")
        return super().decode_tile(latents)


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(1)
    vae = small_parts.vae_10()
    check_equal(vae, VIDEO_10.name, TILES_10, torch.randn(2, 4, 4, 4, 8))  # 6 tiles in each slab
    check_equal(vae, VIDEO_10.name, TILES_10, torch.randn(1, 4, 3, 4, 4))  # fewer than ranks
    check_equal(small_parts.vae_15(), VIDEO_15.name, TILES_15, torch.randn(1, 4, 1, 5, 4))
    check_ends(vae, VIDEO_10.name, TILES_10, torch.randn(4, 4, 4, 8))
    check_memory(vae, VIDEO_10.name)
    print("SAME", flush=True)
    dist.destroy_process_group()


def check_equal(vae: object, family: str, tiling: Tiling, latents: Tensor) -> None:
    alone = HunyuanCodec(vae, family, tiling).decode(latents)
    for everywhere in (False, True):
        share = GroupShare(everywhere=everywhere)
        done: list[tuple[int, int]] = []
        codec = HunyuanCodec(vae, family, tiling, share)
        video = codec.decode(latents)
        list(codec.stream(latents[0], on_tile=lambda *progress, to=done: to.append(progress)))
        count = codec.grid(tuple(latents.shape[2:])).count
        assert done[-1] == (count, count)
        if share.rank == 0 or everywhere:
            assert torch.equal(video, alone)
        else:
            assert video.shape[2] == 0


def check_ends(vae: object, family: str, tiling: Tiling, latents: Tensor) -> None:
    share, cancel = GroupShare(), threading.Event()
    codec = HunyuanCodec(vae, family, tiling, share)
    if share.rank == share.size - 1:
        cancel.set()
    ends(Cancelled, lambda: list(codec.stream(latents, cancel=cancel)))
    failing = Failing(vae, family, tiling, share)
    own = FloatingPointError if share.rank == 1 else AnotherRankFailed
    ends(own, lambda: list(failing.stream(latents)))

    def read_one() -> None:
        with closing(codec.stream(latents)) as chunks:
            for _ in chunks:
                raise OSError("the disk is full")

    ends(OSError if share.rank == 0 else AnotherRankFailed, read_one)
    dist.barrier()


def check_memory(vae: object, family: str) -> None:
    """The rank that has least decides for all."""
    room = 10**12 if dist.get_rank() == 0 else 1_500_000_000
    codec = HunyuanCodec(vae, family, share=GroupShare(), free=lambda: room)
    chosen = codec.plan((33, 90, 160)).tiling
    assert chosen != codec.tiling
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, str(chosen))
    assert len(set(everyone)) == 1


def ends(error: type[BaseException], decode: Callable[[], object]) -> None:
    with pytest.raises(error):
        decode()


if __name__ == "__main__":
    main()
