"""Reference gradients for training: theoretical derivatives at a few stars, made the data's way.

A file of gradients is an npz of plain arrays:

| array | shape | what |
| --- | --- | --- |
| labels | (n_label,) | names of all labels, ours |
| reference_labels | (n_star, n_label) | of the reference stars, physical units |
| reference_flux | (n_star, n_pixel) | over the true continuum |
| gradient_labels | (n_gradient,) | labels that there are derivatives by |
| gradients | (n_star, n_gradient, n_pixel) | of flux, per unit of the label |
| wavelength_vac | (n_pixel,) | Å, on the data's own grid or part of it |
| resolving_power | () | R of these spectra |

Instead of a file, an emulator serves as teacher: its derivatives at stars of the training sample.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter1d

from scalespec.errors import ModelError
from scalespec.kernels.continuum import gaussian_smoothing, smoothed_model
from scalespec.models.base import EmulatorSpec
from scalespec.models.prior import GradientPrior
from scalespec.stages.emulators import FWHM, LATTICE_PIXELS, SAME_RESOLUTION
from scalespec.store import paths
from scalespec.store.model import Arrays, load_model, unpack

log = logging.getLogger(__name__)

ARRAYS = (
    "labels",
    "reference_labels",
    "reference_flux",
    "gradient_labels",
    "gradients",
    "wavelength_vac",
    "resolving_power",
)
BEYOND = 0.1
"""References may lie this far outside the labels' ranges, in units of them."""
COVERED = 0.98
"""Pixels are known where the normalization sees at least this share of its kernel."""


@dataclass(frozen=True)
class References:
    """Derivatives of spectra at some stars, in physical units; fields as of the file.

    A file's spectra are over the true continuum, a teacher's normalized as it says.
    """

    labels: tuple[str, ...]
    reference_labels: npt.NDArray[np.float64]
    reference_flux: npt.NDArray[np.float64]
    gradient_labels: tuple[str, ...]
    gradients: npt.NDArray[np.float64]
    wavelength: npt.NDArray[np.float64]
    resolving_power: float
    normalization: Mapping[str, Any]


def load_references(
    url: str, spec: EmulatorSpec, sample: npt.NDArray[np.floating], *, n: int, seed: int
) -> References:
    """Load a file of gradients, or let an emulator make them.

    Parameters
    ----------
    url : str
        An npz of gradients, or a model: a folder of ours or The Payne's npz.
    spec : EmulatorSpec
        Of the model to be trained.
    sample : (n_star, n_label) float
        Labels of the training stars, of which a teacher's reference stars are drawn.
    n, seed : int
        How many are drawn, and how.

    Raises
    ------
    StoreError
        If nothing is there.
    ModelError
        If it is neither, or lacks a label.
    """
    if paths.plain(url).endswith(".npz"):
        arrays = unpack(paths.read_bytes(url), url)
        if "w_array_0" not in arrays:
            return _from_arrays(arrays, url)
    teacher = load_model(url)
    if lacking := sorted(set(teacher.spec.labels) - set(spec.labels)):
        raise ModelError(f"{url}: the teacher has labels {lacking}, which train.labels lack")
    drawn = np.random.default_rng(seed).permutation(len(sample))[:n]
    columns = [spec.labels.index(name) for name in teacher.spec.labels]
    labels = np.asarray(sample, np.float64)[drawn][:, columns]
    inside = np.all((labels >= teacher.spec.minimum) & (labels <= teacher.spec.maximum), axis=1)
    if not inside.any():
        raise ModelError(f"{url}: none of {n} training stars lies within the teacher's labels")
    x = teacher.scale(torch.from_numpy(labels[inside]))
    with torch.no_grad():
        flux, jacobian = (part.double().numpy() for part in teacher.flux_and_jacobian(x))
    span = teacher.spec.maximum - teacher.spec.minimum
    return References(
        teacher.spec.labels,
        labels[inside],
        flux,
        teacher.spec.labels,
        jacobian / span[:, None],
        teacher.spec.wavelength,
        _resolution(teacher.spec.resolving_power, url),
        teacher.spec.normalization,
    )


def _resolution(resolving_power: float | None, url: str) -> float:
    if resolving_power is None:
        raise ModelError(f"{url}: the teacher does not say its resolving power")
    return resolving_power


def _from_arrays(arrays: Arrays, url: str) -> References:
    if lacking := [name for name in ARRAYS if name not in arrays]:
        raise ModelError(f"{url}: no {', '.join(lacking)} in this file of gradients")
    labels, by = (tuple(map(str, arrays[name])) for name in ("labels", "gradient_labels"))
    n, n_pixel = arrays["reference_flux"].shape
    wanted = {
        "reference_labels": (n, len(labels)),
        "gradients": (n, len(by), n_pixel),
        "wavelength_vac": (n_pixel,),
    }
    for name, shape in wanted.items():
        if arrays[name].shape != shape:
            raise ModelError(f"{url}: {name} has shape {arrays[name].shape}, wanted {shape}")
    return References(
        labels,
        arrays["reference_labels"].astype(np.float64),
        arrays["reference_flux"].astype(np.float64),
        by,
        arrays["gradients"].astype(np.float64),
        arrays["wavelength_vac"].astype(np.float64),
        float(arrays["resolving_power"]),
        {"method": "continuum"},
    )


