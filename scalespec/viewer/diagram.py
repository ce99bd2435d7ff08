"""The plane of labels that stars are picked in."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from bokeh.events import Tap
from bokeh.models import (
    ColorBar,
    ColumnDataSource,
    HoverTool,
    LinearColorMapper,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

from scalespec.figures import GREY, INK, ORANGE
from scalespec.stages.samples import Array, Rows
from scalespec.viewer.choices import Plane, along, axes_of, limits, nearest, points

STYLES = ("solid", "dashed", "dotdash", "dotted")
FLIPPED = {"x": ("teff",), "y": ("logg",)}
"""Axes that grow to the left, or down, as in a Hertzsprung-Russell diagram."""


class Diagram:
    """Stars in a plane of two labels, colored by a third; a tap picks the nearest one.

    Parameters
    ----------
    rows : Rows
        The sample that is shown.
    picked : callable
        Told the row of the star that is tapped on.
    lines : mapping of str to two (n,) arrays
        Isochrones by name: temperatures [K] and log g.
    """

    def __init__(
        self,
        rows: Rows,
        picked: Callable[[int], None],
        lines: Mapping[str, tuple[Array, Array]],
    ) -> None:
        self._rows, self._picked = rows, picked
        self._titles = axes_of(rows)
        self._source = ColumnDataSource({"x": [], "y": [], "c": [], "obsid": []})
        self._here = ColumnDataSource({"x": [], "y": []})
        self._shown = rows.take(np.zeros(len(rows), bool))
        self._colors = LinearColorMapper(palette=Viridis256, nan_color=GREY)
        self.figure = self._drawn()
        self._lines = [self._isochrone(n, *line) for n, line in enumerate(lines.items())]
        self.figure.on_event(Tap, self._tapped)

    def _drawn(self) -> figure:
        made = figure(
            height=430,
            sizing_mode="stretch_width",
            tools="box_zoom,pan,wheel_zoom,reset,save",
            active_drag=None,  # a finger on the diagram scrolls the page
            active_scroll=None,
            x_range=Range1d(0, 1),
            y_range=Range1d(0, 1),
            toolbar_location="above",
            name="diagram",
        )
        made.toolbar.logo = None
        style = {"size": "s", "line_color": None, "fill_alpha": 0.85}
        color = {"field": "c", "transform": self._colors}
        drawn = made.scatter("x", "y", source=self._source, fill_color=color, **style)
        made.scatter("x", "y", source=self._here, size=18, fill_color=None, line_color="white",
                     line_width=6)  # fmt: skip
        made.scatter("x", "y", source=self._here, size=18, fill_color=None, line_color=ORANGE,
                     line_width=3)  # fmt: skip
        bar = ColorBar(color_mapper=self._colors, width=12, padding=4, title_text_font_size="13px")
        made.add_layout(bar, "right")
        self._bar, self._points = bar, drawn
        self._hover = HoverTool(renderers=[drawn])
        made.add_tools(self._hover)
        dress(made)
        return made

    def _isochrone(self, number: int, name: str, line: tuple[Array, Array]) -> Any:
        teff, logg = (np.asarray(values, np.float64) for values in line)
        style = STYLES[number % len(STYLES)]
        return self.figure.line(
            teff, logg, color=INK, line_width=1.5, line_dash=style, legend_label=name
        )

    def show(self, kind: str, plane: Plane) -> Rows:
        """Draw a group of stars in a plane, and return those that are drawn."""
        shown = points(self._rows, kind, plane)
        x, y, color = (along(shown, name) for name in (plane.x, plane.y, plane.color))
        size = float(np.clip(220 / np.sqrt(max(len(shown), 1)), 3, 9))
        obsid = shown.columns["obsid"].astype(str).tolist()
        self._source.data = {"x": x, "y": y, "c": color, "obsid": obsid, "s": np.full(len(x), size)}
        self._shown, self._plane = shown, plane
        self._colors.update(**dict(zip(("low", "high"), limits(color), strict=True)))
        self._bar.title = self._titles[plane.color]
        for name, axis, values in (("x", plane.x, x), ("y", plane.y, y)):
            self._frame(name, axis, limits(values))
        self._hover.tooltips = [
            ("obsid", "@obsid"),
            (self._titles[plane.x], "@x{0.[00]}"),
            (self._titles[plane.y], "@y{0.[00]}"),
            (self._titles[plane.color], "@c{0.[00]}"),
        ]
        kiel = (plane.x, plane.y) == ("teff", "logg")
        for line in self._lines:
            line.visible = kiel
        for legend in self.figure.legend:
            legend.visible = kiel
        what = f"{len(shown):,} stars, {self._titles[plane.y]} against {self._titles[plane.x]}"
        told = "Pick one with a tap, or by the fields and buttons beside the diagram."
        self.figure.html_attributes = {"role": "figure", "aria-label": f"{what}. {told}"}
        return shown

    def _frame(self, name: str, axis: str, ends: tuple[float, float]) -> None:
        start, end = ends[::-1] if axis in FLIPPED[name] else ends
        range_ = getattr(self.figure, f"{name}_range")
        range_.update(start=start, end=end, reset_start=start, reset_end=end)
        drawn = self.figure.xaxis if name == "x" else self.figure.yaxis
        drawn.axis_label = self._titles[axis]
        drawn.formatter = NumeralTickFormatter(format="0.[00]")

    def mark(self, rows: Rows) -> None:
        """Put a ring around a star, one row of the catalog; it may have no place in the plane."""
        there = len(rows) and np.isfinite(along(rows, self._plane.x)).all()
        one = rows if there else None
        self._here.data = {
            name: along(one, axis) if one is not None else np.zeros(0, np.float32)
            for name, axis in (("x", self._plane.x), ("y", self._plane.y))
        }

    def _tapped(self, event: Tap) -> None:
        if event.x is None or event.y is None:
            return
        ranges = (self.figure.x_range, self.figure.y_range)
        spans = [abs(float(one.end) - float(one.start)) or 1.0 for one in ranges]
        data = self._source.data
        place = (float(event.x), float(event.y))
        found = nearest(np.asarray(data["x"]), np.asarray(data["y"]), place, spans)
        if found is not None:
            self._picked(int(self._shown.columns["row"][found]))


def dress(made: figure) -> None:
    """Give a figure letters that can be read on a phone, and no more lines than it needs."""
    made.background_fill_color = made.border_fill_color = "white"
    made.outline_line_color = None
    for axis in (*made.xaxis, *made.yaxis):
        axis.axis_label_text_font_size = "14px"
        axis.axis_label_text_font_style = "normal"
        axis.major_label_text_font_size = "13px"
        axis.axis_label_text_color = axis.major_label_text_color = INK
        axis.minor_tick_line_color = None
    for grid in (*made.xgrid, *made.ygrid):
        grid.grid_line_color = "#eceef1"
