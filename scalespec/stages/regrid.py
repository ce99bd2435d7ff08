"""Spectra on other pixels: steps "regrid", which joins arms, and "simulate", a space telescope."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from scalespec.config import GridTable, LibraryTable, PreprocessTable
from scalespec.kernels.combine import merge, regrid_correlated, touched_bits
from scalespec.kernels.correlation import noise_correlation, row_means
from scalespec.kernels.lsf import FWHM, BandOperator, degrade_operator
from scalespec.kernels.lsf_levels import LevelOperators, own_resolving_power
from scalespec.kernels.slitless import (
    BANDS,
    Instrument,
    noise_at_magnitude,
    noise_at_snr,
    observe,
    order_overlap,
)
from scalespec.kernels.wavelength import (
    linear_grid,
    log10_step,
    log_grid,
    pixel_edges,
    resolution_edges,
)
from scalespec.schema import NOISE_CORRELATION, MaskBit, SpectrumStatus

FloatArray = npt.NDArray[np.float32]
MaskArray = npt.NDArray[np.uint32]
Values = npt.NDArray[np.floating[Any]]
Wavelength = Values
Spectra = Mapping[str, xr.Dataset]
Step = Callable[[Spectra], Spectra]
PIXELS = ("flux", "ivar", "mask")
NOISE = 11
"""Kind of random numbers: of the simulated telescope."""


def on_grid(
    spectra: xr.Dataset, wavelength: Wavelength, pixels: tuple[FloatArray, FloatArray, MaskArray]
) -> xr.Dataset:
    """Return the spectra on another grid: what depends on pixels is left behind."""
    kept = spectra.drop_vars(
        [name for name in spectra.variables if {"wavelength", "pixel"} & set(spectra[name].dims)]
    )
    dims = ("spectrum", "wavelength")
    made = kept.assign(
        {
            name: (dims, values.astype(dtype, copy=False))
            for name, values, dtype in zip(
                PIXELS, pixels, (np.float32, np.float32, np.uint32), strict=True
            )
        }
    ).assign_coords(wavelength=("wavelength", wavelength))
    attrs = {k: v for k, v in made.attrs.items() if not str(k).startswith("log10_wavelength")}
    if (step := log10_step(wavelength)) is not None:
        start = float(np.log10(wavelength[0]))
        attrs |= {"log10_wavelength_step": step, "log10_wavelength_start": start}
    made.attrs = attrs
    return made


@dataclass(frozen=True)
class Regridding:
    """How one arm comes to the common pixels.

    Attributes
    ----------
    edges : (n_out + 1,) float64 [Å]
        Of the common pixels.
    operator : BandOperator or LevelOperators, optional
        Of a line spread that all spectra share, or of each one's own; None: rebinned as they are.
    nominal : (n_out,) float64
        R of spectra whose own line spread is not known.
    correlation : (n_out, 2) float64, optional
        `noise_correlation` of an operator that all spectra share.
    """

    edges: Wavelength
    operator: BandOperator | LevelOperators | None
    nominal: Wavelength
    correlation: Values | None = None


def regrid_step(head: Spectra, table: PreprocessTable) -> Step:
    """Make "regrid": other pixels, a lower resolution, arms joined."""
    grid = table.grid
    if grid is None:
        raise ValueError("preprocess step 'regrid' wants a [preprocess.grid] table")
    edges, wavelength = grid_pixels(grid)
    plans = {}
    for name, group in head.items():
        if "flux" in group:
            plans[name] = Regridding(edges, None, np.zeros(0))
            if grid.resolving_power is not None:
                if "wavelength" not in group.dims:
                    raise ValueError(
                        "spectra of one grid each cannot be degraded: regrid without R"
                    )
                plans[name] = degrading(group, table, edges, grid.resolving_power)
    return partial(_regridded, plans=plans, wavelength=wavelength, grid=grid)


def grid_pixels(grid: GridTable) -> tuple[Wavelength, Wavelength]:
    """Return edges and centers of the pixels that a [preprocess.grid] table asks for."""
    low, high = grid.min_angstrom, grid.max_angstrom
    if grid.step_log10 is not None:
        n = int(np.floor(np.log10(high / low) / grid.step_log10 + 1e-6)) + 1
        centers = log_grid(float(np.log10(low)), grid.step_log10, n)
    elif grid.step_angstrom is not None:
        n = int(np.floor((high - low) / grid.step_angstrom + 1e-6)) + 1
        centers = linear_grid(low, grid.step_angstrom, n)
        half = grid.step_angstrom / 2
        return np.append(centers - half, centers[-1] + half), centers
    else:
        power = grid.resolving_power or 0.0  # the table has one of the three
        edges = resolution_edges(low, high, power, pixels_per_fwhm=grid.pixels_per_fwhm)
        return edges, np.sqrt(edges[:-1] * edges[1:])
    return pixel_edges(centers), centers


def theory_grid(table: LibraryTable) -> Wavelength:
    """Return the pixels of a library of theory."""
    low, high = table.min_angstrom, table.max_angstrom
    power, per_fwhm = table.resolving_power, table.pixels_per_fwhm
    edges = resolution_edges(low, high, power, pixels_per_fwhm=per_fwhm)
    return np.sqrt(edges[:-1] * edges[1:])


def degrading(
    group: xr.Dataset, table: PreprocessTable, edges: Wavelength, resolving_power: float
) -> Regridding:
    """Return how spectra like `group` come to pixels at a lower resolution.

    Raises
    ------
    ValueError
        If nothing says what theirs is, or it is no higher and the same for all of them.
    """
    own, wavelength = pixel_edges(group["wavelength"].to_numpy()), np.sqrt(edges[:-1] * edges[1:])
    if _has_own_spread(group, table):
        nominal = group.attrs.get("resolving_power") or np.nan
        operators = LevelOperators(own, edges, resolving_power)
        return Regridding(edges, operators, np.full(len(wavelength), float(nominal)))
    before = resolution(group, wavelength, table)
    operator = degrade_operator(own, edges, before, resolving_power)
    shared = noise_correlation(operator, edges, resolving_power)
    return Regridding(edges, operator, before, shared)


def _has_own_spread(group: xr.Dataset, table: PreprocessTable) -> bool:
    """Whether each spectrum says how it resolves, and the run file does not know better."""
    there = "lsf_sigma" in group and group["lsf_sigma"].dims == ("spectrum", "lsf_node")
    return there and table.resolving_power is None


def resolution(group: xr.Dataset, wavelength: Wavelength, table: PreprocessTable) -> Wavelength:
    """Return R of the data at wavelengths: of a line spread common to all, else the nominal one.

    Raises
    ------
    ValueError
        If nothing says what it is.
    """
    nominal = table.resolving_power or group.attrs.get("resolving_power")
    if not nominal:
        raise ValueError(
            "the data do not say their resolving power: set preprocess.resolving_power"
        )
    power = np.full(len(wavelength), float(nominal))
    if "lsf_sigma" in group and group["lsf_sigma"].dims == ("lsf_node",):
        sigma = group["lsf_sigma"].to_numpy()
        if np.all(sigma > 0) and table.resolving_power is None:
            nodes = group["lsf_node"].to_numpy()
            power = wavelength / (FWHM * np.interp(wavelength, nodes, sigma))
    return power


def _regridded(
    spectra: Spectra, plans: Mapping[str, Regridding], wavelength: Wavelength, grid: GridTable
) -> Spectra:
    groups = [spectra[name] for name in plans]
    parts = [
        _one_regridded(group, plan) for group, plan in zip(groups, plans.values(), strict=True)
    ]
    flux, ivar, mask = merge([part[:3] for part in parts], match_levels=grid.match_levels)
    mask = np.where((ivar <= 0) & (mask == 0), np.uint32(MaskBit.OUTSIDE), mask)
    root = spectra[""]
    made = on_grid(root, wavelength, (flux, ivar, mask))
    made = with_correlation(made, _of_arms([(part[1], part[3]) for part in parts]))
    power = min(float(group.attrs["resolving_power"]) for group in groups)
    shared = {k: v for k, v in groups[0].attrs.items() if k in ("frame", "flux_unit")}
    gone = [name for name in ("lsf_sigma", "lsf_node") if name in made]
    made = made.drop_vars(gone) if grid.resolving_power or len(groups) > 1 else made
    made.attrs = {k: v for k, v in made.attrs.items() if k != "arms"} | shared
    made = _said_coarse(made)
    return {"": made.assign_attrs(resolving_power=grid.resolving_power or power)}


def _one_regridded(
    group: xr.Dataset, plan: Regridding
) -> tuple[FloatArray, FloatArray, MaskArray, Values]:
    """Return flux, ivar, mask, and what is to be known of the noise, (n, 2)."""
    flux, ivar = group["flux"].to_numpy(), group["ivar"].to_numpy()
    wavelength, mask = group["wavelength"].to_numpy(), group["mask"].to_numpy()
    before = correlation_of(group)
    if plan.operator is None:
        power = float(group.attrs.get("resolving_power") or np.nan)
        made = regrid_correlated((wavelength, flux, ivar, mask), plan.edges, power)
        return *made[:3], before * made[3]
    bits = touched_bits(mask, pixel_edges(wavelength), plan.edges)
    if isinstance(plan.operator, LevelOperators):
        power_of_each = _own_resolution(group, plan)
        flux, ivar, coarse = plan.operator.apply(flux, ivar, power_of_each)
        bits |= np.where(coarse, np.uint32(MaskBit.COARSE), np.uint32(0))
        shared = plan.operator.noise_correlation(ivar, power_of_each)
    else:
        flux, ivar = plan.operator.apply(flux, ivar)
        shared = np.ones((len(ivar), 2))
        if plan.correlation is not None:
            shared = row_means(plan.correlation, ivar)
    # Thirty pixels went into each: one bad one among them is no reason for anything.
    return flux, ivar, np.where(ivar > 0, np.uint32(0), bits), before * shared


def correlation_of(spectra: xr.Dataset) -> npt.NDArray[np.float64]:
    """Return the spectra's `NOISE_CORRELATION`, (n, 2); 1 where they say nothing of it."""
    made = np.ones((spectra.sizes["spectrum"], 2))
    for column, name in zip(made.T, NOISE_CORRELATION, strict=True):
        if name in spectra:
            values = spectra[name].to_numpy()
            column[:] = np.where(values > 0, values, 1)  # a row that was never written has 0
    return made


