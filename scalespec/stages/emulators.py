"""Models made ready for a spectra store: cut to its grid, brought to its resolution, checked.

Each thing on which model and data must agree is compared here, once, and named when it does not:
the pixel lattice, the resolving power, the normalization, the labels.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from scalespec.config import RunConfig
from scalespec.errors import ModelError
from scalespec.kernels.continuum import SmoothingOperator, gaussian_smoothing
from scalespec.models.base import Emulator
from scalespec.optimize.objective import Smoother
from scalespec.optimize.start import RidgeStart, ridge_start, templates
from scalespec.store.model import load_model

log = logging.getLogger(__name__)

LATTICE_PIXELS = 0.02
"""Greatest offset of model and data pixels that counts as the same lattice."""
SAME_RESOLUTION = 0.03
"""Relative difference of resolving powers that counts as none: LAMOST's own R varies by more."""
FWHM = 2.354820045
"""Full width at half maximum of a Gaussian, in standard deviations."""
RIDGE_DRAWS = 3000


@dataclass(frozen=True)
class Ready:
    """One model on the grid of one store.

    Attributes
    ----------
    model : Emulator
        Cut to the store's pixels and at its resolution.
    smoothing : Smoother or None
        The data's normalization, if the model's flux has yet to pass through it.
    """

    model: Emulator
    smoothing: Smoother | None

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the model's labels."""
        return self.model.spec.labels


@dataclass(frozen=True)
class Starter:
    """What makes first estimates with one model.

    Attributes
    ----------
    ready : Ready
    template_flux : (T, P) float32
        Normalized spectra for the cross-correlation.
    template_labels : (T, K) float32
        Their labels.
    ridge : RidgeStart
        Regression of labels on flux.
    """

    ready: Ready
    template_flux: npt.NDArray[np.float32]
    template_labels: npt.NDArray[np.float32]
    ridge: RidgeStart


def wanted_device(config: RunConfig) -> str:
    """Return where a run wants its models: on "cuda" if its Ray actors hold GPUs, even in part."""
    return "cuda" if config.engine.ray.gpus_per_worker > 0 else "cpu"


def device_here(wanted: str) -> str:
    """Return the device that is wanted, but the CPU for a GPU that is not there.

    A cluster's run file runs on a laptop, too; a GPU that a worker holds and does not see is paid
    for in vain, so it is said.
    """
    if wanted == "cpu" or torch.cuda.is_available():
        return wanted
    log.warning(
        "engine.ray.gpus_per_worker wants a GPU, torch sees none: models stay on the CPU; on a "
        "machine that has one, install the build of torch for it"
    )
    return "cpu"


def load_starters(
    urls: Sequence[str],
    wavelength: npt.NDArray[np.float64],
    attrs: Mapping[str, Any],
    *,
    n_template: int,
    seed: int,
    device: str = "cpu",
) -> list[Starter]:
    """Load models as `load_ready` does, and draw from them what first estimates need.

    Parameters
    ----------
    urls, wavelength, attrs
        As of `load_ready`.
    n_template : int
        Spectra per model for the cross-correlation.
    seed : int
        Of the draws.
    device : str
        As of `load_ready`.
    """
    return [
        Starter(
            one,
            *templates(one.model, n_template, seed=seed, smoothing=one.smoothing),
            ridge_start(one.model, n_draws=RIDGE_DRAWS, seed=seed, smoothing=one.smoothing),
        )
        for one in load_ready(urls, wavelength, attrs, device=device)
    ]


def load_ready(
    urls: Sequence[str],
    wavelength: npt.NDArray[np.float64],
    attrs: Mapping[str, Any],
    *,
    device: str = "cpu",
) -> list[Ready]:
    """Load models and make them ready for a store.

    Parameters
    ----------
    urls : sequence of str
        Folders of ours, or The Payne's .npz.
    wavelength : (P,) float [Å, vacuum]
        Of the preprocessed spectra.
    attrs : mapping
        Of their store: resolving_power, normalization.
    device : str
        Where the models are wanted; see `device_here`.

    Raises
    ------
    ModelError
        If a model is damaged, or its grid, resolution, normalization or labels do not fit.
    """
    there = device_here(device)
    models = [load_model(url) for url in urls]
    for url, model in zip(urls, models, strict=True):
        if model.spec.labels != models[0].spec.labels:
            raise ModelError(
                f"{url}: labels {model.spec.labels} differ from {models[0].spec.labels} of "
                f"{urls[0]}: models tried on one star must measure the same labels"
            )
    return [
        make_ready(model, wavelength, attrs, url, there)
        for url, model in zip(urls, models, strict=True)
    ]


