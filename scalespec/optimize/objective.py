"""Chi2 of a batch of stars, its exact gradient and its Gauss-Newton Hessian.

The model's flux is shifted by the star's velocity, renormalized as the star's data were, and
compared with weights that know the emulator's own scatter. Pixels are equal steps of
log10(wavelength); velocities are km/s, positive when the star recedes; parameters are the scaled
labels, the scaled velocity and scaled line widths, all in [-0.5, 0.5].
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.optimize import fused
from scalespec.optimize.matmul import GROUP, ROWS, linear, whole
from scalespec.optimize.normalization import Continuum, Renormalization, Smoother, as_rows
from scalespec.optimize.pixels import cleaned, inside
from scalespec.optimize.shift import Broadening, Shift, log_step

__all__ = ["ArrayLike", "Emulator", "EmulatorSpec", "Objective", "Prior", "Smoother", "as_rows"]

ArrayLike = NDArray[Any] | Tensor

_JACOBIAN_FLOATS = 1 << 24
"""Most floats of derivatives held at a time: 64 MiB per array of them."""


class EmulatorSpec(Protocol):
    """The part of a model's description that a fit needs."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the K labels."""

    @property
    def minimum(self) -> NDArray[np.float64]:
        """(K,) lower edge of the box."""

    @property
    def maximum(self) -> NDArray[np.float64]:
        """(K,) upper edge of the box."""

    @property
    def wavelength(self) -> NDArray[np.float64]:
        """(P,) wavelengths [Å, vacuum] in equal steps of their logarithm."""


