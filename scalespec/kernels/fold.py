"""Spectra folded into images whose neighbors in wavelength stay neighbors."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Scalar = TypeVar("Scalar", bound=np.generic)

SIDE = 64
"""Of the images of Xie et al.: 4,096 pixels from 4,000 Å in steps of 1 Å."""


def fold(values: npt.NDArray[Scalar], *, width: int = SIDE) -> npt.NDArray[Scalar]:
    """Fold each row into lines of an image, every other one from right to left.

    Parameters
    ----------
    values : (..., n_pixel) any dtype
        ``n_pixel`` a multiple of `width`.
    width : int
        Pixels per line.

    Returns
    -------
    (..., n_pixel / width, width) dtype of `values`

    Raises
    ------
    ValueError
        If the pixels do not fill whole lines.

    Examples
    --------
    >>> fold(np.arange(6), width=3)
    array([[0, 1, 2],
           [5, 4, 3]])
    """
    if values.ndim < 1 or width < 1 or values.shape[-1] % width:
        raise ValueError(f"{values.shape} pixels do not fill lines of {width}")
    image = values.reshape(*values.shape[:-1], values.shape[-1] // width, width).copy()
    image[..., 1::2, :] = image[..., 1::2, ::-1]
    return image


def unfold(image: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """Return the rows that `fold` made images of.

    Parameters
    ----------
    image : (..., n_line, width) any dtype

    Returns
    -------
    (..., n_line * width) dtype of `image`

    Raises
    ------
    ValueError
        If it has fewer than two dims.

    Examples
    --------
    >>> unfold(fold(np.arange(6), width=3))
    array([0, 1, 2, 3, 4, 5])
    """
    if image.ndim < 2:
        raise ValueError(f"an image has lines and columns, got {image.shape}")
    lines = image.copy()
    lines[..., 1::2, :] = lines[..., 1::2, ::-1]
    return lines.reshape(*image.shape[:-2], image.shape[-2] * image.shape[-1])
