"""Which pixels carry a prediction: integrated gradients, summed over named lines. Pure arrays.

Gradients are central differences along the way from a baseline, so that any model that predicts
has them, differentiable or not.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scalespec.kernels.features import AIR_WINDOWS
from scalespec.kernels.wavelength import air_to_vacuum

FloatArray = npt.NDArray[np.floating[Any]]
Predict = Callable[[npt.NDArray[np.float32]], FloatArray]

LINES: dict[str, tuple[tuple[float, float], ...]] = {
    "Ca H, K": ((3926.7, 3975.0),),
    "H delta": ((4083.5, 4122.3),),
    "CN 4216": ((4142.1, 4177.1),),
    "Ca I 4227": ((4222.3, 4234.8),),
    "CH G band": (AIR_WINDOWS["CH_G"],),
    "H gamma": ((4331.3, 4359.8),),
    "Fe 4383": ((4369.1, 4420.4),),
    "C2 4668": ((4634.0, 4720.3),),
    "H beta": (AIR_WINDOWS["H_BETA"],),
    "Fe 5015": ((4977.8, 5054.0),),
    "Mg b": (AIR_WINDOWS["MG_B"],),
    "Fe 5270, 5335": (AIR_WINDOWS["FE_5270"], (5312.1, 5352.1)),
    "Na D": (AIR_WINDOWS["NA_D"],),
    "H alpha": ((6548.0, 6578.0),),
    "TiO": ((5936.6, 5994.1), (6189.6, 6272.1), (7050.0, 7200.0)),
    "Ca II triplet": (AIR_WINDOWS["CA_TRIPLET"],),
}
"""Lines and bands, in air Å, from blue to red. Lick indices: Worthey et al. 1994, ApJS 94, 687, and
Worthey & Ottaviani 1997, ApJS 111, 377; those in the red as they are commonly seen."""
ELSEWHERE = "elsewhere"


def line_segments(wavelength: FloatArray) -> dict[str, npt.NDArray[np.bool_]]:
    """Return the pixels of every line that the wavelengths reach, and of all the rest.

    Parameters
    ----------
    wavelength : (n_pixel,) float [Å, vacuum]

    Returns
    -------
    dict of str to (n_pixel,) bool
        Every pixel is in one of them; the last is "elsewhere".

    Examples
    --------
    >>> made = line_segments(np.array([4300.0, 4500.0, 5170.0]))
    >>> {name: pixels.tolist() for name, pixels in made.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'CH G band': [True, False, False], 'Mg b': [False, False, True],
     'elsewhere': [False, True, False]}
    """
    free = np.ones(len(wavelength), bool)
    found: dict[str, npt.NDArray[np.bool_]] = {}
    for name, windows in LINES.items():
        inside = np.zeros(len(wavelength), bool)
        for window in windows:
            low, high = air_to_vacuum(np.array(window))
            inside |= (wavelength >= low) & (wavelength <= high)
        inside &= free
        if inside.any():
            found[name] = inside
            free &= ~inside
    return found | {ELSEWHERE: free}


def integrated_gradients(
    predict: Predict,
    flux: npt.NDArray[np.float32],
    baseline: npt.NDArray[np.float32],
    segments: Sequence[npt.NDArray[np.bool_]],
    *,
    n_step: int = 8,
    width: float = 0.02,
) -> npt.NDArray[np.float64]:
    """Share a prediction's distance from that of a baseline out among segments of the spectrum.

    Parameters
    ----------
    predict : callable
        (n, n_pixel) float32 -> (n, n_label).
    flux : (n, n_pixel) float32
    baseline : (n_pixel,) float32
        Where the way to each spectrum begins: the training mean.
    segments : sequence of (n_pixel,) bool
    n_step : int
        Places on the way, in the middle of equal steps.
    width : float
        Of a central difference, in parts of the way; trees have steps, and want it wide.

    Returns
    -------
    (n, n_segment, n_label) float64
        Where the segments cover the spectrum, their sum is ``predict(flux) - predict(baseline)`` to
        the accuracy of the midpoint rule.

    Raises
    ------
    ValueError
        If there is no step, or the width is not positive.

    References
    ----------
    Sundararajan, Taly & Yan 2017, ICML 70, 3319.

    Examples
    --------
    >>> def predict(flux): return flux[:, :1] ** 2 + 3 * flux[:, 1:2]
    >>> parts = integrated_gradients(predict, np.float32([[2, 1]]), np.float32([0, 0]),
    ...                              [np.array([True, False]), np.array([False, True])])
    >>> parts[0, :, 0].round(3).tolist()
    [4.0, 3.0]
    """
    if n_step < 1 or not width > 0:
        raise ValueError(f"n_step = {n_step} and width = {width}: wanted above 0")
    away = flux - baseline
    slopes = []
    for place in (np.arange(n_step) + 0.5) / n_step:
        here = baseline + np.float32(place) * away
        moved = []
        for segment in segments:
            step = np.float32(width) * np.where(segment, away, np.float32(0))
            moved += [here + step, here - step]
        made = np.asarray(predict(np.concatenate(moved)), np.float64)
        made = made.reshape(len(segments), 2, len(flux), -1)
        slopes.append((made[:, 0] - made[:, 1]) / (2 * width))
    mean: npt.NDArray[np.float64] = np.mean(slopes, axis=0).transpose(1, 0, 2)
    return mean
