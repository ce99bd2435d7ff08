"""How far predicted labels are from known ones, some of them missing, each with its own error."""

from typing import Literal

import torch
from torch import Tensor

LossKind = Literal["gaussian", "mae"]
BETA = 0.5
"""Power of the variance by which each label's Gaussian loss is weighted again; see `label_loss`."""

VARIANCE_SHARE = 0.03
"""Of the variance's loss beside an absolute error: the layers that both share learn for the mean,
which a share of 1 made a tenth worse on Gaia XP spectra."""


def label_loss(made: Tensor, labels: Tensor, label_err: Tensor, kind: LossKind) -> Tensor:
    """Return the mean loss of all labels that are there.

    Parameters
    ----------
    made : (n, 2, n_label) tensor
        Predicted means and log variances, scaled labels.
    labels, label_err : (n, n_label) tensor
        Known labels, NaN where missing, and their 1 sigma; 0 or NaN where unknown, and infinite
        where the label says nothing: it is as good as missing. Scaled alike.
    kind : {"gaussian", "mae"}
        ``"gaussian"``: ``(y - mean)**2 / v + ln v`` over 2, ``v`` the predicted variance and the
        label's own; times ``v**BETA``, which keeps stars that are hard at first from being given
        up. ``"mae"``: absolute error of the mean, and `VARIANCE_SHARE` of the first loss, whose
        residuals it does not move, for the variance.

    Returns
    -------
    () tensor
        0, with gradients of 0, if no label is there.

    References
    ----------
    Leung & Bovy 2019, MNRAS 483, 3255, eq. 5; weights: Seitzer et al. 2022, ICLR, arXiv:2203.09168.

    Examples
    --------
    >>> made = torch.tensor([[[0.5, 0.0], [0.0, 0.0]]])
    >>> label_loss(made, torch.tensor([[0.0, torch.nan]]), torch.zeros(1, 2), "gaussian")
    tensor(0.1250)
    """
    mean, log_variance = made.unbind(1)
    own = torch.where(torch.isnan(label_err), 0.0, label_err).square()
    there = torch.isfinite(labels) & torch.isfinite(own)
    residual = torch.where(there, mean - labels, 0.0)
    variance = log_variance.exp() + torch.where(there, own, 0.0)
    squares = (residual if kind == "gaussian" else residual.detach()).square()
    each = 0.5 * (squares / variance + variance.log())
    if kind == "gaussian":
        each = each * variance.detach() ** BETA
    else:
        each = residual.abs() + VARIANCE_SHARE * each
    return torch.where(there, each, 0.0).sum() / there.sum().clamp(min=1)
