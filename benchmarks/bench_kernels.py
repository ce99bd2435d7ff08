"""Spectral operators on one core, beside a memory copy and beside the public recipes.

Run: ``OMP_NUM_THREADS=1 python benchmarks/bench_kernels.py [--quick] [--json F] [--peers DIR]``.
CPU time of this process, the best of several passes, ours and the recipe in turn on the same
arrays. ``--peers`` is a site-packages folder that holds spectres, laspec, specutils, TheCannon and
annieslasso (module thecannon). Where one is absent its row says so; for TheCannon its published
algorithm then stands, as it is described (one matrix over all pixels; a fit a spectrum; a loop).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import contextlib
import importlib
import io
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from scalespec.kernels.continuum import gaussian_smoothing, normalize, smoothed_model
from scalespec.kernels.continuum_fit import chebyshev_continuum
from scalespec.kernels.continuum_robust import running_quantile
from scalespec.kernels.continuum_spline import spline_continuum
from scalespec.kernels.fold import fold
from scalespec.kernels.lsf import degrade_operator
from scalespec.kernels.lsf_levels import LevelOperators
from scalespec.kernels.mask import spikes
from scalespec.kernels.resample import rebin_operator, shift_pixels
from scalespec.kernels.rv import cross_correlate
from scalespec.kernels.wavelength import log_grid, pixel_edges

WAVELENGTH = log_grid(3.5682, 1e-4, 3909)
EDGES = pixel_edges(WAVELENGTH)
COARSE = np.exp(np.linspace(np.log(3740.0), np.log(9050.0), 354))  # 353 pixels, 2 per FWHM
WIDTH = 50.0
Recipe = tuple[str, Callable[[], Any] | None, int]
"""Name, a call (None where it is absent), and the spectra one call does."""


def make_spectra(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy sloped spectra with lines, 5 % bad pixels and a gap where the arms join."""
    rng = np.random.default_rng(0)
    line = 1 - 0.5 * rng.random(WAVELENGTH.size) ** 6
    flux = 1000 * (1 + 0.4 * np.sin(WAVELENGTH / 900)) * line
    flux = flux * (1 + rng.normal(0, 0.02, (n, WAVELENGTH.size)))
    ivar = np.where(rng.random(flux.shape) > 0.05, 1 / 400.0, 0)
    ivar[:, (WAVELENGTH > 5800) & (WAVELENGTH < 6000)] = 0
    return flux.astype(np.float32), ivar.astype(np.float32)


def cost(function: Callable[[], Any], n: int, seconds: float) -> float:
    """Return µs of CPU time per spectrum: the best call of those that fit, of ten at least.

    Other processes' memory traffic shows in CPU time, too; a call of over a second counts once.
    """
    start = time.process_time()
    function()  # compilation, caches
    best, end = time.process_time() - start, time.perf_counter() + seconds
    calls = 0 if best < 1 else 10
    while time.perf_counter() < end or calls < 10:
        start = time.process_time()
        function()
        best, calls = min(best, time.process_time() - start), calls + 1
    return 1e6 * best / n


def in_turn(ours: Callable[[], Any], n: int, recipe: Recipe, seconds: float) -> list[float]:
    """Return the costs of ours and of the recipe, measured in turns."""
    mine, theirs = [], []
    for _ in range(3):
        mine.append(cost(ours, n, seconds / 6))
        if recipe[1] is not None:
            theirs.append(cost(recipe[1], recipe[2], seconds / 6))
    return [min(mine), min(theirs) if theirs else float("nan")]


def quietly(function: Callable[[], Any]) -> Callable[[], Any]:
    """Return a call that prints nothing: TheCannon says at each what it does."""

    def run() -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return function()

    return run


def cannon_gaussian_recipe(flux: np.ndarray, ivar: np.ndarray) -> Recipe:
    """Return Ho et al. 2017's normalization: the whole matrix made at each call, ivar weights."""
    cannon = peer("TheCannon.normalization")

    def described() -> np.ndarray:
        kernel = np.exp(-0.5 * (np.subtract.outer(WAVELENGTH, WAVELENGTH) / WIDTH) ** 2)
        return np.dot(flux * ivar, kernel.T) / np.dot(ivar, kernel.T)

    def run() -> Any:
        matrix = cannon.gaussian_weight_matrix(WAVELENGTH, WIDTH)
        level = cannon._find_cont_gaussian_smooth(WAVELENGTH, flux, ivar, matrix)  # noqa: SLF001 - it has no other
        return cannon._cont_norm(flux, ivar, level)  # noqa: SLF001 - it has no other

    if cannon is None:
        return f"TheCannon's smoothing as described, {len(flux):,} a call", described, len(flux)
    return f"TheCannon, {len(flux):,} spectra a call", quietly(run), len(flux)