def with_correlation(spectra: xr.Dataset, values: Values) -> xr.Dataset:
    """Return the spectra with their `NOISE_CORRELATION`, (n, 2)."""
    columns = zip(NOISE_CORRELATION, values.astype(np.float32).T, strict=True)
    return spectra.assign({name: ("spectrum", column) for name, column in columns})


def _of_arms(arms: Sequence[tuple[FloatArray, Values]]) -> Values:
    """Return the mean of the arms' correlations, (n, 2), each by its good pixels."""
    count = np.stack([(ivar > 0).sum(axis=1) for ivar, _ in arms])[:, :, np.newaxis]
    total = (count * np.stack([shared for _, shared in arms])).sum(axis=0)
    some = count.sum(axis=0)
    return np.where(some > 0, total / np.maximum(some, 1), 1.0)


def _diluted(shared: Values, before: Values, ivar: Values) -> Values:
    """Return the correlation of noise that white noise was added to, by its share of variance."""
    good = before > 0
    part = np.where(good, ivar / np.where(good, before, 1), 0).sum(axis=1)
    part = part / np.maximum(good.sum(axis=1), 1)
    diluted: Values = 1 + (shared - 1) * part[:, np.newaxis]
    return diluted


def _own_resolution(group: xr.Dataset, plan: Regridding) -> Wavelength:
    sigma, nodes = group["lsf_sigma"].to_numpy(), group["lsf_node"].to_numpy()
    wavelength = np.sqrt(plan.edges[:-1] * plan.edges[1:])
    return own_resolving_power(sigma, nodes, wavelength, plan.nominal)


