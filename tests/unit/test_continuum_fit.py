"""Polynomials against numpy, continuum pixels against a made-up survey that knows its own."""

import numpy as np
import pytest

from scalespec.kernels.continuum_fit import (
    chebyshev_continuum,
    find_continuum_pixels,
    marginalized_polynomial,
    select_continuum_pixels,
)

CHIPS = [(10, 300), (320, 600)]


@pytest.fixture
def spectra():
    rng = np.random.default_rng(0)
    x = np.arange(620)
    flux = (300 + 0.2 * x - 1e-4 * x**2) * (1 + rng.normal(0, 0.05, (4, 620)))
    ivar = rng.uniform(0.5, 2, flux.shape) * (rng.random(flux.shape) > 0.2)
    ivar[2, 320:600] = 0
    ivar[3] = 0
    return flux, ivar


@pytest.mark.parametrize("degree", [0, 2, 6])
def test_chebyshev_agrees_with_numpy_chip_by_chip(spectra, degree):
    flux, ivar = spectra
    pixels = np.arange(620) % 3 > 0
    made, bad = chebyshev_continuum(
        np.where(ivar > 0, flux, np.nan), ivar, degree=degree, chips=CHIPS, pixels=pixels
    )
    for row, chips in ((0, CHIPS), (1, CHIPS), (2, CHIPS[:1])):
        for start, stop in chips:
            x = np.linspace(-1, 1, stop - start)
            use = pixels[start:stop] & (ivar[row, start:stop] > 0)
            root = np.sqrt(ivar[row, start:stop][use])  # chebfit's weights multiply the residual
            values = flux[row, start:stop][use]
            fit = np.polynomial.chebyshev.chebfit(x[use], values, degree, w=root)
            expected = np.polynomial.chebyshev.chebval(x, fit)
            # float32 sums of 200 products, through normal equations of condition 30.
            np.testing.assert_allclose(made[row, start:stop], expected, rtol=1e-5)
            assert not bad[row, start:stop].any()


def test_there_is_no_continuum_between_chips_or_without_pixels(spectra):
    flux, ivar = spectra
    made, bad = chebyshev_continuum(flux, ivar, degree=2, chips=CHIPS)
    assert bad[:, :10].all()
    assert bad[:, 300:320].all()
    assert bad[2, 320:600].all()
    assert bad[3].all()
    assert not made[bad].any()


def test_as_many_pixels_as_coefficients_are_enough():
    ivar = np.zeros((1, 50))
    ivar[0, [3, 20, 44]] = 1
    _, bad = chebyshev_continuum(np.ones((1, 50)), ivar, degree=2, chips=[(0, 50)])
    assert not bad.any()
    _, bad = chebyshev_continuum(np.ones((1, 50)), ivar, degree=3, chips=[(0, 50)])
    assert bad.all()


def test_a_polynomial_below_zero_is_bad():
    flux = np.linspace(-1, 1, 100)[np.newaxis]
    _, bad = chebyshev_continuum(flux, flux**0, degree=1, chips=[(0, 100)])
    assert bad[0, :50].all()
    assert not bad[0, 52:].any()


@pytest.mark.parametrize("unit", [1e-17, 1e8])
def test_the_unit_of_flux_does_not_matter(spectra, unit):
    flux, ivar = spectra
    expected, _ = chebyshev_continuum(flux, ivar, degree=2, chips=CHIPS)
    made, _ = chebyshev_continuum(flux * unit, ivar / unit**2, degree=2, chips=CHIPS)
    np.testing.assert_allclose(made.astype(float) / unit, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"degree": -1, "chips": CHIPS}, "degree >= 0, got -1"),
        ({"degree": 2, "chips": [(0, 2)]}, r"chip \(0, 2\) of 620 pixels, degree 2"),
        ({"degree": 2, "chips": [(600, 700)]}, r"chip \(600, 700\)"),
    ],
)
def test_chebyshev_refuses_what_has_no_meaning(spectra, setting, message):
    with pytest.raises(ValueError, match=message):
        chebyshev_continuum(*spectra, **setting)


def test_marginalized_polynomial_agrees_with_lstsq():
    rng = np.random.default_rng(2)
    model = 1 - 0.6 * rng.random((3, 200)) ** 4
    ivar = rng.uniform(1, 3, (3, 200)) * (rng.random((3, 200)) > 0.1)
    x = np.linspace(-1, 1, 200)
    flux = (5 + 2 * x + x**2) * model + rng.normal(size=(3, 200)) / 3
    made, chi2 = marginalized_polynomial(np.where(ivar > 0, flux, np.nan), ivar, model, degree=4)
    basis = np.polynomial.chebyshev.chebvander(x, 4)
    for row in range(3):
        root = np.sqrt(ivar[row])
        design = root[:, np.newaxis] * model[row, :, np.newaxis] * basis
        fit, (left,), *_ = np.linalg.lstsq(design, root * flux[row])
        np.testing.assert_allclose(made[row], basis @ fit, rtol=2e-5)  # float32 sums
        assert chi2[row] == pytest.approx(left, rel=1e-5)


