"""Spectra of blended lines whose depths saturate in three labels: what regressors learn from."""

import numpy as np

from scalespec.models.regressor import Sample, describe

LABELS = ("teff", "logg", "fe_h")
MIDDLE, HALF = np.array([5500.0, 2.75, -1.25]), np.array([1500.0, 2.25, 1.75])


def grid(n_pixel=143):
    """Vacuum wavelengths [Å] of about one pixel per resolution element at R = 200."""
    return np.geomspace(4000.0, 8177.0, n_pixel)


def toy(n, *, n_pixel=143, seed=0, snr=None, n_line=60):
    """Return n stars as a sample, and their S/N; without a range of S/N there is no noise."""
    rng = np.random.default_rng([7, seed])
    labels = MIDDLE + rng.uniform(-1, 1, (n, 3)) * HALF
    lines = np.random.default_rng(1)
    center, width = lines.uniform(0, n_pixel, n_line), lines.uniform(0.7, 2.5, n_line)
    slope = lines.normal(0, 0.8, (n_line, 3)) + np.array([-0.4, 0.0, 0.8])
    depth = np.exp(lines.normal(-1.3, 0.7, n_line) + ((labels - MIDDLE) / HALF) @ slope.T)
    profile = np.exp(-0.5 * ((np.arange(n_pixel) - center[:, None]) / width[:, None]) ** 2)
    flux = np.exp(-0.6 * (depth / (1 + depth)) @ profile)
    low, high = snr or (np.inf, np.inf)
    ratio = np.exp(rng.uniform(np.log(low), np.log(high), n)) if snr else np.full(n, np.inf)
    flux = flux + rng.standard_normal(flux.shape) / ratio[:, None]
    ivar = np.broadcast_to(ratio[:, None] ** 2, flux.shape)
    sample = Sample(
        *(np.ascontiguousarray(a, np.float32) for a in (flux, ivar, labels, 0 * labels))
    )
    return sample, ratio


def toy_spec(sample, **known):
    """Return what a regressor of the toy's labels is told."""
    return describe("toy", LABELS, grid(sample.flux.shape[1]), sample, **known)
