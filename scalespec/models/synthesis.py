"""Line formation for the mock survey: labels -> normalized flux. Simple physics, not for science.

One layer of gas at one temperature and electron pressure makes the lines: Saha and Boltzmann
populations, H- and hydrogen continuum, a curve of growth with van der Waals damping, Stark wings
for the Balmer lines and one band model for CH. Lines lie where nature has them and react to labels
with the right sign and about the right size, and every derivative is exact, which is what tests,
demonstrations and benchmarks need. There is no model atmosphere, no NLTE, no molecule but CH, and
only the lines of the list: real stars have more, most of all cool ones. Wavelengths are vacuum Å.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.models.gas import (
    AMU,
    ELEMENTS,
    K_ERG,
    K_EV,
    LN10,
    SYMBOLS,
    Layer,
    continuum_opacity,
    curve_of_growth,
    solve_layer,
)

FloatArray = npt.NDArray[np.float64]
C_CMS = 2.99792458e10  # [cm/s]
FWHM = 2.354820045  # of a Gaussian, in sigma

# Balmer lines: upper level, vacuum Å, oscillator strength (Wiese & Fuhr 2009, JPCRD 38, 565).
BALMER = (
    (3, 6564.61, 0.6407),
    (4, 4862.69, 0.1193),
    (5, 4341.69, 0.04467),
    (6, 4102.90, 0.02209),
    (7, 3971.20, 0.01270),
    (8, 3890.16, 0.008037),
    (9, 3836.48, 0.005429),
    (10, 3798.99, 0.003851),
    (11, 3771.72, 0.002836),
    (12, 3751.23, 0.002150),
    (13, 3735.45, 0.001672),
    (14, 3723.01, 0.001326),
)

# CH A-X (the G band): center, sigma [Å] and weight of Gaussians that imitate the band's shape.
G_BAND = (
    (4312.5, 3.0, 0.60),
    (4303.5, 6.0, 0.50),
    (4285.0, 12.0, 0.25),
    (4255.0, 25.0, 0.20),
    (4353.0, 8.0, 0.20),
    (4380.0, 20.0, 0.20),
)

LIMITS = {"teff": (3800.0, 7500.0), "logg": (0.0, 5.0), "fe_h": (-2.5, 0.5), "vmic": (0.5, 3.0)}
"""Range of each label; an ``[X/Fe]`` may lie in ±1."""

CH_SCALE = 8e-15  # strength of the G band, set to that of Synspec giants
WARMER = 1.06  # temperature where Balmer lines form over that of metal lines, from the solar Hα
SURFACE = 0.75  # temperature of the deepest line cores over the effective one


@dataclass(frozen=True)
class LineList:
    """Atomic lines, sorted by wavelength.

    Attributes
    ----------
    wavelength : (n_line,) float64 [Å, vacuum]
    element : tuple of n_line str
        Chemical symbols.
    ion_stage : (n_line,) int64
        1 for the neutral, 2 for the ion.
    excitation : (n_line,) float64 [eV]
        Energy of the lower level.
    log_gf : (n_line,) float64
    """

    wavelength: FloatArray
    element: tuple[str, ...]
    ion_stage: npt.NDArray[np.int64]
    excitation: FloatArray
    log_gf: FloatArray

    def take(self, chosen: npt.NDArray[np.intp]) -> "LineList":
        """Return the lines of these indices, in this order."""
        return LineList(
            self.wavelength[chosen],
            tuple(self.element[i] for i in chosen),
            self.ion_stage[chosen],
            self.excitation[chosen],
            self.log_gf[chosen],
        )


class LineSynthesis(Emulator):
    """Labels -> continuum-normalized flux on a vacuum grid, batched and differentiable.

    Lines too narrow to resolve are Gaussians of the instrument's width that hold their equivalent
    width; the strongest ones and the Balmer lines also have wings, whose opacity is added up before
    it saturates, so that strong blends add as they do in a star.

    Parameters
    ----------
    lines : LineList
        Lines of elements named in `ELEMENTS`; Balmer lines and the G band come of themselves.
    wavelength : (n_pixel,) float [Å, vacuum], ascending
        Pixels to synthesize.
    labels : sequence of str
        ``teff``, ``logg``, ``fe_h``, then any of ``vmic`` and ``<element>_fe``, in the order of the
        columns of `forward`. An element not named follows ``fe_h``; ``vmic`` not named follows
        ``logg`` (Kirby et al. 2009, ApJ 705, 328, eq. 2).
    resolving_power : float
        Wavelength over FWHM of the Gaussian line spread function.
    dtype : torch.dtype
        Of the lines and the flux; float64 is for checking derivatives.

    Raises
    ------
    ValueError
        If a label or an element is unknown, a needed label is missing or `wavelength` descends.
    """

    _abundance: Tensor
    _balmer: Tensor
    _band: Tensor
    _hat: Tensor
    _knm: Tensor
    _line_energy: Tensor
    _line_mass: Tensor
    _line_natural: Tensor
    _line_species: Tensor
    _line_static: Tensor
    _line_waals: Tensor
    _line_wave: Tensor
    _nodes: Tensor
    _pixels: Tensor
    _sigma: Tensor
    _strong: Tensor
    _wings: Tensor

    def __init__(
        self,
        lines: LineList,
        wavelength: FloatArray,
        *,
        labels: Sequence[str] = ("teff", "logg", "fe_h"),
        resolving_power: float = 1800.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        grid, names = np.asarray(wavelength, np.float64), tuple(labels)
        _check(lines, names)
        box = np.array([LIMITS.get(name, (-1.0, 1.0)) for name in names])
        super().__init__(
            EmulatorSpec("line synthesis", names, box[:, 0], box[:, 1], grid, resolving_power)
        )
        self.scatter = self.scatter.to(dtype)
        self._given, self._fwhm = lines, 1 / float(resolving_power)
        self._keep("_pixels", grid)
        self._keep("_abundance", _abundance_matrix(names))
        lines = _with_balmer(lines)
        self._set_lines(lines)
        visible, strong = self._weigh()
        lines = lines.take(np.flatnonzero(visible))
        self._set_lines(lines)
        self._set_profiles(lines.wavelength, strong[visible])

    def slice_grid(self, start: int, stop: int) -> "LineSynthesis":
        """Return this synthesis for pixels ``[start, stop)`` only."""
        return LineSynthesis(
            self._given,
            self.spec.wavelength[start:stop],
            labels=self.spec.labels,
            resolving_power=1 / self._fwhm,
            dtype=self.scatter.dtype,
        )

    def forward_scaled(self, x: Tensor) -> Tensor:
        """Return flux (n, n_pixel) for scaled labels `x` (n, n_label)."""
        return self.forward((x.double() + 0.5) * self.span + self.minimum)

    def forward(self, labels: Tensor) -> Tensor:
        """Return normalized flux (n, n_pixel) of `labels` (n, n_label) in physical units."""
        layer = self._layer(labels.double())
        area, doppler, damping = self._lines(layer)
        lorentz = (area * damping * doppler)[:, self._strong] / math.pi  # wing eta = lorentz / x²
        width = doppler * curve_of_growth(area / (math.sqrt(math.pi) * doppler), damping)
        resolved = math.pi * lorentz / (self._sigma[self._strong] ** 2 + lorentz).sqrt()
        width = width.index_add(1, self._strong, -resolved)
        stark, unresolved = self._stark(layer, area)
        width = width.index_add(1, self._balmer, unresolved)
        narrow = torch.cat([width[:, a:b] @ getattr(self, name) for a, b, name in self._slabs], 1)
        narrow = narrow + self._g_band(layer)[:, None] * self._band
        broad = torch.cat([lorentz, stark], 1) @ self._wings
        absorbed = 1 - torch.exp(-narrow) / (1 + broad)
        return 1 - self._depth(labels[:, self.spec.labels.index("teff")]) * absorbed

    def _keep(self, name: str, values: npt.ArrayLike) -> None:
        """Keep an array as a buffer; numbers other than indices in the model's dtype."""
        array = torch.tensor(np.asarray(values))
        kept = array.to(self.scatter.dtype) if array.is_floating_point() else array
        self.register_buffer(name, kept, persistent=False)

    def _set_lines(self, lines: LineList) -> None:
        """Keep what does not change from star to star of every line."""
        index = np.array([SYMBOLS.index(e) for e in lines.element])
        stage, wave = lines.ion_stage, lines.wavelength
        constants = math.log(0.026540) - math.log(C_CMS) + math.log(1e8)  # pi e²/mc; Å per cm
        self._keep("_line_wave", wave)
        self._keep("_line_static", constants + LN10 * lines.log_gf + 2 * np.log(wave * 1e-8))
        self._keep("_line_energy", lines.excitation / K_EV / np.where(index == 0, WARMER, 1.0))
        self._keep("_line_natural", 2.223e15 / wave**2)
        self._keep("_line_waals", _van_der_waals(lines))
        self._keep("_line_mass", [ELEMENTS[e][0] for e in lines.element])
        self._keep("_sigma", wave * self._fwhm / FWHM)
        self._keep("_line_species", 2 * index + stage - 1)
        self._keep("_balmer", np.flatnonzero(index == 0))
        nodes = np.geomspace(wave.min(), wave.max() + 1.0, 32)
        place = np.interp(wave, nodes, np.arange(32.0))
        self._keep("_nodes", nodes)
        self._keep("_hat", np.maximum(0, 1 - np.abs(np.arange(32.0)[:, None] - place)))

    def _set_profiles(self, wave: FloatArray, strong: npt.NDArray[np.bool_]) -> None:
        """Lay out the Gaussians of all lines by slabs of pixels, the wings and the band."""
        grid, sigma = self.spec.wavelength, wave * self._fwhm / FWHM
        reach = 6 * self._fwhm / FWHM  # a Gaussian is 1e-8 there
        self._slabs: list[tuple[int, int, str]] = []
        for start in range(0, grid.size, 128):
            pixels = grid[start : start + 128]
            a, b = np.searchsorted(wave, [pixels[0] * (1 - reach), pixels[-1] * (1 + reach)])
            x = (pixels - wave[a:b, None]) / sigma[a:b, None]
            name = f"_slab_{start}"
            self._keep(name, np.exp(-0.5 * x**2) / (math.sqrt(2 * math.pi) * sigma[a:b, None]))
            self._slabs.append((int(a), int(b), name))
        self._keep("_strong", np.flatnonzero(strong))
        offset = (grid - wave[:, None]) ** 2 + sigma[:, None] ** 2
        stark = offset[self._balmer.numpy()] ** -1.25
        self._keep("_wings", np.concatenate([1 / offset[strong], stark]))
        shape = [h * np.exp(-0.5 * ((grid - c) / s) ** 2) for c, s, h in G_BAND]
        self._keep("_band", np.sum(shape, 0))
        upper = np.array([n for n, *_ in reversed(BALMER)], float)  # in order of wavelength
        self._keep("_knm", 5.5e-5 * (2 * upper) ** 4 / (upper**2 - 4))

    def _weigh(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Say which lines matter anywhere, and which have wings wide enough to resolve."""
        corners = [(t, g) for t in np.linspace(3800, 7500, 5) for g in (0.0, 2.5, 5.0)]
        labels = torch.zeros(len(corners), len(self.spec.labels), dtype=torch.float64)
        labels[:, self.spec.labels.index("teff")] = torch.tensor([t for t, _ in corners])
        labels[:, self.spec.labels.index("logg")] = torch.tensor([g for _, g in corners])
        labels[:, self.spec.labels.index("fe_h")] = 0.5
        if "vmic" in self.spec.labels:
            labels[:, self.spec.labels.index("vmic")] = 1.5
        area, doppler, damping = self._lines(self._layer(labels))
        wing = (area * damping * doppler / math.pi).amax(0).sqrt()
        visible = area.amax(0) > 1e-4  # 0.1 mÅ where it is strongest
        balmer = self._line_species < 2
        return (visible | balmer).numpy(), (wing > 0.3 * self._sigma).numpy()

    def _layer(self, labels: Tensor) -> Layer:
        """Solve the gas of every star."""
        column = dict(zip(self.spec.labels, labels.T, strict=True))
        solar = labels.new_tensor([ELEMENTS[s][1] - 12.0 for s in SYMBOLS])
        log_eps = LN10 * (solar + labels @ self._abundance.double())
        vmic = column.get("vmic", 2.13 - 0.23 * column["logg"])
        return solve_layer(column["teff"], column["logg"], log_eps, vmic)

    def _opacity(self, layer: Layer, wavelength: Tensor) -> Tensor:
        """Return continuum opacity per hydrogen nucleus before stimulated emission, (n, n_wave)."""
        t = layer.temperature
        pressure = layer.electron_density * K_ERG * t
        neutral = 2 * layer.population[:, 0].exp()
        kappa = continuum_opacity(wavelength.double(), t, pressure) * neutral[:, None]
        return kappa / (1 - torch.exp(-1.43878e8 / (wavelength.double() * t[:, None])))

    def _lines(self, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
        """Return each line's opacity over continuum, integrated [Å], Doppler width [Å] and a."""
        kind = self.scatter.dtype
        kappa = self._opacity(layer, self._nodes).log().to(kind) @ self._hat
        t = layer.temperature.to(kind)[:, None]
        population = layer.population.to(kind)[:, self._line_species]
        area = (population + self._line_static - self._line_energy / t - kappa).exp()
        thermal = 2 * K_ERG / AMU * t / self._line_mass
        speed = (thermal + layer.vmic.to(kind)[:, None] ** 2).sqrt()
        doppler = self._line_wave * speed / C_CMS
        collisions = (layer.gas_pressure * layer.temperature**-0.7).to(kind)[:, None]
        gamma = self._line_natural + self._line_waals * collisions
        damping = gamma * self._line_wave * 1e-8 / (4 * math.pi * speed)
        return area + 1e-20, doppler, damping

    def _stark(self, layer: Layer, area: Tensor) -> tuple[Tensor, Tensor]:
        """Return wing strengths [Å^2.5] and what of each width is too narrow to resolve [Å].

        References
        ----------
        Holtsmark wings of ions and electrons with the widths of Griem 1960, ApJ 132, 883.
        """
        field = 1.25e-9 * layer.electron_density.to(self.scatter.dtype)[:, None] ** (2 / 3)
        wing = area[:, self._balmer] * 1.5 * (field * self._knm) ** 1.5
        full = 2.642 * wing**0.4  # integral of y / (1 + y), y = wing |x|^-2.5
        weak = 2.396 * wing * self._sigma[self._balmer] ** -1.5
        return wing, full - full / (1 + (full / weak) ** 2).sqrt()

    def _g_band(self, layer: Layer) -> Tensor:
        """Return the strength of CH: molecules per continuum opacity, saturating as its lines do.

        References
        ----------
        Law of mass action with the dissociation energies of Huber & Herzberg 1979; CO takes carbon.
        """
        t, n = layer.temperature, layer.hydrogen_density
        carbon, oxygen = (layer.population[:, 2 * SYMBOLS.index(e)].exp() for e in "CO")
        c, o = carbon * 9.2 * n, oxygen * 8.9 * n  # times partition functions
        states = K_EV * t / 2.394e-4 / (1 - torch.exp(-0.2657 / (K_EV * t)))  # of CO
        k = 1.880e20 * (6.856 * t) ** 1.5 * 9.2 * 8.9 / states * torch.exp(-11.09 / (K_EV * t))
        free = 2 * k / (o - c + k + ((o - c + k) ** 2 + 4 * k * c).sqrt())  # atoms, of all carbon
        hydrogen = layer.population[:, 0].exp()
        ch = carbon * free * hydrogen * n / (1.880e20 * (0.930 * t) ** 1.5)
        ch = ch * torch.exp(3.465 / (K_EV * t))
        kappa = self._opacity(layer, t.new_tensor([4310.0]))[:, 0]
        strength = CH_SCALE * ch / kappa
        return (strength * (1 + strength) ** -0.7).to(self.scatter.dtype)

    def _depth(self, teff: Tensor) -> Tensor:
        """Return the depth of a black line, (n, n_pixel): the surface shines in it."""
        x = 1.43878e8 / (self._pixels * teff.to(self.scatter.dtype)[:, None])
        return 1 - x.expm1() / (x / SURFACE).expm1()


def _check(lines: LineList, labels: tuple[str, ...]) -> None:
    """Refuse what cannot be synthesized."""
    known = {*LIMITS, *(f"{symbol.lower()}_fe" for symbol in SYMBOLS[1:])}
    if unknown := sorted(set(labels) - known):
        raise ValueError(
            f"labels {unknown} are unknown to line synthesis; it knows {sorted(known)}"
        )
    if missing := [name for name in ("teff", "logg", "fe_h") if name not in labels]:
        raise ValueError(f"line synthesis wants labels {missing}, got {list(labels)}")
    if strange := sorted(set(lines.element) - set(SYMBOLS)):
        raise ValueError(f"no atomic data for elements {strange}; known are {', '.join(SYMBOLS)}")


def _abundance_matrix(labels: tuple[str, ...]) -> FloatArray:
    """Return (n_label, n_element): how much each label adds to each log abundance."""
    matrix = np.zeros((len(labels), len(SYMBOLS)))
    matrix[labels.index("fe_h"), 2:] = 1.0
    for row, name in enumerate(labels):
        symbol = name.removesuffix("_fe").capitalize()
        if name.endswith("_fe") and symbol in SYMBOLS:
            matrix[row, SYMBOLS.index(symbol)] = 1.0
    return matrix


def _with_balmer(lines: LineList) -> LineList:
    """Add the Balmer lines and put all in order of wavelength."""
    wave = np.concatenate([lines.wavelength, [w for _, w, _ in BALMER]])
    order = np.argsort(wave, kind="stable")
    merged = LineList(
        wave,
        lines.element + ("H",) * len(BALMER),
        np.concatenate([lines.ion_stage, np.ones(len(BALMER), np.int64)]),
        np.concatenate([lines.excitation, np.full(len(BALMER), 10.1988)]),
        np.concatenate([lines.log_gf, np.log10([8 * f for *_, f in BALMER])]),
    )
    return merged.take(order)


def _van_der_waals(lines: LineList) -> FloatArray:
    """Return damping by hydrogen over (gas pressure x T^-0.7) [rad/s] of every line.

    References
    ----------
    Unsöld's formula: Gray 2005, eqs. 11.27 to 11.29. Balmer lines: Barklem, Piskunov & O'Mara 2000,
    A&A 363, 1091, table 3 (Hα, Hβ, Hγ; the higher lines take Hγ's).
    """
    ionization = np.array(
        [ELEMENTS[e][1 + s] for e, s in zip(lines.element, lines.ion_stage, strict=True)]
    )
    below = np.maximum(ionization - lines.excitation, 0.3)
    above = np.maximum(below - 12398.4 / lines.wavelength, 0.3)
    c6 = 0.3e-30 * lines.ion_stage**2 * np.maximum(1 / above**2 - 1 / below**2, 1e-3)
    damping = 1e20 * c6**0.4
    hydrogen = np.array([e == "H" for e in lines.element])
    balmer = np.interp(
        -lines.wavelength, [-6564.61, -4862.69, -4341.69], [7.29e-8, 1.56e-7, 2.89e-7]
    )
    at_5000 = 1.0855 * K_ERG * 5000.0**0.3  # turns 'per hydrogen nucleus at 5000 K' into our form
    return np.where(hydrogen, balmer / at_5000, damping)
