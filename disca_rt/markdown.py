"""Markdown tables, without a package: results are printed where PyTorch alone is installed."""

from collections.abc import Iterable, Sequence


def table_lines(
    header: Sequence[str], rows: Iterable[Sequence[str]], rule: str = "---"
) -> list[str]:
    """Lines of the table; `rule` under each column aligns it, such as "--:" to the right."""
    return [f"| {' | '.join(row)} |" for row in (header, [rule] * len(header), *rows)]
