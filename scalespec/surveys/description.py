"""What a description says of the files of survey "table", checked.

The description is an object with

``wavelength``
    A grid common to all, ``{"start": 3540.5, "step": 0.9, "n": 4300}``, linear in Å, or with
    ``"log10": true`` in log10 Å; or one that comes with each spectrum or file,
    ``{"column": "wave", "n": 1177}``, of `n` pixels at most.
``medium``
    "air" or "vacuum"; air is converted.
``frame``
    "rest", or whose velocity is in the wavelengths: "observed, barycentric".
``flux_unit``
    Text.
``resolution``
    ``{"resolving_power": 2000}`` (λ/FWHM), or ``{"fwhm_angstrom": 2.5}``.
``flux``
    Name of the fluxes, and of what says how good they are, one of ``ivar``, ``error`` or a stated
    policy where the files have neither, ``assumed_snr``: every pixel then has the same error, the
    spectrum's median flux over this number.
``columns``, optional
    Ours -> theirs, of obsid, source_id, ra, dec, mjd, rv, rv_err, designation, class_, subclass.
``name``, ``pattern``, ``transposed``, optional
    What the survey is called; the glob of its files; whether spectra are columns of an image.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.kernels.wavelength import air_to_vacuum, log_grid

_WANTED = ("wavelength", "medium", "frame", "flux_unit", "resolution", "flux")
_OPTIONAL = ("ivar", "error", "assumed_snr", "columns", "name", "pattern", "transposed")
_COLUMNS = (
    *("obsid", "source_id", "ra", "dec", "mjd", "rv", "rv_err"),
    *("designation", "class_", "subclass"),
)
_NOISE = ("ivar", "error", "assumed_snr")


@dataclass(frozen=True)
class Description:
    """A description, checked.

    Attributes
    ----------
    grid : (n,) float64 [Å, vacuum] or None
        The common grid; None where wavelengths come with the spectra.
    wavelength : str
        Name of the wavelengths, "" with a common grid.
    n_pixel : int
        Pixels of a row.
    air : bool
        Whether the files' wavelengths are in air.
    flux, noise, name : str
        Names of the fluxes and of what says how good they are, and of the survey.
    kind : {"ivar", "error", "assumed_snr"}
        What the noise is.
    assumed_snr : float
        Of policy "assumed_snr".
    columns : mapping
        Ours -> theirs.
    transposed : bool
        Whether spectra are columns of images.
    """

    grid: npt.NDArray[np.float64] | None
    wavelength: str
    n_pixel: int
    air: bool
    flux: str
    noise: str
    kind: str
    assumed_snr: float
    columns: Mapping[str, str]
    transposed: bool
    name: str


def check_description(description: Mapping[str, Any]) -> Description:
    """Return a description that is right.

    Raises
    ------
    ValueError
        If something is missing, unknown or has no meaning; it names all of it.
    """
    wrong = [f"no '{key}'" for key in _WANTED if key not in description]
    wrong += [f"unknown '{key}'" for key in description if key not in (*_WANTED, *_OPTIONAL)]
    noise = [key for key in _NOISE if key in description]
    if len(noise) != 1:
        wrong.append(f"one of {', '.join(_NOISE)} must be there, got {noise or 'none'}")
    if description.get("medium") not in ("air", "vacuum"):
        wrong.append(f"medium = {description.get('medium')!r}, wanted 'air' or 'vacuum'")
    columns = description.get("columns", {})
    wrong += [f"columns: unknown '{key}'" for key in columns if key not in _COLUMNS]
    resolution = description.get("resolution")
    if not isinstance(resolution, dict) or not _positive(
        resolution.get("fwhm_angstrom", resolution.get("resolving_power"))
    ):
        wrong.append(f"resolution = {resolution!r}, wanted resolving_power or fwhm_angstrom")
    if wrong:
        raise ValueError("the description is wrong: " + "; ".join(wrong))
    air = description["medium"] == "air"
    grid, name, n = _wavelengths(description["wavelength"], air=air)
    kind = noise[0]
    assumed = kind == "assumed_snr"
    if assumed and not _positive(description[kind]):
        raise ValueError(f"the description is wrong: assumed_snr = {description[kind]!r}")
    return Description(
        grid,
        name,
        n,
        air,
        flux=str(description["flux"]),
        noise="" if assumed else str(description[kind]),
        kind=kind,
        assumed_snr=float(description[kind]) if assumed else math.nan,
        columns=columns,
        transposed=bool(description.get("transposed", False)),
        name=str(description.get("name", "table")),
    )


def _positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < math.inf


def _wavelengths(said: Any, *, air: bool) -> tuple[npt.NDArray[np.float64] | None, str, int]:
    """Return the common grid, the name of the wavelengths, and the pixels of a row."""
    known = isinstance(said, dict) and type(said.get("n")) is int and 2 <= said["n"] <= 10**6
    if not known or not ("column" in said or {"start", "step"} <= said.keys()):
        raise ValueError(
            f"the description is wrong: wavelength = {said!r}, wanted start, step and n, or column "
            "and n"
        )
    if "column" in said:
        return None, str(said["column"]), said["n"]
    start, step, n = float(said["start"]), float(said["step"]), said["n"]
    if not step > 0:
        raise ValueError(f"the description is wrong: wavelength step {step}")
    grid = log_grid(start, step, n) if said.get("log10") else start + step * np.arange(n)
    return np.asarray(air_to_vacuum(grid) if air else grid, np.float64), "", n


def log_attrs(description: Mapping[str, Any]) -> dict[str, float]:
    """Return the attributes of a grid that is even in log10; air's is not in vacuum."""
    said = description["wavelength"]
    if "column" in said or not said.get("log10") or description["medium"] == "air":
        return {}
    return {
        "log10_wavelength_start": float(said["start"]),
        "log10_wavelength_step": float(said["step"]),
    }


def policy(description: Description) -> str:
    """Say where ivar comes from."""
    if description.kind == "assumed_snr":
        return f"none in the files: every pixel has S/N {description.assumed_snr:g} of the median"
    return f"{description.kind} of the files"
