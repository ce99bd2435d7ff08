"""Labelled spectra in memory, dealt to parts by star: what every model of a comparison is given."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.config.compare import CompareModel, CompareTable
from scalespec.errors import ConfigError
from scalespec.kernels.match import split_by_star, splitmix64
from scalespec.kernels.where import where
from scalespec.models.regressor import Sample
from scalespec.schema import UNREADABLE
from scalespec.store.spectra import read_spectra

Rows = npt.NDArray[np.int64]
NOISE = 13
"""Last word of a seed: of the noise that a model's `snr` adds."""
VARIABLES = ("flux", "ivar", "labels", "label_err", "star", "snr", "status", "obsid", "source_id")


@dataclass(frozen=True)
class Labelled:
    """The stars of a comparison.

    Attributes
    ----------
    sample : Sample
        Labels asked for, and inputs beside the spectrum.
    rows : (n,) int64
        Their places in the store.
    star : (n,) int64
    wavelength : (n_pixel,) float64 [Å, vacuum]
    columns : dict of str to (n,) array
        Every label column of the store, ``snr``, ``obsid`` and ``source_id``.
    attrs : dict
        Of the store.
    """

    sample: Sample
    rows: Rows
    star: Rows
    wavelength: npt.NDArray[np.float64]
    columns: dict[str, npt.NDArray[Any]]
    attrs: dict[str, Any]

    def __len__(self) -> int:
        """Return the number of spectra."""
        return len(self.rows)


def load_labelled(url: str, table: CompareTable, *, select: bool = True) -> Labelled:
    """Read the stars of a comparison.

    Parameters
    ----------
    url : str
        A spectra store with ``labels``.
    table : CompareTable
    select : bool
        Only those that the table's `where` asks for.

    Raises
    ------
    ConfigError
        If a label or an input is not in the store, or the condition leaves no star.
    """
    spectra = read_spectra(url, 0, 2**62, names=VARIABLES)
    if "labels" not in spectra:
        raise ConfigError(f"{url}: no labels in it: compare on a train.zarr or a library")
    there = [str(name) for name in spectra["label"].to_numpy()]
    if lacking := [name for name in (*table.labels, *table.extra) if name not in there]:
        raise ConfigError(f"{url}: no label {lacking}; there are {there}: choose compare.labels")
    every = spectra["labels"].to_numpy()
    columns: dict[str, npt.NDArray[Any]] = {name: every[:, k] for k, name in enumerate(there)}
    columns |= {name: spectra[name].to_numpy() for name in ("snr", "obsid", "source_id")}
    labels = np.stack([columns[name] for name in table.labels], axis=1)
    keep = spectra["status"].to_numpy() & np.uint32(UNREADABLE) == 0
    known = np.isfinite(labels)
    keep &= known.all(axis=1) if table.complete else known.any(axis=1)
    if select and table.where:
        keep &= _selected(table.where, columns)
    rows = np.flatnonzero(keep)
    if not len(rows):
        raise ConfigError(f"{url}: of {len(keep)} spectra none is left: see compare.where")
    errors = np.full_like(every, np.nan)
    if "label_err" in spectra:
        errors = spectra["label_err"].to_numpy()
    error = np.stack([errors[:, there.index(name)] for name in table.labels], axis=1)
    extra = np.stack([columns[name] for name in table.extra], axis=1) if table.extra else None
    sample = Sample(
        *softened(
            spectra["flux"].to_numpy()[rows], spectra["ivar"].to_numpy()[rows], table.softening
        ),
        labels[rows].astype(np.float32),
        error[rows].astype(np.float32),
        None if extra is None else extra[rows].astype(np.float32),
    )
    star = spectra["star"].to_numpy() if "star" in spectra else np.arange(len(keep))
    return Labelled(
        sample,
        rows,
        star[rows].astype(np.int64),
        spectra["wavelength"].to_numpy(),
        {name: values[rows] for name, values in columns.items()},
        dict(spectra.attrs),
    )


