"""What every emulator offers: its specification, label scaling, flux, Jacobian; sub-pixel shifts.

Labels are physical (teff [K], logg and abundances [dex], velocities [km/s]); wavelengths vacuum Å.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float64]

Multiply = Callable[[Tensor, Tensor], Tensor]
"""(n, k) and (m, k) -> (n, m): rows times rows, as torch.nn.functional.linear."""

LINE_SIGMA_PIXEL = 1.02
"""Gaussian width [pixel] of the lines `shift_flux` is made for: R = 1800 on LAMOST's grid."""

SHIFT_REACH = 4
"""`shift_flux` makes every pixel of 2 * SHIFT_REACH + 1 neighbors."""


class ModelSpec:
    """What specifications of models share: arrays of their own, the way to plain types and back.

    A subclass is a frozen dataclass with these fields, names its `_arrays`, and checks the rest of
    what it has in `_check`.
    """

    labels: tuple[str, ...]
    wavelength: FloatArray
    normalization: Mapping[str, Any]
    extra: Mapping[str, Any]
    _arrays: ClassVar[tuple[str, ...]] = ()
    _kind: ClassVar[str] = "a model"

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(str(name) for name in self.labels))
        for name in self._arrays:
            array = np.array(getattr(self, name), dtype=np.float64)  # own copy: the spec is frozen
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if not self.labels or len(set(self.labels)) != self.n_label:
            raise ValueError(f"labels must be named once each, got {self.labels}")
        self._check()

    def _check(self) -> None:
        raise NotImplementedError

    @property
    def n_label(self) -> int:
        """Number of labels."""
        return len(self.labels)

    @property
    def n_pixel(self) -> int:
        """Number of pixels."""
        return int(self.wavelength.size)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; floats survive exactly."""
        plain = {item.name: getattr(self, item.name) for item in fields(cast("Any", self))}
        plain |= {name: plain[name].tolist() for name in self._arrays}
        plain["labels"] = list(self.labels)
        plain["normalization"] = dict(self.normalization)
        plain["extra"] = dict(self.extra)
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return the specification that `to_dict` wrote.

        Raises
        ------
        ValueError
            If a field is missing, unknown or wrong.
        """
        try:
            return cls(**plain)
        except TypeError as error:
            raise ValueError(f"not {cls._kind} specification: {error}") from error


@dataclass(frozen=True, eq=False)
class EmulatorSpec(ModelSpec):
    """What an emulator's numbers mean.

    Attributes
    ----------
    name : str
        What this emulator is called in messages and reports.
    labels : tuple of str
        Label names, in the order of the model's input.
    minimum, maximum : (n_label,) float64
        Range of every label; scaled labels are ``(label - minimum) / (maximum - minimum) - 0.5``.
    wavelength : (n_pixel,) float64 [Å, vacuum]
        Rest-frame wavelength of every output pixel.
    resolving_power : float, optional
        R of the emulated spectra.
    normalization : dict
        ``{"method": "continuum"}`` or ``{"method": "gaussian", "width_angstrom": 50.0}``.
    extra : dict
        Whatever else is known; plain JSON types.

    Raises
    ------
    ValueError
        If names repeat, sizes differ, a range is empty or wavelengths do not increase.

    Examples
    --------
    >>> spec = EmulatorSpec("toy", ("teff",), [4000.0], [6000.0], [5000.0, 5001.0])
    >>> EmulatorSpec.from_dict(spec.to_dict()).maximum
    array([6000.])
    """

    name: str
    labels: tuple[str, ...]
    minimum: FloatArray
    maximum: FloatArray
    wavelength: FloatArray
    resolving_power: float | None = None
    normalization: Mapping[str, Any] = field(default_factory=lambda: {"method": "continuum"})
    extra: Mapping[str, Any] = field(default_factory=dict)
    _arrays = ("minimum", "maximum", "wavelength")
    _kind = "an emulator"

    def _check(self) -> None:
        n_label = self.n_label
        for name in ("minimum", "maximum"):
            shape = getattr(self, name).shape
            if shape != (n_label,):
                raise ValueError(f"{name} has shape {shape}, wanted ({n_label},) as labels")
        for i, label in enumerate(self.labels):
            if not 0 < self.maximum[i] - self.minimum[i] < np.inf:
                raise ValueError(
                    f"label {label} has no range: {self.minimum[i]:.6g} to {self.maximum[i]:.6g}"
                )
        check_spectra(self.wavelength, self.resolving_power, self.normalization)

    def slice(self, start: int, stop: int) -> Self:
        """Return the specification of pixels ``[start, stop)``.

        Raises
        ------
        ValueError
            If the range is empty or leaves the grid.
        """
        if not 0 <= start < stop <= self.n_pixel:
            raise ValueError(
                f"pixels [{start}, {stop}) are not within the {self.n_pixel} there are"
            )
        return replace(self, wavelength=self.wavelength[start:stop])


