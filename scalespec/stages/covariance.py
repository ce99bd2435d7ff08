"""Covariances of labels in 16 bits an element: correlations beside the errors, and back again."""

from typing import Any

import numpy as np
import numpy.typing as npt

SCALE = 32_767
"""A correlation of 1; -32768 says that there is none."""
UNKNOWN = -32_768


def compact_covariance(
    upper: npt.NDArray[np.floating[Any]],
) -> npt.NDArray[np.int16]:
    """Return correlations of an upper triangle of covariances, its diagonal left out.

    A label that is held fixed has no variance: its correlations are 0, which give that back.

    Parameters
    ----------
    upper : (n, k * (k + 1) / 2) float
        Row by row; NaN where there is no fit.

    Returns
    -------
    (n, k * (k - 1) / 2) int16
        Over `SCALE`; `UNKNOWN` where there is no fit.

    Examples
    --------
    >>> compact_covariance(np.array([[4.0, 3.0, 9.0], [np.nan] * 3]))
    array([[ 16384],
           [-32768]], dtype=int16)
    """
    k = n_labels(upper.shape[1])
    first, second = np.triu_indices(k)
    cells = upper.astype(np.float64)
    error = np.sqrt(cells[:, first == second])
    off = first != second
    scale = error[:, first[off]] * error[:, second[off]]
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.clip(cells[:, off] / scale, -1, 1)
    correlation[(scale == 0) & np.isfinite(cells[:, off])] = 0
    known = np.isfinite(correlation)
    rounded = np.where(known, np.round(SCALE * np.where(known, correlation, 0)), UNKNOWN)
    return np.asarray(rounded, np.int16)


def full_covariance(
    correlation: npt.NDArray[np.int16], error: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float64]:
    """Return covariance matrices of what `compact_covariance` made.

    Parameters
    ----------
    correlation : (n, k * (k - 1) / 2) int16
    error : (n, k) float
        1 sigma of each label, in the order of the fit.

    Returns
    -------
    (n, k, k) float64
        NaN where there is no fit.

    Examples
    --------
    >>> full_covariance(np.array([[16384]], np.int16), np.array([[2.0, 3.0]])).round(2)
    array([[[4., 3.],
            [3., 9.]]])
    """
    n, k = error.shape
    first, second = np.triu_indices(k, 1)
    matrix = np.zeros((n, k, k)) + np.eye(k)
    value = np.where(correlation == UNKNOWN, np.nan, correlation / SCALE)
    matrix[:, first, second] = matrix[:, second, first] = value
    return np.asarray(matrix * error[:, :, None] * error[:, None, :])


def n_labels(n_upper: int) -> int:
    """Return k of k * (k + 1) / 2.

    Raises
    ------
    ValueError
        If there is no such k.
    """
    k = (int(np.sqrt(8 * n_upper + 1)) - 1) // 2
    if k * (k + 1) // 2 != n_upper:
        raise ValueError(f"{n_upper} numbers are no upper triangle of a square matrix")
    return k
