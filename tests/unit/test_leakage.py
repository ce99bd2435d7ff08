"""Which labels leak: the changed spectra, and matrices of models whose answer is known."""

import numpy as np
import pytest

from scalespec.config import LeakageTable, PreprocessTable
from scalespec.errors import ConfigError
from scalespec.models.regressor import Prediction
from scalespec.stages.leakage import (
    Perturbed,
    _noiseless,
    bounds,
    changed_labels,
    leakage_matrix,
    perturbed_spectra,
)
from scalespec.stages.mock_spectra import synthesis_model
from scalespec.stages.verdict_page import in_common_units

LABELS = ("teff", "logg", "fe_h", "c_fe")
TABLE = LeakageTable(labels=LABELS, stars=2, steps={"teff": 150.0})


def test_every_label_is_changed_alone_both_ways():
    labels = np.array([[5000.0, 3.0, -1.0, 0.2], [6490.0, 4.0, 0.0, 0.0]])
    low, high = np.array([4000.0, 0.0, -3.0, -1.0]), np.array([6500.0, 5.0, 0.5, 1.0])
    made, steps = changed_labels(labels, TABLE, low, high)
    assert made.shape == (2, 4, 2, 4)
    assert (made[0, 0, :, 0] == [5150, 4850]).all()
    assert (made[0, 0, :, 1:] == labels[0, 1:]).all()
    np.testing.assert_allclose(made[0, 2, :, 2], [-0.9, -1.1])
    np.testing.assert_allclose(steps, [[300, 0.2, 0.2, 0.2], [160, 0.2, 0.2, 0.2]])  # at the edge


class _Linear:
    """An estimator that is linear in the pixels."""

    name = "linear"

    def __init__(self, weights):
        self.weights = weights

    def fit(self, training, validation, *, seed):
        """It knows already."""
        return {}

    def predict(self, flux, ivar, extra=None):
        """Weights times flux."""
        labels = (flux @ self.weights).astype(np.float32)
        return Prediction(labels, labels, labels, labels[:, 0])


def test_the_matrix_is_the_derivative_of_what_is_predicted():
    rng = np.random.default_rng(1)
    slopes = rng.normal(size=(4, 30))  # d flux / d label
    steps = np.full((3, 4), 0.2)
    base = rng.normal(size=(3, 1, 1, 30))
    sign = np.array([0.5, -0.5])[None, None, :, None]
    flux = base + slopes[None, :, None, :] * sign * 0.2
    perturbed = Perturbed(flux.astype(np.float32), np.ones(flux.shape, np.float32), LABELS, steps)
    weights = rng.normal(size=(30, 2))
    made = leakage_matrix(_Linear(weights), perturbed, np.arange(30.0))
    np.testing.assert_allclose(made, (slopes @ weights).T, rtol=1e-3, atol=1e-3)  # float32
    with pytest.raises(ConfigError, match="have 30 pixels, the models 29"):
        leakage_matrix(_Linear(weights), perturbed, np.arange(29.0))


def test_a_matrix_in_common_units_has_no_kelvin():
    matrix = np.array([[1.0, 80.0], [0.0005, 1.0]])  # teff and fe_h by teff and fe_h
    made = in_common_units(matrix, ("teff", "fe_h"), ("teff", "fe_h"))
    np.testing.assert_allclose(
        made, [[1.0, 0.08], [0.5, 1.0]]
    )  # 8 K per 0.1 dex; 0.05 dex per 100 K


def test_noise_is_left_out_of_derivatives():
    steps = PreprocessTable.model_validate(
        {"steps": ["simulate"], "simulate": {"snr": 20.0, "bands": ["GV"]}}
    )
    clean = _noiseless(steps)
    assert clean.simulate.snr is None
    assert clean.simulate.bands == ("GV",)


@pytest.mark.slow
def test_carbon_changes_the_g_band_most():
    model = synthesis_model(LABELS)
    steps = PreprocessTable(
        steps=("rest", "cut", "normalize"),
        wavelength_min_angstrom=4200.0,
        wavelength_max_angstrom=4500.0,
    )
    made = perturbed_spectra(model, np.array([[5000.0, 2.5, -1.0, 0.0]]), TABLE, steps, seed=1)
    change = np.abs(made.flux[0, :, 0] - made.flux[0, :, 1])
    wavelength = 10 ** (3.5682 + 1e-4 * np.arange(3909))
    wavelength = wavelength[(wavelength >= 4200) & (wavelength <= 4500)]
    band = (wavelength > 4281) & (wavelength < 4331)
    carbon = change[LABELS.index("c_fe")]
    assert carbon[band].mean() > 2 * carbon[~band].mean()  # CN and CH lie beside it, too
    assert carbon.max() > 0.01
    again = perturbed_spectra(model, np.array([[5000.0, 2.5, -1.0, 0.0]]), TABLE, steps, seed=1)
    np.testing.assert_array_equal(made.flux, again.flux)


def test_bounds_are_those_of_linear_regression():
    rng = np.random.default_rng(5)
    slopes = rng.normal(size=(4, 50))
    sign = np.array([0.5, -0.5])[None, None, :, None]
    flux = 1 + slopes[None, :, None, :] * sign * 0.01
    flux = np.repeat(flux, 3, axis=0)
    perturbed = Perturbed(
        flux.astype(np.float32), np.ones(flux.shape, np.float32), LABELS, np.full((3, 4), 0.01)
    )
    expected = np.sqrt(np.diag(np.linalg.inv(slopes @ slopes.T))) / 50.0
    np.testing.assert_allclose(bounds(perturbed, 50.0), expected, rtol=1e-3)  # float32 differences
    np.testing.assert_allclose(bounds(perturbed, 100.0), expected / 2, rtol=1e-3)
    # Known beforehand is as good as one more measurement of each label.
    spread = np.array([0.5, 1.0, 1e3, 1e-4])
    rows = np.hstack([50 * slopes, np.diag(1 / spread)])
    both = np.sqrt(np.diag(np.linalg.inv(rows @ rows.T)))
    np.testing.assert_allclose(bounds(perturbed, 50.0, spread), both, rtol=1e-3)


def test_masked_pixels_tell_nothing():
    rng = np.random.default_rng(6)
    flux = 1 + rng.normal(0, 0.01, (1, 4, 2, 50)).astype(np.float32)
    ivar = np.ones(flux.shape, np.float32)
    whole = bounds(Perturbed(flux, ivar, LABELS, np.full((1, 4), 0.2)), 50.0)
    ivar[..., :25] = 0
    half = bounds(Perturbed(flux, ivar, LABELS, np.full((1, 4), 0.2)), 50.0)
    assert np.all(half > whole)
