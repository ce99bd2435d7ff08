"""What a survey could measure: Cramér-Rao bounds of a model at given noise, range and resolution.

Labels in their units (K, dex, km/s), wavelengths vacuum Å.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from scalespec.errors import ConfigError
from scalespec.models.base import Emulator
from scalespec.optimize.information import information
from scalespec.stages.emulators import at_resolution
from scalespec.store.model import load_model

RELIABLE = 1 / 6
"""A label counts as measured where its bound is under this part of the model's range."""


@dataclass(frozen=True)
class Survey:
    """What spectra to think of.

    Attributes
    ----------
    snr : tuple of float
        Signal-to-noise per pixel in the continuum.
    resolving_power : float or None
        R; None: the model's own.
    wavelength : (float, float) or None
        Range [Å, vacuum], the lower end first; None: the model's own.

    Raises
    ------
    ConfigError
        If one of them is none: not a number, not above 0, or a range that ends before it begins.

    Examples
    --------
    >>> Survey(snr=(0.0,))
    Traceback (most recent call last):
    scalespec.errors.ConfigError: snr = 0: give a finite number above 0, as 50
    """

    snr: tuple[float, ...] = (20.0, 50.0, 100.0, 200.0)
    resolving_power: float | None = None
    wavelength: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        given = [("snr", value, 50) for value in self.snr]
        if self.resolving_power is not None:
            given.append(("resolving_power", self.resolving_power, 1800))
        for name, value, example in given:
            if not 0 < value < np.inf:
                raise ConfigError(f"{name} = {value:g}: give a finite number above 0, as {example}")
        if self.wavelength is not None:
            _check_range(*self.wavelength)


def _check_range(low: float, high: float) -> None:
    if not 0 < low < high < np.inf:
        ends = sorted((low, high))
        turned = 0 < ends[0] < ends[1] < np.inf
        cure = f"turn them around: {ends[0]:g} {ends[1]:g}" if turned else "as 5000 6000"
        raise ConfigError(
            f"wavelength = {low:g} {high:g}: give the lower end first, both in vacuum Å and "
            f"above 0: {cure}"
        )


def measurable(url: str, labels: Mapping[str, float], survey: Survey) -> pd.DataFrame:
    """Say how well each label of a star could be measured.

    Parameters
    ----------
    url : str
        A model of ours, or The Payne's .npz.
    labels : mapping
        The star; labels not given are those of the middle of the model's range.
    survey : Survey

    Returns
    -------
    pd.DataFrame
        One row per label, the velocity last: label, value, range, then ``snr_<S>`` with the bound
        at each S/N; infinite where the spectrum says nothing.

    Raises
    ------
    ConfigError
        If a label is not the model's or lies outside its range, or no pixel is left.
    """
    model = load_model(url)
    if survey.resolving_power is not None:
        model = at_resolution(model, survey.resolving_power, url)
    star = _star(model, labels)
    pixels: npt.NDArray[np.float64] = np.ones(model.spec.n_pixel)
    if survey.wavelength is not None:
        low, high = survey.wavelength
        pixels = np.where((model.spec.wavelength >= low) & (model.spec.wavelength <= high), 1.0, 0)
        if not pixels.any():
            first, last = model.spec.wavelength[[0, -1]]
            raise ConfigError(
                f"{url}: no pixel of the model lies in {low:g} to {high:g} Å: it covers "
                f"{first:.0f} to {last:.0f} Å in vacuum"
            )
    table = pd.DataFrame(
        {
            "label": [*model.spec.labels, "rv"],
            "value": [*star, 0.0],
            "range": [*(model.spec.maximum - model.spec.minimum), np.nan],
        }
    )
    for snr in survey.snr:
        found = information(model, star[np.newaxis], pixels * snr**2)
        table[f"snr_{snr:g}"] = np.append(found.bound[0], found.rv_bound[0])
    return table


def _star(model: Emulator, labels: Mapping[str, float]) -> npt.NDArray[np.float64]:
    spec = model.spec
    unknown = set(labels) - set(spec.labels)
    if unknown:
        raise ConfigError(f"the model has no label {sorted(unknown)}: it has {spec.labels}")
    middle = (spec.minimum + spec.maximum) / 2
    star = np.array([labels.get(n, m) for n, m in zip(spec.labels, middle, strict=True)])
    for name, value, low, high in zip(spec.labels, star, spec.minimum, spec.maximum, strict=True):
        if not low <= value <= high:
            raise ConfigError(f"{name} = {value:g} lies outside the model's {low:g} to {high:g}")
    return star


def bounds_figure(table: pd.DataFrame, title: str) -> Figure:
    """Draw each label's bound as a part of the model's range, at every S/N."""
    known = table[np.isfinite(table["range"])]
    columns = [name for name in table if str(name).startswith("snr_")]
    figure = Figure(figsize=(9, 0.3 * len(known) + 1.6), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(known))[::-1]
    for k, name in enumerate(columns):
        share = (known[name] / known["range"]).to_numpy().clip(1e-5, 3.0)
        shade = str(0.75 * (1 - k / max(len(columns) - 1, 1)))
        label = f"S/N {str(name).removeprefix('snr_')}"
        axes.plot(share, place, "o", color=shade, markersize=5, label=label)
    axes.axvline(RELIABLE, color="tab:red", linewidth=1)
    axes.text(RELIABLE, len(known) - 0.4, " not measured", color="tab:red", va="bottom")
    axes.set(xscale="log", xlabel="least error / range of the model", title=title)
    axes.set_yticks(place, list(known["label"]))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    return figure


def parse_labels(pairs: Sequence[str]) -> dict[str, float]:
    """Read ``name=value`` pairs.

    Raises
    ------
    ConfigError
        If one is not of that form.
    """
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise ConfigError(f"a label is given as name=value, got '{pair}'")
    return found
