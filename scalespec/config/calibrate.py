"""``[calibrate]``: systematic trends of labels removed, and what their errors leave out."""

from typing import Literal

from pydantic import Field, model_validator

from scalespec.config.table import Range, Table


class PairsTable(Table):
    """``[calibrate.pairs]``: wide binaries, whose stars were born with one composition."""

    catalog: str
    """Table of pairs: FITS, Parquet (a file or a folder), CSV(.gz), VOTable."""
    id_1: str = "source_id_1"
    """Column that identifies the first star, as ``star_id`` does ours."""
    id_2: str = "source_id_2"
    """Column that identifies the second star."""
    where: str = ""
    """Which pairs, by columns of the table: ``R_chance_align < 0.1``."""
    labels: tuple[str, ...] = ()
    """Labels that the stars of a pair share; empty: all abundances, which end in _fe, _h or _m."""


class ReferenceTable(Table):
    """``[calibrate.references.NAME]``: labels of higher resolution, in ``[crossmatch.NAME]``."""

    labels: tuple[str, ...] = ()
    """Labels it calibrates; empty: all that it has."""
    form: Literal["auto", "trend", "zero_point"] = "auto"
    """A spline in Teff, or a constant per luminosity class; auto: a constant where pairs gave the
    trend, else a spline."""


class ClustersTable(Table):
    """``[calibrate.clusters]``: stars of one composition, to see whether calibration helps."""

    catalog: str
    """Table of members."""
    id: str = "source_id"
    """Column that identifies the star."""
    name: str = "cluster"
    """Column that names its cluster."""


class CalibrateTable(Table):
    """``[calibrate]``: raw labels stay, ``<label>_cal`` and ``<label>_cal_err`` stand beside them.

    Pairs come first (internal trends), then references (zero points, or trends where there are no
    pairs), then errors are raised by floors from repeats and by the error of the correction.
    """

    star_id: str = "source_id"
    """What identifies a star: a column of the store or of its index of strings."""
    labels: tuple[str, ...] = ()
    """Labels to calibrate; empty: all that pairs or references can."""
    snr_min: float = Field(default=30.0, ge=0)
    """Trends are learned from spectra above this S/N."""
    pairs: PairsTable | None = None
    """Wide binaries."""
    references: dict[str, ReferenceTable] = Field(default_factory=dict)
    """By name of the crossmatch table; the first that has a label calibrates it."""
    clusters: ClustersTable | None = None
    """Members of clusters: never fitted, their scatter before and after is stated."""
    logg_edges: tuple[float, ...] = (3.5,)
    """Luminosity classes: each star's class is the number of edges above its log g."""
    teff_range: Range = (4000.0, 7000.0)
    """Where the splines live [K]; beyond it the correction is that of the end, and flagged."""
    knots: int = Field(default=5, ge=0, le=30)
    """Inner knots of the splines."""
    smoothness: float = Field(default=1.0, ge=0)
    """Weight of their curvature, in units of the data's weight per coefficient over 1,000."""
    bootstrap: int = Field(default=50, ge=2)
    """Resamples that say the error of a correction."""
    held_out: float = Field(default=0.3, gt=0, lt=1)
    """Share of the reference's stars that validate and are not fitted."""
    snr_edges: tuple[float, ...] = (0.0, 20.0, 30.0, 50.0, 100.0)
    """Lower edges of the bins of S/N that have an error floor each."""
    floors: tuple[Literal["repeats", "pairs"], ...] = ("repeats",)
    """Whose differences say the floors; of two the larger."""

    @model_validator(mode="after")
    def _can_be_meant(self) -> "CalibrateTable":
        if self.pairs is None and not self.references:
            raise ValueError("give pairs or references: there is nothing to calibrate by")
        for name in ("logg_edges", "snr_edges"):
            edges = getattr(self, name)
            if list(edges) != sorted(set(edges)):
                raise ValueError(f"{name}: {list(edges)} are not in order")
        if not self.snr_edges:
            raise ValueError("snr_edges: give one edge at least")
        if "pairs" in self.floors and self.pairs is None:
            raise ValueError("floors: 'pairs' wants a [calibrate.pairs] table")
        return self