def softened(
    flux: npt.NDArray[np.float32], ivar: npt.NDArray[np.float32], softening: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return ``asinh(flux / softening)`` and its inverse variance; as they are for 0.

    References
    ----------
    Lupton, Gunn & Szalay 1999, AJ 118, 1406.

    Examples
    --------
    >>> one = np.float32([[0.0, 10.0]])
    >>> [made.astype(float).round(2).tolist() for made in softened(one, one**0, 0.5)]
    [[[0.0, 3.69]], [[0.25, 100.25]]]
    """
    if not softening:
        return flux, ivar
    scale = np.float32(softening)
    return np.arcsinh(flux / scale), ivar * (flux**2 + scale**2)


def store_columns(url: str) -> dict[str, npt.NDArray[Any]]:
    """Return every label column of a store, by its rows."""
    spectra = read_spectra(url, 0, 2**62, names=("labels",))
    every = spectra["labels"].to_numpy()
    return {str(name): every[:, k] for k, name in enumerate(spectra["label"].to_numpy())}


def _selected(
    condition: str, columns: dict[str, npt.NDArray[Any]], what: str = "compare.where"
) -> npt.NDArray[np.bool_]:
    try:
        return np.asarray(where(condition, columns), bool)
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from error


def group_members(
    columns: dict[str, npt.NDArray[Any]], table: CompareTable
) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which stars belong to each class, and to each bin of S/N that is not empty.

    Raises
    ------
    ConfigError
        If a condition is on a column that there is not.
    """
    members = {
        name: _selected(condition, columns, f"compare.groups.{name}")
        for name, condition in table.groups.items()
    }
    snr, edges = columns["snr"], (*table.snr_edges, np.inf)
    for low, high in pairwise(edges):
        inside = (snr >= low) & (snr < high)
        if inside.any():
            name = f"S/N over {low:g}" if np.isinf(high) else f"S/N {low:g} to {high:g}"
            members[name] = inside
    return members


def deal(star: Rows, table: CompareTable, index: int, seed: int) -> npt.NDArray[np.uint8]:
    """Deal stars to training (0), validation (1) and test (2) for one split.

    Parameters
    ----------
    star : (n,) int64
    table : CompareTable
    index : int
        Which of the repeated splits, or which fold.
    seed : int
        Of the run.

    Examples
    --------
    >>> table = CompareTable(source="x", labels=("teff",), models={"ridge": {}}, folds=True)
    >>> stars = np.arange(1000)
    >>> tested = sum((deal(stars, table, k, 1) == 2).astype(int) for k in range(5))
    >>> tested.min().item(), tested.max().item()
    (1, 1)
    """
    held = table.validation_fraction
    if not table.folds:
        rest = 1 - table.test_fraction
        shares = (rest * (1 - held), rest * held, table.test_fraction)
        return split_by_star(star, fractions=shares, seed=seed + 1000 * index)
    key = splitmix64(np.array([seed], np.uint64))
    fold = splitmix64(star.astype(np.uint64) ^ key) % np.uint64(table.seeds)
    parts = split_by_star(star, fractions=(1 - held, held, 0.0), seed=seed + 1000 * index + 1)
    return np.where(fold == np.uint64(index), np.uint8(2), parts).astype(np.uint8)


def seen(labelled: Labelled, model: CompareModel, rows: Any) -> tuple[Sample, Any]:
    """Return what one model sees of some stars, and its wavelengths.

    Inputs alone are given as the pixels of a spectrum: a regressor of spectra takes them as well.
    """
    sample = labelled.sample.take(rows)
    if model.inputs == "extra":
        values = sample.extra if sample.extra is not None else np.zeros((len(sample), 0))
        known = np.isfinite(values)
        flux = np.where(known, values, 0.0).astype(np.float32)
        ivar = known.astype(np.float32) * np.float32(1e4)  # magnitudes to a hundredth
        grid = 1000.0 * (1 + np.arange(flux.shape[1]))
        return Sample(flux, ivar, sample.labels, sample.label_err), grid
    extra = sample.extra if model.inputs == "both" else None
    sample = Sample(sample.flux, sample.ivar, sample.labels, sample.label_err, extra)
    if model.snr is not None:
        sample = noisier(sample, labelled.rows[rows], model.snr)
    if model.window is None or model.fill == "mean":
        return sample, labelled.wavelength
    inside = in_window(labelled.wavelength, model.window)
    cut = Sample(
        sample.flux[:, inside], sample.ivar[:, inside], sample.labels, sample.label_err, extra
    )
    return cut, labelled.wavelength[inside]


def noisier(sample: Sample, rows: Rows, snr: float) -> Sample:
    """Return spectra with white noise added, for each row of the store always the same.

    Parameters
    ----------
    sample : Sample
    rows : (n,) int64
        Places in the store: they say which noise.
    snr : float
        Per pixel; noise is this part of the flux.
    """
    noise = np.stack(
        [np.random.default_rng([int(row), NOISE]).normal(size=sample.flux.shape[1]) for row in rows]
    )
    sigma = np.abs(sample.flux) / np.float32(snr)
    good = (sample.ivar > 0) & (sigma > 0)
    flux = np.where(good, sample.flux + sigma * noise, sample.flux).astype(np.float32)
    variance = np.divide(1, sample.ivar, out=np.zeros_like(sigma), where=sample.ivar > 0) + sigma**2
    ivar = np.divide(1, variance, out=np.zeros_like(sigma), where=good)
    return Sample(flux, ivar, sample.labels, sample.label_err, sample.extra)


def in_window(
    wavelength: npt.NDArray[np.float64], window: tuple[float, float]
) -> npt.NDArray[np.bool_]:
    """Return the pixels of a window.

    Raises
    ------
    ConfigError
        If there are fewer than two.
    """
    inside = (wavelength >= window[0]) & (wavelength <= window[1])
    if inside.sum() < 2:
        raise ConfigError(
            f"window {window}: {inside.sum()} pixels of {wavelength[0]:.1f}-{wavelength[-1]:.1f} Å"
        )
    return inside


def masked_outside(
    sample: Sample,
    wavelength: npt.NDArray[np.float64],
    window: tuple[float, float],
    training: Sample,
) -> Sample:
    """Return spectra whose pixels outside a window are the mean of the training spectra."""
    outside = ~in_window(wavelength, window)
    good = training.ivar > 0
    total = np.where(good, training.flux, 0.0).sum(axis=0, dtype=np.float64)
    mean = (total / np.maximum(good.sum(axis=0), 1)).astype(np.float32)
    flux = sample.flux.copy()
    flux[:, outside] = mean[outside]
    return Sample(flux, sample.ivar, sample.labels, sample.label_err, sample.extra)
