"""Stars of a made-up survey -> files in the survey's own format: models, nights, who writes what.

`stages.mock_layouts` holds the surveys' formats. Wavelengths vacuum Å, velocities km/s, positions
ICRS degrees.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.kernels.observation_instrument import Instrument
from scalespec.kernels.observation_light import barycentric_velocity
from scalespec.kernels.observation_lsf import FWHM, LogGrid, log_grid_of
from scalespec.kernels.observation_noise import Conditions, Sources
from scalespec.kernels.observation_surveys import INSTRUMENTS
from scalespec.models.base import Emulator
from scalespec.models.synthesis import LineSynthesis
from scalespec.schema import C_KMS
from scalespec.stages.mock_exposures import apstar_files, mrs_files
from scalespec.stages.mock_layouts import (
    Columns,
    MadeFiles,
    Night,
    csst_table,
    desi_coadds,
    lrs_files,
    xp_table,
)
from scalespec.stages.mock_spectra import LABELS, load_lines, star_flux, synthesis_model

FloatArray = npt.NDArray[np.float64]

LAYOUTS: dict[str, Callable[[Night], MadeFiles]] = {
    "lamost_lrs": lrs_files,
    "lamost_mrs": mrs_files,
    "apogee": apstar_files,
    "desi": desi_coadds,
    "gaia_xp": xp_table,
    "csst": csst_table,
}
MOCK_SURVEYS = tuple(LAYOUTS)
"""Surveys whose files can be made."""
MODEL_POWER = {
    "lamost_lrs": 1800.0,
    "lamost_mrs": 9000.0,
    "apogee": 28000.0,
    "desi": 6000.0,
    "gaia_xp": 500.0,
    "csst": 600.0,
}
"""R of the models that spectra are made from: above the instrument's, which adds the rest."""
FASTEST = 600.0
"""Velocity [km/s] that a model's margins allow for."""
_PER_SIGMA = 2  # model pixels per sigma of its lines
_KERNEL = 8  # model pixels that the interpolation wants beyond, and 4.5 sigma of what is added
_FILES, _PLATE = 6, 7  # last words of seeds; `stages.mock` and its kin have 1 to 5
PLATE_SPECTRA, SPECTROGRAPH_FIBRES = 500, 250
"""Spectra observed together, and those of one spectrograph."""


def survey_grid(survey: str) -> tuple[LogGrid, float]:
    """Return the grid and the R of the model that a survey's spectra are best made from.

    Raises
    ------
    ValueError
        If there is no such survey.

    Examples
    --------
    >>> grid, resolving_power = survey_grid("desi")
    >>> (grid.wavelength[[0, -1]] / 100).round().tolist(), resolving_power
    ([36.0, 99.0], 6000.0)
    """
    _check(survey)
    power, arms = MODEL_POWER[survey], _instrument(survey).arms
    grids = [arm.wavelength for arm in arms]
    first, last = min(w[0] for w in grids), max(w[-1] for w in grids)
    lowest = min(power_here for arm in arms for _, power_here in arm.resolving)
    step = 1 / (FWHM * np.log(10) * power * _PER_SIGMA)
    added = _PER_SIGMA * np.sqrt(max((1.1 * power / lowest) ** 2 - 1, 0))
    margin = (_KERNEL + 5 * added) * step + FASTEST / C_KMS / np.log(10)
    start = float(np.log10(first) - margin)
    return LogGrid(start, step, int(np.ceil((np.log10(last) + margin - start) / step)) + 1), power


def survey_model(survey: str, labels: Sequence[str] = LABELS) -> LineSynthesis:
    """Return our line synthesis on the grid that a survey wants.

    Raises
    ------
    ValueError
        If there is no such survey.
    """
    _check(survey)
    if survey == "lamost_lrs":  # the library that emulators learn from is on this grid, too
        return synthesis_model(labels)
    grid, power = survey_grid(survey)
    return LineSynthesis(load_lines(), grid.wavelength, labels=labels, resolving_power=power).eval()


