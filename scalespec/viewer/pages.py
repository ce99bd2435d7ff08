"""The two pages: the catalog's diagram with a star beside it, and a star alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bokeh.document import Document
from bokeh.models import Button, Div, InlineStyleSheet, LayoutDOM, Select, TextInput

from scalespec.config import RunConfig
from scalespec.errors import ScalespecError, StoreError
from scalespec.stages.evidence import Evidence, read_evidence
from scalespec.stages.examples import pick_examples
from scalespec.stages.page import STYLE, paragraph
from scalespec.stages.report import Lines, isochrones
from scalespec.stages.samples import Array
from scalespec.stages.star import Star, find_row, read_star
from scalespec.store.spectra import count_spectra, read_spectra
from scalespec.viewer import choices, words
from scalespec.viewer.choices import Plane
from scalespec.viewer.diagram import Diagram
from scalespec.viewer.layout import CATALOG, HERE, IN_DIV, IN_WIDGET, STAR
from scalespec.viewer.panels import Panels

NOT_CHOSEN = "choose one"
LONGEST = 18
"""Digits of a number that an obsid may have: it is an int64."""


@dataclass(frozen=True)
class Viewed:
    """What all pages of one run share; nothing of it grows with the catalog."""

    config: RunConfig
    evidence: Evidence
    wavelength: Array
    examples: dict[str, int]
    first: int | None
    lines: Lines

    @classmethod
    def of(cls, config: RunConfig) -> "Viewed":
        """Read the catalog once: every row is seen, a sample is kept.

        Raises
        ------
        StoreError
            If something of the run is missing or damaged.
        """
        evidence = read_evidence(config)
        chosen = pick_examples(evidence)
        examples = {
            kind: int(rows.columns["row"][place])
            for kind, (rows, place) in ((k, c) for k, c in chosen.items() if c is not None)
        }
        wavelength = read_spectra(evidence.store, 0, 0)["wavelength"].to_numpy()
        first = choices.first_row(chosen, evidence)
        return cls(config, evidence, wavelength, examples, first, isochrones(config))

    @property
    def lead(self) -> str:
        """The line below the page's title."""
        counts = self.evidence.counts
        text = f"{counts['rows', 'all']:,} spectra, {counts['rows', 'fitted']:,} with labels. "
        return text + self.evidence.drawn_from(self.evidence.stars)


class StarView:
    """Controls, figures and tables of one star after another."""

    def __init__(self, viewed: Viewed) -> None:
        self.viewed = viewed
        self.row: int | None = None
        self._typed = ""
        self.shown: Array = viewed.evidence.stars.columns["row"]
        self.listeners: list[Callable[[Star], None]] = []
        self._panels = Panels(viewed.wavelength)
        self._obsid = TextInput(title="obsid", placeholder="a number, then Enter", **_wide("obsid"))
        self._before = Button(label="← Previous star", **_wide("previous"))
        self._after = Button(label="Next star →", **_wide("next"))
        regions = list(self._panels.regions)
        self._region = Select(title="look at", options=regions, value=regions[0], **_wide("region"))
        alert = {"role": "alert"}
        self._message = _div("message", html_attributes=alert)
        self._head = _div("head", html_attributes={"role": "status", "aria-live": "polite"})
        self._texts = {name: _div(name) for name in ("labels", "masked", "neighbors", "facts")}
        self._obsid.on_change("value", lambda _, __, text: self.search(text))
        self._before.on_click(lambda: self._step(-1))
        self._after.on_click(lambda: self._step(1))
        self._region.on_change("value", lambda _, __, region: self._panels.look_at(region))

    def roots(self) -> list[LayoutDOM]:
        """Return what the page shows; each has its name in the page's template."""
        panels = self._panels
        made: list[LayoutDOM] = [self._obsid, self._before, self._after, self._region]
        made += [self._message, self._head, panels.spectrum, panels.residual, panels.masks]
        return [*made, *self._texts.values()]

    def search(self, text: str) -> None:
        """Show the star of an obsid as it was typed, or say why there is none."""
        wanted = text.strip()
        if wanted == self._typed:
            return
        obsid = whole(wanted)
        if obsid is None:
            self._say(f"'{wanted}' is no obsid: it is a whole number.")
            return
        try:
            row = find_row(self.viewed.evidence.store, obsid)
        except StoreError:
            self._say(f"No spectrum of this run has obsid {obsid}.")
        else:
            self.show(row)

    def open(self, row: str) -> None:
        """Show the star of a row as an address gives it, or say why there is none."""
        number = whole(row)
        n = count_spectra(self.viewed.evidence.store)
        if number is not None and number < n:
            self.show(number)
        else:
            self._say(f"This run has no row '{row}': it has {n:,} rows.")

    def show(self, row: int) -> None:
        """Show the star of a row, or say why that cannot be."""
        viewed = self.viewed
        try:
            star = read_star(viewed.config, row, viewed.evidence.models)
        except ScalespecError as error:
            self._say(f"This star cannot be shown: {error}")
            return
        self.row = row
        self._typed = str(star.obsid) if star.obsid >= 0 else ""
        self._obsid.value = self._typed
        self._say("")
        self._head.text = words.star_head(star)
        self._panels.show(star)
        tables = {
            "labels": words.labels_table(star),
            "masked": words.masks_table(star),
            "neighbors": words.neighbors_table(star, viewed.evidence.stars, "star"),
            "facts": words.facts_table(star),
        }
        for name, html in tables.items():
            self._texts[name].update(text=html, visible=bool(html))
        for listener in self.listeners:
            listener(star)

    def _step(self, by: int) -> None:
        row = choices.step(self.shown, -1 if self.row is None else self.row, by)
        if row is None:
            self._say("No star is shown: choose other ones.")
        else:
            self.show(row)

    def _say(self, text: str) -> None:
        self._message.update(text=paragraph(text, kind="bad") if text else "", visible=bool(text))


