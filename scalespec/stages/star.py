"""What is known of one star: its spectrum, best fit, masks, labels with trust, and its like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.types as patypes
import xarray as xr

from scalespec import figures
from scalespec.config import RunConfig
from scalespec.errors import StoreError
from scalespec.optimize.result import FitStatus
from scalespec.schema import SpectrumStatus
from scalespec.stages import folders
from scalespec.stages.columns import FIT_STATUS, SPECTRUM_STATUS, label_names, mask_bit
from scalespec.stages.inspect import Fitted, best_fit_flux
from scalespec.stages.samples import BY_LABEL, Array, Rows
from scalespec.store.catalog import read_part
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import count_spectra, read_rows, read_spectra

SEARCH_ROWS = 2**20
"""Numbers of spectra that a search holds at once: 8 MB."""


@dataclass(frozen=True)
class Star:
    """One planned spectrum.

    Attributes
    ----------
    row : int
        In the run's spectra store.
    spectrum : xr.Dataset
        That row alone, preprocessed.
    known : mapping of str to value
        The catalog's row, strings and all; empty if the row's block has failed.
    rows : Rows
        The numeric part of it, as one row of the catalog.
    fit : (n_pixel,) float32 or None
        The best fit as the data would show it without noise; None without one.
    """

    row: int
    spectrum: xr.Dataset
    known: Mapping[str, Any]
    rows: Rows
    fit: npt.NDArray[np.float32] | None

    @property
    def obsid(self) -> int:
        """The survey's number of the spectrum."""
        return int(self.spectrum["obsid"][0])

    @property
    def labels(self) -> Sequence[str]:
        """Labels that were fitted, or would have been."""
        return self.rows.labels

    def pixels(self, name: str) -> Array:
        """(n_pixel,): `name` of "flux", "ivar" or "mask"."""
        values: Array = self.spectrum[name].to_numpy()[0]
        return values


def find_row(store: str, obsid: int) -> int:
    """Return the first row of a spectra store that has this obsid; memory is that of a part of it.

    Raises
    ------
    StoreError
        If none has.
    """
    n = count_spectra(store)
    for start in range(0, n, SEARCH_ROWS):
        part = read_spectra(store, start, min(start + SEARCH_ROWS, n), names=["obsid"])
        found = np.flatnonzero(part["obsid"].to_numpy() == obsid)
        if len(found):
            return start + int(found[0])
    raise StoreError(f"{store}: none of its {n} spectra has obsid {obsid}")


def read_star(config: RunConfig, row: int, models: Sequence[Fitted]) -> Star:
    """Read what is known of one row: of the spectra a chunk, of the catalog a block.

    Raises
    ------
    StoreError
        If something of it is missing or damaged.
    """
    spectrum = read_rows(folders.spectra_store(config), np.array([row]))
    known, rows = _published(config, row)
    fit = None
    if len(rows) and rows.fitted[0]:
        made = best_fit_flux(models, spectrum, rows.columns)[0]
        fit = made if np.isfinite(made).all() else None
    return Star(row, spectrum, known, rows, fit)


def _published(config: RunConfig, row: int) -> tuple[dict[str, Any], Rows]:
    """Return the catalog's row, and its numbers apart; nothing if its block has failed."""
    url = folders.catalog_url(config)
    block = next((b for b in folders.planned_blocks(config) if b.start <= row < b.stop), None)
    if block is None or Ledger(url).committed(block) is None:
        return {}, Rows({}, ())
    table = read_part(url, block).slice(row - block.start, 1)
    kinds = {field.name: field.type for field in table.schema}
    numeric = [n for n, t in kinds.items() if patypes.is_integer(t) or patypes.is_floating(t)]
    labels = [name for name in label_names(numeric) if f"first_{name}" in numeric]
    rows = Rows({name: table[name].to_numpy() for name in numeric}, labels)
    known = table.to_pylist()[0]
    missing = {n: float("nan") for n in numeric if known[n] is None}  # null only in a table
    return known | missing, rows