def cannon_chebyshev_recipe(flux: np.ndarray, ivar: np.ndarray, degree: int) -> Recipe:
    """Return TheCannon's fit to all pixels, or the same by numpy."""
    cannon, every = peer("TheCannon.normalization"), np.ones(WAVELENGTH.size, bool)
    if cannon is None:
        run = one_by_one_chebyshev(flux, ivar, degree)
        return "numpy chebfit and chebval, a spectrum at a time", run, len(flux)
    run = lambda: cannon._find_cont_fitfunc(flux, ivar, every, degree, "chebyshev")  # noqa: E731, SLF001
    return "TheCannon, a spectrum and a pixel at a time", quietly(run), len(flux)


def cannon_quantile_recipe(flux: np.ndarray, ivar: np.ndarray) -> Recipe:
    """Return TheCannon's running quantile, or the same as described."""
    cannon = peer("TheCannon.normalization")
    if cannon is None:
        return "TheCannon's loop as described", running_quantile_loop(flux, ivar), len(flux)
    run = lambda: cannon._find_cont_running_quantile(  # noqa: E731, SLF001
        WAVELENGTH, flux, ivar, 0.9, WIDTH, verbose=False
    )
    return "TheCannon, a loop over pixels", quietly(run), len(flux)


def sines_recipe(flux: np.ndarray, ivar: np.ndarray) -> Recipe:
    """Return Casey et al. 2016's sines and cosines on continuum pixels."""
    function = peer("thecannon.continuum", "sines_and_cosines")
    if function is None:
        return "annieslasso (absent)", None, 1
    pixels = np.arange(0, WAVELENGTH.size, 10)  # one in ten is continuum
    run = lambda: function(WAVELENGTH, flux.astype(float), ivar.astype(float), pixels)  # noqa: E731
    return "annieslasso sines_and_cosines, order 3", run, len(flux)


def one_by_one_chebyshev(flux: np.ndarray, ivar: np.ndarray, degree: int) -> Callable[[], Any]:
    """Return a weighted fit per spectrum by numpy, evaluated at all pixels together."""
    x = np.linspace(-1, 1, WAVELENGTH.size)

    def run() -> list[np.ndarray]:
        chebyshev = np.polynomial.chebyshev
        return [
            chebyshev.chebval(x, chebyshev.chebfit(x, f, degree, w=np.sqrt(v)))
            for f, v in zip(flux, ivar, strict=True)
        ]

    return run


def running_quantile_loop(flux: np.ndarray, ivar: np.ndarray) -> Callable[[], Any]:
    """Return TheCannon's running quantile: a Python loop over pixels, sorted by flux at each."""

    def run() -> np.ndarray:
        result = np.zeros(flux.shape)
        for row in range(len(flux)):
            for i, center in enumerate(WAVELENGTH):
                near = (center - WIDTH <= WAVELENGTH) & (center + WIDTH >= WAVELENGTH)
                values, weights = flux[row, near], ivar[row, near]
                order = np.argsort(values)
                total = np.cumsum(weights[order])
                place = np.searchsorted(total, 0.9 * total[-1])
                result[row, i] = values[order][min(place, len(order) - 1)]
        return result

    return run


def old_names() -> None:
    """Give back the names that laspec of 2023 asks of NumPy and SciPy and that are gone."""
    for name, value in (("int", int), ("float", float)):
        setattr(np, name, value)
    module = importlib.import_module("numpy.lib._polynomial_impl")
    sys.modules["numpy.lib.polynomial"] = np.lib.polynomial = module
    scipy.prod = np.prod


def peer(name: str, attribute: str = "") -> Any:
    """Return a public package's function, or None if the package is not there."""
    try:
        module = importlib.import_module(name)
    except Exception:  # noqa: BLE001 - packages of 2023 fail in their own ways on numpy of today
        return None
    return getattr(module, attribute, None) if attribute else module


def spectres_recipe(flux: np.ndarray, ivar: np.ndarray) -> Recipe:
    """Return SpectRes on one spectrum with errors: no line spread, rebinning alone."""
    function = peer("spectres", "spectres")
    if function is None:
        return "spectres (absent)", None, 1
    center = np.sqrt(COARSE[:-1] * COARSE[1:])
    error = np.where(ivar[0] > 0, 20.0, 1e3)
    run = lambda: function(  # noqa: E731
        center, WAVELENGTH, flux[0].astype(float), error, fill=0, verbose=False
    )
    return "spectres, one spectrum with errors, no LSF", run, 1