class Emulator(Protocol):
    """A differentiable model of spectra: scaled labels in [-0.5, 0.5] to flux.

    A model that ends in a linear layer may say so by an attribute ``output`` (torch.nn.Linear) and
    the methods ``features`` and ``features_and_jacobian``: its fits are many times faster. If no
    label changes the first of these, ``n_constant`` is their number. One with kinks, as LeakyReLU
    has, says so by ``kinks``: its fits are begun again if mocks go astray.
    """

    @property
    def spec(self) -> EmulatorSpec:
        """Labels, their box and the wavelengths."""

    @property
    def scatter(self) -> Tensor:
        """(P,) error of the emulator per pixel; its device and dtype are those of the fit."""

    def forward_scaled(self, x: Tensor) -> Tensor:
        """(n, K) scaled labels -> (n, P) flux, by operations that torch can differentiate."""

    def flux_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, K) scaled labels -> (n, P) flux, (n, K, P) derivatives."""


def output_layer(model: Emulator) -> torch.nn.Linear | None:
    """Return the linear layer that `model` ends in; None if it does not say so."""
    layer: torch.nn.Linear | None = getattr(model, "output", None)
    return layer


@dataclass(frozen=True)
class Prior:
    """Gaussian knowledge of the scaled labels of each star: chi2 grows by sum p (x - m)^2.

    Attributes
    ----------
    mean : (n, K)
        m, scaled.
    precision : (n, K)
        p = 1 / sigma^2, scaled; 0 where nothing is known.
    """

    mean: Tensor
    precision: Tensor

    def take(self, rows: Tensor) -> Self:
        """Keep the chosen stars."""
        return replace(self, mean=self.mean[rows], precision=self.precision[rows])

    def chi2(self, x: Tensor) -> Tensor:
        """(n, K) scaled labels -> (n,) what the prior adds to chi2."""
        return (self.precision * (x - self.mean).double() ** 2).sum(dim=1)


@dataclass(frozen=True)
class Tie:
    """Labels that follow others: all K scaled labels are ``free @ matrix.T + offset``.

    Attributes
    ----------
    matrix : (K, F)
        From the F free labels to all.
    offset : (K,)
        Scaled.
    free : tuple of int
        Which labels are the free ones.
    """

    matrix: Tensor
    offset: Tensor
    free: tuple[int, ...]


@dataclass(frozen=True)
class Point:
    """The objective at one set of parameters.

    Attributes
    ----------
    chi2 : (n,) float64
        With the prior's part.
    gradient : (n, Q) float64
        Half its gradient: chi2(p + d) is about chi2 + 2 g.d + d.H.d.
    """

    chi2: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Objective:
    """Weighted least squares of a batch of ``n`` stars over Q = K labels + velocity + widths.

    Attributes
    ----------
    model : Emulator
    flux, weight : (N, P)
        Data, and 1 / (sigma^2 + scatter^2); 0 where there is no information.
    rows : (n,) int64
        Which of the N stars these are.
    rv_start : (n,) [km/s]
        Velocity of parameter 0.
    rv_range : float [km/s]
        Parameter +-0.5 is ``rv_start +- rv_range``.
    step : float
        Of the grid, in ln(wavelength).
    continuum : Continuum or None
        What was done to the data and must be done to the model.
    broadening : Broadening or None
        Line widths that are parameters too.
    prior : Prior or None
    tie : Tie or None
        Labels that are no parameters of their own; parameters then are the free ones.
    """

    model: Emulator
    flux: Tensor
    weight: Tensor
    rows: Tensor
    rv_start: Tensor
    rv_range: float
    step: float
    continuum: Continuum | None = None
    broadening: Broadening | None = None
    prior: Prior | None = None
    tie: Tie | None = None

    @classmethod
    def of(
        cls,
        model: Emulator,
        flux: Tensor,
        ivar: Tensor,
        *,
        rv_start: Tensor,
        rv_range: float,
        smoother: Smoother | None = None,
        broadening: Broadening | None = None,
    ) -> Self:
        """Weigh `flux` and `ivar` (n, P) of stars with first velocities `rv_start` (n,)."""
        step, n_pixel = log_step(model.spec.wavelength), flux.shape[1]
        reach = 0 if broadening is None else broadening.reach(log_pixel(step))
        edges = inside(rv_start, rv_range, step=step, n_pixel=n_pixel, reach=reach)
        data, weight = cleaned(flux, ivar, edges)
        if bool(model.scatter.any()):
            scatter = Shift.by(rv_start, step=step).forward(model.scatter.repeat(len(flux), 1))
            weight /= 1.0 + weight * scatter.square()
        continuum = None
        if smoother is not None:
            continuum = Renormalization.of(smoother, (ivar > 0).to(flux))
        rows = torch.arange(len(flux), device=flux.device)
        return cls(
            model, data, weight, rows, rv_start, rv_range, step, continuum, broadening=broadening
        )

    def take(self, rows: Tensor) -> Self:
        """Keep the chosen stars; their spectra are copied only where every step needs them."""
        rows = torch.nonzero(rows).squeeze(1) if rows.dtype == torch.bool else rows
        part = replace(
            self,
            rows=self.rows[rows],
            rv_start=self.rv_start[rows],
            prior=self.prior and self.prior.take(rows),
        )
        if self.continuum is None:
            return part
        flux, weight = part.data()
        fresh = torch.arange(len(rows), device=rows.device)
        return replace(
            part, flux=flux, weight=weight, rows=fresh, continuum=self.continuum.take(rows)
        )

    def data(self) -> tuple[Tensor, Tensor]:
        """Return flux and weight (n, P) of these stars."""
        n = len(self.flux)
        if len(self.rows) == n and torch.equal(self.rows, torch.arange(n).to(self.rows)):
            return self.flux, self.weight  # all, in order: nothing is copied
        return self.flux[self.rows], self.weight[self.rows]

    @property
    def n_label(self) -> int:
        """Number of labels."""
        return len(self.model.spec.labels)

    @property
    def n_free(self) -> int:
        """Number of labels that are parameters."""
        return self.n_label if self.tie is None else len(self.tie.free)

    @property
    def n_parameter(self) -> int:
        """Number of parameters Q."""
        return self.n_free + 1 + (len(self.broadening.ranges) if self.broadening else 0)

    def labels(self, parameters: Tensor) -> Tensor:
        """(n, Q) parameters -> (n, K) scaled labels."""
        x = parameters[:, : self.n_free]
        return x if self.tie is None else x @ self.tie.matrix.T + self.tie.offset

    def line_scale(self) -> list[float]:
        """Return km/s per unit of the velocity's and the widths' parameters."""
        widths = self.broadening.ranges if self.broadening else []
        return [2.0 * self.rv_range, *(high - low for low, high in widths)]

    def rv(self, parameters: Tensor) -> Tensor:
        """(n, Q) parameters -> (n,) velocity [km/s]."""
        return self.rv_start + 2.0 * self.rv_range * parameters[:, self.n_free]

    def widths(self, parameters: Tensor) -> Tensor | None:
        """(n, Q) parameters -> (n, W) line widths [km/s]; None if there are none."""
        if self.broadening is None:
            return None
        limits = torch.tensor(self.broadening.ranges, dtype=torch.float64).reshape(-1, 2)
        low, high = limits.to(parameters).T
        widths: Tensor = low + (parameters[:, self.n_free + 1 :] + 0.5) * (high - low)
        return widths

    def predict(self, parameters: Tensor) -> Tensor:
        """(n, Q) parameters -> (n, P) flux as the data would show it without noise."""
        flux = self.shifted(parameters)
        return flux if self.continuum is None else self.continuum.apply(flux, *self.data())

    def shifted(self, parameters: Tensor) -> Tensor:
        """(n, Q) parameters -> (n, P) flux at the stars' velocities, its continuum left alone."""
        return self.shift(parameters).forward(self.rest(self.labels(parameters)))

    def rest(self, x: Tensor) -> Tensor:
        """(n, K) scaled labels -> (n, P) flux at rest."""
        layer = output_layer(self.model)
        if layer is None:
            return self.model.forward_scaled(x)
        features: Tensor = self.model.features(x)  # type: ignore[attr-defined]
        return linear(features, layer.weight, layer.bias)

    def chi2(self, parameters: Tensor) -> Tensor:
        """(n, Q) parameters -> (n,) chi2, without the prior's part."""
        flux, weight = self.data()
        return (weight * (self.predict(parameters) - flux) ** 2).sum(dim=1)

    @torch.no_grad()
    def evaluate(self, parameters: Tensor) -> Point:
        """(n, Q) parameters -> chi2 and its exact gradient: two products with the last layer."""
        n = len(parameters)
        rows = torch.arange(n + self._spare(n), device=self.rows.device) % max(n, 1)
        if len(rows) > n:  # cheaper than copies of the products' inputs
            point = self.take(rows).evaluate(parameters[rows])
            return Point(point.chi2[:n], point.gradient[:n])
        x = self.labels(parameters).detach().clone().requires_grad_()
        layer = output_layer(self.model)
        with torch.enable_grad():
            top = self.model.features(x) if layer else self.model.forward_scaled(x)  # type: ignore[attr-defined]
        rest = linear(top.detach(), layer.weight, layer.bias) if layer else top.detach()
        chi2, back, by_line = self._compare(self.shift(parameters), rest)
        q = linear(back, layer.weight.T) if layer else back
        (by_label,) = torch.autograd.grad(top, x, q)
        by_label = by_label.double()
        if self.prior is not None:
            chi2 = chi2 + self.prior.chi2(x.detach())
            by_label += (self.prior.precision * (x.detach() - self.prior.mean)).double()
        if self.tie is not None:
            by_label = by_label @ self.tie.matrix.double()
        scale = by_line.new_tensor(self.line_scale())
        return Point(chi2, torch.cat([by_label, by_line * scale], dim=1))

    def _spare(self, n: int) -> int:
        """Return how many rows fill up the shapes of the products; `n` can be 0."""
        return -n % (ROWS if n > ROWS and self.continuum is None else GROUP)

    def _compare(self, shift: Shift, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return chi2 (n,), half its gradient by pixels at rest (n, P) and by km/s (n, D)."""
        rest = rest.contiguous()
        if self.continuum is None and rest.device.type == "cpu":
            n = len(rest)
            chi2 = torch.empty(n, dtype=torch.float64)
            back, by_line = torch.empty_like(rest), torch.empty(n, shift.slopes.shape[1]).double()
            data = (self.flux.numpy(), self.weight.numpy(), self.rows.numpy())
            out = (back.numpy(), chi2.numpy(), by_line.numpy())
            fused.compare(rest.numpy(), shift.arrays(), data, out)
            return chi2, back, by_line
        flux, (data_flux, weight) = shift.forward(rest), self.data()
        if self.continuum is None:
            residual = flux - data_flux
            back = weight * residual
        else:
            residual, back = self.continuum.compare(flux, data_flux, weight)
        chi2 = (weight * residual).mul_(residual).sum(dim=1, dtype=torch.float64)
        return chi2, shift.pull(back), shift.slope_products(rest, back)

    def jacobian(self, parameters: Tensor, moves: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(n, Q) parameters -> (n, P) flux, (n, Q, P) its derivatives.

        `moves` (n, K, H) take the place of the derivatives of what the last layer sees.
        """
        layer = None if moves is None else output_layer(self.model)
        if moves is None or layer is None:
            rest, derivatives = self.model.flux_and_jacobian(self.labels(parameters))
        else:
            rest = self.rest(self.labels(parameters))
            derivatives = linear(moves.flatten(0, 1), layer.weight).view(*moves.shape[:2], -1)
        shift = self.shift(parameters)
        flux, by_line = shift.forward(rest), shift.forward_slopes(rest)
        by_line = by_line * by_line.new_tensor(self.line_scale())[:, None]
        columns = torch.cat([shift.forward_columns(derivatives), by_line], dim=1)
        if self.continuum is None:
            return flux, columns
        return self.continuum.columns(flux, columns, *self.data())

    def hessian(self, parameters: Tensor, moves: Tensor | None = None) -> Tensor:
        """(n, Q) parameters -> (n, Q, Q) float64 J^T W J from every pixel's derivatives."""
        chunk = max(1, _JACOBIAN_FLOATS // (self.n_parameter * self.flux.shape[1] * GROUP)) * GROUP
        parts = []
        for begin in range(0, len(parameters), chunk):
            n = min(chunk, len(parameters) - begin)
            rows = whole(torch.arange(begin, begin + n, device=self.rows.device))
            part = self.take(rows)
            _, columns = part.jacobian(parameters[rows], None if moves is None else moves[rows])
            columns *= torch.sqrt(part.data()[1])[:, None]
            parts.append(torch.bmm(columns, columns.transpose(1, 2))[:n].double())
        size = self.n_label + len(self.line_scale())
        empty = parameters.new_zeros((0, size, size)).double()
        return self.completed(torch.cat([empty, *parts]))

    def completed(self, hessian: Tensor) -> Tensor:
        """Add the prior to a Hessian by all labels and line parameters; leave out the tied."""
        if self.prior is not None:
            hessian.diagonal(dim1=1, dim2=2)[:, : self.n_label] += self.prior.precision
        if self.tie is None:
            return hessian
        across = torch.zeros((hessian.shape[1], self.n_parameter)).to(hessian)
        across[: self.n_label, : self.n_free] = self.tie.matrix
        across[self.n_label :, self.n_free :] = torch.eye(self.n_parameter - self.n_free)
        return torch.matmul(torch.matmul(across.T, hessian), across)

    def shift(self, parameters: Tensor) -> Shift:
        """Return what the parameters' velocities and widths do to the model."""
        return Shift.by(
            self.rv(parameters),
            step=self.step,
            widths=self.widths(parameters),
            broadening=self.broadening,
        )


def log_pixel(step: float) -> float:
    """Return the velocity [km/s] of a pixel of `step` in ln(wavelength)."""
    return 299_792.458 * step
