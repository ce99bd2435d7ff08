"""Coefficients kept small by their absolute values (L1), for many pixels at once."""

import torch
from torch import Tensor

MAX_SWEEPS = 200
"""Of coordinate descent; it stops when no coefficient moves by 1e-9."""


def shrink(theta: Tensor, matrix: Tensor, right: Tensor, l1: float) -> Tensor:
    """Return the minimum of ``theta A theta / 2 - b theta + l1 |theta|`` by coordinate descent.

    Parameters
    ----------
    theta : (p, n) tensor
        Where to begin; the first coefficient, the constant, is not kept small.
    matrix : (p, n, n) tensor
        A, positive definite.
    right : (p, n) tensor
        b
    l1 : float
        Not negative.

    References
    ----------
    Friedman, Hastie & Tibshirani 2010, J. Stat. Softw. 33, 1.

    Examples
    --------
    Where A is 1, what is larger than `l1` loses so much, and what is smaller all.

    >>> right = torch.tensor([[3.0, 2.0, 0.5]])
    >>> shrink(torch.zeros(1, 3), torch.eye(3)[None], right, 1.0).tolist()
    [[3.0, 1.0, 0.0]]
    """
    theta = theta.clone()
    for _ in range(MAX_SWEEPS):
        before = theta.clone()
        for j in range(theta.shape[1]):
            pull = right[:, j] - (matrix[:, j] * theta).sum(1) + matrix[:, j, j] * theta[:, j]
            if j > 0:
                pull = torch.sign(pull) * (pull.abs() - l1).clamp(min=0)
            theta[:, j] = pull / matrix[:, j, j]
        if bool((theta - before).abs().max() < 1e-9):
            break
    return theta