def spectres_block_recipe(flux: np.ndarray) -> Recipe:
    """Return SpectRes on a block, without errors."""
    function = peer("spectres", "spectres")
    if function is None:
        return "spectres (absent)", None, 1
    center = np.sqrt(COARSE[:-1] * COARSE[1:])
    block = flux.astype(float)
    run = lambda: function(center, WAVELENGTH, block, fill=0, verbose=False)  # noqa: E731
    return "spectres, a block, no errors, no LSF", run, len(block)


def laspec_spline_recipe(flux: np.ndarray) -> Recipe:
    """Return laspec's normalization by a spline."""
    function = peer("laspec.normalization", "normalize_spectrum_spline")
    if function is None:
        return "laspec (absent)", None, 1
    run = lambda: function(WAVELENGTH, flux[0].astype(float), niter=3)  # noqa: E731
    return "laspec normalize_spectrum_spline, niter 3", run, 1


def laspec_convolution_recipe(flux: np.ndarray) -> Recipe:
    """Return laspec's convolution to a lower resolution."""
    function = peer("laspec.qconv", "conv_spec_Gaussian")
    if function is None:
        return "laspec (absent)", None, 1
    run = lambda: function(WAVELENGTH, flux[0].astype(float), R_hi=1800.0, R_lo=200.0)  # noqa: E731
    return "laspec qconv.conv_spec_Gaussian, no errors", run, 1


def specutils_recipe(flux: np.ndarray, *, linear: bool) -> Recipe:
    """Return specutils' continuum fit, a Chebyshev polynomial of degree 3."""
    fitting, units = peer("specutils.fitting", "fit_generic_continuum"), peer("astropy.units")
    spectrum = peer("specutils", "Spectrum") or peer("specutils", "Spectrum1D")
    if fitting is None or spectrum is None:
        return "specutils (absent)", None, 1
    # About 1: the default fitter, not a linear one, takes half as many steps again for thousands.
    level = flux[0].astype(float) / 1000
    one = spectrum(flux=level * units.Jy, spectral_axis=WAVELENGTH * units.AA)
    if linear:
        fitter = peer("astropy.modeling.fitting").LinearLSQFitter()
        return "specutils, told to fit linearly", lambda: fitting(one, fitter=fitter), 1
    return "specutils fit_generic_continuum", lambda: fitting(one), 1


def dense_error(flux: np.ndarray, ivar: np.ndarray, operator: Any) -> float:
    """Return the largest relative error of the continuum against the dense operator."""
    good = (ivar > 0).astype(float)
    kernel = np.exp(-0.5 * (np.subtract.outer(WAVELENGTH, WAVELENGTH) / WIDTH) ** 2)
    expected = (good * flux) @ kernel / (good @ kernel)
    return float(np.max(np.abs(normalize(flux, ivar, operator)[2] / expected - 1)))


