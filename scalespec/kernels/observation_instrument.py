"""What an instrument is, as data: its pixels, light, widths, noise and faults. Vacuum Å."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scalespec.kernels.observation_lsf import FWHM

FloatArray = npt.NDArray[np.float64]
Curve = tuple[tuple[float, float], ...]


def along(curve: Curve, wavelength: FloatArray) -> FloatArray:
    """Return a curve's values: straight lines between its pairs, level beyond its ends.

    Examples
    --------
    >>> along(((4000, 1.0), (5000, 2.0)), np.array([4500.0, 6000.0]))
    array([1.5, 2. ])
    """
    at, values = np.array(curve, np.float64).T
    return np.asarray(np.interp(wavelength, at, values))


@dataclass(frozen=True)
class Arm:
    """The pixels of one arm, and what light becomes there.

    Attributes
    ----------
    name : str
    start, step : float
        Of the pixels: log10 Å where `log`, else Å.
    n_pixel : int
    log : bool
    bend : float
        Change of the step from pixel to pixel over 2: of raw detectors.
    resolving : pairs of (Å, R)
        Wavelength over FWHM in the middle of the slit; straight lines between the pairs.
    efficiency : pairs of (Å, fraction)
        Electrons per photon that meets the mirror.
    chips : pairs of (first, past the last) pixel
        Where there are detectors; empty for everywhere.
    joins : tuple of float [Å]
        Where detectors meet, and the calibrated flux makes a step.
    """

    name: str
    start: float
    step: float
    n_pixel: int
    resolving: Curve
    efficiency: Curve
    log: bool = True
    bend: float = 0.0
    chips: tuple[tuple[int, int], ...] = ()
    joins: tuple[float, ...] = ()

    @property
    def wavelength(self) -> FloatArray:
        """Wavelengths [Å, vacuum] of the pixels."""
        i = np.arange(self.n_pixel)
        place = self.start + (self.step + self.bend * i) * i
        return np.asarray(10**place if self.log else place)

    def resolving_power(self, wavelength: FloatArray, droop: FloatArray) -> FloatArray:
        """Return R (n, n_pixel) in fibres where it is lower by the fraction `droop` (n,)."""
        middle = along(self.resolving, wavelength)
        return np.asarray((1 - np.asarray(droop))[:, None] * middle)

    def on_chip(self) -> npt.NDArray[np.bool_]:
        """Say which pixels have a detector."""
        place = np.arange(self.n_pixel)
        inside = [(place >= first) & (place < stop) for first, stop in self.chips]
        return np.any(inside, axis=0) if inside else np.ones(self.n_pixel, np.bool_)


@dataclass(frozen=True)
class Lost:
    """A stretch of wavelengths that a part of the spectra lacks.

    Attributes
    ----------
    first, last : (lowest, highest) [Å]
        Between which the stretch begins, and ends.
    fraction : float
        Of the spectra.
    snr_below : float
        Only those of a lower median S/N.
    flagged : bool
        Whether the survey says so in its mask, beside the missing weight.
    empty : bool
        Whether there is no flux either.
    """

    first: tuple[float, float]
    last: tuple[float, float]
    fraction: float
    snr_below: float = np.inf
    flagged: bool = False
    empty: bool = False


@dataclass(frozen=True)
class Instrument:
    """A spectrograph with its telescope, sky and pipeline.

    Attributes
    ----------
    name : str
    arms : tuple of Arm
    area : float [cm²]
        Of the mirror.
    exposure : float [s]
    sky_magnitude : float
        In G, of the sky's continuum in a fibre.
    read_noise : float [electrons]
        Per pixel of the extracted spectrum.
    ground : bool
        Whether there is air above: its emission lines and absorption bands.
    telluric_corrected : bool
        Whether the pipeline divides by the air's bands; their pixels are flagged then.
    telluric_error : float
        Of the optical depth that is divided out, as a fraction, from spectrum to spectrum.
    fibre_droop : float
        R at the slit's ends is lower by this fraction.
    weather : float [dex]
        Scatter of the throughput from spectrum to spectrum.
    slope : float
        Size of the smooth errors of the flux calibration; 1 is LAMOST's 15 %.
    level_step : float
        Scatter of the flux from one detector to the next.
    sky_residual : float
        Error of the subtracted sky, as a fraction of it: the same over all its lines.
    flat_error : float
        Of the flat field: no pixel is better known than this.
    cosmic_rays, dead : float
        Spikes per spectrum and arm; fraction of pixels without signal.
    flag_sky : float
        Sky over the continuum's beyond which pixels are flagged as too bright.
    lost : tuple of Lost
    least_snr : float
        S/N of pixels below which they get no weight.
    contaminated : float
        Fraction of the spectra that another star's light falls on, over a tenth of the arm.
    noise_sigma : float [pixel]
        Of the Gaussian that makes the noise of neighbours alike; 0 for white noise.
    relative : bool
        Whether light that was lost stays lost: flux is proportional to throughput and time, too.
    counts : bool
        Whether flux is not calibrated at all: electrons, with the efficiency's shape in it.
    unit : float
        Flux in the files over 1e-17 erg/s/cm²/Å, or over electrons.
    """

    name: str
    arms: tuple[Arm, ...]
    area: float
    exposure: float
    sky_magnitude: float
    read_noise: float
    ground: bool = True
    telluric_corrected: bool = False
    telluric_error: float = 0.0
    fibre_droop: float = 0.04
    weather: float = 0.15
    slope: float = 1.0
    level_step: float = 0.02
    sky_residual: float = 0.02
    flat_error: float = 0.003
    cosmic_rays: float = 1.0
    dead: float = 0.001
    flag_sky: float = np.inf
    lost: tuple[Lost, ...] = ()
    least_snr: float = -np.inf
    contaminated: float = 0.0
    noise_sigma: float = 0.0
    relative: bool = False
    counts: bool = False
    unit: float = 1.0


def line_sigma(arm: Arm) -> FloatArray:
    """Return the line spread function's sigma [Å] in the middle of the slit, (n_pixel,)."""
    w = arm.wavelength
    return np.asarray(w / (FWHM * arm.resolving_power(w, np.zeros(1))[0]))
