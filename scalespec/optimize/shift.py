"""How a star's motion and line broadening change its spectrum: one stencil of pixels per star.

Pixels are equal steps of ln(wavelength), so a velocity is a move, rotation and a constant resolving
power are convolutions, and all three are one set of weights per star. Velocities km/s, positive
when the star recedes.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.optimize import fused

C_KMS = 299_792.458
"""Speed of light [km/s], exact (SI)."""

N_TAPS = 8
_NODES = np.arange(N_TAPS) - N_TAPS // 2 + 1  # pixels of the stencil, from the sampled position
_BLUR = 4.0 * (2.8 / 2.3548) ** 2  # pixels of lines 2.8 px wide covary as exp(-distance^2 / _BLUR)
_SYSTEM = np.exp(-(np.subtract.outer(_NODES, _NODES) ** 2) / _BLUR)
_SYSTEM = np.pad(_SYSTEM, (0, 1), constant_values=1.0)
_SYSTEM[-1, -1] = 0.0
_WEIGHTS = np.linalg.inv(_SYSTEM)[:, :-1]  # from covariances with the position, and 1, to weights
_LIMB_DARKENING = 0.6
_NODES_PER_PIXEL = 2.0  # of the broadening's half width: lines are wider than a pixel


def log_step(wavelength: NDArray[np.float64]) -> float:
    """Return the step of ln(wavelength) from pixel to pixel.

    Raises
    ------
    ValueError
        If a pixel is off the even grid by a hundredth: a velocity would not be a shift.

    Examples
    --------
    >>> float(round(log_step(10 ** (3.5682 + 1e-4 * np.arange(100))) / np.log(10), 9))
    0.0001
    """
    if len(wavelength) < N_TAPS:
        raise ValueError(f"a fit wants at least {N_TAPS} pixels, got {len(wavelength)}")
    logarithm = np.log(wavelength)
    even = np.linspace(logarithm[0], logarithm[-1], len(logarithm))
    step = float(even[1] - even[0])
    worst = float(np.max(np.abs(logarithm - even))) / step
    if not worst < 0.01:
        raise ValueError(
            f"the model's wavelengths must be equal steps of log(wavelength), "
            f"got a pixel that is {worst:.3g} px off"
        )
    return step


@dataclass(frozen=True)
class Broadening:
    """Line widths that a fit may free beside the velocity, as ranges [km/s]; None: not fitted.

    Attributes
    ----------
    vsini : (float, float) or None
        Range of the projected rotational velocity, ``0 <= low < high``.
    lsf : (float, float) or None
        Range of the Gaussian sigma by which the data are blurrier than the model.

    Raises
    ------
    ValueError
        If a range is empty or goes below 0.

    References
    ----------
    Rotation profile with linear limb darkening 0.6: Gray 2008, The Observation and Analysis of
    Stellar Photospheres, 3rd ed., eq. 18.14.
    """

    vsini: tuple[float, float] | None = None
    lsf: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, limits in (("vsini", self.vsini), ("lsf", self.lsf)):
            if limits is not None and not 0 <= limits[0] < limits[1] < np.inf:
                raise ValueError(f"{name} wants a range 0 <= low < high [km/s], got {limits}")

    @property
    def ranges(self) -> list[tuple[float, float]]:
        """Ranges of the free widths, vsini first."""
        return [limits for limits in (self.vsini, self.lsf) if limits is not None]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the free widths, in the order of their parameters."""
        return tuple(name for name in ("vsini", "lsf") if getattr(self, name) is not None)

    def nodes(self, pixel_kms: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (q, W) velocities per unit width, and (q,) weights, of the combined profile."""
        vsini = _rotation_nodes(self.vsini[1] / pixel_kms) if self.vsini else _POINT
        lsf = _gauss_nodes(self.lsf[1] / pixel_kms) if self.lsf else _POINT
        weights = np.multiply.outer(vsini[1], lsf[1]).ravel()
        grid = np.meshgrid(vsini[0], lsf[0], indexing="ij")
        chosen = [g.ravel() for g, on in zip(grid, (self.vsini, self.lsf), strict=True) if on]
        return np.stack(chosen, axis=1) if chosen else np.zeros((1, 0)), weights

    def reach(self, pixel_kms: float) -> int:
        """Return how many pixels the widest profile reaches to either side."""
        nodes, _ = self.nodes(pixel_kms)
        widest = nodes @ np.array([high for _, high in self.ranges])
        return int(np.ceil(np.max(np.abs(widest), initial=0.0) / pixel_kms))


_POINT = (np.zeros(1), np.ones(1))


def _rotation_nodes(half_width: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes in units of vsini, and weights, of the rotation profile (Gauss-Chebyshev)."""
    n = max(12, int(np.ceil(_NODES_PER_PIXEL * half_width)))
    angle = np.arange(1, n + 1) * np.pi / (n + 1)
    x, semicircle = np.cos(angle), np.sin(angle)
    # The rule integrates sqrt(1 - x^2) times a polynomial; the second term holds another root.
    density = 2 * (1 - _LIMB_DARKENING) + 0.5 * np.pi * _LIMB_DARKENING * semicircle
    weights = semicircle**2 * density
    return x, weights / weights.sum()


def _gauss_nodes(sigma: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes in units of sigma, and weights, of a Gaussian."""
    n = max(9, int(np.ceil(4 * _NODES_PER_PIXEL * sigma)))
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    keep = weights > 1e-9 * weights.max()
    return nodes[keep], weights[keep] / weights[keep].sum()


@dataclass(frozen=True)
class Shift:
    """Interpolation of spectra at positions moved by one velocity, and broadened, per star.

    Eight pixels with the weights of least mean square error for random lines of 2.8 px FWHM. At
    half a pixel it fails by 0.7 % of the depth of a line of 2.4 px (R = 1800 on LAMOST's grid,
    where sampling itself loses 0.4 %) and by under 0.1 % beyond 3.2 px; 6-point Lagrange fails by
    2.6 and 0.7 %, linear by 11 and 6 %. Positions outside the grid repeat its edge pixel. A
    broadened spectrum is a weighted mean of moved ones.

    Attributes
    ----------
    first : (n,) int64
        Rest-frame pixel under the first tap of pixel 0.
    taps : (n, T)
        Weights of the stencil, T a multiple of 8.
    slopes : (n, D, T)
        Their derivatives with velocity, vsini and LSF sigma [1 / (km/s)], those that there are.

    References
    ----------
    Relativistic shift for radial motion, ln sqrt((1+b)/(1-b)) = artanh(b): Lindegren & Dravins
    2003, A&A 401, 1185. Minimum-variance interpolation: Rybicki & Press 1992, ApJ 398, 169.
    """

    first: Tensor
    taps: Tensor
    slopes: Tensor

    @classmethod
    def by(
        cls,
        rv: Tensor,
        *,
        step: float,
        widths: Tensor | None = None,
        broadening: Broadening | None = None,
    ) -> Self:
        """Build the shift by `rv` (n,) [km/s] on a grid of `step` in ln(wavelength).

        `widths` (n, W) [km/s] are those that `broadening` frees.
        """
        beta = rv.double() / C_KMS  # float32 would lose the weights' last three digits
        position = -torch.atanh(beta) / step  # where pixel 0 samples the rest frame
        slope = -1.0 / (C_KMS * step * (1.0 - beta**2))  # d position / d rv
        whole = torch.floor(position)
        if broadening is None or widths is None or not broadening.ranges:
            taps, slopes = _stencil(position - whole)
            return cls(
                whole.long() + int(_NODES[0]),
                taps.to(rv),
                (slopes * slope[:, None])[:, None].to(rv),
            )
        return cls(*_broadened(position, slope, widths, broadening, step))

    def forward(self, flux: Tensor) -> Tensor:
        """(n, P) rest-frame flux -> (n, P) flux as observed."""
        if flux.device.type != "cpu":
            return _correlate(flux.gather(-1, self._index(flux.shape[-1])), self.taps)
        out = torch.empty_like(flux)
        fused.shift(_numpy(flux), _numpy(self.first), _numpy(self.taps), _numpy(out))
        return out

    def forward_slopes(self, flux: Tensor) -> Tensor:
        """(n, P) rest-frame flux -> (n, D, P) derivatives of the flux as observed."""
        rows = [replaced.forward(flux) for replaced in self._one_slope_each()]
        return torch.stack(rows, dim=1)

    def forward_columns(self, columns: Tensor) -> Tensor:
        """(n, K, P) label derivatives -> (n, K, P) as observed."""
        _, n_label, n_pixel = columns.shape
        wide = Shift(
            self.first.repeat_interleave(n_label), self.taps.repeat_interleave(n_label, dim=0),
            self.slopes[:0],
        )  # fmt: skip
        return wide.forward(columns.reshape(-1, n_pixel)).view(columns.shape)

    def pull(self, back: Tensor) -> Tensor:
        """Apply the transpose of `forward` to a gradient (n, P) by observed pixels."""
        if back.device.type == "cpu":
            out = torch.empty_like(back)
            fused.pull(_numpy(back), _numpy(self.first), _numpy(self.taps), _numpy(out))
            return out
        n_pixel, size = back.shape[1], self.taps.shape[1]
        padded = torch.nn.functional.pad(back, (size - 1, size - 1))
        stretched = _correlate(padded, self.taps.flip(1))
        return torch.zeros_like(back).scatter_add_(1, self._index(n_pixel), stretched)

    def slope_products(self, flux: Tensor, back: Tensor) -> Tensor:
        """Sum over pixels of `back` (n, P) times each derivative of the observed flux: (n, D)."""
        if flux.device.type != "cpu":
            return torch.einsum("np,ndp->nd", back, self.forward_slopes(flux)).double()
        out = torch.empty(self.slopes.shape[:2], dtype=torch.float64)
        fused.slope_products(
            _numpy(flux), _numpy(self.first), _numpy(self.slopes), _numpy(back), _numpy(out)
        )
        return out

    def arrays(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return first, taps and slopes as the compiled loops want them."""
        return _numpy(self.first), _numpy(self.taps), _numpy(self.slopes)

    def _one_slope_each(self) -> "list[Shift]":
        return [
            Shift(self.first, self.slopes[:, d].contiguous(), self.slopes[:, :0])
            for d in range(self.slopes.shape[1])
        ]

    def _index(self, n_pixel: int) -> Tensor:
        """Return the (n, P + T - 1) rest-frame pixels under the stencils."""
        pixel = torch.arange(n_pixel + self.taps.shape[1] - 1, device=self.taps.device)
        return (pixel + self.first[:, None]).clamp(0, n_pixel - 1)


def stencil_span(rv: Tensor, *, step: float, reach: int) -> tuple[Tensor, Tensor]:
    """Return the rest-frame pixels (n,) under the first and after the last tap of pixel 0."""
    whole = torch.floor(-torch.atanh(rv.double() / C_KMS) / step)
    return whole + int(_NODES[0]) - reach, whole + int(_NODES[-1]) + 1 + reach


def _stencil(fraction: Tensor) -> tuple[Tensor, Tensor]:
    """(...,) positions in [0, 1) after a pixel -> (..., 8) weights and derivatives with them."""
    nodes = torch.arange(N_TAPS, device=fraction.device) + int(_NODES[0])
    distance = fraction[..., None] - nodes
    covariance = torch.exp(-(distance**2) / _BLUR)
    weights = torch.tensor(_WEIGHTS, device=fraction.device)
    slopes = (-2.0 / _BLUR * distance * covariance) @ weights[:-1]
    return covariance @ weights[:-1] + weights[-1], slopes


def _broadened(
    position: Tensor, slope: Tensor, widths: Tensor, broadening: Broadening, step: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return first, taps and slopes of the weighted mean of stencils over a broadening profile."""
    pixel_kms = C_KMS * step
    node, weight = (torch.tensor(a, device=position.device) for a in broadening.nodes(pixel_kms))
    reach = broadening.reach(pixel_kms)
    size = -(-(N_TAPS + 2 * reach + 1) // 8) * 8
    place = position[:, None] + widths.double() @ node.T / pixel_kms  # (n, q)
    below = torch.floor(place)
    taps, slopes = _stencil(place - below)
    first = torch.floor(position).long() + int(_NODES[0]) - reach
    offset = (below.long() + int(_NODES[0]) - first[:, None]).clamp(0, size - N_TAPS)
    index = offset[..., None] + torch.arange(N_TAPS, device=position.device)

    def gathered(values: Tensor, factor: Tensor) -> Tensor:
        """Sum (n, q, 8) stencils times (n, q) factors where they lie in the wide one."""
        terms = (values * (weight * factor)[..., None]).flatten(1)
        total = torch.zeros((len(position), size), dtype=terms.dtype, device=terms.device)
        return total.scatter_add_(1, index.flatten(1), terms)

    by_rv = gathered(slopes, slope[:, None].expand(-1, len(weight)))
    by_width = [
        gathered(slopes, (node[:, w] / pixel_kms).expand(len(position), -1))
        for w in range(node.shape[1])
    ]
    wide = gathered(taps, torch.ones_like(place))
    return first, wide.to(widths), torch.stack([by_rv, *by_width], dim=1).to(widths)


def _correlate(stencil: Tensor, taps: Tensor) -> Tensor:
    """Sum over t of taps[..., t] times the stencil moved by t."""
    size = taps.shape[-1]
    n_pixel = stencil.shape[-1] - size + 1
    total = stencil[..., :n_pixel] * taps[..., 0:1]
    for t in range(1, size):
        total.addcmul_(stencil[..., t : t + n_pixel], taps[..., t : t + 1])
    return total


def _numpy(values: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = values.contiguous().numpy()
    return array
