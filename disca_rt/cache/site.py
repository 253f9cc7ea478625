"""Sites: the places in a step where a stand-in may replace a computation. Pure data."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from ..config import DiTConfig

Level = Literal["blocks", "branch", "attention", "guidance", "velocity"]
IN_BLOCKS = "branch", "attention"  # levels within each of a range of blocks


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
SINGLE = {
    "attn": BranchForm("joint"),
    "mlp": BranchForm("joint", 4),
    "total": BranchForm("joint"),
    "attn_part": BranchForm("joint"),
    "mlp_part": BranchForm("joint"),
}
"""The branches of both kinds of block; `attn` and `mlp` are the halves that `total` joins, their
parts what each of them adds to it."""

WITHIN = {"total": {*SINGLE}, "attn_part": {"attn"}, "mlp_part": {"mlp"}}
"""The branches that others are made of."""


class Site(NamedTuple):
    """A place of one of five levels.

    "blocks": the joint tokens after the blocks numbered `start` to `stop` - 1. "branch": in each of
    these blocks, each branch of `names`, the tensor before its gate; where `gated`, its gate of
    then goes with it, so that what is added to the tokens is as it was. "attention": in each of
    these blocks, the output of joint attention before its projection, for the heads at hand.
    "guidance": the velocity patches of the unconditional pass. "velocity": the guided velocity in
    latent space, for which no pass runs.

    A site of blocks, or within them, is in every pass, or in `only_pass`: in the other one nothing
    is kept, and its acts there do nothing.
    """

    level: Level
    start: int = 0
    stop: int = 0
    names: tuple[str, ...] = ()
    gated: bool = False
    only_pass: int | None = None

    def is_in(self, which_pass: int) -> bool:
        """True where pass number `which_pass` has the site's places."""
        only = {"guidance": 1, "velocity": 0}.get(self.level, self.only_pass)
        return only in (None, which_pass)

    def has(self, block: int, name: str) -> bool:
        """True where branch `name` of block number `block` is of the site."""
        return self.level == "branch" and self.start <= block < self.stop and name in self.names

    def attends(self, block: int) -> bool:
        """True where the attention of block number `block` is of the site."""
        return self.level == "attention" and self.start <= block < self.stop

    def shares_branch(self, other: "Site") -> bool:
        """True where both have a branch in common, or one has what another's is made of."""
        if self.level != "branch" or other.level != "branch":
            return False
        ours, theirs = (
            {*site.names}.union(*(WITHIN.get(name, ()) for name in site.names))
            for site in (self, other)
        )
        is_apart = self.stop <= other.start or other.stop <= self.start
        return not is_apart and bool(ours & theirs)

    def check(self, dit: DiTConfig) -> None:
        """Raises ValueError where a model of these sizes has nothing at this site."""
        blocks = dit.double + dit.single
        if self.level in ("guidance", "velocity"):
            return
        if not 0 <= self.start < self.stop <= blocks:
            raise ValueError(
                f"a site of blocks must lie within 0 to {blocks}, got {self.start} to {self.stop}"
            )
        unknown = [name for name in self.names if name not in (*DOUBLE, *SINGLE)]
        if unknown:
            raise ValueError(f"a branch must be one of {[*DOUBLE, *SINGLE]}, got {unknown[0]!r}")
        halves = [name for name in self.names if name in SINGLE and name != "total"]
        if self.gated and halves:
            raise ValueError(f"branch {halves[0]} has no gate of its own; let the site have total")
        here = {*(DOUBLE if self.start < dit.double else ())}
        here |= {*(SINGLE if self.stop > dit.double else ())}
        if self.level == "branch" and not here & {*self.names}:
            raise ValueError(
                f"blocks {self.start} to {self.stop - 1} have none of the branches {self.names}"
            )


def check_sites(sites: Sequence[Site], dit: DiTConfig, passes: int) -> None:
    """Raises ValueError where a model has nothing at one of `sites`, or `passes` have none of all.

    A site that no pass has is left out: what a method does at guidance, where there is one pass.
    """
    for site in sites:
        site.check(dit)
    if sites and not any(site.is_in(which_pass) for site in sites for which_pass in range(passes)):
        raise ValueError(
            "it acts on the unconditional pass alone, and there is one pass; give it "
            "classifier-free guidance"
        )


def whole(dit: DiTConfig) -> Site:
    """The site of all blocks of `dit` together."""
    return Site("blocks", 0, dit.double + dit.single)