def _said_coarse(spectra: xr.Dataset) -> xr.Dataset:
    """Say of spectra that somewhere resolve less than is wanted that they do."""
    coarse = (spectra["mask"].to_numpy() & np.uint32(MaskBit.COARSE) != 0).any(axis=1)
    status = spectra["status"].to_numpy() | np.where(coarse, SpectrumStatus.COARSE.value, 0)
    return spectra.assign(status=("spectrum", status.astype(np.uint32), spectra["status"].attrs))


def simulate_step(
    head: xr.Dataset, table: PreprocessTable, seed: int
) -> Callable[[xr.Dataset], xr.Dataset]:
    """Make "simulate": the bands, throughput, orders and noise of a slitless space telescope."""
    wanted = table.simulate
    if wanted is None:
        raise ValueError("preprocess step 'simulate' wants a [preprocess.simulate] table")
    limits = [BANDS[name] for name in wanted.bands]
    edges = resolution_edges(
        min(low for low, _ in limits),
        max(high for _, high in limits),
        wanted.resolving_power,
        pixels_per_fwhm=wanted.pixels_per_fwhm,
    )
    wavelength = np.sqrt(edges[:-1] * edges[1:])
    instrument = Instrument(
        {name: wanted.throughput[name] for name in wanted.bands},
        exposure_s=wanted.exposure_s,
        background=wanted.background,
        second_order=wanted.second_order,
    )
    orders = order_overlap(wavelength, instrument) if wanted.second_order else None
    return partial(
        _simulated,
        plan=degrading(head, table, edges, wanted.resolving_power),
        orders=orders,
        variance=_variance(table, wavelength, instrument),
        seed=seed,
        resolving_power=wanted.resolving_power,
    )


