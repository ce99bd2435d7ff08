"""The Cannon: each pixel's flux is a polynomial of the labels, with a scatter of its own.

Ness et al. 2015, ApJ 808, 16; Casey et al. 2016, arXiv 1603.03040 (regularization, censoring).
Labels are scaled as for every emulator; flux is normalized, and so is the scatter.
"""

from collections.abc import Sequence
from itertools import combinations_with_replacement
from math import comb
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.models.base import Emulator, EmulatorSpec, Multiply
from scalespec.models.logarithmic import Logarithmic


def monomials(n_label: int, order: int) -> NDArray[np.int64]:
    """Return the factors of every monomial of degree 0 to `order`, padded with `n_label`.

    Parameters
    ----------
    n_label, order : int

    Returns
    -------
    (n_term, order) int64
        Row ``[0, 2]`` is the product of labels 0 and 2; index `n_label` stands for the factor 1.
        The constant comes first, then the labels, then products by degree.

    Raises
    ------
    ValueError
        If there is no label or `order` is below 1.

    Examples
    --------
    >>> monomials(2, 2).tolist()
    [[2, 2], [0, 2], [1, 2], [0, 0], [0, 1], [1, 1]]
    """
    if n_label < 1 or order < 1:
        raise ValueError(f"monomials want n_label and order >= 1, got {n_label} and {order}")
    rows = [
        (*factors, *[n_label] * (order - degree))
        for degree in range(order + 1)
        for factors in combinations_with_replacement(range(n_label), degree)
    ]
    return np.array(rows, np.int64)


def design(x: Tensor, factors: Tensor) -> Tensor:
    """Return the monomials of scaled labels: (n, n_label), (n_term, order) -> (n, n_term)."""
    padded = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    terms = padded.index_select(1, factors[:, 0])
    for k in range(1, factors.shape[1]):
        terms = terms * padded.index_select(1, factors[:, k])
    return terms


