"""HTML page of a profile: one file, nothing fetched from anywhere.

Template and script are files of their own beside this module, which fills them in.
"""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from ..measure.ceilings import Ceilings
from .classes import GAP
from .colours import colour
from .table import ALL, HEADER, Row, cells

HERE = Path(__file__).parent


def page_html(
    title: str,
    lines: Sequence[str],
    rows: Sequence[Row],
    ceilings: Ceilings,
    roofline: str,
    lanes: dict[str, Any],
    commands: Sequence[str],
) -> str:
    """Page with facts, table, roofline, timeline and command lines."""
    template = Template((HERE / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        lines="".join(f"<li>{escape(line)}</li>" for line in lines),
        table=_table(rows, ceilings),
        roofline=roofline,
        data=_script_json(lanes),
        script=(HERE / "timeline.js").read_text(encoding="utf-8"),
        commands=escape("\n".join(commands)),
    )


def _script_json(value: Any) -> str:
    """JSON in which no text can end the script element that holds it."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _table(rows: Sequence[Row], ceilings: Ceilings) -> str:
    head = "".join(f"<th>{name}</th>" for name in (*HEADER, ""))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{_body(rows, ceilings)}</tbody></table>"


def _body(rows: Sequence[Row], ceilings: Ceilings) -> str:
    lines = []
    for row in rows:
        is_all = row.class_name == ALL
        own = colour(row.kind if is_all else row.class_name)
        chip = f'<i style="background:{own}"></i>'
        kind, class_name, *figures = map(escape, cells(row, ceilings))
        bar = f'<b style="width:{row.share * 100:.1f}%;background:{own}"></b>'
        texts = "".join(f"<td>{text}</td>" for text in figures)
        style = "all" if is_all else "gap" if row.class_name == GAP else ""
        lines.append(
            f'<tr class="{style}"><td>{kind}</td><td class="name">{chip}{class_name}</td>{texts}'
            f'<td class="bar">{"" if is_all else bar}</td></tr>'
        )
    return "".join(lines)