Variance = Callable[[Values], Values]


def _variance(
    table: PreprocessTable, wavelength: Wavelength, instrument: Instrument
) -> Variance | None:
    wanted = table.simulate
    if wanted is not None and wanted.snr is not None:
        return partial(_at_snr, wavelength=wavelength, instrument=instrument, snr=wanted.snr)
    if wanted is not None and wanted.magnitude is not None:
        return partial(
            _at_magnitude, wavelength=wavelength, instrument=instrument, value=wanted.magnitude
        )
    return None


def _at_snr(flux: Values, wavelength: Wavelength, instrument: Instrument, snr: float) -> Values:
    return noise_at_snr(flux, wavelength, instrument, snr)


def _at_magnitude(
    flux: Values, wavelength: Wavelength, instrument: Instrument, value: float
) -> Values:
    return noise_at_magnitude(flux, wavelength, instrument, value)


def _simulated(
    spectra: xr.Dataset,
    plan: Regridding,
    orders: Values | None,
    variance: Variance | None,
    seed: int,
    resolving_power: float,
) -> xr.Dataset:
    flux32, ivar32, mask, shared = _one_regridded(spectra, plan)
    flux: Values = flux32.astype(np.float64)
    ivar: Values = ivar32.astype(np.float64)
    if orders is not None:
        known = ivar > 0
        noise = np.where(known, 1 / np.where(known, ivar, 1), 0) @ (orders**2).T
        flux = np.where(known, flux @ orders.T, 0)
        ivar = np.where(known, 1 / np.where(known, noise, 1), 0)
    if variance is not None:
        rng = np.random.default_rng([seed, int(spectra.attrs.get("block", 0)), NOISE])
        before = ivar
        flux, ivar = observe(flux, ivar, variance(flux), rng)
        shared = _diluted(shared, before, ivar)
    mask = np.where((ivar <= 0) & (mask == 0), np.uint32(MaskBit.OUTSIDE), mask)
    wavelength = np.sqrt(plan.edges[:-1] * plan.edges[1:])
    made = on_grid(spectra, wavelength, (flux.astype(np.float32), ivar.astype(np.float32), mask))
    gone = [name for name in ("lsf_sigma", "lsf_node") if name in made]
    snr = median_snr(flux, ivar)
    made = made.drop_vars(gone).assign(snr=("spectrum", snr, spectra["snr"].attrs))
    made = with_correlation(_said_coarse(made), shared)
    return made.assign_attrs(resolving_power=resolving_power, instrument="slitless")


def median_snr(flux: npt.NDArray[np.floating], ivar: npt.NDArray[np.floating]) -> FloatArray:
    """Return the median of flux·√ivar over pixels with information, 0 where there are none."""
    result = np.zeros(len(flux), np.float32)
    for row in np.flatnonzero((ivar > 0).any(axis=1)):
        good = ivar[row] > 0
        result[row] = np.median(flux[row, good] * np.sqrt(ivar[row, good]))
    return result
