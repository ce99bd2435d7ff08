"""What was done to the data's continuum, done to the model: smoothing, or a free polynomial.

Both take the shifted model of a star to its comparison with the data, exactly, and its gradient
and derivatives with it. Arrays are (star, pixel) tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.optimize.matmul import linear

_SMALLEST_SINGULAR_VALUE = 1e-6  # of the first: float32 holds no more of a tile
_TOGETHER = 512  # rows of tiles made one: many small products cost more than their arithmetic
_RIDGE = 1e-10  # of the diagonal of a polynomial's normal matrix: for stars of few pixels


class Tile(Protocol):
    """A dense piece of a banded matrix: ``out[out_start:] = matrix @ values[in_start:in_stop]``."""

    @property
    def out_start(self) -> int:
        """First row."""

    @property
    def out_stop(self) -> int:
        """Row after the last."""

    @property
    def in_start(self) -> int:
        """First column."""

    @property
    def in_stop(self) -> int:
        """Column after the last."""

    @property
    def matrix(self) -> NDArray[np.float32]:
        """(out, in) the piece."""


class Continuum(Protocol):
    """How a model's flux is brought to the data's level before the two are compared."""

    @property
    def n_free(self) -> int:
        """Coefficients fitted per star."""

    def take(self, rows: Tensor) -> Self:
        """Keep the chosen stars."""

    def apply(self, flux: Tensor, data: Tensor, weight: Tensor) -> Tensor:
        """(n, P) shifted flux F -> (n, P) the model that is compared with `data`."""

    def compare(self, flux: Tensor, data: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return (n, P) model minus data, and half the gradient of chi2 by F."""

    def columns(
        self, flux: Tensor, columns: Tensor, data: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the model, and its derivatives (n, Q, P) from those of F in `columns`."""


def as_rows(values: NDArray[Any] | Tensor, like: Tensor) -> Tensor:
    """Copy `values` to the device and dtype of `like`."""
    if isinstance(values, Tensor):
        return values.to(like)
    return torch.tensor(np.ascontiguousarray(values), device=like.device).to(like.dtype)


class Smoother:
    """A banded smoothing operator K on torch tensors, kept as low-rank tiles.

    Smoothing by a wide Gaussian leaves few degrees of freedom per tile, so some tiles together are
    stored as two thin factors, exact to float32 rounding: nine times less arithmetic for 50 Å on
    the LAMOST grid.

    Parameters
    ----------
    tiles : sequence of Tile
        Together the operator's rows, each once.
    like : Tensor
        Its device and dtype become those of the operator.

    Raises
    ------
    ValueError
        If the tiles leave a row out or hold one twice.
    """

    def __init__(self, tiles: Sequence[Tile], like: Tensor) -> None:
        self.n_pixel = 0
        self._factors: list[tuple[slice, slice, Tensor, Tensor]] = []
        some: list[Tile] = []
        for tile in sorted(tiles, key=lambda t: t.out_start):
            if tile.out_start != self.n_pixel:
                raise ValueError(f"no tile for row {self.n_pixel}, the next is {tile.out_start}")
            self.n_pixel = tile.out_stop
            if some and tile.out_stop - some[0].out_start > _TOGETHER:
                self._factors.append(_factored(some, like))
                some = []
            some.append(tile)
        if some:
            self._factors.append(_factored(some, like))

    def __call__(self, values: Tensor) -> Tensor:
        """(..., P) -> (..., P): K applied along the last axis."""
        flat = values.reshape(-1, values.shape[-1])
        out = torch.empty_like(flat)
        for rows, columns, right, left in self._factors:
            out[:, rows] = linear(linear(flat[:, columns].contiguous(), right), left)
        return out.view(values.shape)

    def transposed(self, values: Tensor) -> Tensor:
        """(n, P) -> (n, P): the transpose of K applied along the last axis."""
        out = torch.zeros_like(values)
        for rows, columns, right, left in self._factors:
            out[:, columns] += linear(linear(values[:, rows].contiguous(), left.T), right.T)
        return out


def _factored(tiles: Sequence[Tile], like: Tensor) -> tuple[slice, slice, Tensor, Tensor]:
    """Return rows and columns of neighboring tiles, and the two thin factors of what they hold."""
    rows = slice(tiles[0].out_start, tiles[-1].out_stop)
    columns = slice(min(t.in_start for t in tiles), max(t.in_stop for t in tiles))
    whole = np.zeros((rows.stop - rows.start, columns.stop - columns.start))
    for tile in tiles:
        inside = slice(tile.in_start - columns.start, tile.in_stop - columns.start)
        whole[tile.out_start - rows.start : tile.out_stop - rows.start, inside] = tile.matrix
    square, u = np.linalg.eigh(whole @ whole.T)  # ten times faster than singular values
    keep = square > _SMALLEST_SINGULAR_VALUE**2 * square[-1]
    left = u[:, keep]
    return rows, columns, as_rows(left.T @ whole, like), as_rows(left, like)


@dataclass(frozen=True)
class Renormalization:
    """F / S[F] with S[F] = K(m F) / K(m): the data's own normalization, done to the model.

    Attributes
    ----------
    smoother : Smoother
        K.
    mask : (n, P)
        m: 1 where the star's data have information, else 0.
    inverse_norm : (n, P)
        1 / K(m), 0 where under a thousandth of the kernel has information.

    References
    ----------
    Ho et al. 2017, ApJ 836, 5, section 2.3 (Gaussian-smoothing normalization).
    """

    smoother: Smoother
    mask: Tensor
    inverse_norm: Tensor
    n_free: int = 0

    @classmethod
    def of(cls, smoother: Smoother, mask: Tensor) -> Self:
        """Prepare the normalization of stars with `mask` (n, P)."""
        norm, most = smoother(mask), smoother(torch.ones_like(mask[:1]))
        return cls(smoother, mask, torch.where(norm > 1e-3 * most, 1.0 / norm, 0.0))

    def take(self, rows: Tensor) -> Self:
        """Keep the chosen stars."""
        return replace(self, mask=self.mask[rows], inverse_norm=self.inverse_norm[rows])

    def continuum(self, flux: Tensor) -> Tensor:
        """(n, P) flux -> (n, P) S[F]; 1 where no data are near."""
        smooth = self.smoother(flux * self.mask) * self.inverse_norm
        return torch.where(self.inverse_norm > 0, smooth, 1.0)

    def apply(
        self,
        flux: Tensor,
        data: Tensor | None = None,  # noqa: ARG002 - one signature for all continua
        weight: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """(n, P) F -> (n, P) F / S[F], whatever the data."""
        return flux / self.continuum(flux)

    def compare(self, flux: Tensor, data: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return F / S[F] - data, and half the gradient of chi2 by F."""
        inverse = 1.0 / self.continuum(flux)
        model = flux * inverse
        residual = model - data
        direct = weight * residual * inverse
        through = self.smoother.transposed(direct * model * self.inverse_norm)
        return residual, direct.addcmul_(self.mask, through, value=-1.0)

    def columns(
        self,
        flux: Tensor,
        columns: Tensor,
        data: Tensor,  # noqa: ARG002 - one signature for all continua
        weight: Tensor,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Return F / S[F] and its derivatives, d(F/S) = dF / S - F K(m dF) / (K(m) S^2)."""
        inverse = 1.0 / self.continuum(flux)
        model = flux * inverse
        smooth = self.smoother(columns * self.mask[:, None])
        moved = columns * inverse[:, None]
        return model, moved.addcmul_(smooth, (-model * inverse * self.inverse_norm)[:, None])


@dataclass(frozen=True)
class FreePolynomial:
    """F times the polynomial in pixel number that lowers chi2 most: a continuum marginalized.

    The coefficients are linear and eliminated at every model (variable projection), so they cost
    no parameter; the covariance of the others includes them.

    Attributes
    ----------
    basis : (P, d + 1)
        Chebyshev polynomials.

    References
    ----------
    Golub & Pereyra 1973, SIAM J. Numer. Anal. 10, 413; the Jacobian's second term is left out as
    by Kaufman 1975, BIT 15, 49.
    """

    basis: Tensor

    @classmethod
    def of_degree(cls, degree: int, like: Tensor) -> Self:
        """Make the polynomials up to `degree` for spectra as long as `like` (P,).

        Raises
        ------
        ValueError
            If the degree is negative.
        """
        if degree < 0:
            raise ValueError(f"a continuum polynomial wants a degree of at least 0, got {degree}")
        place = np.linspace(-1.0, 1.0, len(like))
        return cls(as_rows(np.polynomial.chebyshev.chebvander(place, degree), like))

    @property
    def n_free(self) -> int:
        """Coefficients fitted per star."""
        return self.basis.shape[1]

    def take(self, rows: Tensor) -> Self:  # noqa: ARG002 - the same for every star
        """Keep the chosen stars."""
        return self

    def _solve(self, flux: Tensor, data: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factored normal matrices (n, d+1, d+1) and the level (n, P)."""
        weighted = weight * flux
        products = (self.basis[:, :, None] * self.basis[:, None, :]).flatten(1)
        n, size = len(flux), self.n_free
        normal = linear(weighted * flux, products.T.contiguous()).double().view(n, size, size)
        diagonal = normal.diagonal(dim1=1, dim2=2)
        diagonal += _RIDGE * diagonal.sum(dim=1, keepdim=True) + torch.finfo(torch.float64).tiny
        right = linear(weighted * data, self.basis.T.contiguous()).double()
        factor, info = torch.linalg.cholesky_ex(normal)
        found = torch.cholesky_solve(right[:, :, None], factor).squeeze(-1)
        found = torch.where(info[:, None] == 0, found, torch.nan)
        return factor, linear(found.to(flux), self.basis)

    def apply(self, flux: Tensor, data: Tensor, weight: Tensor) -> Tensor:
        """(n, P) F -> (n, P) F times its best polynomial."""
        return flux * self._solve(flux, data, weight)[1]

    def compare(self, flux: Tensor, data: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the model minus data, and half the gradient of chi2 by F.

        At the best coefficients chi2 does not change with them, so their change needs no term.
        """
        _, level = self._solve(flux, data, weight)
        residual = flux * level - data
        return residual, weight * residual * level

    def columns(
        self, flux: Tensor, columns: Tensor, data: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the model, and its derivatives less what the polynomial takes up of them."""
        factor, level = self._solve(flux, data, weight)
        moved = columns * level[:, None]
        taken = flux[:, None] * self.basis.T  # (n, d + 1, P)
        overlap = torch.bmm(moved * weight[:, None], taken.transpose(1, 2)).double()
        share = torch.cholesky_solve(overlap.transpose(1, 2), factor).transpose(1, 2)
        return flux * level, moved - torch.bmm(share.to(flux), taken)
