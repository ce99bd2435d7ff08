"""Which labels leak into which: models asked about stars of which one label alone was changed.

A regressor that has learned that magnesium follows iron may read magnesium off iron's lines. Change
iron alone in the physics, and see what it says of magnesium.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.config import PreprocessTable, RunConfig
from scalespec.config.compare import CompareTable, LeakageTable
from scalespec.errors import ConfigError
from scalespec.kernels.observation import continuum
from scalespec.models.base import Emulator
from scalespec.models.regressor import Estimator
from scalespec.models.synthesis import LineSynthesis
from scalespec.plan import Block, BlockResult, Stage
from scalespec.stages.contest import load_labelled, softened
from scalespec.stages.library import theory_spectra
from scalespec.stages.mock_spectra import synthesis_model
from scalespec.stages.preprocess import prepare, preprocess_block
from scalespec.stages.theory import spectra_of, theory_model
from scalespec.store import paths
from scalespec.store.ledger import Ledger, new_attempt
from scalespec.store.model import pack, unpack
from scalespec.surveys.lamost import WAVELENGTH

STEP = 0.1
"""Change of a label that the table gives no step for, in dex."""
_STARS = 11  # last word of a seed
FILE = "perturbed.npz"


@dataclass(frozen=True)
class Perturbed:
    """Spectra of stars, each with every label changed up and down.

    Attributes
    ----------
    flux, ivar : (n_star, n_label, 2, n_pixel) float32
        Up first.
    labels : tuple of str
        Those changed.
    steps : (n_star, n_label) float64
        From down to up.
    """

    flux: npt.NDArray[np.float32]
    ivar: npt.NDArray[np.float32]
    labels: tuple[str, ...]
    steps: npt.NDArray[np.float64]


def perturbed_stage(
    config: RunConfig, table: CompareTable, source: str, url: str
) -> Iterator[Stage]:
    """Yield the stage that makes the changed spectra.

    Raises
    ------
    ConfigError
        If the run file does not say how the spectra are preprocessed.
    """
    wanted = table.leakage
    if wanted is None or config.preprocess is None:
        raise ConfigError("compare.leakage wants a [preprocess] table: as the spectra were")
    yield Stage(
        name="perturbed",
        url=url,
        blocks=[Block("row", 0, 0, 1)],
        read=partial(_reference_labels, source=source, table=table),
        compute=partial(
            perturbed_spectra, table=wanted, steps=config.preprocess, seed=config.run.seed
        ),
        write=partial(_write, url=url),
        runs_on="dask",
        setup=partial(_model, config.preprocess, tuple(wanted.labels)),
    )


def _model(steps: PreprocessTable, labels: tuple[str, ...]) -> Emulator:
    """Return what makes the spectra: the synthesis of the run's own library, or of mock surveys.

    Raises
    ------
    ConfigError
        If the library has other labels.
    """
    if steps.library is None:
        return synthesis_model(labels)
    if tuple(steps.library.labels) != labels:
        raise ConfigError(f"compare.leakage.labels must be the library's, {steps.library.labels}")
    return theory_model(steps.library)


def _reference_labels(block: Block, source: str, table: CompareTable) -> npt.NDArray[np.float64]:
    """Return labels of stars spread evenly over those of the comparison, by temperature."""
    wanted = table.leakage
    if wanted is None:
        raise ConfigError(f"block {block.index}: the run file has no [compare.leakage] table")
    columns = load_labelled(source, table).columns
    if lacking := [name for name in wanted.labels if name not in columns]:
        raise ConfigError(f"compare.leakage.labels: {source} has no {lacking}")
    labels = np.stack([columns[name] for name in wanted.labels], axis=1).astype(np.float64)
    labels = labels[np.isfinite(labels).all(axis=1)]
    order = np.argsort(labels[:, wanted.labels.index("teff")], kind="stable")
    places = np.linspace(0, len(order) - 1, wanted.stars + 2)[1:-1].round().astype(int)
    chosen: npt.NDArray[np.float64] = labels[order[places]]
    return chosen


def changed_labels(
    labels: npt.NDArray[np.float64], table: LeakageTable, low: Any, high: Any
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return every star with every label changed up and down, within a model's range.

    Parameters
    ----------
    labels : (n_star, n_label) float64
    table : LeakageTable
    low, high : (n_label,) float
        Range of the model that makes the spectra.

    Returns
    -------
    labels : (n_star, n_label, 2, n_label) float64
    steps : (n_star, n_label) float64
        From down to up.
    """
    n_star, n_label = labels.shape
    step = np.array([table.steps.get(name, STEP) for name in table.labels])
    made = np.broadcast_to(labels[:, None, None, :], (n_star, n_label, 2, n_label)).copy()
    for k in range(n_label):
        made[:, k, 0, k] += step[k]
        made[:, k, 1, k] -= step[k]
    made = np.clip(made, low, high)
    which = np.arange(n_label)
    return made, made[:, which, 0, which] - made[:, which, 1, which]


def perturbed_spectra(
    model: Emulator,
    labels: npt.NDArray[np.float64],
    table: LeakageTable,
    steps: PreprocessTable,
    seed: int,
) -> Perturbed:
    """Synthesize stars with one label changed at a time, and preprocess them as a survey's.

    Parameters
    ----------
    model : Emulator
        Of `table.labels`.
    labels : (n_star, n_label) float64
    table : LeakageTable
    steps : PreprocessTable
    seed : int
        Of the slopes of the continua: all spectra of a star have the same.
    """
    low, high = np.asarray(model.spec.minimum), np.asarray(model.spec.maximum)
    every, widths = changed_labels(np.clip(labels, low, high), table, low, high)
    flat = every.reshape(-1, labels.shape[1])
    per_star = len(flat) // len(labels)
    if isinstance(model, LineSynthesis) and steps.library is not None:
        raw = spectra_of(model, flat)
    else:
        shape = _slopes(flat[:, list(table.labels).index("teff")], per_star, seed)
        raw = theory_spectra(model, flat, shape)
    raw = raw.assign_attrs(label_names=list(table.labels))
    made = preprocess_block(raw, _noiseless(steps), prepare(raw, _noiseless(steps), seed=seed))
    pixels = (*every.shape[:3], made.sizes["wavelength"])
    return Perturbed(
        made["flux"].to_numpy().reshape(pixels),
        made["ivar"].to_numpy().reshape(pixels),
        tuple(table.labels),
        widths,
    )