def made_files(
    survey: str,
    stars: Mapping[str, npt.NDArray[Any]],
    model: Emulator,
    *,
    seed: int,
    block: int,
    ivar_factor: float | tuple[float, float] = 1.0,
    noise_sigma: float | None = None,
    layout: str | None = None,
    even_fibres: bool = False,
) -> MadeFiles:
    """Observe a block of stars, and write the survey's files.

    Parameters
    ----------
    survey : str
        One of `MOCK_SURVEYS`.
    stars : mapping of str to (n,) array
        One row per spectrum: every label of the model; teff [K], logg, fe_h; rv [km/s] at the time;
        g, bp_rp, ebv [mag]; ra, dec [deg] at the time; mjd [d]; plate (int), spectrum (int64: its
        number in the survey), star, source_id (int64); what `star_flux` wants of binaries. Also
        no_ivar (bool): rows whose ivar is to be 0.
    model : Emulator
        Normalized flux, on wavelengths even in their logarithm; beyond them spectra have no data.
    seed, block : int
        With `stars` and `model` they say what comes out.
    ivar_factor : float or (blue, red)
        Stated over true ivar, geometrically in between from end to end of an arm.
    noise_sigma : float, optional [pixel]
        Of the Gaussian that makes neighbours' noise alike; else the instrument's.
    layout : str, optional
        LAMOST's low resolution: "pilot", "image" or "coadd"; medium: "loglam" or "wavelength". Else
        half of the files each (of image and coadd: pilot files do not say their OBSID).
    even_fibres : bool
        All fibres resolve as the middle of the slit does: what a fit of one resolution assumes.

    Raises
    ------
    ValueError
        If there is no such survey or layout, or the model's grid cannot serve it.
    """
    _check(survey)
    grid = _usable_grid(survey, model)
    rng = np.random.default_rng([seed, block, _FILES, MOCK_SURVEYS.index(survey)])
    facts = _facts(stars)
    flux = np.ascontiguousarray(star_flux(model, stars), np.float32)
    # a model that does not say its R is taken for one of the survey's own
    power = model.spec.resolving_power or 1e-3
    sources = Sources(flux, grid, power, *(facts[x] for x in ("teff", "g", "ebv", "rv")))
    factor = ivar_factor if isinstance(ivar_factor, tuple) else (ivar_factor, ivar_factor)
    place = 2 * (facts["fiberid"] - 1) / (SPECTROGRAPH_FIBRES - 1) - 1
    conditions = Conditions(
        slit=np.zeros(len(place)) if even_fibres else place,
        throughput=_weather(survey, facts, seed, rng),
        sky_velocity=facts["helio_rv"],
        ivar_factor=factor,
        noise_sigma=noise_sigma,
    )
    night = Night(facts, sources, conditions, rng, block, layout)
    made = LAYOUTS[survey](night)
    shared = {name: facts[name] for name in ("ra", "dec", "mjd", "helio_rv", "fiberid")}
    return MadeFiles(made.files, shared | {"throughput": conditions.throughput} | made.spectra)


def _instrument(survey: str) -> Instrument:
    """Return a survey's instrument, of the newest release where there are several."""
    return INSTRUMENTS.get(survey) or INSTRUMENTS[f"{survey}/coadd"]


def _check(survey: str) -> None:
    if survey not in MOCK_SURVEYS:
        raise ValueError(f"no made-up survey '{survey}'; there are {sorted(MOCK_SURVEYS)}")


def _usable_grid(survey: str, model: Emulator) -> LogGrid:
    """Return a model's grid, if spectra of the survey can be made from it.

    Raises
    ------
    ValueError
        If it is uneven, coarser than a sigma of the survey's lines, or nowhere near its pixels.
    """
    grid = log_grid_of(model.spec.wavelength)
    wanted, _ = survey_grid(survey)
    coarsest = _PER_SIGMA * wanted.step
    if grid.step > 1.001 * coarsest:
        raise ValueError(
            f"{survey} wants a model in steps of {coarsest:.6g} dex of wavelength or finer, got "
            f"{grid.step:.6g} from {model.spec.wavelength[0]:.2f} Å on"
        )
    ends = grid.start, grid.start + grid.step * grid.n_pixel
    if ends[1] < wanted.start or ends[0] > wanted.start + wanted.step * wanted.n_pixel:
        raise ValueError(
            f"{survey} has no pixel at {model.spec.wavelength[0]:.2f} to "
            f"{model.spec.wavelength[-1]:.2f} Å, where the model is"
        )
    return grid


def _facts(stars: Mapping[str, npt.NDArray[Any]]) -> Columns:
    """Return what is known of each spectrum, a column per fact."""
    n = len(stars["ra"])
    floats = ("teff", "logg", "fe_h", "rv", "g", "bp_rp", "ebv", "ra", "dec", "mjd")
    facts: Columns = {
        name: np.asarray(stars[name], np.float64) if name in stars else np.zeros(n)
        for name in floats
    }
    number = np.asarray(stars["spectrum"], np.int64)
    plate = np.asarray(stars["plate"], np.int64)
    spid = 1 + 2 * (plate % 8) + number % PLATE_SPECTRA // SPECTROGRAPH_FIBRES
    fiber = 1 + number % SPECTROGRAPH_FIBRES
    return facts | {
        "star": np.asarray(stars["star"], np.int64),
        "source_id": np.asarray(stars["source_id"], np.int64),
        "plate": plate,
        "spid": spid,
        "fiberid": fiber,
        "obsid": (1001 + plate) * 100000 + spid * 1000 + fiber,
        "planid": np.array([f"MOCK{p:06d}V{1 + p % 2:02d}" for p in plate.tolist()]),
        "helio_rv": barycentric_velocity(facts["ra"], facts["dec"], facts["mjd"]),
        "no_ivar": np.asarray(stars.get("no_ivar", np.zeros(n)), np.bool_),
    }


def _weather(survey: str, facts: Columns, seed: int, rng: np.random.Generator) -> FloatArray:
    """Return each spectrum's throughput: of its plate's night, and of its own fibre.

    LAMOST's plates of bright stars are exposed for a third of the time at low resolution.
    """
    plates, inverse = np.unique(facts["plate"], return_inverse=True)
    nights = [np.random.default_rng([seed, p, _PLATE]).normal() for p in plates.tolist()]
    share = np.sqrt(0.5) * _instrument(survey).weather
    scatter = share * (np.array(nights)[inverse] + rng.normal(size=len(inverse)))
    short = np.where((survey == "lamost_lrs") & (facts["g"] < 14.0), 0.35, 1.0)
    return np.asarray(short * 10**scatter)