def make_ready(
    model: Emulator,
    wavelength: npt.NDArray[np.float64],
    attrs: Mapping[str, Any],
    url: str = "",
    device: str = "cpu",
) -> Ready:
    """Bring one model to a store's grid, resolution and normalization; see `load_ready`."""
    url = url or model.spec.name
    model = at_resolution(model, attrs.get("resolving_power"), url)  # before its edges are cut
    model = on_grid(model, wavelength, url).to(device)  # the smoothing goes where it is
    operator = smoothing_for(model, wavelength, attrs.get("normalization"), url)
    return Ready(model, Smoother(operator.tiles, model.scatter) if operator else None)


def on_grid(model: Emulator, wavelength: npt.NDArray[np.float64], url: str = "") -> Emulator:
    """Return the model cut to the pixels of `wavelength`.

    Raises
    ------
    ModelError
        If the data's pixels are not among the model's.
    """
    own = model.spec.wavelength
    start = int(np.argmin(np.abs(own - wavelength[0])))
    stop = start + len(wavelength)
    cure = "preprocess onto the model's grid, or choose another model"
    if stop > len(own):
        raise ModelError(
            f"{url}: the data have {len(wavelength)} pixels from {wavelength[0]:.2f} to "
            f"{wavelength[-1]:.2f} Å, the model covers {own[0]:.2f}-{own[-1]:.2f} Å with "
            f"{len(own)}: {cure}"
        )
    pixel = np.diff(wavelength, prepend=2 * wavelength[0] - wavelength[1])
    offset = float(np.max(np.abs(own[start:stop] - wavelength) / pixel))
    if offset > LATTICE_PIXELS:
        raise ModelError(
            f"{url}: the model's pixels lie up to {offset:.2f} pixels off the data's "
            f"(model {own[0]:.3f}-{own[-1]:.3f} Å, data {wavelength[0]:.3f}-{wavelength[-1]:.3f} "
            f"Å): {cure}"
        )
    return model.slice_grid(start, stop)


def at_resolution(model: Emulator, resolving_power: float | None, url: str = "") -> Emulator:
    """Return the model at the data's resolving power, broadened if it is sharper.

    Raises
    ------
    ModelError
        If the model is blurrier than the data, or one of them does not say its resolution.
    """
    own = model.spec.resolving_power
    if own is None or resolving_power is None:
        who = "the model" if own is None else "the spectra store"
        raise ModelError(f"{url}: {who} does not say its resolving power")
    ratio = own / resolving_power
    if abs(ratio - 1) <= SAME_RESOLUTION:
        return model
    if ratio < 1:
        raise ModelError(
            f"{url}: the model has R = {own:g}, the data R = {resolving_power:g}: a model cannot "
            "be sharpened; choose one of higher resolution or degrade the data first"
        )
    # Constant R is a constant width in ln(wavelength): one kernel for all pixels.
    step = float(np.log(model.spec.wavelength[1] / model.spec.wavelength[0]))
    sigma = np.sqrt(resolving_power**-2 - own**-2) / FWHM / step
    log.warning(
        "%s: R = %g, data R = %g: broadened by %.2f pixels", url, own, resolving_power, sigma
    )
    return model.broadened(float(sigma), resolving_power=resolving_power)


def smoothing_for(
    model: Emulator,
    wavelength: npt.NDArray[np.float64],
    normalization: Mapping[str, Any] | None,
    url: str = "",
) -> SmoothingOperator | None:
    """Return the operator that the model's flux must pass, or None if it is normalized as the data.

    Raises
    ------
    ModelError
        If model and data are normalized in ways that cannot be brought together.
    """
    own = dict(model.spec.normalization)
    wanted = dict(normalization or {})
    if own == wanted:
        return None
    if own.get("method") == "continuum" and wanted.get("passes", 1) > 1:
        raise ModelError(
            f"{url}: the model is over the true continuum, the data were normalized "
            f"{wanted['passes']} times: set preprocess.continuum.passes = 1, or train on these data"
        )
    if own.get("method") == "continuum" and wanted.get("method") == "gaussian":
        return gaussian_smoothing(wavelength, float(wanted["width_angstrom"]))
    raise ModelError(
        f"{url}: the model is normalized by {own}, the data by {wanted}: "
        "preprocess the data as the model was, or train the model on these"
    )


def scatter_penalty(
    scatter: torch.Tensor, ivar: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return what a model's scatter costs each star's -2 ln L: sum of ln(1 + ivar scatter²), (n,).

    Without it the model that knows least of its pixels would win: more scatter is less χ².
    """
    square = scatter.cpu().numpy().astype(np.float32) ** 2
    penalty: npt.NDArray[np.float64] = np.log1p(ivar * square).sum(axis=1, dtype=np.float64)
    return penalty