def make_prior(
    references: References, spec: EmulatorSpec, *, strength: float, url: str = ""
) -> GradientPrior:
    """Bring reference gradients to the model's grid, resolution, normalization and scaling.

    Parameters
    ----------
    references : References
    spec : EmulatorSpec
        Of the model to be trained.
    strength : float
        See `GradientPrior`.
    url : str
        Where they are from, for messages.

    Raises
    ------
    ModelError
        If grid, resolution, normalization or labels do not fit.
    """
    if lacking := [name for name in spec.labels if name not in references.labels]:
        raise ModelError(
            f"{url}: reference stars have no label {lacking}; they have {list(references.labels)}"
        )
    by = [name for name in references.gradient_labels if name in spec.labels]
    span = spec.maximum - spec.minimum
    order = [references.labels.index(name) for name in spec.labels]
    x = (references.reference_labels[:, order] - spec.minimum) / span - 0.5
    near = np.all(np.abs(x) <= 0.5 + BEYOND, axis=1)
    if not near.any() or not by:
        raise ModelError(
            f"{url}: of {len(x)} reference stars none lies in the range of the training labels, or "
            f"no gradient is by one of {list(spec.labels)}"
        )
    if not near.all():
        log.warning("%s: %d of %d reference stars lie outside the labels", url, sum(~near), len(x))
    rows = [references.gradient_labels.index(name) for name in by]
    chosen = replace(
        references,
        reference_flux=references.reference_flux[near],
        gradients=references.gradients[near][:, rows],
    )
    on_grid, known = _on_grid(_at_resolution(chosen, spec, url), spec, url)
    gradients, known = _normalized(on_grid, known, spec)
    which = np.array([spec.labels.index(name) for name in by])
    scaled = gradients * span[which][:, None]
    return GradientPrior(
        torch.from_numpy(np.repeat(x[near], len(by), axis=0).astype(np.float32)),
        torch.from_numpy(np.tile(which, int(near.sum()))),
        torch.from_numpy(scaled.reshape(-1, spec.n_pixel).astype(np.float32)),
        torch.from_numpy(known),
        strength,
    )


def _at_resolution(references: References, spec: EmulatorSpec, url: str) -> References:
    """Broaden to the data's resolving power."""
    wanted, own = _resolution(spec.resolving_power, "the data"), references.resolving_power
    if abs(own / wanted - 1) <= SAME_RESOLUTION:
        return references
    if own < wanted:
        raise ModelError(
            f"{url}: R = {own:g}, the data R = {wanted:g}: gradients are not sharpened"
        )
    step = float(np.log(references.wavelength[1] / references.wavelength[0]))
    sigma = float(np.sqrt(wanted**-2 - own**-2) / FWHM / step)
    return replace(
        references,
        reference_flux=gaussian_filter1d(references.reference_flux, sigma, mode="nearest"),
        gradients=gaussian_filter1d(references.gradients, sigma, mode="nearest"),
    )


def _on_grid(
    references: References, spec: EmulatorSpec, url: str
) -> tuple[References, npt.NDArray[np.bool_]]:
    """Put the spectra on the data's pixels; say which of them are covered."""
    own, grid = references.wavelength, spec.wavelength
    place = np.clip(np.searchsorted(own, grid), 1, len(own) - 1)
    place -= grid - own[place - 1] < own[place] - grid  # the nearer of two
    offset = np.abs(own[place] - grid) / np.gradient(grid)
    known = offset < 0.5
    if not known.any() or offset[known].max() > LATTICE_PIXELS:
        raise ModelError(
            f"{url}: the gradients' pixels, {own[0]:.2f}-{own[-1]:.2f} Å, are not among the "
            f"data's, {grid[0]:.2f}-{grid[-1]:.2f} Å: resample them to the data's grid"
        )
    flux = np.ones((len(references.reference_flux), spec.n_pixel))
    gradients = np.zeros((*references.gradients.shape[:2], spec.n_pixel))
    flux[:, known] = references.reference_flux[:, place[known]]
    gradients[..., known] = references.gradients[..., place[known]]
    return replace(references, reference_flux=flux, gradients=gradients, wavelength=grid), known


def _normalized(
    references: References, known: npt.NDArray[np.bool_], spec: EmulatorSpec
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]:
    """Pass the gradients through the data's normalization; say which pixels still are known."""
    own, wanted = dict(references.normalization), dict(spec.normalization)
    if own == wanted:
        return references.gradients, known
    if own["method"] != "continuum" or wanted.get("method") != "gaussian":
        raise ModelError(f"gradients normalized by {own} cannot be made like data by {wanted}")
    operator = gaussian_smoothing(spec.wavelength, float(spec.normalization["width_angstrom"]))
    weights = np.broadcast_to(known.astype(np.float64), references.reference_flux.shape)
    share = operator.apply(known[None]) / operator.apply(np.ones((1, spec.n_pixel)))
    flux: npt.NDArray[np.floating] = references.reference_flux
    slopes: npt.NDArray[np.floating] = references.gradients
    for _ in range(int(wanted.get("passes", 1))):
        flux, slopes = smoothed_model(flux, slopes, weights, operator)
    return slopes, known & (share[0] >= COVERED)