def check_spectra(
    wavelength: FloatArray, resolving_power: float | None, normalization: Mapping[str, Any]
) -> None:
    """Check what a model says of the spectra it makes or reads.

    Raises
    ------
    ValueError
        If wavelengths do not increase, R is not positive or the normalization has no method.

    Examples
    --------
    >>> check_spectra(np.array([5000.0, 5001.0]), 1800.0, {"method": "continuum"})
    """
    if wavelength.ndim != 1 or wavelength.size == 0 or not np.all(np.isfinite(wavelength)):
        raise ValueError(f"wavelength must be finite and 1-D, got shape {wavelength.shape}")
    if wavelength[0] <= 0 or np.any(np.diff(wavelength) <= 0):
        raise ValueError("wavelength must be positive and increase from pixel to pixel")
    if resolving_power is not None and not 0 < resolving_power < np.inf:
        raise ValueError(f"resolving_power must be positive, got {resolving_power}")
    if "method" not in normalization:
        raise ValueError(f"normalization must name its method, got {dict(normalization)}")


class Emulator(torch.nn.Module):
    """Labels -> normalized flux. A subclass gives `options`, `forward_scaled` and `slice_grid`.

    Attributes
    ----------
    spec : EmulatorSpec
        What the numbers mean.
    scatter : (n_pixel,) float32 tensor
        Standard error of the emulated flux itself; 0 until trained.
    output : torch.nn.Linear, optional
        The last layer, for models that end in a linear one; it is applied to `features`.
    """

    scatter: Tensor
    minimum: Tensor
    span: Tensor
    output: torch.nn.Linear | None

    def __init__(self, spec: EmulatorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.output = None
        self.register_buffer("scatter", torch.zeros(spec.n_pixel))
        # float64 and not saved: 6000 K in float32 is known to 0.0005 K only, and the spec has them.
        self.register_buffer("minimum", torch.tensor(spec.minimum), persistent=False)
        self.register_buffer("span", torch.tensor(spec.maximum - spec.minimum), persistent=False)

    @property
    def options(self) -> dict[str, Any]:
        """What else the class needs to build this model anew; plain JSON types."""
        raise NotImplementedError

    def forward_scaled(self, x: Tensor) -> Tensor:
        """Return flux (n, n_pixel) for scaled labels `x` (n, n_label), -0.5 to 0.5 in range."""
        raise NotImplementedError

    def slice_grid(self, start: int, stop: int) -> "Emulator":
        """Return this emulator for pixels ``[start, stop)`` only."""
        raise NotImplementedError

    def broadened(self, sigma_pixel: float, *, resolving_power: float) -> "Emulator":
        """Return this emulator with its spectra smoothed by a Gaussian of `sigma_pixel` pixels."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """Return what `output` is applied to, (n, n_feature), for scaled labels."""
        raise NotImplementedError

    def features_and_jacobian(
        self,
        x: Tensor,
        multiply: Multiply = torch.nn.functional.linear,  # noqa: ARG002 - for those that override
    ) -> tuple[Tensor, Tensor]:
        """Return `features` (n, n_feature) and derivatives (n, n_label, n_feature) by scaled label.

        Here by forward-mode differentiation; a model that knows its derivatives overrides it, and
        makes them by `multiply`, which the caller may have faster than torch.
        """
        return self._forward_mode(self.features, x)

    def forward(
        self, labels: Tensor, shift: Tensor | None = None, pixels: Tensor | None = None
    ) -> Tensor:
        """Return flux for physical `labels` (n, n_label): see `flux_at`."""
        return self.flux_at(self.scale(labels), shift, pixels)

    def flux_at(
        self, x: Tensor, shift: Tensor | None = None, pixels: Tensor | None = None
    ) -> Tensor:
        """Return flux (n, m) of some pixels, all by default, for scaled labels `x` (n, n_label).

        Lines stand by `shift` (n,) [pixel] to the red. A model that can make some pixels alone
        overrides it.
        """
        flux = self.forward_scaled(x)
        if shift is not None:
            flux = shift_flux(flux, shift)
        return flux if pixels is None else flux[:, pixels]

    def scale(self, labels: Tensor) -> Tensor:
        """Return scaled labels in the precision of the weights."""
        x = (labels.to(self.minimum.dtype) - self.minimum) / self.span - 0.5
        return x.to(self.scatter.dtype)

    def unscale(self, x: Tensor) -> Tensor:
        """Return physical labels in the precision of `x`."""
        return ((x.to(self.span.dtype) + 0.5) * self.span + self.minimum).to(x.dtype)

    def label_weight(self) -> tuple[Tensor, int] | None:
        """Return the weights that labels are first multiplied by, and their axis of labels.

        None if there are none to learn.
        """
        return None

    def flux_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return flux (n, n_pixel) and its derivatives (n, n_label, n_pixel) by scaled labels.

        Here by forward-mode differentiation; a model that knows its derivatives overrides it.
        """
        return self._forward_mode(self.forward_scaled, x)

    def _forward_mode(
        self, function: Callable[[Tensor], Tensor], x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return a function's values (n, m) and derivatives (n, n_label, m) by scaled label."""

        def along(tangent: Tensor) -> tuple[Tensor, ...]:
            return torch.func.jvp(function, (x,), (tangent.expand_as(x),))

        unit = torch.eye(self.spec.n_label, dtype=x.dtype, device=x.device)
        value, jacobian = torch.func.vmap(along)(unit)  # (n_label, n, m) both
        return value[0], jacobian.transpose(0, 1)


def shift_flux(flux: Tensor, shift: Tensor) -> Tensor:
    """Move spectra along their pixels by less than about one pixel.

    Parameters
    ----------
    flux : (n_spectrum, n_pixel) float tensor
        Spectra on one grid; beyond their ends the last pixel repeats.
    shift : (n_spectrum,) float tensor [pixel]
        By how much lines move towards higher pixel numbers.

    Returns
    -------
    (n_spectrum, n_pixel) tensor
        ``out[i]`` is the flux at pixel ``i - shift``; differentiable in `flux` and `shift`.

    Raises
    ------
    ValueError
        If a shift is over one pixel: a whole-pixel move belongs in the data.

    Notes
    -----
    The weights sum to 1 and have the least mean-square error for spectra of unresolved lines of
    width `LINE_SIGMA_PIXEL`, where neighbors correlate as ``exp(-d**2 / (4 sigma**2))``: half the
    error of Lagrange's polynomials of as many points, at R = 1800 on LAMOST's pixels.

    References
    ----------
    Ordinary kriging: Cressie 1993, Statistics for Spatial Data, section 3.2.

    Examples
    --------
    >>> pixel = torch.arange(21.0)
    >>> line = lambda center: 1 - 0.3 * torch.exp(-0.5 * (pixel - center) ** 2 / 1.02**2)
    >>> moved = shift_flux(line(10.0)[None], torch.tensor([0.5]))
    >>> bool((moved - line(10.5)).abs().max() < 1e-3)
    True
    """
    weight = _shift_weights(shift).to(flux.dtype)
    padded = torch.nn.functional.pad(flux, (SHIFT_REACH, SHIFT_REACH), mode="replicate")
    # Spectra as channels of one grouped convolution: twice as fast as nine shifted sums.
    return torch.nn.functional.conv1d(padded[None], weight[:, None], groups=len(flux))[0]


def shifted_variance(shift: Tensor) -> Tensor:
    """Return what `shift_flux` multiplies the variance of white noise by.

    Interpolation averages pixels: a spectrum that it moves by half a pixel has 14 % less variance
    in each, and neighbors that are correlated in turn.

    Parameters
    ----------
    shift : (n_spectrum,) float tensor [pixel]

    Returns
    -------
    (n_spectrum,) float64 tensor
        Sums of the squared weights, 1 where nothing is moved.

    Raises
    ------
    ValueError
        If a shift is over one pixel.

    Examples
    --------
    >>> shifted_variance(torch.tensor([0.0, 0.25, -0.5])).round(decimals=3).tolist()
    [1.0, 0.94, 0.862]
    """
    return _shift_weights(shift).square().sum(dim=1)


def _shift_weights(shift: Tensor) -> Tensor:
    """Return the weights (n_spectrum, 2 * SHIFT_REACH + 1), float64, of the pixels around each."""
    largest = float(shift.detach().abs().max()) if shift.numel() else 0.0
    if not largest <= 1:
        raise ValueError(f"shift_flux moves by up to 1 pixel, got {largest:.6g}")
    node = torch.arange(-SHIFT_REACH, SHIFT_REACH + 1, dtype=torch.float64, device=shift.device)
    scale = 4 * LINE_SIGMA_PIXEL**2
    # The constant stands for an unknown mean; the small diagonal keeps the weights tame.
    covariance = torch.exp(-((node[:, None] - node) ** 2) / scale) + 100.0
    covariance += 1e-9 * torch.eye(len(node), dtype=torch.float64, device=shift.device)
    target = torch.exp(-((node + shift.to(torch.float64)[:, None]) ** 2) / scale) + 100.0
    weights: Tensor = torch.linalg.solve(covariance, target.T).T
    return weights