def operations(n: int) -> list[tuple[str, Callable[[], Any], int, Recipe, str]]:
    """Return what is measured: name, call, spectra, recipe, note."""
    flux, ivar = make_spectra(n)
    few, some = (flux[:8], ivar[:8]), (flux[:200], ivar[:200])
    smoothing = gaussian_smoothing(WAVELENGTH, WIDTH)
    degrade = degrade_operator(EDGES, COARSE, 1800.0, 200.0)
    rebin = rebin_operator(EDGES, COARSE)
    levels = LevelOperators(EDGES, COARSE, 200.0)
    powers = np.random.default_rng(2).uniform(1500, 2100, n)[:, np.newaxis] * np.ones(353)
    absent: Recipe = ("", None, 1)
    error = dense_error(few[0], few[1], smoothing)
    jacobian = np.repeat(flux[:20, np.newaxis] / 1000, 10, axis=1)
    shifts = np.random.default_rng(1).integers(-8, 9, n)
    norm, weight, _, _ = normalize(flux, ivar, smoothing)
    templates = norm[:24]
    folded = flux[:, :3904]
    gaussian = cannon_gaussian_recipe(flux, ivar)
    return [
        (
            "continuum, Gaussian L = 50 Å: flux, ivar, continuum, bad",
            lambda: normalize(flux, ivar, smoothing),
            n,
            gaussian,
            f"error against the dense operator {error:.1e}",
        ),
        (
            "continuum, model and 10 derivatives",
            lambda: smoothed_model(flux[:20], jacobian, ivar[:20] * 400, smoothing),
            20,
            absent,
            "per star, as a fit asks for at every step",
        ),
        (
            "continuum, Chebyshev degree 6",
            lambda: chebyshev_continuum(flux, ivar, degree=6, chips=[(0, 3909)]),
            n,
            cannon_chebyshev_recipe(*few, 6),
            "continuum and bad",
        ),
        (
            "continuum, Chebyshev degree 6, against sines and cosines",
            lambda: chebyshev_continuum(flux, ivar, degree=6, chips=[(0, 3909)]),
            n,
            sines_recipe(*few),
            "another method",
        ),
        (
            "continuum, running quantile 0.9, 50 Å",
            lambda: running_quantile(*some, WAVELENGTH, half_width_angstrom=WIDTH),
            200,
            cannon_quantile_recipe(flux[:1], ivar[:1]),
            "",
        ),
        (
            "continuum, clipped spline, 110 coefficients",
            lambda: spline_continuum(*some, n_coefficient=110, rounds=3),
            200,
            laspec_spline_recipe(flux),
            "3 clips",
        ),
        (
            "continuum, Chebyshev degree 3, against specutils",
            lambda: chebyshev_continuum(flux, ivar, degree=3, chips=[(0, 3909)]),
            n,
            specutils_recipe(flux, linear=False),
            "its default fitter",
        ),
        (
            "continuum, Chebyshev degree 3, against its linear fit",
            lambda: chebyshev_continuum(flux, ivar, degree=3, chips=[(0, 3909)]),
            n,
            specutils_recipe(flux, linear=True),
            "",
        ),
        (
            "R 1800 -> 200, flux alone",
            lambda: degrade.smooth(flux),
            n,
            laspec_convolution_recipe(flux),
            "3,909 -> 353 pixels, LSF and bins in one",
        ),
        (
            "R 1800 -> 200, flux, variance and mask",
            lambda: degrade.apply(flux, ivar),
            n,
            spectres_recipe(flux, ivar),
            "",
        ),
        (
            "R of each spectrum -> 200, flux, variance and mask",
            lambda: levels.apply(flux, ivar, powers),
            n,
            absent,
            "as the row above, from line spreads between R 1500 and 2100",
        ),
        (
            "rebinning, flux, variance and mask",
            lambda: rebin.apply(*some),
            200,
            spectres_block_recipe(flux[:200]),
            "exact overlap, no LSF",
        ),
        (
            "rest frame by whole pixels, one array",
            lambda: shift_pixels(flux, shifts, 0.0),
            n,
            absent,
            "17 velocities",
        ),
        (
            "spikes",
            lambda: spikes(norm[:200], weight[:200], threshold_sigma=6.0),
            200,
            absent,
            "",
        ),
        (
            "velocity, 24 templates, ±1,000 km/s",
            lambda: cross_correlate(norm[:200], weight[:200], templates, max_lag=15),
            200,
            absent,
            "with error and quality",
        ),
        ("S-fold to 61 x 64", lambda: fold(folded), n, absent, ""),
    ]


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--peers", type=Path, help="site-packages with the public packages")
    options = parser.parse_args()
    if options.peers:
        warnings.simplefilter("ignore")  # of a peer at each call: not what is measured
        sys.path.append(str(options.peers))  # last: ours are the project's own where both have one
        peer("specutils.fitting")  # before names come back that it takes for signs of an old NumPy
        logging.getLogger("astropy").setLevel(logging.ERROR)  # it makes its logger on import
        old_names()
    n, seconds = (500, 1.5) if options.quick else (2000, 6.0)
    flux, ivar = make_spectra(n)
    out = np.empty_like(flux), np.empty_like(ivar)
    floor = cost(lambda: (np.copyto(out[0], flux), np.copyto(out[1], ivar)), n, 1.0)
    rows = []
    for name, ours, count, recipe, note in operations(n):
        value, theirs = in_turn(ours, count, recipe, seconds)
        known = np.isfinite(theirs)
        rows.append(
            {
                "name": name,
                "value": value,
                "unit": "us/spectrum",
                "limit": floor,
                "recipe": theirs if known else None,
                "ratio_to_recipe": theirs / value if known else None,
                "fraction_of_limit": floor / value,
                "note": "; ".join(part for part in (recipe[0], note) if part),
            }
        )
        row = rows[-1]
        beside = f"{theirs:9.1f} {theirs / value:7.1f}" if known else f"{'-':>9s} {'-':>7s}"
        print(f"{name:58s} {value:8.2f} {floor:5.2f} {beside}  {row['note']}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
