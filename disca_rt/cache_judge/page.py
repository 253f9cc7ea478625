"""The page of the judge: a table for each subject, what each method is, the orderings in short."""

from collections.abc import Callable, Mapping, Sequence

from ..cache.described import methods_page
from ..markdown import table_lines
from ..tiny.statistics import ConfidenceInterval
from ..units import byte_text
from .summary import Summary, frontier

EXPLAINED = """\
Every policy starts from the same noise and is compared with the same model's run without a cache.
`cost` is in full steps, those that take as many FLOPs, counted on the plans that ran; `speed-up`
is by FLOPs, `measured/that` the measured one over it (medians, one clip at a time); `state` are the
bytes that one clip's cache takes. PSNR and SSIM are of 8-bit frames, and left out where no VAE
decodes; L2 is the relative distance of the final latents: median, geometric mean, mean, and the
share of clips beyond 0.1, in which something else is seen. `to reuse` is the geometric mean of the
L2 over that of reusing the last hidden state at the same cost, prompt by prompt: below 1 is nearer.
Brackets are 95 % bootstrap intervals over prompts. **Bold** rows are on the frontier: nothing
cheaper is as near by PSNR, or by L2 without it. Settings at which nothing was cached are not in the
picture.
"""

Cell = Callable[[Summary], str]
DECODED = "PSNR", "SSIM"  # columns of what needs a VAE
MANY = 20  # rows, beyond which the frontier's stand apart


def page(rows: Mapping[str, Sequence[Summary]], facts: str) -> str:
    """The whole page; `rows` by the subject's title, `facts` says what ran where."""
    parts = ["# Cache methods under one judge", facts, EXPLAINED]
    for title, of_subject in rows.items():
        parts.append(f"## {title}\n")
        if len(of_subject) > MANY:
            best = frontier(of_subject)
            parts += ["The frontier:\n", _table(of_subject, best), "All policies:\n"]
        parts.append(_table(of_subject, of_subject))
    parts.append("## The methods\n\n" + methods_page())
    return "\n".join(parts)


def _table(rows: Sequence[Summary], shown: Sequence[Summary]) -> str:
    """The rows that are `shown`, the dearest first."""
    best = {row.policy for row in frontier(rows)}
    scores = [name for name in rows[0].scores] if rows else []
    columns = COLUMNS | {name: _score(name) for name in scores}
    if all(row.psnr is None for row in rows):
        columns = {name: cell for name, cell in columns.items() if name not in DECODED}
    body = [
        [_bold(f"`{row.policy}`", row.policy in best), *(cell(row) for cell in columns.values())]
        for row in sorted(shown, key=lambda row: (-row.full_steps, row.policy))
    ]
    return "\n".join(table_lines(["policy", *columns], body)) + "\n"


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text


def _interval(interval: ConfidenceInterval | None, digits: int, scale: float = 1.0) -> str:
    if interval is None:
        return ""
    mean, low, high = (f"{scale * each:.{digits}f}" for each in interval)
    return f"{mean} [{low}, {high}]"


def _score(name: str) -> Cell:
    return lambda row: _interval(row.scores[name], 1, 100)


COLUMNS: Mapping[str, Cell] = {
    "cost": lambda row: f"{row.full_steps:.2f}",
    "speed-up": lambda row: f"{row.speedup:.2f}",
    "measured/that": lambda row: "" if row.ratio is None else f"{row.ratio:.2f}",
    "state": lambda row: "" if row.state_bytes is None else byte_text(row.state_bytes),
    "PSNR": lambda row: _interval(row.psnr, 1),
    "SSIM": lambda row: _interval(row.ssim, 3),
    "L2 median": lambda row: f"{row.l2_median:.4f}",
    "geometric": lambda row: f"{row.l2_geometric:.4f}",
    "mean": lambda row: f"{row.l2_mean:.4f}",
    "> 0.1": lambda row: f"{100 * row.far:.0f} %",
    "to reuse": lambda row: _interval(row.against_reuse, 2),
}
