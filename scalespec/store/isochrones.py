"""Files of isochrones -> isochrones on common points: Dartmouth HDF5, MIST and PARSEC tables.

Ages in Gyr, masses in solar masses, temperatures in K, abundances in dex, magnitudes as they are.

Dotter et al. 2008, ApJS 178, 89 (Dartmouth); Choi et al. 2016, ApJ 823, 102 (MIST); Bressan et al.
2012, MNRAS 427, 127 (PARSEC).
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import numpy.typing as npt

from scalespec.errors import StoreError
from scalespec.kernels.isochrone import IsochroneCube
from scalespec.kernels.photometry import bolometric_k
from scalespec.store import paths, tables

FloatArray = npt.NDArray[np.float64]

HDF5 = b"\x89HDF\r\n\x1a\n"
NAMES = {
    "log_age": ("logage", "log10_isochrone_age_yr", "log_age", "log10age"),
    "fe_h": ("mh", "[fe/h]", "feh", "[fe/h]_init", "fe_h"),
    "mass": ("mini", "initial_mass", "m_ini", "mass_ini"),
    "log_teff": ("logte", "log_teff", "logteff", "log_te"),
    "logg": ("logg", "log_g"),
    "m_bol": ("mbolmag", "mbol", "m_bol"),
    "m_k": ("ksmag", "2mass_ks", "ks", "kmag", "m_k"),
    "eep": ("eep",),
    "phase": ("label", "phase"),
}
"""What columns are called, in lower case, by us and by others."""
POINTS_PER_PHASE = 60
"""Points that a phase of an isochrone without EEPs is given, even in length along it."""
GAP = 0.15
"""Distance in log Teff and log g beyond which two points are of no one line."""
LEAST_TEFF = 100.0
"""Temperatures [K] that are all below are logarithms."""
DIP = 0.005
"""Part by which temperature may fall within a main sequence: where model atmospheres are joined."""


@dataclass(frozen=True)
class Line:
    """One isochrone as it is drawn.

    Attributes
    ----------
    fe_h, age : float
        [dex], [Gyr]; the age is NaN where a file does not say it.
    teff, logg : (n,) float64
    """

    fe_h: float
    age: float
    teff: FloatArray
    logg: FloatArray


def read_isochrones(url: str) -> IsochroneCube:
    """Read a grid of isochrones on common points, by its content: HDF5 or a table of text.

    Parameters
    ----------
    url : str
        Dartmouth HDF5 (layout "sparse_v1", wants the package h5py); or text with a line of column
        names behind ``#`` and numbers below, as MIST (``.iso``, ``.iso.cmd``) and the PARSEC web
        pages give them, for any number of ages and metallicities.

    Returns
    -------
    IsochroneCube
        With columns teff, logg and m_k. Without a K magnitude in the file it is made of the
        bolometric one, good to some 0.05 mag.

    Raises
    ------
    StoreError
        If it cannot be read, has no masses, or is no grid: each metallicity wants the same ages.
    """
    data = paths.read_bytes(url)
    with paths.explained(url, ValueError, KeyError, OSError):
        columns = _hdf5(data) if data.startswith(HDF5) else _text(data.decode("utf-8", "replace"))
        if lacking := [n for n in ("log_age", "fe_h", "mass", "log_teff") if n not in columns]:
            raise ValueError(f"no columns {lacking} among the isochrones'; ages want them")
        return _cube(columns)


def read_lines(url: str, *, age: float = 7.0, fe_h: Sequence[float] = ()) -> list[Line]:
    """Read isochrones to draw: those of the age nearest to `age` [Gyr].

    Parameters
    ----------
    url : str
        What `read_isochrones` reads, or a CSV file of columns ``teff_X``, ``logg_X`` for each
        metallicity X, ``teff`` being its logarithm, as of MIST's 7 Gyr.
    age : float
    fe_h : sequence of float
        The metallicities nearest to these; all of the file if there are none.
    """
    data = paths.read_bytes(url)
    head = data[:200].decode("utf-8", "replace").partition("\n")[0]
    if re.match(r"teff_[-0-9.]+,logg_", head):
        with paths.explained(url, ValueError, KeyError):
            found = _pairs_of_columns(data.decode())
    else:
        found = _lines_of(read_isochrones(url), age)
    if not fe_h:
        return found
    there = np.array([line.fe_h for line in found])
    return [found[i] for i in dict.fromkeys(int(np.argmin(np.abs(there - x))) for x in fe_h)]


def read_main_sequence(url: str) -> dict[str, FloatArray]:
    r"""Read the main sequence of one isochrone: the longest run in which mass and teff increase.

    Parameters
    ----------
    url : str
        What `tables.read_table` reads, with columns mass [solar], teff [K] and logg in order of
        mass; or what `read_isochrones` reads, of one age and metallicity.

    Returns
    -------
    dict of str to (n,) float64
        mass, teff, logg; the run is the longest in mass, for a giant's may have more points.

    Raises
    ------
    StoreError
        If it cannot be read, holds several isochrones, lacks a column, or has no such run.

    Examples
    --------
    >>> import tempfile
    >>> rows = ["mass,teff,logg", "0.5,3800,4.8", "0.9,5300,4.5", "1.1,6000,4.3", "1.2,5100,3.6"]
    >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
    ...     _ = file.write("\n".join(rows)) and file.flush()
    ...     read_main_sequence(file.name)["teff"]
    array([3800., 5300., 6000.])
    """
    with paths.explained(url, ValueError, KeyError):
        found = _one_isochrone(url)
        known = np.isfinite(list(found.values())).all(axis=0)
        found = {name: values[known] for name, values in found.items()}
        mass, teff = found["mass"], found["teff"]
        if len(teff) and teff.max() < LEAST_TEFF:
            raise ValueError(f"teff goes to {teff.max():.4g}: it is wanted in K, no logarithm")
        runs = _rising_runs(mass, teff)
        longest = max(runs, key=lambda run: mass[run[-1]] - mass[run[0]], default=[])
        if len(longest) < 2:
            raise ValueError("mass and teff nowhere increase together: wanted in order of mass")
        return {name: values[longest] for name, values in found.items()}


def _rising_runs(mass: FloatArray, teff: FloatArray) -> list[list[int]]:
    """Return runs of points along which both increase; those of small dips are left out."""
    runs: list[list[int]] = []
    for k in range(len(mass)):
        last = runs[-1][-1] if runs else k
        if not runs or mass[k] < mass[last] or teff[k] < (1 - DIP) * teff[last]:
            runs.append([k])
        elif mass[k] > mass[last] and teff[k] > teff[last]:
            runs[-1].append(k)
    return runs


def _one_isochrone(url: str) -> dict[str, FloatArray]:
    """Return mass, teff and logg of all points of a file of one isochrone."""
    head = paths.read_bytes(url)[: len(HDF5)]
    if not head.startswith((b"#", HDF5)):
        found = tables.read_table(url, ["mass", "teff", "logg"])
        return {name: values.astype(np.float64) for name, values in found.items()}
    cube = read_isochrones(url)
    if len(cube.fe_h) * len(cube.age) > 1:
        raise ValueError(
            f"{len(cube.fe_h)} metallicities and {len(cube.age)} ages: wanted is one isochrone, as "
            "a table of mass, teff and logg"
        )
    return {"mass": cube.mass[0, 0], **{n: cube.columns[n][0, 0] for n in ("teff", "logg")}}


def _lines_of(cube: IsochroneCube, age: float) -> list[Line]:
    at = int(np.argmin(np.abs(cube.age - age)))
    return [
        Line(float(fe_h), float(cube.age[at]), *_broken(cube.columns["teff"][i, at], logg))
        for i, (fe_h, logg) in enumerate(zip(cube.fe_h, cube.columns["logg"][:, at], strict=True))
    ]


def _broken(teff: FloatArray, logg: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return a line with NaN where the star jumps, as at the helium flash."""
    known = np.isfinite(teff) & np.isfinite(logg)
    teff, logg = teff[known], logg[known]
    jump = np.hypot(5 * np.diff(np.log10(teff)), np.diff(logg)) > 5 * GAP
    places = np.flatnonzero(jump) + 1
    return np.insert(teff, places, np.nan), np.insert(logg, places, np.nan)


