"""What a fit is given: numbers as arrays, shapes checked before anything is done with them."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scalespec.optimize.objective import ArrayLike, Emulator


def plain(values: ArrayLike | float) -> NDArray[np.float64]:
    """Return numbers as a float64 array, wherever they are."""
    return np.asarray(values.cpu() if isinstance(values, Tensor) else values, np.float64)


def n_starts(start: ArrayLike) -> int:
    """Return how many sets of first labels a star has."""
    return int(start.shape[1]) if start.ndim == 3 else 1


def check_shapes(
    model: Emulator,
    flux: ArrayLike,
    ivar: ArrayLike,
    start: ArrayLike | None,
    rv_start: ArrayLike | None,
) -> None:
    """Refuse spectra and first estimates that are not of the model's pixels and labels.

    Raises
    ------
    ValueError
        If a shape is wrong.
    """
    n, n_label, n_pixel = len(flux), len(model.spec.labels), len(model.spec.wavelength)
    for name, values, wanted in (
        ("flux", flux, (n, n_pixel)),
        ("ivar", ivar, (n, n_pixel)),
        ("start", start, (n, n_label)),
        ("rv_start", rv_start, (n,)),
    ):
        got = None if values is None else tuple(values.shape)
        if name == "start" and got is not None and len(got) == 3 and got[1]:
            got = (got[0], got[2])
        if got is not None and got != wanted:
            raise ValueError(f"{name} should be {wanted} for this model, got {got}")


def excess_variances(
    noise_correlation: ArrayLike | float, n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return by what variances of labels and of velocities exceed those of white noise.

    Parameters
    ----------
    noise_correlation : float, (n,) or (n, 2) float
        One number is both.
    n : int
        Stars.

    Returns
    -------
    labels, velocities : (n,) float64

    Raises
    ------
    ValueError
        If they are of another shape, or not positive.

    Examples
    --------
    >>> excess_variances(np.array([1.0, 1.8]), 2)[1].tolist()
    [1.0, 1.8]
    """
    values = plain(noise_correlation)
    if values.ndim < 2 and values.shape in ((), (n,)):
        values = np.broadcast_to(np.broadcast_to(values, n)[:, np.newaxis], (n, 2))
    if values.shape != (n, 2) or not np.all((values > 0) & np.isfinite(values)):
        raise ValueError(
            f"noise_correlation should be positive, of shape ({n},) or ({n}, 2), got "
            f"{values.shape} from {values.min(initial=np.inf):.3g}"
        )
    return values[:, 0], values[:, 1]
