"""Small labelled spectra whose labels are known functions of their pixels."""

import numpy as np

from scalespec.models.regressor import Sample, describe

LABELS = ("teff", "logg")
WAVELENGTH = np.linspace(4000.0, 5000.0, 40)


def sample(n, *, seed=0, noise=0.005, extra=False):
    """Spectra of stars whose temperature bends them and whose gravity tilts them."""
    rng = np.random.default_rng(seed)
    teff, logg = rng.uniform(4000, 7000, n), rng.uniform(0, 5, n)
    place = np.linspace(0, 1, len(WAVELENGTH))
    flux = 1 + 0.2 * np.sin(np.outer(teff / 800, 3 * place)) + 0.05 * np.outer(logg, place)
    flux = (flux + rng.normal(0, noise, flux.shape)).astype(np.float32)
    ivar = np.full(flux.shape, noise**-2, np.float32)
    labels = np.stack([teff, logg], axis=1).astype(np.float32)
    beside = np.stack([-2.5 * np.log10(teff / 5000), rng.normal(size=n)], axis=1)
    return Sample(
        flux, ivar, labels, np.full_like(labels, np.nan),
        beside.astype(np.float32) if extra else None,
    )  # fmt: skip


def spec_of(training, name="toy", **known):
    """The specification of a regressor of such spectra."""
    return describe(name, LABELS, WAVELENGTH, training, **known)