class CatalogView:
    """The diagram, what it shows, and which stars are in it."""

    def __init__(self, star: StarView) -> None:
        viewed = star.viewed
        rows = viewed.evidence.stars
        self._star, self._rows = star, rows
        self.diagram = Diagram(rows, star.show, viewed.lines)
        plane = choices.first_plane(rows)
        names = list(choices.axes_of(rows).items())
        kinds = list(choices.kinds_of(rows).items())
        kind = choices.TRUSTED if len(choices.points(rows, choices.TRUSTED, plane)) else choices.ALL
        self._kind = Select(title="show", options=kinds, value=kind, **_wide("kind"))
        self._axes = [
            Select(title=title, options=names, value=value, **_wide(name))
            for title, value, name in (
                ("across", plane.x, "across"),
                ("up", plane.y, "up"),
                ("color", plane.color, "color"),
            )
        ]
        examples = [(NOT_CHOSEN, NOT_CHOSEN), *((str(n), k) for k, n in viewed.examples.items())]
        self._example = Select(
            title="go to an example", options=examples, value=NOT_CHOSEN, **_wide("example")
        )
        self._count = _div("count")
        self._own = _div("own")
        self._last: Star | None = None
        for one in (self._kind, *self._axes):
            one.on_change("value", lambda _, __, ___: self.draw())
        self._example.on_change("value", self._go)
        star.listeners.append(self._mark)
        self.draw()

    def roots(self) -> list[LayoutDOM]:
        """Return what the page shows beside the star."""
        return [
            *(self._kind, *self._axes, self._example, self._count, self._own),
            self.diagram.figure,
        ]

    def draw(self) -> None:
        """Draw the stars that are chosen, along the axes that are."""
        plane = Plane(*(str(one.value) for one in self._axes))
        kind = str(self._kind.value)
        drawn = self.diagram.show(kind, plane)
        listed = choices.of_kind(self._rows, kind, plane)
        self._star.shown = self._rows.columns["row"][listed]
        n = int(listed.sum())
        without = n - len(drawn)
        text = f"{len(drawn):,} stars drawn; Previous and Next go through {n:,} spectra"
        if len(drawn) == choices.MOST_POINTS:
            text += ", of which these are a sample"
        elif without:
            text += f", {without:,} of which have no place in it"
        self._count.text = paragraph(text + ".", kind="quiet")
        if self._last is not None:
            self.diagram.mark(self._last.rows)

    def _mark(self, star: Star) -> None:
        self._last = star
        self.diagram.mark(star.rows)
        self._own.text = words.link(
            "star", star.obsid, star.row, text="This star on a page of its own"
        )
        if self._example.value not in (NOT_CHOSEN, str(star.row)):
            self._example.value = NOT_CHOSEN

    def _go(self, _: str, __: Any, value: str) -> None:
        if value != NOT_CHOSEN:
            self._star.show(int(value))


def _wide(name: str) -> dict[str, Any]:
    style = InlineStyleSheet(css=IN_WIDGET)
    return {"name": name, "sizing_mode": "stretch_width", "stylesheets": [style], "margin": 0}


def _div(name: str, **options: Any) -> Div:
    """Return a place for HTML, in which `$$` and the like mean nothing."""
    made = _wide(name) | {"stylesheets": [InlineStyleSheet(css=STYLE + IN_DIV)]}
    return Div(text="", disable_math=True, **made, **options)


def catalog_page(document: Document, viewed: Viewed) -> None:
    """Make the page of the catalog; ``?obsid=`` says which star is beside the diagram."""
    star = StarView(viewed)
    catalog = CatalogView(star)
    _finish(document, viewed, CATALOG, [*catalog.roots(), *star.roots()])
    _open(document, star, viewed.first)


def star_page(document: Document, viewed: Viewed) -> None:
    """Make the page of one star, the one of ``?obsid=``."""
    star = StarView(viewed)
    there = _div("there")

    def shown(one: Star) -> None:
        there.text = words.link(".", one.obsid, one.row, text="This star in the catalog")

    star.listeners.append(shown)
    _finish(document, viewed, STAR, [there, *star.roots()])
    _open(document, star, viewed.first)


def _finish(document: Document, viewed: Viewed, template: str, roots: list[LayoutDOM]) -> None:
    for root in roots:
        document.add_root(root)
    document.title = viewed.config.run.name
    document.template = template
    document.template_variables.update(
        name=viewed.config.run.name, lead=viewed.lead, style=STYLE + HERE
    )


def _open(document: Document, star: StarView, first: int | None) -> None:
    """Show the star that the address asks for, or the first one."""
    context = document.session_context
    arguments = context.request.arguments if context and context.request else {}
    for name, go in (("obsid", star.search), ("row", star.open)):
        if name in arguments:
            go(arguments[name][0].decode("utf-8", "replace"))
            return
    if first is not None:
        star.show(first)


def whole(text: str) -> int | None:
    """Return the number that a text is, if it is one that a row or obsid can be.

    Examples
    --------
    >>> whole(" 7 "), whole("-1"), whole("<b>"), whole("9" * 30)
    (7, None, None, None)
    """
    wanted = text.strip()
    known = wanted.isascii() and wanted.isdecimal() and len(wanted) <= LONGEST
    return int(wanted) if known else None
