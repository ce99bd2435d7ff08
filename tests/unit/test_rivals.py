"""The Cannon and means of models as rivals in a comparison, against what they are made of."""

import numpy as np
import pytest
from regression import LABELS, sample, spec_of

from scalespec.models.baselines import Ridge
from scalespec.models.regressor import Sample, describe
from scalespec.stages.rivals import CannonRival, MeanOf, make_rival

WAVELENGTH = 10 ** (3.65 + 1e-4 * np.arange(60))


def cannon_sample(n, *, seed, noise=0.003):
    """Spectra that are polynomials of their labels: what The Cannon is."""
    rng = np.random.default_rng(seed)
    labels = np.column_stack([rng.uniform(4000, 6000, n), rng.uniform(1, 5, n)])
    x = (labels - [5000, 3]) / [2000, 4]
    terms = np.column_stack([np.ones(n), x, x[:, :1] ** 2, x[:, :1] * x[:, 1:], x[:, 1:] ** 2])
    theta = np.random.default_rng(0).normal(0, 0.1, (6, len(WAVELENGTH)))
    theta[0] = 1
    flux = terms @ theta + rng.normal(0, noise, (n, len(WAVELENGTH)))
    ivar = np.full(flux.shape, noise**-2)
    empty = np.full(labels.shape, np.nan, np.float32)
    return Sample(*(a.astype(np.float32) for a in (flux, ivar, labels)), empty)


def cannon(**options):
    """One that has learned."""
    training = cannon_sample(200, seed=1)
    model = CannonRival(describe("cannon", LABELS, WAVELENGTH, training), **options)
    model.fit(training, cannon_sample(200, seed=2), seed=1)
    return model


def test_the_cannon_finds_the_labels_of_its_own_spectra():
    test = cannon_sample(100, seed=3)
    made = cannon().predict(test.flux, test.ivar)
    error = np.abs(made.labels - test.labels).mean(axis=0)
    assert np.all(error < [15, 0.03])  # Cramér-Rao: 60 pixels of S/N 330 and slopes of 0.1
    pull = (made.labels - test.labels) / made.sigma
    width = 1.4826 * np.median(np.abs(pull), axis=0)
    assert np.all(np.abs(width - 1) < 0.4)  # 3 sigma of 100 stars
    assert (made.sigma_epistemic == 0).all()


def test_the_cannon_takes_pixels_that_are_not_steps_of_velocity():
    training, test = cannon_sample(200, seed=1), cannon_sample(20, seed=3)
    uneven = 4000.0 + np.cumsum(np.linspace(2, 40, len(WAVELENGTH)))  # as of Gaia XP
    made = []
    for wavelength in (WAVELENGTH, uneven):
        model = CannonRival(describe("cannon", LABELS, wavelength, training))
        model.fit(training, cannon_sample(200, seed=2), seed=1)
        made.append(model.predict(test.flux, test.ivar).labels)
    np.testing.assert_array_equal(*made)


def test_the_cannon_says_what_is_unlike_its_spectra():
    test = cannon_sample(30, seed=3)
    model = cannon()
    odd = test.flux.copy()
    odd[:, ::3] += 0.2
    assert np.median(model.predict(test.flux, test.ivar).out_of_domain) < 1
    assert model.predict(odd, test.ivar).out_of_domain.min() > 5


def test_the_cannon_wants_more_stars_than_coefficients():
    few = cannon_sample(5, seed=1)
    model = CannonRival(describe("cannon", LABELS, WAVELENGTH, few))
    with pytest.raises(ValueError, match="wants 6 stars with all labels, got 5"):
        model.fit(few, few, seed=1)
    with pytest.raises(ValueError, match="has not learned yet"):
        model.predict(few.flux, few.ivar)


def test_the_cannon_takes_no_photometry():
    test = cannon_sample(5, seed=1)
    with pytest.raises(ValueError, match="spectra alone"):
        cannon().predict(test.flux, test.ivar, np.zeros((5, 1), np.float32))


def test_a_mean_of_one_model_is_that_model():
    training, held, test = (sample(n, seed=s) for n, s in ((150, 1), (40, 2), (30, 3)))
    spec = spec_of(training)
    one, other = Ridge(spec), MeanOf(spec, models={"ridge": {}})
    for model in (one, other):
        model.fit(training, held, seed=1)
    ours, theirs = (m.predict(test.flux, test.ivar) for m in (other, one))
    np.testing.assert_allclose(ours.labels, theirs.labels, rtol=1e-6)
    np.testing.assert_allclose(ours.sigma_aleatoric, theirs.sigma_aleatoric, rtol=1e-6)
    assert np.abs(ours.sigma_epistemic).max() < 1e-2  # K, of thousands: float32


def test_a_mean_leans_on_the_better_model_and_is_no_worse_than_the_worse():
    training, held, test = (sample(n, seed=s) for n, s in ((200, 1), (60, 2), (60, 3)))
    spec = spec_of(training)
    model = MeanOf(spec, models={"ridge": {}, "blunt": {"estimator": "knn", "components": 1}})
    history = model.fit(training, held, seed=1)
    weights = np.array(history["weights"])
    np.testing.assert_allclose(weights.sum(axis=0), 1.0)
    assert np.all(weights[0] > weights[1])
    assert np.all(weights >= 0.25)  # halfway to equal
    made = model.predict(test.flux, test.ivar)
    errors = np.abs(made.labels - test.labels).mean(axis=0)
    members = [
        np.abs(m.predict(test.flux, test.ivar).labels - test.labels).mean(axis=0)
        for m in model._members
    ]
    assert np.all(errors <= np.max(members, axis=0))
    assert np.all(made.sigma_epistemic > 0)


def test_a_mean_wants_models():
    with pytest.raises(ValueError, match="a mean wants models"):
        MeanOf(spec_of(sample(20)), models={})


def test_rivals_are_made_by_name():
    spec = spec_of(sample(20))
    assert isinstance(make_rival("cannon", spec, order=1), CannonRival)
    assert isinstance(make_rival("ridge", spec), Ridge)
    with pytest.raises(ValueError, match=r"no model 'oracle'; there are .*'cannon'.*'ridge'"):
        make_rival("oracle", spec)