def _pairs_of_columns(text: str) -> list[Line]:
    head, *rows = text.strip().splitlines()
    names = [name.strip() for name in head.split(",")]
    cells = np.array([[float(x) if x.strip() else np.nan for x in row.split(",")] for row in rows])
    found = []
    for i, name in enumerate(names):
        if not name.startswith("teff_"):
            continue
        fe_h = name.removeprefix("teff_")
        log_teff, logg = cells[:, i], cells[:, names.index(f"logg_{fe_h}")]
        known = np.isfinite(log_teff) & np.isfinite(logg) & (log_teff > 0)
        found.append(Line(float(fe_h), np.nan, *_broken(10 ** log_teff[known], logg[known])))
    return sorted(found, key=lambda line: line.fe_h)


def _hdf5(data: bytes) -> dict[str, FloatArray]:
    """Return all points of a Dartmouth file, one after another."""
    try:
        h5py = import_module("h5py")
    except ImportError as error:
        raise StoreError("isochrones in HDF5 want the package h5py: pip install h5py") from error
    with h5py.File(io.BytesIO(data)) as file:
        names = [str(name) for name in file.attrs["columns"]]
        values, lengths = file["values"][:].astype(np.float64), file["lengths"][:]
        fe_h, age = file["feh_values"][:], file["age_values"][:]
    if lengths.sum() != len(values) or len(lengths) != len(fe_h) * len(age):
        raise ValueError(f"{len(values)} points are not those of {len(lengths)} isochrones")
    columns = {name: values[:, i] for i, name in enumerate(names) if name != "age"}
    found = _renamed(columns)
    found["fe_h"] = np.repeat(np.repeat(fe_h, len(age)), lengths)
    found["log_age"] = np.repeat(np.tile(age, len(fe_h)), lengths)
    return found


