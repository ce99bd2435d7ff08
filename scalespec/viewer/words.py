"""What is said of a star, as HTML: every text of a file or catalog is escaped on the way."""

import math
from html import escape
from typing import Any

from scalespec.stages.columns import describe, label_title
from scalespec.stages.inspect import star_title
from scalespec.stages.page import heading, paragraph, table
from scalespec.stages.samples import Rows
from scalespec.stages.star import Star, flags, is_broken, mask_table, neighbors, trust

FACTS = (
    *("obsid", "source_id", "designation", "class_", "subclass", "release", "file", "reason"),
    *("ra", "dec", "mjd", "snr", "survey_rv", "rv", "chi2", "dof", "n_used", "model"),
)
"""Columns that are told of a star beside its labels, where the catalog has them."""


def called(star: Star) -> str:
    """Return what a star's page is headed by; a broken file has no obsid."""
    return f"obsid {star.obsid}" if star.obsid >= 0 else f"row {star.row}, without an obsid"


def star_head(star: Star) -> str:
    """Return which star this is and whether to believe it."""
    html = f"<h2>{called(star)}</h2>"
    if not star.known:
        return html + paragraph(
            "Its block has failed: the catalog has no row of it. Run again with --retry-failed.",
            kind="bad",
        )
    found = flags(star)
    if is_broken(star):
        reason = str(star.known.get("reason") or "")
        said = "No spectrum" + (f": {reason}" if reason else "")
        html += paragraph(said, kind="bad")
    elif star.fit is None:
        html += paragraph("A spectrum without a fit.", kind="bad")
    elif not found:
        html += paragraph("A good fit: nothing is flagged.")
    if star.fit is not None:
        html += paragraph(star_title(star.known, star.labels).partition("\n")[2], kind="quiet")
    return html + (told(table(["of the", "flag", "what it says"], found)) if found else "")


def told(html: str) -> str:
    """Return a table whose last column may be broken into lines, and no other."""
    return f'<div class="told">{html}</div>'


def labels_table(star: Star) -> str:
    """Return the labels with errors and trust, and what others say of them."""
    known = star.known
    if not star.labels:
        return ""
    names = list(star.labels)
    names += ["rv"] if "rv" in known else []
    catalogs = sorted({
        column.removesuffix(f"_{name}")
        for name in star.labels for column in known
        if column.endswith(f"_{name}") and column != f"first_{name}"
    })  # fmt: skip
    beside = {"first estimate": "first_{}", "calibrated": "{}_cal"}
    beside |= {f"by {name}": f"{name}_{{}}" for name in catalogs}
    shown = {
        title: form
        for title, form in beside.items()
        if any(_number(known.get(form.format(name))) for name in names)
    }
    rows = []
    for name in names:
        unit = describe(name)[0]
        title = f"{label_title(name)} [{unit}]" if unit else label_title(name)
        cells = [_short(known.get(form.format(name)), name) for form in shown.values()]
        rows.append((title, _value(known, name), trust(star, name), *cells))
    html = table(["label", "value", "to be trusted?", *shown], rows)
    return heading("Labels") + f'<div class="labels">{html}</div>'


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _short(value: Any, name: str) -> str:
    if not _number(value):
        return "–"
    digits = {"K": 0, "km/s": 1, "Gyr": 1}.get(describe(name)[0], 2)
    return f"{value:,.{digits}f}"


def _value(known: Any, name: str) -> str:
    value, err = known.get(name), known.get(f"{name}_err")
    return f"{_short(value, name)} ± {_short(err, name)}" if _number(err) else _short(value, name)


def masks_table(star: Star) -> str:
    """Return which pixels did not count, and why."""
    rows = mask_table(star)
    n, lost = len(star.pixels("ivar")), int((star.pixels("ivar") <= 0).sum())
    text = f"{lost:,} of {n:,} pixels did not count (grey above)."
    columns = ["mask bit", "pixels", "lost", "what it says"]
    return heading("Masks") + paragraph(text) + (told(table(columns, rows)) if rows else "")


def neighbors_table(star: Star, stars: Rows, page: str) -> str:
    """Return the stars most alike, each a link to `page`."""
    near = neighbors(star, stars)
    if not near:
        return ""
    names = list(stars.labels[:3])
    rows = []
    for number, (place, distance) in enumerate(near):
        values = [_short(float(stars.columns[name][place]), name) for name in names]
        snr = f"{stars.columns['snr'][place]:.0f}"
        rows.append((f"\0{number}\0", *values, snr, f"{distance:.2f}"))
    html = table(["obsid", *map(label_title, names), "S/N", "distance"], rows)
    for number, (place, _) in enumerate(near):
        ids = [int(stars.columns[name][place]) for name in ("obsid", "row")]
        html = html.replace(f"\0{number}\0", link(page, *ids, text=str(ids[0])))
    text = (
        "Nearest in all labels, each counted in units of its spread and errors; "
        "only fits without flags."
    )
    return heading("Neighbors in label space") + html + paragraph(text, kind="quiet")


def link(page: str, obsid: int, row: int, *, text: str) -> str:
    """Return a link to a star on a page of ours: by its row if it has no obsid.

    Examples
    --------
    >>> link("star", 7, 3, text="it"), link("star", -1, 3, text="<it>")
    ('<a href="star?obsid=7">it</a>', '<a href="star?row=3">&lt;it&gt;</a>')
    """
    wanted = f"obsid={obsid}" if obsid >= 0 else f"row={row}"
    return f'<a href="{escape(page)}?{wanted}">{escape(text)}</a>'


def facts_table(star: Star) -> str:
    """Return what else the catalog says of the star."""
    rows = []
    for name in FACTS:
        value = star.known.get(name)
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            continue
        said = str(value) if isinstance(value, str | int) else f"{value:.7g}"
        rows.append((name, f"{said} {describe(name)[0]}".strip()))
    html = table(["column", "value"], rows)
    return heading("From the catalog") + f'<div class="facts">{html}</div>'
