"""Line formation for the mock survey: labels -> normalized flux. Real physics, made simple.

An LTE atmosphere of a few cells with a scaled T(tau), hydrostatic, with Saha, Boltzmann and
molecular equilibrium; lines of 33 elements with their wings, a statistical veil of the weak ones,
hydrogen with Stark wings, band models of CH, CN, C2, NH, MgH, SiH, TiO and CO; exact derivatives.
It is for tests, demonstrations and benchmarks, not for science: T(tau) is the same for all stars,
source functions are thermal, continuum edges of metals are missing, so that the ultraviolet below
3500 Å is only roughly right, molecular lines are cells of bands, and lines blend at random.
Wavelengths are vacuum Å. Flux is divided by the true continuum.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scalespec.models.atmosphere import solve_atmosphere
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.models.broadening import broaden
from scalespec.models.gas import AMU, C_CMS, ELEMENTS, K_ERG, K_EV, LN10, SYMBOLS
from scalespec.models.grid import plan_grid
from scalespec.models.lines import Absorbers, LineList, gather
from scalespec.models.molecules import every_population
from scalespec.models.opacity import BREAKS
from scalespec.models.starlabels import abundance_matrix, check_labels, label_box
from scalespec.models.transfer import (
    attenuation,
    line_points,
    solve_continuum,
    to_middle,
    wing_points,
)

FloatArray = npt.NDArray[np.float64]
FWHM = 2.354820045  # of a Gaussian, in sigma

REACH = (2400.0, 17200.0)
"""Wavelengths there may be [Å]; lines are known from 2480 to 17060."""
LINE_CHUNK, PIXEL_CHUNK = 512, 256  # of lines and pixels worked on at a time: they fit a cache
WIDTH_CELL = 3  # the cell whose Doppler widths stand for all
N_NODE = 20  # wavelengths at which the continuum is solved
MARGIN_KMS = 520.0  # beyond either end of a grid, where rotation brings light from


@dataclass(frozen=True)
class _Gas:
    """What lines need of a star, by cell: tensors (n_cell, n, ...) in the model's precision."""

    temperature: Tensor
    population: Tensor
    column: Tensor  # ln of hydrogen nuclei per cm²
    collisions: Tensor  # gas pressure T^-0.7
    electrons: Tensor  # per cm³
    speed: Tensor  # (n,) vmic [cm/s]
    stimulated: Tensor  # these three at the continuum's nodes
    above: Tensor
    weight: Tensor


