"""Two stars in one spectrum: the sum of two single-star emulators, each at its own velocity.

El-Badry et al. 2018, MNRAS 476, 528. Labels as everywhere; mass ratio q = M2 / M1, velocity of the
secondary against the primary dv [km/s].
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalespec.models.base import LINE_SIGMA_PIXEL, Emulator
from scalespec.models.grid import C_KMS

_HC_OVER_K = 1.438776877e8
"""Second radiation constant [Å K] (CODATA 2018)."""
_LN_10 = float(np.log(10))
_REACH = 4
_NODES = np.arange(-_REACH, _REACH + 1)
_BLUR = 4 * LINE_SIGMA_PIXEL**2
_MASSES = 10_001  # at which a sequence is compared with a model's box


@dataclass(frozen=True, eq=False)
class MainSequence:
    """Where a star of a mass lies on one isochrone's main sequence, in order of mass.

    Attributes
    ----------
    mass : (m,) float64 [Msun]
        Increasing.
    teff : (m,) float64 [K]
        Increasing.
    logg : (m,) float64 [dex, cgs]

    Raises
    ------
    ValueError
        If mass or temperature do not increase.
    """

    mass: NDArray[np.float64]
    teff: NDArray[np.float64]
    logg: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("mass", "teff"):
            values = np.asarray(getattr(self, name))
            if len(values) < 2 or np.any(np.diff(values) <= 0):
                raise ValueError(f"a main sequence wants {name} to increase, got {values}")

    def masses_within(
        self, teff: tuple[float, float], logg: tuple[float, float]
    ) -> tuple[float, float]:
        """Return the least and greatest mass of stars with both labels within their ranges.

        Where gravity leaves its range and comes back, the longest part counts.

        Raises
        ------
        ValueError
            If there are none.

        Examples
        --------
        >>> stars = MainSequence(np.array([0.5, 1.0]), np.array([4e3, 6e3]), np.array([4.7, 4.4]))
        >>> stars.masses_within((4400.0, 7000.0), (4.0, 5.0))
        (0.6, 1.0)
        """
        least, most = np.interp(teff, self.teff, self.mass)
        mass = np.linspace(least, most, _MASSES)
        found = np.interp(mass, self.mass, self.logg)
        there = (logg[0] <= found) & (found <= logg[1])
        if teff[0] > self.teff[-1] or teff[1] < self.teff[0] or not there.any():
            raise ValueError(
                f"no star of the main sequence has teff in {teff} and logg in {logg}: no secondary "
                "would be one that the model knows"
            )
        ends = np.flatnonzero(np.diff(np.pad(there, 1).astype(int))).reshape(-1, 2)
        first, last = ends[np.argmax(ends[:, 1] - ends[:, 0])]
        return float(mass[first]), float(mass[last - 1])


class BinaryEmulator(Emulator):
    """Single-star labels of the primary, q and dv -> normalized flux of both stars together.

    The secondary shares the primary's composition; its temperature, gravity and size follow from
    the mass ratio along the main sequence. Continua are black bodies, so only their ratio counts.
    A secondary that the single emulator does not know has a spectrum, too, of no worth: see
    `limits`.

    Parameters
    ----------
    single : Emulator
        Continuum-normalized, with the labels ``teff`` and ``logg``.
    sequence : MainSequence
        Mass, temperature and gravity.
    q_range : (float, float)
        Range of the mass ratio.
    dv_kms : float
        Range of dv to either side [km/s].

    Raises
    ------
    ValueError
        If the single emulator lacks ``teff`` or ``logg``, or is not normalized by its continuum, or
        no star of the main sequence lies in its box.
    """

    def __init__(
        self,
        single: Emulator,
        sequence: MainSequence,
        *,
        q_range: tuple[float, float] = (0.3, 1.0),
        dv_kms: float = 300.0,
    ) -> None:
        spec = single.spec
        missing = {"teff", "logg"} - set(spec.labels)
        if missing or spec.normalization.get("method") != "continuum":
            raise ValueError(
                f"two stars want a continuum-normalized model of teff and logg, got labels "
                f"{spec.labels} and {dict(spec.normalization)}"
            )
        super().__init__(
            replace(
                spec,
                name=f"{spec.name}, two stars",
                labels=(*spec.labels, "q", "dv"),
                minimum=np.append(spec.minimum, [q_range[0], -dv_kms]),
                maximum=np.append(spec.maximum, [q_range[1], dv_kms]),
            )
        )
        self.single = single
        self.sequence = sequence
        edges = dict(zip(spec.labels, zip(spec.minimum, spec.maximum, strict=True), strict=True))
        self._masses = sequence.masses_within(edges["teff"], edges["logg"])
        self.register_buffer("scatter", single.scatter.clone())
        table = np.stack([sequence.mass, sequence.teff, sequence.logg])
        self.register_buffer("_table", torch.tensor(table), persistent=False)
        self.register_buffer("_wavelength", torch.tensor(spec.wavelength.copy()), persistent=False)
        self._step = float(np.log(spec.wavelength[1] / spec.wavelength[0]))

    # It does not say `kinks`, though the single one may: fits have several starts, and begun again
    # they took 4.5 times as long to find as many pairs.
    _table: Tensor
    _wavelength: Tensor

    @property
    def options(self) -> dict[str, Any]:
        """Ranges of q and dv; the parts are given anew."""
        low, high = self.spec.minimum[-2:], self.spec.maximum[-2:]
        return {"q_range": (float(low[0]), float(high[0])), "dv_kms": float(high[1])}

    def slice_grid(self, start: int, stop: int) -> "BinaryEmulator":
        """Return this emulator for pixels ``[start, stop)`` only."""
        return BinaryEmulator(self.single.slice_grid(start, stop), self.sequence, **self.options)

    def broadened(self, sigma_pixel: float, *, resolving_power: float) -> "BinaryEmulator":
        """Return this emulator with its spectra smoothed by a Gaussian of `sigma_pixel` pixels."""
        blurred = self.single.broadened(sigma_pixel, resolving_power=resolving_power)
        return BinaryEmulator(blurred, self.sequence, **self.options)

    def secondary(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(n, K + 2) physical labels -> (n, K) labels of the secondary, (n,) ratio of areas.

        The area of a star is M / g: radii never appear.
        """
        names = self.single.spec.labels
        t, g = names.index("teff"), names.index("logg")
        mass, teff, logg = self._table
        primary = _interpolate(labels[:, t], teff, mass)
        companion = primary * labels[:, -2]
        second = labels[:, :-2].clone()
        second[:, t] = _interpolate(companion, mass, teff)
        second[:, g] = _interpolate(companion, mass, logg)
        area = labels[:, -2] * 10 ** (labels[:, g] - second[:, g])
        return second, area

    def limits(
        self, labels: NDArray[np.floating[Any]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lowest and highest labels of pairs both of whose stars are known.

        The secondary has a mass at which the single emulator knows teff and logg, so q has a least
        value, and a greatest, that depend on the primary's teff; and the primary a teff of the main
        sequence that leaves q room.

        Parameters
        ----------
        labels : (n, K) or (n, K + 2) float
            Physical; of these the primary's teff counts.

        Returns
        -------
        low, high : (n, K + 2) float64
            The box, but for teff and q.

        Examples
        --------
        >>> from scalespec.models.base import EmulatorSpec
        >>> from scalespec.models.payne import Payne
        >>> wavelength = 5000 * 10 ** (1e-4 * np.arange(20))
        >>> single = Payne(EmulatorSpec("s", ("teff", "logg"), [4e3, 4], [6e3, 5], wavelength))
        >>> stars = MainSequence(np.array([0.5, 1.0]), np.array([4e3, 6e3]), np.array([4.7, 4.4]))
        >>> low, high = BinaryEmulator(single, stars).limits(np.array([[5000.0, 4.5]]))
        >>> round(low[0, 2].item(), 3), high[0, 2].item()  # of .75 suns, beside .5 or more
        (0.667, 1.0)
        """
        stars, t = self.sequence, self.single.spec.labels.index("teff")
        low, high = (
            np.tile(edge, (len(labels), 1)) for edge in (self.spec.minimum, self.spec.maximum)
        )
        ratios = low[:1, -2], high[:1, -2]
        for edge, most, q in zip((low, high), self._masses, ratios[::-1], strict=True):
            teff = np.interp((most / q).clip(stars.mass[0], stars.mass[-1]), stars.mass, stars.teff)
            edge[:, t] = teff.clip(self.spec.minimum[t], self.spec.maximum[t])
        mass = np.interp(labels[:, t].clip(low[:, t], high[:, t]), stars.teff, stars.mass)
        for edge, most in zip((low, high), self._masses, strict=True):
            edge[:, -2] = (most / mass).clip(*ratios)
        return low, high

    def forward_scaled(self, x: Tensor) -> Tensor:
        """Return flux (n, n_pixel) for scaled labels `x` (n, n_label)."""
        labels = (x.to(self.span.dtype) + 0.5) * self.span + self.minimum
        second, area = self.secondary(labels)
        hot, cool = (torch.expm1(one) for one in self._exponents(labels, second))
        light = (area[:, None] * hot / cool).to(x.dtype)  # secondary over primary
        faint = self.single.forward_scaled(self.single.scale(second))
        moved = _moved(faint[:, None], *_weights(self._pixels(labels))[:2])[:, 0]
        bright = self.single.forward_scaled(x[:, :-2])
        return (bright + light * moved) / (1.0 + light)

    def flux_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return flux (n, n_pixel) and its derivatives (n, n_label, n_pixel) by scaled labels.

        Of F = (B + L M) / (1 + L), bright and moved: dF = (dB + L dM + (M - F) dL) / (1 + L).
        """
        labels = (x.to(self.span.dtype) + 0.5) * self.span + self.minimum
        second, area = self.secondary(labels)
        own, many = self._places(), second.shape[1]
        hot, cool = self._exponents(labels, second)
        light = area[:, None] * torch.expm1(hot) / torch.expm1(cool)
        share = (light / (1.0 + light)).to(x.dtype)
        bright, by_bright = self.single.flux_and_jacobian(x[:, :-2])
        slopes = self._slopes(labels)
        moved, by_moved = self._moved_and_jacobian(labels, second, slopes)
        flux = bright + share * (moved - bright)
        jacobian = share[:, None] * by_moved
        jacobian[:, :many] += (1 - share)[:, None] * by_bright
        # d ln L by the primary's teff and logg, and by q
        by_hot, by_cool = (-u / (1 - torch.exp(-u)) / of[:, own[0], None]
                           for u, of in ((hot, labels), (cool, second)))  # fmt: skip
        by_both = -by_cool[:, None] * slopes[:, 0, :, None] - _LN_10 * slopes[:, 1, :, None]
        by_teff = by_both[:, 0] + by_hot
        by_q = by_both[:, 1] + 1 / labels[:, -2, None]
        by_light = torch.stack([by_teff, torch.full_like(by_q, _LN_10), by_q], dim=1)
        places = [*own, many]
        by_light = (by_light * self.span[places][:, None]).to(x.dtype)
        jacobian[:, places] += by_light * (share * (moved - flux))[:, None]
        return flux, jacobian

    def _moved_and_jacobian(
        self, labels: Tensor, second: Tensor, slopes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the secondary's flux (n, P) at its velocity, and derivatives (n, K + 2, P)."""
        (t, g), span = self._places(), self.span
        faint, by_faint = self.single.flux_and_jacobian(self.single.scale(second))
        whole, weight, change = _weights(self._pixels(labels))
        both = _moved(torch.cat([faint[:, None], by_faint], dim=1), whole, weight)
        moved, by_second = both[:, 0], both[:, 1:]
        scaled = slopes * span[[t, -2]] / span[[t, g]][:, None]
        followed = torch.einsum("njk,njp->nkp", scaled.to(moved), by_second[:, [t, g]])
        by_velocity = span[-1] / C_KMS / (1 - (labels[:, -1] / C_KMS) ** 2) / self._step
        by_dv = _moved(faint[:, None], whole, change * by_velocity[:, None])
        by_moved = torch.cat([by_second, followed[:, 1:], by_dv], dim=1)
        by_moved[:, t], by_moved[:, g] = followed[:, 0], 0.0  # the secondary has its own gravity
        return moved, by_moved

    def _places(self) -> tuple[int, int]:
        """Return where among the labels temperature and gravity stand."""
        names = self.single.spec.labels
        return names.index("teff"), names.index("logg")

    def _exponents(self, labels: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return h c / (λ k T) of primary and secondary, (n, P) both."""
        t, _ = self._places()
        scale = _HC_OVER_K / self._wavelength
        return scale / labels[:, t, None], scale / second[:, t, None]

    def _pixels(self, labels: Tensor) -> Tensor:
        """Return by how many pixels (n,) the secondary stands to the red."""
        return torch.atanh(labels[:, -1] / C_KMS) / self._step

    def _slopes(self, labels: Tensor) -> Tensor:
        """(n, 2, 2): derivatives of the secondary's teff and logg by the primary's teff, and q."""
        mass, *values = self._table
        teff, q = labels[:, self._places()[0]], labels[:, -2]
        primary = _interpolate(teff, values[0], mass)
        by_mass = torch.stack([_slope(primary * q, mass, one) for one in values], dim=1)
        of_mass = torch.stack([_slope(teff, values[0], mass) * q, primary], dim=1)
        return by_mass[:, :, None] * of_mass[:, None]


def composite_starts(
    single: NDArray[np.floating[Any]], *, q: Sequence[float], dv: Sequence[float]
) -> NDArray[np.float64]:
    """Combine single-star labels (n, K) with every q and dv: (n, C, K + 2) first labels."""
    pairs = np.array([(one, two) for one in q for two in dv])
    wide = np.repeat(np.asarray(single, np.float64)[:, np.newaxis], len(pairs), axis=1)
    tail = np.broadcast_to(pairs, (len(single), *pairs.shape))
    return np.concatenate([wide, tail], axis=2)


def _interpolate(x: Tensor, xp: Tensor, fp: Tensor) -> Tensor:
    """Interpolate linearly, and beyond the ends as between the last two; differentiable in `x`."""
    place = torch.searchsorted(xp, x.detach().contiguous()).clamp(1, len(xp) - 1)
    low, high = xp[place - 1], xp[place]
    share = (x - low) / (high - low)
    return fp[place - 1] + share * (fp[place] - fp[place - 1])


def _slope(x: Tensor, xp: Tensor, fp: Tensor) -> Tensor:
    """Return the derivative of `_interpolate` by `x`."""
    place = torch.searchsorted(xp, x.contiguous()).clamp(1, len(xp) - 1)
    return (fp[place] - fp[place - 1]) / (xp[place] - xp[place - 1])


def _weights(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n,) pixels -> (n,) whole ones, (n, m) weights of a pixel's neighbors, their derivatives.

    Weights as in `models.base.shift_flux`, for any move, and without its check.
    """
    whole = torch.floor(pixels.detach() + 0.5)
    fraction = pixels - whole  # -0.5 to 0.5
    system = np.exp(-(np.subtract.outer(_NODES, _NODES) ** 2) / _BLUR) + 100.0
    system += 1e-9 * np.eye(len(_NODES))
    inverse = torch.tensor(np.linalg.inv(system), device=pixels.device)
    away = torch.tensor(_NODES, device=pixels.device) + fraction.double()[:, None]
    close = torch.exp(-(away**2) / _BLUR)
    return whole.long(), (close + 100.0) @ inverse, (-2 / _BLUR * away * close) @ inverse


def _moved(flux: Tensor, whole: Tensor, weight: Tensor) -> Tensor:
    """(n, m, P) flux, m spectra of each star moved by its `_weights`; differentiable in both."""
    n_pixel = flux.shape[2]
    places = torch.arange(-_REACH, n_pixel + _REACH, device=flux.device) - whole[:, None]
    index = places.clamp(0, n_pixel - 1)[:, None].expand(-1, flux.shape[1], -1)
    wide, share = flux.gather(2, index), weight[:, :, None, None].to(flux.dtype)
    total = share[:, 0] * wide[:, :, :n_pixel]
    for k in range(1, len(_NODES)):
        total = torch.addcmul(total, share[:, k], wide[:, :, k : k + n_pixel])
    return total
