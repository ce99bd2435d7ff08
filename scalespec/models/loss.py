"""How far emulated flux is from observed flux, weighted pixel by pixel."""

import torch
from torch import Tensor


def pixel_weight(ivar: Tensor, scatter_floor: float) -> Tensor:
    """Return ``ivar / (1 + ivar * scatter_floor**2)``, 0 where `ivar` holds no information.

    The floor [flux] keeps a few spectra of very high S/N from deciding alone; `ivar` may be
    infinite (spectra without noise), which gives ``1 / scatter_floor**2``.

    Examples
    --------
    >>> pixel_weight(torch.tensor([0.0, 1e4, torch.inf]), 0.01)
    tensor([    0.,  5000., 10000.])
    """
    good = ivar > 0  # False for NaN too
    variance = 1 / torch.where(good, ivar, 1.0) + scatter_floor**2
    return torch.where(good, 1 / variance, 0.0)


def emulator_loss(prediction: Tensor, flux: Tensor, ivar: Tensor, scatter_floor: float) -> Tensor:
    """Return the weighted mean square of ``prediction - flux``.

    Parameters
    ----------
    prediction, flux : (n_spectrum, n_pixel) tensor
        Emulated and observed normalized flux.
    ivar : (n_spectrum, n_pixel) tensor [flux**-2]
        Inverse variance of `flux`; pixels of 0 count for nothing, whatever their flux.
    scatter_floor : float [flux]
        Scatter added to the noise of every pixel, see `pixel_weight`; over 0.

    Returns
    -------
    () tensor [flux**2]
        0, with gradients of 0, if no pixel holds information.

    Raises
    ------
    ValueError
        If `scatter_floor` is not positive.

    Examples
    --------
    >>> flux, ivar = torch.tensor([[1.0, 0.8]]), torch.tensor([[1e4, 0.0]])
    >>> round(float(emulator_loss(torch.tensor([[1.1, 9.0]]), flux, ivar, 0.01)), 6)
    0.01
    """
    if not scatter_floor > 0:
        raise ValueError(f"scatter_floor must be positive, got {scatter_floor}")
    weight = pixel_weight(ivar, scatter_floor)
    residual = torch.where(weight > 0, prediction - flux, 0.0)
    total = weight.sum()
    return (weight * residual.square()).sum() / torch.where(total > 0, total, 1.0)