def _renamed(columns: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    lower = {name.lower(): values for name, values in columns.items()}
    known = {
        ours: next((lower[name] for name in theirs if name in lower), None)
        for ours, theirs in NAMES.items()
    }
    return {name: values for name, values in known.items() if values is not None}


def _text(text: str) -> dict[str, FloatArray]:
    """Return the rows of a text table; its column names are the last comment before them."""
    names: list[str] = []
    rows: list[list[float]] = []
    comments: list[list[str]] = []
    metal = np.nan
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comments.append(line.lstrip("# ").split())
            metal = _metallicity(comments, metal)
        elif line.strip():
            if not rows:
                names = comments[-1] if comments else []
            rows.append([*map(float, line.split()), metal])
    if not rows or len(names) != len(rows[0]) - 1:
        raise ValueError(f"{len(names)} names in its last comment, {len(rows)} rows below it")
    cells = np.array(rows, np.float64)
    found = _renamed({name: cells[:, i] for i, name in enumerate(names)})
    if "fe_h" not in found and np.isfinite(cells[:, -1]).all():
        found["fe_h"] = cells[:, -1]
    return found


def _metallicity(comments: Sequence[Sequence[str]], before: float) -> float:
    """Return [Fe/H] where MIST's head says it: a line of names above one of numbers."""
    if len(comments) > 1 and "[Fe/H]" in comments[-2] and len(comments[-1]) == len(comments[-2]):
        return float(comments[-1][comments[-2].index("[Fe/H]")])
    return before


def _cube(columns: Mapping[str, FloatArray]) -> IsochroneCube:
    """Put points on common ones: their EEPs, or even steps along each phase."""
    fe_h = np.unique(np.round(columns["fe_h"], 4))
    log_age = np.unique(np.round(columns["log_age"], 4))
    made = dict(columns)
    made["teff"] = 10 ** columns["log_teff"]
    if "m_k" not in made:
        if "m_bol" not in made:
            raise ValueError("neither a K nor a bolometric magnitude among its columns")
        made["m_k"] = made["m_bol"] - bolometric_k(made["teff"])
    lines = {}
    for i, metal in enumerate(fe_h):
        for j, age in enumerate(log_age):
            here = np.isclose(columns["fe_h"], metal, atol=1e-4)
            rows = np.flatnonzero(here & np.isclose(columns["log_age"], age, atol=1e-4))
            if not len(rows):
                raise ValueError(f"no isochrone of [Fe/H] {metal:g} and log age {age:g}: no grid")
            lines[i, j] = {name: values[rows] for name, values in made.items()}
    wanted = ("mass", "teff", "logg", "m_k")
    place = _by_eep if "eep" in columns else _by_length
    cells = place(lines, wanted, (len(fe_h), len(log_age)))
    return IsochroneCube(fe_h, 10 ** (log_age - 9), cells.pop("mass"), cells)


Lines = Mapping[tuple[int, int], Mapping[str, FloatArray]]


def _by_eep(lines: Lines, wanted: Sequence[str], shape: tuple[int, int]) -> dict[str, FloatArray]:
    eeps = np.unique(np.concatenate([line["eep"] for line in lines.values()]))
    cells = {name: np.full((*shape, len(eeps)), np.nan) for name in wanted}
    for (i, j), line in lines.items():
        at = np.searchsorted(eeps, line["eep"])
        for name in wanted:
            cells[name][i, j, at] = line[name]
    return cells


def _by_length(
    lines: Lines, wanted: Sequence[str], shape: tuple[int, int]
) -> dict[str, FloatArray]:
    phases = np.unique(np.concatenate([_phases(line) for line in lines.values()]))
    size = len(phases) * POINTS_PER_PHASE
    cells = {name: np.full((*shape, size), np.nan) for name in wanted}
    for (i, j), line in lines.items():
        for number, phase in enumerate(phases):
            rows = np.flatnonzero(_phases(line) == phase)
            if len(rows) < 2:
                continue
            step = np.hypot(10 * np.diff(line["log_teff"][rows]), np.diff(line["logg"][rows]))
            along = np.concatenate([[0.0], np.cumsum(step + 1e-9)])
            even = np.linspace(0.0, along[-1], POINTS_PER_PHASE)
            start = number * POINTS_PER_PHASE
            for name in wanted:
                cells[name][i, j, start : start + POINTS_PER_PHASE] = np.interp(
                    even, along, line[name][rows]
                )
    return cells


def _phases(line: Mapping[str, FloatArray]) -> FloatArray:
    return line.get("phase", np.zeros(len(line["mass"])))