def test_a_spectrum_without_pixels_fixes_no_polynomial():
    made, chi2 = marginalized_polynomial(
        np.full((1, 20), np.nan), np.zeros((1, 20)), np.ones((1, 20)), degree=2
    )
    assert not made.any()
    assert chi2.tolist() == [0]
    with pytest.raises(ValueError, match="must be alike"):
        marginalized_polynomial(np.ones((1, 2)), np.ones((1, 2)), np.ones((1, 3)), degree=0)


def survey(n=400, n_pixel=480, *, bent=False):
    """Return a survey in which every fourth pixel is continuum: nothing there depends on labels."""
    rng = np.random.default_rng(3)
    labels = np.stack([rng.uniform(4000, 6000, n), rng.uniform(-2, 0.5, n)], axis=1)
    quiet = np.arange(n_pixel) % 4 == 0
    depth = np.where(quiet, 0, rng.uniform(0.1, 0.4, n_pixel))
    strength = 1 + 0.4 * (labels[:, 1:] + 0.75) - 2e-4 * (labels[:, :1] - 5000)
    flux = 1 - depth * strength + rng.normal(0, 0.005, (n, n_pixel))
    x = np.linspace(-1, 1, n_pixel)
    level = 100 * (1 + 0.3 * x * rng.uniform(-1, 1, (n, 1))) if bent else 1
    return flux * level, np.full(flux.shape, 4e4) / level**2, labels, quiet


def test_selected_pixels_are_those_that_labels_do_not_move():
    flux, ivar, labels, quiet = survey()
    chosen = select_continuum_pixels(flux, ivar, labels, chips=[(0, 480)], fraction=0.1)
    assert chosen.sum() == 48
    assert quiet[chosen].all()
    # Four of each of the twelve stretches: spread over the chip.
    assert np.histogram(np.flatnonzero(chosen), 12, (0, 480))[0].tolist() == [4] * 12


def test_a_pixel_without_weight_is_never_chosen():
    flux, ivar, labels, quiet = survey()
    ivar[:, quiet] = 0
    chosen = select_continuum_pixels(flux, ivar, labels, chips=[(0, 480)], fraction=0.1)
    assert not chosen[quiet].any()


def test_choosing_and_normalizing_in_turn_ends_on_the_continuum():
    flux, ivar, labels, quiet = survey(bent=True)
    wavelength = np.linspace(5000, 5480, 480)
    chosen = find_continuum_pixels(flux, ivar, labels, wavelength, chips=[(0, 480)], fraction=0.1)
    assert quiet[chosen].mean() > 0.95
    made, _ = chebyshev_continuum(flux, ivar, degree=2, chips=[(0, 480)], pixels=chosen)
    middle = np.median((flux / made)[:, quiet], axis=1)
    np.testing.assert_allclose(middle, 1, atol=0.005)


def test_too_few_stars_or_no_fraction_is_refused():
    flux, ivar, labels, _ = survey(3)
    with pytest.raises(ValueError, match="3 stars cannot fix 3 coefficients"):
        select_continuum_pixels(flux, ivar, labels, chips=[(0, 480)])
    flux, ivar, labels, _ = survey(30)
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\], got 0"):
        select_continuum_pixels(flux, ivar, labels, chips=[(0, 480)], fraction=0.0)


def test_real_apogee_spectra_lie_at_the_continuum_chip_by_chip(shared):
    """apStar of DR17 by the chip limits of DR13-17 and the continuum pixels of The Cannon."""
    from scalespec.surveys import read_survey

    raw = read_survey(shared / "data/apogee/apStar*", survey="apogee")
    flux, ivar = raw["flux"].to_numpy(), raw["ivar"].to_numpy()
    wavelength = raw["wavelength"].to_numpy()
    chips = [(246, 3274), (3585, 6080), (6344, 8335)]
    listed = np.load(shared / "data/payne_binspec/cannon_cont_pixels_apogee.npz")
    on_pixels = np.load(shared / "data/payne_binspec/apogee_wavelength.npz")["wavelength"]
    theirs = on_pixels[listed["pixels_cannon"]]
    nearest = np.clip(np.searchsorted(wavelength, theirs), 1, len(wavelength) - 1)
    nearest -= theirs - wavelength[nearest - 1] < wavelength[nearest] - theirs
    pixels = np.zeros(len(wavelength), bool)
    pixels[nearest] = True
    made, bad = chebyshev_continuum(flux, ivar, degree=4, chips=chips, pixels=pixels)
    use = ~bad & (ivar > 0)
    assert use.sum(axis=1).min() > 6500
    for row in range(len(flux)):
        normalized = flux[row] / np.where(bad[row], 1, made[row])
        for start, stop in chips:
            on = use[row, start:stop] & pixels[start:stop]
            off = use[row, start:stop] & ~pixels[start:stop]
            # S/N is above 130; what is left on continuum pixels is weak lines.
            assert np.median(normalized[start:stop][on]) == pytest.approx(1, abs=0.005)
            assert normalized[start:stop][off].mean() < 0.995
