"""What a page says of the model's own spectra: scatter, lines at large, spectra along labels."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from scalespec.config import RunConfig
from scalespec.figures.model_spectra import (
    Close,
    Named,
    close_gradients,
    offset_spectra,
    scatter_spectrum,
)
from scalespec.kernels.kiel import evolved
from scalespec.kernels.linenames import (
    BOLTZMANN,
    ROMAN,
    TEMPERATURE,
    KnownLines,
    elements_of,
    known_lines,
    named_peaks,
)
from scalespec.models.base import Emulator
from scalespec.models.gas import ELEMENTS
from scalespec.models.lines import LineList
from scalespec.models.scatter import UNLEARNED
from scalespec.stages import folders
from scalespec.stages.columns import label_title
from scalespec.stages.mock_spectra import load_lines
from scalespec.stages.page import heading, picture
from scalespec.stages.training_pages import derivatives, reference_stars
from scalespec.store.model import load_model
from scalespec.store.regressor import is_regressor

FloatArray = npt.NDArray[np.float64]

RYDBERG = 109_677.58
"""Of hydrogen [1/cm], CODATA 2018 with its reduced mass."""
BLEND, WEAK = 2.0, 0.1
"""What makes a line another's blend: distance in resolution elements, relative strength."""
STRONGEST = 400
"""Lines of all elements that a feature may be named by."""
CLOSE, CLOSE_ELEMENTS = 4, 14
"""Lines of a label that are looked at closely, and resolution elements to either side."""
WINDOW = 0.01
"""Part of the wavelength that families of spectra are drawn of: where they differ most."""
WINDOW_LINES = 8
METALS, STEPS = (-1.0, 0.5), 7
"""Between which [Fe/H], and in how many spectra."""
GRAVITIES, AGE = (3.5, 0.5), 5.0
"""From the foot of the giant branch upwards, and its age [Gyr]."""
SCATTER = (
    "What spectra of the same labels differ by, beyond their noise: the blue curve is high where "
    "something that is no label of the model makes lines (other elements, molecules), where the "
    "polynomial is too simple, and where errors are understated."
)
CLOSELY = (
    "Strong lines of each element that no other atomic line comes near. Dashed: wavelengths of all "
    "its strong lines in vacuum. A derivative whose "
    "peaks stand off all of them by the same few Å is compared with wavelengths in air."
)
METALLICITY = "A giant of the model, from few metals to many, other labels as they are."
BRANCH = (
    "Up the giant branch of 5 Gyr at [Fe/H] = 0: a star grows, its surface gravity falls, and it "
    "cools."
)


def model_spectra(config: RunConfig) -> str:
    """Draw what the run's trained emulator makes of spectra; "" if there is none."""
    if config.train is None or is_regressor(folders.model_url(config)):
        return ""
    model = load_model(folders.model_url(config))
    spec, lines = model.spec, load_lines()
    stars = reference_stars(spec)
    giant = stars.get("giant", next(iter(stars.values())))
    flux = _flux(model, giant[None])[0]
    power = spec.resolving_power or 1 / float(np.median(np.diff(np.log(spec.wavelength))))
    strong = strongest_lines(lines, (spec.wavelength[0], spec.wavelength[-1]))
    scatter = model.scatter.double().numpy()
    scatter = np.where(scatter < UNLEARNED, scatter, np.nan)  # between chips no star has pixels
    named = named_peaks(spec.wavelength, np.nan_to_num(scatter), strong, resolving_power=power)
    html = heading("Scatter")
    html += picture(
        scatter_spectrum(spec.wavelength, flux, scatter, named=named), SCATTER, wide=True
    )
    rows = [row for name in spec.labels if (row := _closely(model, giant, name, lines, power))]
    if rows:
        html += heading("Lines at large") + picture(close_gradients(rows), CLOSELY, wide=True)
    return html + _families(model, giant, strong)


def _flux(model: Emulator, labels: FloatArray) -> FloatArray:
    """Return the model's flux of some stars."""
    with torch.no_grad():
        flux: FloatArray = model(torch.from_numpy(labels).float()).double().numpy()
    return flux


def line_strength(lines: LineList) -> FloatArray:
    """Return log(gf) + log eps - theta chi of lines, at solar abundances and `TEMPERATURE`."""
    theta = 1 / (np.log(10) * BOLTZMANN * TEMPERATURE)
    solar = np.array([ELEMENTS[symbol][1] for symbol in lines.element])
    return np.asarray(lines.log_gf + solar - theta * lines.excitation)