def _slopes(
    teff: npt.NDArray[np.float64], per_star: int, seed: int
) -> npt.NDArray[np.floating[Any]]:
    """Return continua, whose random slopes are the same for all spectra of a star."""
    made = []
    for i in range(len(teff)):
        rng = np.random.default_rng([seed, i // per_star, _STARS])
        made.append(continuum(WAVELENGTH, teff[i : i + 1], rng))
    return np.concatenate(made)


def bounds(
    perturbed: Perturbed, snr: float, spread: npt.NDArray[np.float64] | None = None
) -> npt.NDArray[np.float64]:
    """Return the least errors that any method can have, when all labels are unknown together.

    Parameters
    ----------
    perturbed : Perturbed
    snr : float
        Per pixel: noise is this part of the flux.
    spread : (n_label,) float64, optional
        Standard deviation of each label among the stars, known before any spectrum is: what a
        regressor that has seen them knows, too.

    Returns
    -------
    (n_label,) float64
        Median over the stars of the Cramér-Rao bound, 1 sigma; with `spread` the mean over the
        stars of van Trees' bound, which no star's labels leave without limit.

    References
    ----------
    Ting et al. 2017, ApJ 843, 32, eq. 3; van Trees 1968, Detection, Estimation, and Modulation
    Theory I, 2.4.3.
    """
    slopes = (perturbed.flux[:, :, 0] - perturbed.flux[:, :, 1]).astype(np.float64)
    slopes /= perturbed.steps[:, :, np.newaxis]
    level = np.abs(perturbed.flux.mean(axis=(1, 2))).astype(np.float64)  # (n_star, n_pixel)
    good = (perturbed.ivar > 0).all(axis=(1, 2)) & (level > 0)
    weight = np.where(good, (snr / np.where(good, level, 1)) ** 2, 0.0)
    made = []
    for one, pixels in zip(slopes, weight, strict=True):
        information = (one * pixels) @ one.T
        if spread is not None:
            information += np.diag(spread**-2.0)
        scale = np.sqrt(np.maximum(np.diag(information), 1e-300))
        inverse = np.linalg.pinv(information / np.outer(scale, scale), hermitian=True)
        made.append(np.sqrt(np.maximum(np.diag(inverse), 0)) / scale)
    typical = np.median(made, axis=0) if spread is None else np.mean(made, axis=0)
    return np.asarray(typical, np.float64)


def _noiseless(steps: PreprocessTable) -> PreprocessTable:
    """Return the steps without added noise: a derivative wants none."""
    if steps.simulate is None:
        return steps
    clean = steps.simulate.model_copy(update={"snr": None, "magnitude": None})
    return steps.model_copy(update={"simulate": clean})


def leakage_matrix(
    estimator: Estimator, perturbed: Perturbed, grid: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the mean over stars of d prediction_i / d truth_j.

    Parameters
    ----------
    estimator : Estimator
    perturbed : Perturbed
    grid : (n_pixel,) float64 [Å, vacuum]
        Wavelengths that the estimator knows.

    Returns
    -------
    (n_predicted, n_changed) float64
        1 on the diagonal and 0 elsewhere would be a model that reads every label off its own lines.

    Raises
    ------
    ConfigError
        If the changed spectra have other pixels.
    """
    if perturbed.flux.shape[-1] != len(grid):
        raise ConfigError(
            f"compare.leakage: the changed spectra have {perturbed.flux.shape[-1]} pixels, the "
            f"models {len(grid)}: their source must be preprocessed by this run file's steps"
        )
    n_pixel = len(grid)
    found = estimator.predict(
        perturbed.flux.reshape(-1, n_pixel), perturbed.ivar.reshape(-1, n_pixel)
    ).labels.astype(np.float64)
    made = found.reshape(*perturbed.flux.shape[:3], -1)
    slopes = (made[:, :, 0] - made[:, :, 1]) / perturbed.steps[:, :, np.newaxis]
    mean: npt.NDArray[np.float64] = np.nanmean(slopes, axis=0).T
    return mean


def _write(block: Block, made: Perturbed, url: str) -> BlockResult:
    ledger = Ledger(url)
    if standing := ledger.committed(block):
        return standing
    data = pack(
        {
            "flux": made.flux,
            "ivar": made.ivar,
            "steps": made.steps,
            "labels": np.array(made.labels),
        }
    )
    paths.write_bytes(paths.join(url, FILE), data)
    counts = {"stars": len(made.flux)}
    return ledger.commit(block, BlockResult(1, {FILE: paths.sha256(data)}, counts, new_attempt()))


def load_perturbed(url: str, softening: float = 0.0) -> Perturbed:
    """Read what the stage has made, its flux softened as that of the comparison."""
    where = paths.join(url, FILE)
    arrays = unpack(paths.read_bytes(where), where)
    labels = tuple(str(name) for name in arrays["labels"])
    flux, ivar = softened(arrays["flux"], arrays["ivar"], softening)
    return Perturbed(flux, ivar, labels, arrays["steps"])
