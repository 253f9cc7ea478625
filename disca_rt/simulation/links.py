"""Links over which ranks reach each other: the wires of a node and those between nodes.

Names stand for what such a link gives an exchange, about five sixths of what is printed on it, one
way; nothing here was measured. Numbers of your own go in its place. Knows no partitions.
"""

import math
from typing import NamedTuple


class Link(NamedTuple):
    """Wire of one rank: its bandwidth each way, both at once, and the latency of a transfer."""

    bandwidth_gbs: float
    latency_us: float

    def seconds(self, count: float) -> float:
        """Seconds to send up to `count` bytes and receive as many at the same time."""
        return self.latency_us / 1e6 + count / (self.bandwidth_gbs * 1e9)

    def __str__(self) -> str:
        return f"{self.bandwidth_gbs:g} GB/s, {self.latency_us:g} us"


FREE = Link(math.inf, 0.0)

LINKS: dict[str, Link] = {
    "nvlink4": Link(375.0, 15.0),  # of 450 printed; H100, H200
    "nvlink5": Link(750.0, 15.0),  # of 900 printed; B200
    "pcie5": Link(52.0, 20.0),  # of 63 printed; 16 lanes
    "ethernet": Link(42.0, 40.0),  # of 50 printed; a port of 400 Gb/s for each rank
}


class Links(NamedTuple):
    """Wires `within` and `between` nodes of `ranks_per_node` consecutive ranks (0: one node)."""

    within: Link
    between: Link = LINKS["ethernet"]
    ranks_per_node: int = 0

    def among(self, ranks: tuple[int, ...]) -> tuple[str, Link]:
        """Name and link of the wire that a transfer among `ranks` takes."""
        per_node = self.ranks_per_node
        if per_node and len({rank // per_node for rank in ranks}) > 1:
            return "between nodes", self.between
        return "in the node", self.within


def get_link(text: str) -> Link:
    """Link called `text`, or of GB/s and µs such as "375,15"; ValueError lists the known names."""
    if text in LINKS:
        return LINKS[text]
    try:
        bandwidth, latency = map(float, text.split(","))
    except ValueError:
        bandwidth = latency = math.nan
    if not (0 < bandwidth < math.inf and 0 <= latency < math.inf):
        raise ValueError(
            f"link must be one of {sorted(LINKS)} or GB/s and microseconds such as 375,15, "
            f"got {text!r}"
        )
    return Link(bandwidth, latency)
