"""What a trained model leaves of its spectra, made labels that fits marginalize."""

import numpy as np
import torch
from torch import Tensor

from scalespec.errors import ModelError
from scalespec.models.base import Emulator
from scalespec.models.leeway import with_leeway
from scalespec.models.payne import Payne
from scalespec.models.validation import emulate
from scalespec.stages.card import Stars

MOST_SPECTRA = 4096
"""Of each part, evenly over its rows: what they have in common is seen in so many."""
MOST_GROWTH = 5.0
"""What a model leaves of new stars, in units of what it leaves of those it has learned by heart."""
_AT_ONCE = 512
_OUTLIER = 25.0  # of the median square of a pixel: above it counts as this


def learn_leeway(model: Emulator, training: Stars, validation: Stars, n: int) -> Emulator:
    """Return the model with `n` components of its residuals as labels, as `with_leeway`.

    Components are those of the training spectra, of which there are more; they are as large as what
    the model leaves of other stars, those of validation.

    Parameters
    ----------
    model : Payne or HotPayne
        Trained.
    training, validation : Stars
        What it learned from, and others.
    n : int

    Raises
    ------
    ModelError
        If there are not more spectra than labels asked for.
    """
    assert isinstance(model, Payne)
    left, ivar = residuals(model, training)
    own, others = excess(left, ivar), excess(*residuals(model, validation))
    growth = min(max((others / own) ** 0.5, 1.0), MOST_GROWTH) if own > 0 else 1.0
    try:
        return with_leeway(model, left, ivar, n, growth=growth)
    except ValueError as error:
        raise ModelError(f"train.leeway = {n}: {error}") from error


@torch.no_grad()
def residuals(model: Emulator, stars: Stars) -> tuple[Tensor, Tensor]:
    """Return flux less the model's (n, n_pixel), and ivar, on the processor."""
    n = len(stars.rows)
    which = np.linspace(0, n - 1, min(n, MOST_SPECTRA)).astype(int)
    left, known = [], []
    for begin in range(0, len(which), _AT_ONCE):
        batch = stars.read(which[begin : begin + _AT_ONCE])
        labels, flux, ivar, shift = (torch.from_numpy(a).to(model.scatter) for a in batch)
        left.append((flux - emulate(model, labels, shift)).cpu())
        known.append(ivar.cpu())
    return torch.cat(left), torch.cat(known)


def excess(residual: Tensor, ivar: Tensor) -> float:
    """Return the mean square beyond noise, of outliers no more than what is usual.

    Examples
    --------
    >>> residual = torch.full((9, 2), 0.02)
    >>> round(excess(residual, torch.full((9, 2), torch.inf)) * 1e6)
    400
    """
    square = torch.where(ivar > 0, residual.square(), torch.nan)
    usual = square.clamp(max=_OUTLIER * square.nanmedian(dim=0).values)
    return float((usual - 1 / ivar).nanmean().clamp(min=0))