class Cannon(Emulator):
    """Labels -> monomials up to a degree -> flux of all pixels.

    Parameters
    ----------
    spec : EmulatorSpec
        Labels, ranges, grid.
    order : int
        Highest degree; 2 is The Cannon's own.
    logarithmic : sequence of str
        Labels whose logarithm is in the polynomial: ``("teff",)`` from cool stars to hot ones.

    Raises
    ------
    ValueError
        If `order` is below 1, or a logarithmic label is none or goes down to 0.

    Examples
    --------
    >>> spec = EmulatorSpec("toy", ("teff", "logg"), [4000, 0], [6000, 5], [5000.0, 5001.0])
    >>> model = Cannon(spec)
    >>> model.coefficients.shape, model(torch.tensor([[5000.0, 2.5]])).tolist()
    (torch.Size([2, 6]), [[1.0, 1.0]])
    """

    n_constant = 1
    """Features that no label changes: the constant term."""
    output: torch.nn.Linear
    _factors: Tensor
    _slopes: Tensor

    def __init__(
        self, spec: EmulatorSpec, *, order: int = 2, logarithmic: Sequence[str] = ()
    ) -> None:
        super().__init__(spec)
        self.bent = Logarithmic.of(spec, logarithmic)
        factors = monomials(spec.n_label, order)
        self.register_buffer("_factors", torch.from_numpy(factors), persistent=False)
        slopes = torch.from_numpy(slopes_of_terms(spec.n_label, order))
        self.register_buffer("_slopes", slopes, persistent=False)
        self.output = torch.nn.Linear(len(factors), spec.n_pixel, bias=False)
        with torch.no_grad():
            self.output.weight.zero_()
            self.output.weight[:, 0] = 1.0

    @property
    def order(self) -> int:
        """Highest degree of the polynomial."""
        return int(self._factors.shape[1])

    @property
    def options(self) -> dict[str, Any]:
        """Options of the constructor that matter once there are coefficients."""
        return {"order": self.order, "logarithmic": list(self.bent.names)}

    @property
    def coefficients(self) -> Tensor:
        """Coefficients (n_pixel, n_term), terms in the order of `monomials`."""
        return self.output.weight

    def features(self, x: Tensor) -> Tensor:
        """Return the monomials (n, n_term) of scaled labels."""
        return design(self.bent(x), self._factors)

    def features_and_jacobian(
        self,
        x: Tensor,
        multiply: Multiply = torch.nn.functional.linear,  # noqa: ARG002 - it makes no products
    ) -> tuple[Tensor, Tensor]:
        """Return the monomials (n, n_term) and their derivatives (n, n_label, n_term)."""
        terms = self.features(x)
        slopes = terms[:, : len(self._slopes)] @ self._slopes.to(terms)
        return terms, slopes.view(*x.shape, terms.shape[1]) * self.bent.slopes(x)[:, :, None]

    def forward_scaled(self, x: Tensor) -> Tensor:
        """Return flux (n, n_pixel) for scaled labels `x` (n, n_label)."""
        flux: Tensor = self.output(self.features(x))
        return flux

    def flux_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return flux (n, n_pixel) and its derivatives (n, n_label, n_pixel) by scaled labels."""
        features, slopes = self.features_and_jacobian(x)
        return self.output(features), slopes @ self.coefficients.T

    def slice_grid(self, start: int, stop: int) -> "Cannon":
        """Return this emulator for pixels ``[start, stop)`` only."""
        part = Cannon(self.spec.slice(start, stop), **self.options)
        part.to(self.scatter)  # its device too
        part.load_state_dict({k: v[start:stop] for k, v in self.state_dict().items()})
        return part


def slopes_of_terms(n_label: int, order: int) -> NDArray[np.float32]:
    """Return what derivatives of all monomials are made of: those of lower degree, some twice.

    Returns
    -------
    (n_lower, n_label * n_term) float32
        The first monomials, of degree up to ``order - 1``, times this are the derivatives.

    Examples
    --------
    Of 1, x and x² the derivatives are 0, 1 and 2 x.

    >>> slopes_of_terms(1, 2)
    array([[0., 1., 0.],
           [0., 0., 2.]], dtype=float32)
    """
    terms = [tuple(row) for row in monomials(n_label, order).tolist()]
    place = {term: index for index, term in enumerate(terms)}
    made = np.zeros((count_terms(n_label, order - 1), n_label, len(terms)), np.float32)
    for index, term in enumerate(terms):
        for k, label in enumerate(term):
            if label < n_label:
                made[place[*term[:k], *term[k + 1 :], n_label], label, index] += 1
    return made.reshape(len(made), -1)


def pair_products(n_label: int, order: int) -> NDArray[np.int64]:
    """Return which monomial each product of two monomials is, (n_term, n_term).

    In the order of ``monomials(n_label, 2 * order)``. A normal matrix of `n_term`² entries holds
    only these: 126 numbers for 441 entries of 5 labels.

    Examples
    --------
    1, x and x² make 1, x, x², x³ and x⁴.

    >>> pair_products(1, 2).tolist()
    [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    """
    terms = monomials(n_label, order)
    products = monomials(n_label, 2 * order)
    both = np.concatenate(
        [
            np.broadcast_to(terms[:, None], (len(terms), len(terms), order)),
            np.broadcast_to(terms[None], (len(terms), len(terms), order)),
        ],
        axis=2,
    )
    both = np.sort(both, axis=2)  # padding is the largest index: it goes last, as in `monomials`
    base = (n_label + 1) ** np.arange(2 * order)[::-1]
    keys, wanted = products @ base, both @ base
    order_of_keys = np.argsort(keys)
    return order_of_keys[np.searchsorted(keys, wanted, sorter=order_of_keys)]


def count_terms(n_label: int, order: int = 2) -> int:
    """Return how many coefficients a pixel has.

    Examples
    --------
    >>> count_terms(5), count_terms(20)
    (21, 231)
    """
    return comb(n_label + order, order)
