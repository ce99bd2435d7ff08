"""Whether pixels are fine enough for the lines that step "regrid" puts on them: said beforehand.

Lines no wider than the line spread are blurred when they are rebinned, the more the fewer pixels
they had, and a grid that has less than two for them cannot be interpolated, as fits do.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import xarray as xr

from scalespec.config import GridTable, PreprocessTable, RunConfig
from scalespec.kernels.sampling import pixels_per_fwhm, rebinned_depth, untold_depth
from scalespec.kernels.wavelength import pixel_edges
from scalespec.stages.reader import survey_of
from scalespec.stages.regrid import Spectra, Wavelength, grid_pixels, resolution
from scalespec.store import paths
from scalespec.store.spectra import arm_names, read_spectra

FEWEST_BEFORE, FEWEST_AFTER = 2.2, 2.0
"""Pixels per FWHM of the data, and of the grid, under which something is said."""
LEAST_ERROR = 0.04
"""Part of a line's depth under which nothing is said of the data's pixels."""


def sampling_notes(config: RunConfig) -> list[str]:
    """Say which arms of a run's survey, if any, are sampled too coarsely for ``[preprocess.grid]``.

    Returns
    -------
    list of str
        Survey and arm, pixels per FWHM, the error to expect, and what helps; one each.
    """
    table = config.preprocess
    if table is None or table.grid is None or "regrid" not in table.steps:
        return []
    return [note for name, arm in _arms(config, table) for note in _notes(name, arm, table)]


def _arms(config: RunConfig, table: PreprocessTable) -> Iterator[tuple[str, xr.Dataset]]:
    """Yield heads of the spectra that will be regridded, as far as they are known beforehand."""
    head: Spectra = {}
    if table.source and paths.exists(paths.join(table.source, "zarr.json")):
        names = ("", *arm_names(table.source))
        head = {name: read_spectra(paths.join(table.source, name), 0, 0) for name in names}
    elif config.ingest is not None and not table.source and not table.library:
        head = survey_of(config.ingest).read_block([])[0]
    for name, group in head.items():
        if "flux" in group:
            yield f"{group.attrs.get('survey', 'spectra')} {name}".strip(), group


def _notes(name: str, group: xr.Dataset, table: PreprocessTable) -> Iterator[str]:
    grid = table.grid
    if grid is None or not (table.resolving_power or group.attrs.get("resolving_power")):
        return  # nothing says how wide lines are
    edges, wavelength = grid_pixels(grid)
    power = resolution(group, wavelength, table)
    before, there = _before(group, edges, wavelength / power)
    if not there.any():
        return
    wider = np.maximum(power / (grid.resolving_power or power), 1)
    after = pixels_per_fwhm(edges, power) * wider
    before, after, wider, power, wavelength = (
        x[there] for x in (before, after, wider, power, wavelength)
    )
    i, j = int(before.argmin()), int(after.argmin())
    coarse = after[j] < FEWEST_AFTER * (1 - 1e-3)
    if before[i] >= FEWEST_BEFORE and not coarse:
        return
    blurred = max(_blurred(before[k], after[k], wider[k]) for k in (i, j))
    if blurred < LEAST_ERROR and not coarse:
        return
    errors = [f"{blurred:.0%} of their depth by rebinning"] if blurred >= 0.005 else []
    if coarse:
        errors.append(f"{untold_depth(after[j]):.0%} where fits move them by half a pixel")
        cure = _finer(grid, wavelength, power / wider)
    else:
        less = max(2.0, wider[i] / 0.7)
        left = _blurred(before[i], after[i] * less / wider[i], less)
        cure = f"resolving_power = {power[i] / less:.0f} leaves {left:.0%}"
    pixels = f"{before[i]:.2f} in the data and " if np.isfinite(before[i]) else ""
    yield (
        f"preprocess.grid: {name} has {pixels}{after[j]:.2f} pixels per FWHM on the grid "
        f"(R = {power[j if coarse else i]:.0f}): lines no wider than that are wrong by up to "
        f"{' and '.join(errors)}; {cure}"
    )


def _before(
    group: xr.Dataset, edges: Wavelength, fwhm: Wavelength
) -> tuple[Wavelength, npt.NDArray[np.bool_]]:
    """Return the data's pixels per FWHM at new pixels, inf if nothing is blurred, and where."""
    before, there = np.full(len(fwhm), np.inf), np.ones(len(fwhm), bool)
    if "wavelength" in group.dims:  # else each has its own
        own = pixel_edges(group["wavelength"].to_numpy())
        there = (edges[:-1] >= own[0]) & (edges[1:] <= own[-1])
        if not _same_edges(own, edges[:-1][there]):
            width = np.interp(edges[:-1], own[:-1], np.diff(own))
            before = fwhm / width
    return before, there


def _same_edges(own: Wavelength, edges: Wavelength) -> bool:
    """Whether new pixels begin where old ones do: nothing is blurred."""
    place = np.clip(np.searchsorted(own, edges), 1, len(own) - 1)
    away = np.minimum(np.abs(own[place] - edges), np.abs(edges - own[place - 1]))
    return bool(np.all(away < 1e-3 * (own[place] - own[place - 1])))


def _blurred(before: float, after: float, wider: float) -> float:
    if not np.isfinite(before):
        return 0.0
    return rebinned_depth(float(before), float(after), float(wider))


def _finer(grid: GridTable, wavelength: Wavelength, power: Wavelength) -> str:
    """Say which pixels, or which resolving power, would have 2.2 per FWHM."""
    if grid.step_log10 is None and grid.step_angstrom is None:
        return f"pixels_per_fwhm = {FEWEST_BEFORE} tells them"
    if grid.step_log10 is not None:
        name, step = "step_log10", float(1 / power.max() / FEWEST_BEFORE / np.log(10))
        most = 1 / (FEWEST_BEFORE * grid.step_log10 * np.log(10))
    else:
        name, step = "step_angstrom", float((wavelength / power).min() / FEWEST_BEFORE)
        most = float(wavelength.min()) / (FEWEST_BEFORE * (grid.step_angstrom or 1.0))
    lower = f", or resolving_power = {most:.0f}," if most < power.min() else ""
    return f"{name} = {step:.2g}{lower} tells them"
