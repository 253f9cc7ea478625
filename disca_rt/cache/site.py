"""Sites: the places in a step where a stand-in may replace a computation. Pure data."""

from typing import Literal, NamedTuple

from ..config import DiTConfig

Level = Literal["blocks", "branch", "guidance", "velocity"]


class BranchForm(NamedTuple):
    """The rows of a branch's tensor ("img", "txt" or "joint"), and its width in hidden widths."""

    rows: Literal["img", "txt", "joint"]
    width: int = 1


DOUBLE = {
    "img_attn": BranchForm("img"),
    "txt_attn": BranchForm("txt"),
    "img_mlp": BranchForm("img"),
    "txt_mlp": BranchForm("txt"),
}
SINGLE = {"attn": BranchForm("joint"), "mlp": BranchForm("joint", 4), "total": BranchForm("joint")}
"""The branches of both kinds of block; `attn` and `mlp` are the halves that `total` joins."""

EVERY_BRANCH = (*DOUBLE, "total")
"""The branches that together are all of a block of either kind."""


class Site(NamedTuple):
    """A place of one of four levels.

    "blocks": the joint tokens after the blocks numbered `start` to `stop` - 1. "branch": in each of
    these blocks, each branch of `names`, the tensor before its gate. "guidance": the velocity
    patches of the unconditional pass. "velocity": the guided velocity in latent space, for which no
    pass runs.
    """

    level: Level
    start: int = 0
    stop: int = 0
    names: tuple[str, ...] = ()

    def has(self, block: int, name: str) -> bool:
        """True where branch `name` of block number `block` is of the site."""
        return self.level == "branch" and self.start <= block < self.stop and name in self.names


def whole(dit: DiTConfig) -> Site:
    """The site of all blocks of `dit` together."""
    return Site("blocks", 0, dit.double + dit.single)