class LineSynthesis(Emulator):
    """Labels -> continuum-normalized flux on a vacuum grid, batched and differentiable.

    A line too narrow to resolve is a Gaussian of the instrument's width that holds the equivalent
    width of its own transfer through the atmosphere; wings that can be resolved are transferred
    pixel by pixel, all together.

    Parameters
    ----------
    lines : LineList
        Lines of elements named in `ELEMENTS`; hydrogen and molecules come of themselves.
    wavelength : (n_pixel,) float [Å, vacuum], ascending
        Pixels to synthesize, within 2500 to 17000 Å.
    labels : sequence of str
        ``teff``, ``logg``, ``fe_h``, then any of ``vmic``, ``vsini``, ``vmac`` [km/s], ``he_h``
        (helium by number, relative to the Sun's [dex]) and ``<element>_fe``, in the order of the
        columns of `forward`. An element not named follows ``fe_h``, helium not named is solar;
        ``vmic`` not named follows ``logg`` (Kirby et al. 2009, ApJ 705, 328, eq. 2).
    resolving_power : float
        Wavelength over FWHM of the Gaussian line spread function.
    limits : mapping of str to (float, float), optional
        Ranges of labels where they are to be narrower than `LIMITS`.
    dtype : torch.dtype
        Of the lines and the flux; float64 is for checking derivatives.

    Raises
    ------
    ValueError
        If a label or an element is unknown, a needed label is missing, a range is beyond `LIMITS`
        or `wavelength` descends or leaves 2500 to 17000 Å.
    """

    _abundance: Tensor
    _all_hat: Tensor
    _count: Tensor
    _hydrogen: Tensor
    _knm: Tensor
    _nodes: Tensor
    _order: Tensor
    _soft: Tensor
    _strong_hat: Tensor
    _weak_count: Tensor
    _weak_hat: Tensor

    def __init__(
        self,
        lines: LineList,
        wavelength: FloatArray,
        *,
        labels: Sequence[str] = ("teff", "logg", "fe_h"),
        resolving_power: float = 1800.0,
        limits: Mapping[str, tuple[float, float]] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        output, names = np.asarray(wavelength, np.float64), tuple(labels)
        check_labels(names)
        _check(lines, output)
        box = label_box(names, limits)
        super().__init__(
            EmulatorSpec("line synthesis", names, box[:, 0], box[:, 1], output, resolving_power)
        )
        self.scatter = self.scatter.to(dtype)
        self._given, self._limits, self._fwhm = lines, limits, 1 / float(resolving_power)
        self._grid = plan_grid(
            output, self._fwhm / FWHM, moved={"vsini", "vmac"} & set(names), margin_kms=MARGIN_KMS
        )
        self._keep("_abundance", abundance_matrix(names), torch.float64)
        pixels = self._grid.wavelength
        self._set_nodes(pixels)
        every = gather(lines, pixels[0] * 0.996, pixels[-1] * 1.004, min(0.9 * self._fwhm, 1e-3))
        visible, strong = self._weigh(every)
        self._set_narrow(every.take(visible & ~strong), every.take(strong))
        self._set_broad(every.take(strong))

    def slice_grid(self, start: int, stop: int) -> "LineSynthesis":
        """Return this synthesis for pixels ``[start, stop)`` only."""
        return LineSynthesis(
            self._given,
            self.spec.wavelength[start:stop],
            labels=self.spec.labels,
            resolving_power=1 / self._fwhm,
            limits=self._limits,
            dtype=self.scatter.dtype,
        )

    def forward_scaled(self, x: Tensor) -> Tensor:
        """Return flux (n, n_pixel) for scaled labels `x` (n, n_label)."""
        return self.forward((x.double() + 0.5) * self.span + self.minimum)

    def forward(self, labels: Tensor) -> Tensor:  # type: ignore[override]  # all pixels, at rest
        """Return normalized flux (n, n_pixel) of `labels` (n, n_label) in physical units.

        A column for each label is wanted, else a ValueError says so.
        """
        gas = self._gas(labels.double())
        strong, wings = self._strong_lines(gas)
        width = torch.cat([self._weak_lines(gas), strong], 1)[:, self._order]
        square = width**2 / self._count
        taken = [
            width[:, a:b] @ self.get_buffer(f"_near_{i}")
            + square[:, a:b] @ self.get_buffer(f"_far_{i}")
            for i, (a, b) in enumerate(self._slabs)
        ]
        flux = torch.exp(-torch.cat(taken, 1)) * (1 - self._broad(gas, wings))
        column = self._columns(labels)
        if "vsini" in column or "vmac" in column:
            moved = {name: column[name] for name in ("vsini", "vmac") if name in column}
            # Rounding of the transforms leaves black pixels a little below 0.
            flux = broaden(flux, self._grid.step_kms, **moved).clamp_min(0.0)
        return self._grid.read(flux)

    def _keep(self, name: str, values: npt.ArrayLike, kind: torch.dtype | None = None) -> None:
        """Keep an array as a buffer; numbers other than indices in the model's dtype."""
        array = torch.as_tensor(np.array(values))
        kept = array.to(kind or self.scatter.dtype) if array.is_floating_point() else array
        self.register_buffer(name, kept, persistent=False)

    def _columns(self, labels: Tensor) -> dict[str, Tensor]:
        if labels.ndim != 2 or labels.shape[1] != self.spec.n_label:
            raise ValueError(f"want labels (n, {self.spec.n_label}), got {tuple(labels.shape)}")
        return dict(zip(self.spec.labels, labels.T, strict=True))

    def _set_nodes(self, pixels: FloatArray) -> None:
        """Lay out where the continuum is solved, on either side of its breaks."""
        low, high = pixels[0] * 0.99, pixels[-1] * 1.01
        nodes = np.geomspace(low, high, N_NODE)
        breaks = [b * s for b in BREAKS for s in (0.99999, 1.00001) if low < b < high]
        self._node_places = np.sort(np.concatenate([nodes, breaks]))
        self._keep("_nodes", self._node_places, torch.float64)

    def _hat(self, wavelength: FloatArray) -> FloatArray:
        """Return the matrix that takes values at the nodes to wavelengths, linearly between."""
        nodes = self._node_places
        place = np.interp(wavelength, nodes, np.arange(nodes.size))
        return np.asarray(np.maximum(0, 1 - np.abs(np.arange(nodes.size)[:, None] - place)))

    def _weigh(self, every: Absorbers) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Say which lines matter anywhere, and which have wings wide enough to resolve."""
        self._set_lines("_all", every)
        places = [self.spec.labels.index(name) for name in ("teff", "logg", "fe_h")]
        low, high = self.spec.minimum[places], self.spec.maximum[places]
        hot = np.clip([3800, 4500, 5500, 7000, 9500, 14000, 20000, 30000], low[0], high[0])
        corners = [(t, g, high[2]) for t in np.unique(hot) for g in np.linspace(low[1], high[1], 3)]
        labels = torch.zeros(len(corners), len(self.spec.labels), dtype=torch.float64)
        labels[:, places] = torch.tensor(corners, dtype=torch.float64)
        if "vmic" in self.spec.labels:
            labels[:, self.spec.labels.index("vmic")] = 1.5
        with torch.no_grad():
            gas = self._gas(labels)
            depth, damping = self._line_opacity(gas, "_all", slice(None))
            doppler = self._doppler(gas, "_all", slice(None))
            above = (gas.above @ self._all_hat)[WIDTH_CELL]
        widths = to_middle(depth)[WIDTH_CELL] / above
        wings = to_middle(depth * damping * doppler)[WIDTH_CELL] / (math.pi * above)
        seen, wing = widths.amax(0).numpy(), wings.amax(0).sqrt().numpy()
        sigma = every.wavelength * self._fwhm / FWHM
        strong = every.hydrogen | ((wing > 0.5 * sigma) & (every.count < 1.01))
        return every.hydrogen | (seen > 3e-4 * sigma), strong

    def _set_lines(self, name: str, lines: Absorbers) -> None:
        """Keep what does not change from star to star of some lines."""
        self._keep(f"{name}_hat", self._hat(lines.wavelength))
        self._keep(f"{name}_species", lines.species)
        numbers = [
            lines.strength,
            lines.excitation / K_EV,
            lines.wavelength,
            2 * K_ERG / AMU / lines.mass,
            lines.natural,
            lines.waals,
            np.where(lines.hydrogen, 0.0, lines.stark),
        ]
        self._keep(f"{name}_numbers", numbers)

    def _set_narrow(self, weak: Absorbers, strong: Absorbers) -> None:
        """Lay out the Gaussians of all lines, and their squares, by slabs of pixels."""
        self._set_lines("_weak", weak)
        self._keep("_weak_count", weak.count)
        self._n_weak = weak.wavelength.size
        self._profile = line_points()
        wave, mass, spread, count = (
            np.concatenate([getattr(lines, key) for lines in (weak, strong)])
            for key in ("wavelength", "mass", "spread", "count")
        )
        order = np.argsort(wave, kind="stable")
        wave, mass, spread = wave[order], mass[order], spread[order]
        self._keep("_order", order)
        self._keep("_count", count[order])
        speed = np.sqrt(K_ERG / AMU * 5000.0 / mass + 0.5 * 1.5e5**2)  # of the gas itself
        sigma = np.sqrt(wave**2 * ((self._fwhm / FWHM) ** 2 + (speed / C_CMS) ** 2) + spread**2)
        reach = 5.5 * np.max(sigma / wave, initial=0.0)
        pixels = self._grid.wavelength
        self._slabs: list[tuple[int, int]] = []
        for i, start in enumerate(range(0, pixels.size, 128)):
            here = pixels[start : start + 128]
            a, b = np.searchsorted(wave, [here[0] * (1 - reach), here[-1] * (1 + reach)])
            x = (here - wave[a:b, None]) / sigma[a:b, None]
            shape = np.exp(-0.5 * x**2) / (math.sqrt(2 * math.pi) * sigma[a:b, None])
            self._keep(f"_near_{i}", shape)
            self._keep(f"_far_{i}", 0.5 * shape**2)
            self._slabs.append((int(a), int(b)))

    def _set_broad(self, strong: Absorbers) -> None:
        """Lay out the wings of strong lines over the pixels."""
        self._set_lines("_strong", strong)
        wave, pixels = strong.wavelength, self._grid.wavelength
        sigma = wave * self._fwhm / FWHM
        own = np.where(strong.hydrogen, np.sqrt(sigma**2 + 0.3**2), sigma)
        distance = (pixels - wave[:, None]) ** 2 + own[:, None] ** 2
        self._keep("_hydrogen", np.flatnonzero(strong.hydrogen))
        self._keep("_knm", strong.stark[strong.hydrogen])
        self._keep("_soft", own)
        shapes = np.concatenate([1 / distance, distance[strong.hydrogen] ** -1.25])
        self._n_pixel_slabs = -(-pixels.size // PIXEL_CHUNK)
        hat = self._hat(pixels)
        for i in range(self._n_pixel_slabs):
            here = slice(i * PIXEL_CHUNK, (i + 1) * PIXEL_CHUNK)
            self._keep(f"_wings_{i}", shapes[:, here])
            self._keep(f"_pixel_hat_{i}", hat[:, here])
        x, weight = wing_points(self._fwhm / FWHM)
        self._wing_points = list(zip(x.tolist(), weight.tolist(), strict=True))

    def _gas(self, labels: Tensor) -> _Gas:
        """Solve the gas of every star."""
        column = self._columns(labels)
        solar = labels.new_tensor([ELEMENTS[s][1] - 12.0 for s in SYMBOLS])
        log_eps = LN10 * (solar + labels @ self._abundance)
        vmic = column.get("vmic", 2.13 - 0.23 * column["logg"])
        star = solve_atmosphere(column["teff"], column["logg"], log_eps, vmic)
        continuum, nuclei = solve_continuum(star, self._nodes)
        kind = self.scatter.dtype

        def cells(values: Tensor) -> Tensor:
            """Return values with cells first."""
            return values.transpose(0, 1).contiguous().to(kind)

        return _Gas(
            cells(star.temperature),
            cells(every_population(star)),
            nuclei.to(kind),
            cells(star.gas_pressure * star.temperature**-0.7),
            cells(star.electron_density),
            star.vmic.to(kind),
            continuum.stimulated.to(kind),
            continuum.above.to(kind),
            continuum.weight.to(kind),
        )

    def _doppler(self, gas: _Gas, name: str, part: slice) -> Tensor:
        """Return Doppler widths (n, n_line) [Å]."""
        _, _, wave, heat, *_ = self.get_buffer(f"{name}_numbers")[:, part]
        speed = (heat * gas.temperature[WIDTH_CELL, :, None] + gas.speed[:, None] ** 2).sqrt()
        doppler: Tensor = wave / C_CMS * speed
        return doppler

    def _line_opacity(self, gas: _Gas, name: str, part: slice) -> tuple[Tensor, Tensor]:
        """Return each cell's optical depth times interval [Å] in each line, and Voigt's a."""
        static, energy, wave, _, natural, waals, stark = self.get_buffer(f"{name}_numbers")[:, part]
        population = gas.population[:, :, self.get_buffer(f"{name}_species")[part]]
        exponent = population + static - energy / gas.temperature[..., None]
        depth = torch.exp(exponent + gas.column[..., None])
        depth = depth * (gas.stimulated @ self.get_buffer(f"{name}_hat")[:, part])
        gamma = natural + waals * gas.collisions[..., None] + stark * gas.electrons[..., None]
        doppler = self._doppler(gas, name, part)
        return depth, gamma * (wave**2 / (4e8 * math.pi * C_CMS)) / doppler

    def _weak_lines(self, gas: _Gas) -> Tensor:
        """Return the equivalent widths of lines without resolved wings, (n, n_weak) [Å]."""
        widths = []
        for start in range(0, self._n_weak, LINE_CHUNK):
            part = slice(start, start + LINE_CHUNK)
            depth, damping = self._line_opacity(gas, "_weak", part)
            doppler, count = self._doppler(gas, "_weak", part), self._weak_count[part]
            center = depth / (math.sqrt(math.pi) * doppler * count)
            core = to_middle(center)
            wing = to_middle(center * damping.clamp_max(0.5))
            hat = self._weak_hat[:, part]
            above, weight = gas.above @ hat, gas.weight @ hat
            seen = attenuation(above) * sum(w for w, *_ in self._profile)
            for w, gaussian, lorentz in self._profile:
                depths = torch.add(torch.add(above, core, alpha=gaussian), wing, alpha=lorentz)
                seen = torch.sub(seen, attenuation(depths), alpha=w)
            total = (weight * seen).sum(0)
            widths.append(count * doppler * total)
        return torch.cat(widths, 1) if widths else gas.speed.new_zeros(len(gas.speed), 0)

    def _strong_lines(self, gas: _Gas) -> tuple[Tensor, Tensor]:
        """Return what of strong lines the pixels do not resolve, (n, n_strong) [Å], and wings.

        References
        ----------
        Holtsmark wings of ions and electrons with the widths of Griem 1960, ApJ 132, 883.
        """
        depth, damping = self._line_opacity(gas, "_strong", slice(None))
        doppler = self._doppler(gas, "_strong", slice(None))
        lorentz = depth * damping * doppler / math.pi
        field = 1.25e-9 * gas.electrons[..., None] ** (2 / 3)
        wide = 1.5 * (field * self._knm) ** 1.5
        soft = self._soft[self._hydrogen]
        stark = depth[..., self._hydrogen] * wide / (1 + 2.396 * wide * soft**-1.5)
        every = torch.zeros_like(depth).index_add(2, self._hydrogen, stark)
        core, wing, far = (to_middle(x) for x in (depth, lorentz, every))
        above, weight = gas.above @ self._strong_hat, gas.weight @ self._strong_hat
        total = torch.zeros_like(doppler)
        for x, w in self._wing_points:
            place = (x * self._soft) ** 2
            near, pixel = place + 1.5 * doppler**2, place + self._soft**2
            gaussian = torch.exp(-place / doppler**2) / (math.sqrt(math.pi) * doppler)
            true = above + core * gaussian + wing / near + far / near**1.25
            shown = above + wing / pixel + far / pixel**1.25
            gap = (weight * (attenuation(shown) - attenuation(true))).sum(0)
            total = total + w * self._soft * gap
        return total, torch.cat([wing, far[..., self._hydrogen]], 2)

    def _broad(self, gas: _Gas, wings: Tensor) -> Tensor:
        """Return the depth of resolved wings, (n, n_pixel)."""
        depths = []
        for i in range(self._n_pixel_slabs):
            hat = self.get_buffer(f"_pixel_hat_{i}")
            above, weight = gas.above @ hat, gas.weight @ hat
            seen = attenuation(above + wings @ self.get_buffer(f"_wings_{i}"))
            depths.append((weight * (attenuation(above) - seen)).sum(0))
        return torch.cat(depths, 1)


def _check(lines: LineList, wavelength: FloatArray) -> None:
    """Refuse lines and pixels that cannot be synthesized."""
    if strange := sorted(set(lines.element) - set(SYMBOLS)):
        raise ValueError(f"no atomic data for elements {strange}; known are {', '.join(SYMBOLS)}")
    low, high = wavelength.min(initial=np.inf), wavelength.max(initial=0.0)
    if not (low >= REACH[0] and high <= REACH[1]):
        raise ValueError(
            f"line synthesis reaches {REACH[0]:.6g} to {REACH[1]:.6g} Å, "
            f"got {low:.6g} to {high:.6g}"
        )
