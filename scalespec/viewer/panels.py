"""One star's spectrum with its best fit, the residual below, and why pixels did not count."""

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool, LabelSet, Range1d
from bokeh.plotting import figure

from scalespec.figures import BLUE, GREY, INK, ORANGE, WINDOWS
from scalespec.stages.columns import mask_bit
from scalespec.stages.samples import Array
from scalespec.stages.star import Star, is_broken, mask_bits, runs
from scalespec.viewer.diagram import dress

WHOLE = "the whole spectrum"
SHADE = "#e6e8eb"
LOST, KEPT = "did not count", "counted all the same"


class Panels:
    """Three figures along one wavelength axis, for one star after another.

    Attributes
    ----------
    spectrum, residual, masks : figure
    regions : dict of str to (float, float)
        Parts [Å, vacuum] of the axis to look at.
    """

    def __init__(self, wavelength: Array) -> None:
        self._wavelength = np.asarray(wavelength, np.float64)
        ends = (float(wavelength[0]), float(wavelength[-1]))
        self.regions = {WHOLE: ends} | {
            f"{name}, {low:.0f}–{high:.0f} Å": (low, high)
            for name, low, high in WINDOWS
            if ends[0] <= low and high <= ends[1]
        }
        self._x = Range1d(*ends, bounds=ends)
        nothing: list[float] = []
        self._pixels = ColumnDataSource(dict.fromkeys(("w", "flux", "fit", "pull"), nothing))
        self._lost = ColumnDataSource({"x0": nothing, "x1": nothing})
        names = ("x0", "x1", "y", "name", "kind", "color", "text")
        self._masked = ColumnDataSource(dict.fromkeys(names, nothing))
        self._bits = ColumnDataSource(dict.fromkeys(("x", "y", "name"), nothing))
        self.spectrum = self._spectrum()
        self.residual = self._residual()
        self.masks = self._masks()

    def _figure(self, height: int, label: str, **options: object) -> figure:
        made = figure(
            height=height,
            sizing_mode="stretch_width",
            x_range=self._x,
            y_axis_label=label,
            active_drag=None,
            active_scroll=None,
            toolbar_location=None,
            min_border_left=74,
            min_width=260,  # drawn narrower at first, a sliver of its labels would stay
            **options,
        )
        made.toolbar.logo = None
        dress(made)
        return made

    def _spectrum(self) -> figure:
        tools = "xbox_zoom,xpan,xwheel_zoom,reset,save"
        made = self._figure(
            330, "flux / continuum", y_range=Range1d(0, 1.2), name="spectrum", tools=tools
        )
        made.toolbar_location = "above"
        made.vstrip("x0", "x1", source=self._lost, fill_color=SHADE, line_color=None, level="image")
        step = {"source": self._pixels, "color": INK, "line_width": 1.2}
        made.step("w", "flux", mode="center", legend_label="spectrum", **step)
        made.line("w", "fit", source=self._pixels, color=ORANGE, line_width=1.4, line_alpha=0.9,
                  legend_label="best fit")  # fmt: skip
        made.legend.orientation = "horizontal"
        made.legend.location = "bottom_right"
        made.legend.label_text_font_size = "13px"
        made.legend.background_fill_alpha = 0.75
        made.legend.border_line_color = None
        made.xaxis.major_label_text_font_size = "0px"
        return made

    def _residual(self) -> figure:
        made = self._figure(
            170, "(fit − data) / σ", y_range=Range1d(-6, 6), name="residual", tools=""
        )
        made.vstrip("x0", "x1", source=self._lost, fill_color=SHADE, line_color=None, level="image")
        made.hspan(0, line_color=GREY, line_width=1)
        made.line("w", "pull", source=self._pixels, color=BLUE, line_width=1)
        made.xaxis.axis_label = "rest wavelength, vacuum [Å]"
        return made

    def _masks(self) -> figure:
        """Make a line for each mask bit, its name above the pixels that have it."""
        made = self._figure(60, "", y_range=Range1d(0, 1), name="masks", tools="")
        bars = {"height": 0.36, "source": self._masked, "line_color": None, "fill_color": "color"}
        drawn = made.hbar(y="y", left="x0", right="x1", **bars)
        made.add_tools(HoverTool(renderers=[drawn], tooltips=[("", "@name: @text; @kind")]))
        made.add_layout(
            LabelSet(
                x="x",
                y="y",
                text="name",
                source=self._bits,
                x_units="screen",
                y_offset=9,
                text_font_size="12px",
                text_color=INK,
            )
        )
        made.yaxis.visible = False
        made.ygrid.visible = False
        return made

    def look_at(self, region: str) -> None:
        """Show one of the regions."""
        start, end = self.regions[region]
        self._x.update(start=start, end=end)

    def show(self, star: Star) -> None:
        """Draw a star."""
        flux, ivar = star.pixels("flux"), star.pixels("ivar")
        good = ivar > 0
        unknown = np.full(len(flux), np.nan, np.float32)
        fit = unknown if star.fit is None else star.fit
        pull = np.where(good, (fit - flux) * np.sqrt(ivar), np.nan).astype(np.float32)
        seen = np.where(good, flux, np.nan).astype(np.float32)
        self._pixels.data = {"w": self._wavelength, "flux": seen, "fit": fit, "pull": pull}
        self._lost.data = self._spans(~good)
        if good.any():
            low, high = np.quantile(flux[good], [0.003, 0.997])
            self.spectrum.y_range.update(
                start=float(min(low, 0.9) - 0.06), end=float(max(high, 1.05) + 0.12)
            )
        self._show_masks(star, good)
        for made, text in zip((self.spectrum, self.residual, self.masks), said(star), strict=True):
            made.html_attributes = {"role": "figure", "aria-label": text}
        self.residual.visible = star.fit is not None
        self.spectrum.visible = not is_broken(star)

    def _spans(self, where: Array) -> dict[str, Array]:
        """Return where runs of pixels begin and end [Å], half a pixel beyond the last ones."""
        first, last = runs(where)
        middle = (self._wavelength[1:] + self._wavelength[:-1]) / 2
        edges = np.concatenate([self._wavelength[:1], middle, self._wavelength[-1:]])
        return {"x0": edges[first], "x1": edges[last + 1]}

    def _show_masks(self, star: Star, good: Array) -> None:
        columns: dict[str, list[object]] = {name: [] for name in self._masked.data}
        bits = mask_bits(star)
        for y, (bit, where) in enumerate(reversed(bits.items())):
            name, text = mask_bit(bit)
            for pixels, kind, color in ((where & ~good, LOST, INK), (where & good, KEPT, GREY)):
                spans = self._spans(pixels)
                same = {"y": y, "name": name, "kind": kind, "color": color, "text": text}
                for key, value in same.items():
                    columns[key] += [value] * len(spans["x0"])
                for key, values in spans.items():
                    columns[key] += values.tolist()
        names = [mask_bit(bit)[0] for bit in reversed(bits)]
        self._bits.data = {"x": [4] * len(names), "y": list(range(len(names))), "name": names}
        self._masked.data = columns
        self.masks.y_range.update(start=-0.4, end=len(names) - 0.2)
        self.masks.height = 44 + 34 * len(names)
        self.masks.visible = bool(names) and not is_broken(star)


def said(star: Star) -> tuple[str, str, str]:
    """Say what the three figures show, for those who do not see them."""
    good = int((star.pixels("ivar") > 0).sum())
    n = len(star.pixels("ivar"))
    fitted = "with its best fit" if star.fit is not None else "without a fit"
    spectrum = f"Spectrum {star.obsid}, {good:,} of {n:,} pixels with weight, {fitted}."
    residual = "Fit less data in units of its error."
    names = ", ".join(mask_bit(bit)[0] for bit in mask_bits(star)) or "none"
    return spectrum, residual, f"Pixels by mask bit: {names}."