def unblended(known: KnownLines, lines: LineList, power: float) -> KnownLines:
    """Return the known lines that no other atomic line comes near.

    Parameters
    ----------
    known : KnownLines
        Of one element.
    lines : LineList
        Of all elements.
    power : float
        Resolving power: near is within `BLEND` resolution elements, by a line at least a `WEAK`
        part as strong.
    """
    strength = line_strength(lines)
    kept = []
    for i, place in enumerate(known.wavelength.tolist()):
        near = np.flatnonzero(np.abs(lines.wavelength - place) < BLEND * place / power)
        own = near[np.argmin(np.abs(lines.wavelength[near] - place))] if len(near) else -1
        others = near[near != own]
        if not (strength[others] > strength[own] + np.log10(WEAK)).any():
            kept.append(i)
    rows = np.array(kept, np.int64)
    return KnownLines(
        known.wavelength[rows], tuple(known.names[i] for i in kept), known.strength[rows]
    )


def brackett_lines(within: tuple[float, float]) -> tuple[FloatArray, tuple[str, ...]]:
    """Return hydrogen's lines from level 4 that lie within two wavelengths [Å, vacuum].

    Examples
    --------
    >>> places, names = brackett_lines((16100.0, 16950.0))
    >>> places.round(1).tolist(), names
    ([16113.8, 16411.7, 16811.2], ('H Br13', 'H Br12', 'H Br11'))
    """
    level = np.arange(30, 4, -1)
    place = 1e8 / (RYDBERG * (1 / 16 - 1.0 / level**2))
    there = (place >= within[0]) & (place <= within[1])
    return place[there], tuple(f"H Br{n}" for n in level[there].tolist())


def strongest_lines(lines: LineList, within: tuple[float, float]) -> KnownLines:
    """Return the strongest lines of all elements, by `line_strength`, and hydrogen's."""
    strength = line_strength(lines)
    there = (lines.wavelength >= within[0]) & (lines.wavelength <= within[1])
    best = np.sort(np.argsort(np.where(there, -strength, np.inf), kind="stable")[:STRONGEST])
    best = best[there[best]]
    names = tuple(
        f"{lines.element[i]} {ROMAN.get(int(lines.ion_stage[i]), '?')}" for i in best.tolist()
    )
    broad, also = brackett_lines(within)
    place = np.concatenate([lines.wavelength[best], broad])
    order = np.argsort(place, kind="stable")
    every = (*names, *also)
    # A sharp line is named before a broad one that it stands in.
    stated = np.concatenate([strength[best], np.full(len(broad), strength[best].min(initial=0.0))])
    return KnownLines(place[order], tuple(every[i] for i in order.tolist()), stated[order])


def line_offsets(
    wavelength: FloatArray, curve: FloatArray, known: KnownLines, power: float, n: int = CLOSE
) -> list[tuple[float, float, str]]:
    """Return the known lines where a derivative is largest: place, peak, name; from blue to red.

    Parameters
    ----------
    wavelength, curve : (n_pixel,) float
    known : KnownLines
    power : float
        Resolving power: a line's peak is looked for within a resolution element.
    n : int
        How many, no two within four resolution elements.

    Returns
    -------
    list of (line [Å], peak [Å], name)
        Peaks are those of a parabola through the extreme pixel and its neighbors.
    """
    found: list[tuple[float, float, str]] = []
    heights = np.interp(known.wavelength, wavelength, np.abs(curve))
    for i in np.argsort(-heights, kind="stable").tolist():
        line = float(known.wavelength[i])
        if any(abs(line - other) < 4 * line / power for other, *_ in found):
            continue
        near = np.flatnonzero(np.abs(wavelength - line) <= line / power)
        at = int(near[np.argmax(np.abs(curve[near]))]) if len(near) else 0
        if not 0 < at < len(wavelength) - 1:
            continue
        found.append((line, _vertex(wavelength, np.abs(curve), at), known.names[i]))
        if len(found) == n:
            break
    return sorted(found)


def _vertex(x: FloatArray, y: FloatArray, at: int) -> float:
    """Return the top of the parabola through three neighboring points of nearly even x."""
    left, middle, right = y[at - 1 : at + 2]
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
    return float(x[at] + np.clip(shift, -1, 1) * (x[at + 1] - x[at - 1]) / 2)


