"""One self-contained HTML page: text that is escaped, tables, figures held within."""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

from scalespec.figures import to_png

Cell = str | int | float
BAR_PX = 180
"""Width of the longest bar of a table."""

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f5f7; color: #1f2430;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 0 20px 64px; }
header { padding: 36px 0 12px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 0 0 4px; }
h3 { font-size: 16px; margin: 24px 0 4px; }
p { margin: 4px 0 12px; max-width: 76ch; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 14px; margin-top: 12px; }
a { color: #0065a0; }
section { background: #fff; border: 1px solid #e1e4e8; border-radius: 10px; padding: 20px 22px;
  margin: 18px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px;
  margin: 12px 0 4px; }
.tile { background: #f4f6f8; border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; }
.tile span { font-size: 13px; color: #555b66; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; margin: 6px 0 14px; }
th, td { text-align: left; padding: 5px 28px 5px 0; border-bottom: 1px solid #e8eaed;
  vertical-align: top; }
th { font-weight: 600; color: #555b66; white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr));
  gap: 18px; align-items: start; }
figure { margin: 8px 0 14px; min-width: 0; }
figure img { display: block; width: 100%; height: auto; max-width: 620px; }
figure.wide img { max-width: none; min-width: 720px; }
.bars td:first-child { white-space: nowrap; }
.bar { display: inline-block; height: 11px; border-radius: 3px; background: #0072b2; }
figcaption { font-size: 13.5px; color: #555b66; margin-top: 4px; max-width: 80ch; }
.quiet { color: #555b66; }
.bad { color: #b03a06; font-weight: 600; }
pre { background: #f4f6f8; padding: 12px; border-radius: 8px; overflow: auto; font-size: 12.5px;
  max-height: 460px; }
summary { cursor: pointer; color: #0065a0; }
code { overflow-wrap: anywhere; font-size: 13px; }
@media (max-width: 560px) { main { padding: 0 10px 40px; } section { padding: 16px 14px; }
  h1 { font-size: 24px; } table { font-size: 13px; } th, td { padding-right: 9px; } }
"""


def page(title: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return a whole page.

    Parameters
    ----------
    title, lead : str
        Heading and the line below it, as plain text.
    sections : sequence of (heading, html)
        Headings are plain text, bodies HTML made by the functions here.
    """
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name, _ in sections)
    bodies = "".join(
        f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2>{body}</section>\n'
        for name, body in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(title)}</h1><p>{escape(lead)}</p><nav>{links}</nav></header>\n"
        f"{bodies}</main>\n</body>\n</html>\n"
    )


def _anchor(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def paragraph(text: str, *, kind: str = "") -> str:
    """Return a paragraph of plain text; `kind` is a class of the style sheet.

    Examples
    --------
    >>> paragraph("1 < 2", kind="quiet")
    '<p class="quiet">1 &lt; 2</p>'
    """
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def heading(text: str) -> str:
    """Return a heading within a section."""
    return f"<h3>{escape(text)}</h3>"


def tiles(facts: Iterable[tuple[str, str]]) -> str:
    """Return numbers to see first: (number, what it counts)."""
    inner = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(what)}</span></div>'
        for value, what in facts
    )
    return f'<div class="tiles">{inner}</div>'


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a table; numbers are right-aligned, integers have thousands separated.

    Examples
    --------
    >>> table(["a"], [[1234]]).count("1,234")
    1
    """
    body = [[_cell(value) for value in row] for row in rows]
    right = {i for row in body for i, (_, numeric) in enumerate(row) if numeric}
    head = "".join(
        f'<th class="n">{escape(name)}</th>' if i in right else f"<th>{escape(name)}</th>"
        for i, name in enumerate(columns)
    )
    lines = "".join(
        "<tr>"
        + "".join(
            f'<td class="n">{text}</td>' if i in right else f"<td>{text}</td>"
            for i, (text, _) in enumerate(row)
        )
        + "</tr>"
        for row in body
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody>'
        "</table></div>"
    )


def _cell(value: Cell) -> tuple[str, bool]:
    if isinstance(value, str):
        return escape(value), False
    if math.isnan(value):
        return "–", True
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}", True
    return f"{value:.3g}", True


def picture(figure: Figure, caption: str, *, wide: bool = False) -> str:
    """Return a figure with its caption; a wide one scrolls where the screen is narrow."""
    return embedded(to_png(figure), caption, wide=wide)


def embedded(png: bytes, caption: str, *, wide: bool = False) -> str:
    """Return a picture that is drawn already, with its caption."""
    data = base64.b64encode(png).decode()
    text = escape(caption)
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    inner = f'<div class="scroll">{image}</div>' if wide else image
    kind = "wide" if wide else "plain"
    return f'<figure class="{kind}">{inner}<figcaption>{text}</figcaption></figure>'


def side_by_side(pictures: Iterable[str]) -> str:
    """Return pictures in a row, below each other where the screen is narrow."""
    return f'<div class="figures">{"".join(pictures)}</div>'


def bars(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table whose last column, numbers of 0 or more, is also drawn as bars."""
    most = max((float(row[-1]) for row in rows), default=1.0) or 1.0
    html = table([*columns, ""], [(*row, f"\0{i}\0") for i, row in enumerate(rows)])
    html = html.replace("<table>", '<table class="bars">', 1)
    for i, row in enumerate(rows):
        width = BAR_PX * float(row[-1]) / most
        html = html.replace(f"\0{i}\0", f'<span class="bar" style="width:{width:.0f}px"></span>')
    return html


def by_status(counts: Mapping[str, int], n: int, meaning: Mapping[Any, str]) -> str:
    """Return a table of `n` rows by status; those that none has are left out.

    Parameters
    ----------
    counts : mapping of str to int
        Rows by name of a status bit; "OK" for none.
    n : int
        Rows in all.
    meaning : mapping
        Status bits to what they say.
    """
    told = {"OK": "nothing to say"} | {str(flag.name): text for flag, text in meaning.items()}
    rows = [
        (name, k, 100 * k / max(n, 1), told.get(name, ""))
        for name in told
        if (k := counts.get(name, 0))
    ]
    return table(["status", "rows", "%", "what it says"], rows)


def folded(summary: str, text: str) -> str:
    """Return preformatted text that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"