def trust(star: Star, label: str) -> str:
    """Say in words whether a label is to be believed."""
    rows = star.rows
    if not len(rows) or not np.isfinite(rows.columns[label][0]):
        return "no value"
    doubts = []
    if rows.has_bit("at_bound", label)[0]:
        doubts.append("at its bound")
    if rows.has_bit("prior_dominated", label)[0]:
        doubts.append("said by the prior")
    if not rows.good[0]:
        doubts.append("the fit is flagged")
    return "; ".join(doubts) or "trusted"


def flags(star: Star) -> list[tuple[str, str, str]]:
    """Return what is said against spectrum and fit: (of what, name of the flag, what it says)."""
    found = []
    status = int(star.spectrum["status"][0])
    for bit, text in SPECTRUM_STATUS.items():
        if status & bit.value:
            found.append(("spectrum", str(bit.name), text))
    fit = int(star.known["fit_status"]) if star.known else 0
    for flag, text in FIT_STATUS.items():
        if fit & flag.value:
            kind = "a label" if flag & FitStatus(int(BY_LABEL)) else "fit"
            found.append((kind, str(flag.name), text))
    return found


def is_broken(star: Star) -> bool:
    """Whether the row holds no spectrum."""
    bits = SpectrumStatus(int(star.spectrum["status"][0]))
    return not (star.pixels("ivar") > 0).any() or bool(bits & SpectrumStatus.NO_PIXELS)


def mask_bits(star: Star) -> dict[int, Array]:
    """Return which pixels have each mask bit that any has: {number of the bit: (n_pixel,) bool}."""
    mask = star.pixels("mask")
    there = int(np.bitwise_or.reduce(mask)) if len(mask) else 0
    return {bit: mask >> np.uint32(bit) & 1 == 1 for bit in range(32) if there >> bit & 1}


def mask_table(star: Star) -> list[tuple[str, int, int, str]]:
    """Return, for each mask bit: its name, pixels with it, those without weight, what it says."""
    lost = star.pixels("ivar") <= 0
    return [
        (mask_bit(bit)[0], int(where.sum()), int((where & lost).sum()), mask_bit(bit)[1])
        for bit, where in mask_bits(star).items()
    ]


def runs(where: Array) -> tuple[Array, Array]:
    """Return first and last place of each run of True.

    Examples
    --------
    >>> runs(np.array([True, True, False, True]))
    (array([0, 3]), array([1, 3]))
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], where.astype(np.int8), [0]])))
    return edges[::2], edges[1::2] - 1


def neighbors(star: Star, stars: Rows, n: int = 6) -> list[tuple[int, float]]:
    """Return the stars most alike: (place in `stars`, distance), the nearest first.

    The distance is the root mean square, over labels, of the difference in units of
    ``sqrt(spread^2 + err^2 + err^2)``: the spread of the label among `stars`, and both its errors.
    So a label that is hardly known says little. Only stars without flags of the fit count.
    """
    rows = star.rows
    if not len(rows) or not rows.fitted[0]:
        return []
    squares = []
    for name in rows.labels:
        values = np.where(stars.good, stars.columns[name], np.nan).astype(np.float64)
        theirs, own = (known.columns[f"{name}_err"].astype(np.float64) for known in (stars, rows))
        variance = theirs**2 + own**2 + figures.spread(values).scatter ** 2
        squares.append(np.square(values - rows.columns[name][0]) / np.where(variance, variance, 1))
    known = np.isfinite(squares)
    total = np.where(known, squares, 0).sum(axis=0)
    distance = np.sqrt(total / np.maximum(known.sum(axis=0), 1))
    distance[~known.any(axis=0) | (stars.columns["row"] == star.row)] = np.inf
    nearest = np.argsort(distance, kind="stable")[:n]
    return [(int(place), float(distance[place])) for place in nearest if distance[place] < np.inf]