def _closely(
    model: Emulator, star: FloatArray, label: str, lines: LineList, power: float
) -> list[Close]:
    """Return the derivative by a label around its element's strongest lines."""
    spec = model.spec
    if not elements_of(label):
        return []
    table = (lines.wavelength, lines.element, lines.ion_stage, lines.excitation, lines.log_gf)
    known = known_lines(label, *table, within=(spec.wavelength[0], spec.wavelength[-1]))
    curve = derivatives(model, {"star": star})["star"][spec.labels.index(label)]
    made = []
    for line, _, _ in line_offsets(spec.wavelength, curve, unblended(known, lines, power), power):
        reach = CLOSE_ELEMENTS * line / power
        here = np.abs(spec.wavelength - line) <= reach
        there = np.abs(known.wavelength - line) <= reach
        marks = [(float(known.wavelength[i]), known.names[i]) for i in np.flatnonzero(there)]
        made.append(Close(label_title(label), "dex", spec.wavelength[here], curve[here], marks))
    return made


def _families(model: Emulator, star: FloatArray, strong: KnownLines) -> str:
    """Draw spectra along metallicity, and up the giant branch, as far as the model goes."""
    spec = model.spec
    html = ""
    metal = next((name for name in ("fe_h", "m_h") if name in spec.labels), "")
    if metal:
        k = spec.labels.index(metal)
        low, high = max(METALS[0], spec.minimum[k]), min(METALS[1], spec.maximum[k])
        labels = np.repeat(star[None], STEPS, axis=0)
        labels[:, k] = np.linspace(low, high, STEPS)
        html += heading(f"Along {label_title(metal)}")
        html += _family(model, labels, labels[:, k], label_title(metal), METALLICITY, strong)
    if {"teff", "logg"} <= set(spec.labels):
        labels = giant_branch(spec.labels, star)
        inside = ((labels >= spec.minimum) & (labels <= spec.maximum)).all(axis=1)
        if inside.sum() > 1:
            gravity = labels[inside, spec.labels.index("logg")]
            html += heading("Up the giant branch")
            html += _family(model, labels[inside], gravity, "log g [dex]", BRANCH, strong)
    return html


def giant_branch(labels: Sequence[str], star: FloatArray) -> FloatArray:
    """Return the labels of stars up the giant branch, (n, n_label); abundances solar.

    Examples
    --------
    >>> made = giant_branch(("teff", "logg", "mg_fe"), np.array([4600.0, 2.0, 0.3]))
    >>> made[[0, -1]].round(1).tolist()
    [[5008.7, 3.5, 0.0], [3492.2, 0.5, 0.0]]
    """
    logg = np.linspace(*GRAVITIES, STEPS)
    teff, _ = evolved(logg, np.full(STEPS, AGE), np.zeros(STEPS))
    made = np.repeat(star[None], STEPS, axis=0)
    for k, name in enumerate(labels):
        if name in ("teff", "logg"):
            made[:, k] = {"teff": teff, "logg": logg}[name]
        elif name.endswith(("_h", "_fe", "_m")):
            made[:, k] = 0.0
    return np.asarray(made, np.float64)


def _family(
    model: Emulator,
    labels: FloatArray,
    values: FloatArray,
    name: str,
    said: str,
    strong: KnownLines,
) -> str:
    wavelength = model.spec.wavelength
    flux = _flux(model, labels)
    start, stop = _liveliest(wavelength, np.ptp(flux, axis=0))
    here = (strong.wavelength >= wavelength[start]) & (strong.wavelength <= wavelength[stop - 1])
    rows = sorted(np.flatnonzero(here).tolist(), key=lambda i: -strong.strength[i])[:WINDOW_LINES]
    named: Named = [(float(strong.wavelength[i]), strong.names[i]) for i in sorted(rows)]
    figure = offset_spectra(
        wavelength[start:stop], flux[:, start:stop], values, name=name, named=named
    )
    return picture(figure, f"{said} Drawn is where they differ most.", wide=True)


def _liveliest(wavelength: FloatArray, change: FloatArray) -> tuple[int, int]:
    """Return the pixels of the window in which spectra differ most in all."""
    total = np.concatenate([[0.0], np.cumsum(change)])
    stops = np.searchsorted(wavelength, wavelength * (1 + WINDOW))
    starts = np.flatnonzero(wavelength * (1 + WINDOW) <= wavelength[-1])
    if not len(starts):
        return 0, len(wavelength)
    start = int(starts[np.argmax(total[stops[starts]] - total[starts])])
    return start, int(stops[start])
