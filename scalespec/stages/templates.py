"""Rest-frame spectra to cross-correlate with: from a spectra store of ours, or from a model."""

import numpy as np
import numpy.typing as npt

from scalespec.kernels.combine import regrid
from scalespec.kernels.wavelength import pixel_edges
from scalespec.stages.normalizers import Normalizer
from scalespec.store import paths
from scalespec.store.spectra import count_spectra, read_rows

FloatArray = npt.NDArray[np.float32]

SEED = 1
"""Of the labels that a model's templates are drawn at: they belong to no run."""


def load_templates(
    url: str, n: int, wavelength: npt.NDArray[np.float64], normal: Normalizer
) -> FloatArray:
    """Return templates on the data's pixels, normalized as they are.

    Parameters
    ----------
    url : str
        A spectra store, whose rows are spectra at rest, or a model's folder or .npz.
    n : int
        Templates wanted: rows spread evenly over the store, or spectra that stand for all a model
        can make.
    wavelength : (n_pixel,) float64 [Å, vacuum]
        Even in log10.
    normal : Normalizer

    Returns
    -------
    (n_template, n_pixel) float32
        1 where a template does not reach.

    Raises
    ------
    ValueError
        If no template has a pixel in the data's range.
    """
    is_store = paths.exists(paths.join(url, "zarr.json"))
    flux, ivar = _stored(url, n, wavelength) if is_store else _drawn(url, n, wavelength)
    if not (ivar > 0).any():
        raise ValueError(
            f"{url}: no template has a pixel between {wavelength[0]:.0f} and {wavelength[-1]:.0f} Å"
        )
    made, weight, _, _ = normal(flux, ivar)
    known = (weight > 0).any(axis=1)
    return np.where(weight > 0, made, np.float32(1))[known]


def _stored(url: str, n: int, wavelength: npt.NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
    count = count_spectra(url)
    rows = np.unique(np.linspace(0, count - 1, min(n, count)).astype(np.int64))
    spectra = read_rows(url, rows)
    values = [spectra[name].to_numpy() for name in ("wavelength", "flux", "ivar", "mask")]
    own, flux, ivar, mask = values
    if own.shape == wavelength.shape and np.allclose(own, wavelength, rtol=1e-8):
        return flux, ivar
    flux, ivar, _ = regrid((own, flux, ivar, mask), pixel_edges(wavelength))
    return flux, ivar


def _drawn(url: str, n: int, wavelength: npt.NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
    from scalespec.optimize.start import templates  # torch, which other templates do without
    from scalespec.store.model import load_model

    model = load_model(url)
    flux, _ = templates(model, n, seed=SEED)
    own, one = np.asarray(model.spec.wavelength), np.ones(flux.shape, np.float32)
    made, ivar, _ = regrid(
        (own, flux, one, np.zeros(flux.shape, np.uint32)), pixel_edges(wavelength)
    )
    return made.astype(np.float32), ivar.astype(np.float32)
