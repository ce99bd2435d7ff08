"""A model fits a store or is refused, and the message names both sides and the cure."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from scalespec.errors import ModelError
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.stages.emulators import (
    at_resolution,
    load_ready,
    load_starters,
    make_ready,
    on_grid,
    smoothing_for,
)
from scalespec.store.model import save_model

STEP = 1e-4
OWN = 10 ** (3.7 + STEP * np.arange(300))
GAUSSIAN = {"method": "gaussian", "width_angstrom": 50.0}
CONTINUUM = {"method": "continuum"}
ATTRS = {"resolving_power": 1800.0, "normalization": GAUSSIAN}
LABELS = ("teff", "logg")


def payne(**facts):
    spec = EmulatorSpec("toy", LABELS, [4000, 1], [6000, 5], OWN, 1800.0, GAUSSIAN)
    return Payne(replace(spec, **facts), hidden=(8,), seed=3).eval()


def flux_of(model):
    with torch.inference_mode():
        return model(torch.tensor([[4500.0, 2.0], [5800.0, 4.0]])).numpy()


def test_a_model_of_the_stores_own_grid_is_left_as_it_is():
    ready = make_ready(payne(), OWN, ATTRS)
    np.testing.assert_allclose(flux_of(ready.model), flux_of(payne()), rtol=1e-6)  # float32
    assert ready.smoothing is None
    assert ready.labels == LABELS


def test_a_larger_model_is_cut_to_the_stores_pixels():
    model = on_grid(payne(), OWN[20:250])
    np.testing.assert_array_equal(model.spec.wavelength, OWN[20:250])
    np.testing.assert_allclose(flux_of(model), flux_of(payne())[:, 20:250], rtol=1e-6)  # float32


@pytest.mark.parametrize("pixels", [0.01, -0.015])
def test_pixels_that_differ_by_rounding_are_the_same(pixels):
    assert on_grid(payne(), (OWN * 10 ** (pixels * STEP))[10:20]).spec.n_pixel == 10


@pytest.mark.parametrize(
    ("wavelength", "message"),
    [
        # half a pixel off throughout
        ((OWN * 10 ** (0.5 * STEP))[:200], r"up to 0\.50 pixels off .*model 5011\.872-"),
        # at the end only: the data's step is another one
        (10 ** (3.7 + 1.01 * STEP * np.arange(200)), r"up to 1\.9\d pixels off"),
        # too long for the model
        (
            10 ** (3.7 + STEP * np.arange(301)),
            r"301 pixels .*to 5370\.32 Å, the model covers 5011\.87-5369\.08 Å with 300",
        ),
        # begins before the model
        (10 ** (3.7 + STEP * np.arange(-3, 100)), r"up to 3\.0\d pixels off"),
        # somewhere else
        (2 * OWN[:10], r"the model covers 5011\.87-5369\.08"),
    ],
)  # fmt: skip
def test_another_grid_is_refused_with_both_and_a_cure(wavelength, message):
    with pytest.raises(ModelError, match=message) as caught:
        on_grid(payne(), wavelength, "models/toy")
    assert str(caught.value).startswith("models/toy: ")
    assert "preprocess onto the model's grid, or choose another model" in str(caught.value)


@pytest.mark.parametrize("power", [1800.0, 1800 * 1.02, 1800 * 0.98])
def test_nearly_the_same_resolution_is_the_same(power):
    model = payne()
    assert at_resolution(model, power) is model


def test_a_sharper_model_is_broadened_as_scipy_does_it():
    sharp = payne(resolving_power=4200.0)
    blurred = at_resolution(sharp, 1800.0)
    sigma = np.sqrt(1800**-2.0 - 4200**-2.0) / (2 * np.sqrt(2 * np.log(2))) / (STEP * np.log(10))
    expected = gaussian_filter1d(flux_of(sharp).astype(float), sigma, mode="nearest", truncate=6)
    np.testing.assert_allclose(flux_of(blurred), expected, atol=3e-6)  # float32 sums of 12 pixels
    assert blurred.spec.resolving_power == 1800
    assert at_resolution(blurred, 1800.0) is blurred


def test_broadening_is_said_in_the_log(caplog):
    at_resolution(payne(resolving_power=4200.0), 1800.0, "models/toy")
    assert "models/toy: R = 4200, data R = 1800: broadened by 0.93 pixels" in caplog.text


def test_a_blurrier_model_is_refused():
    with pytest.raises(ModelError, match=r"toy: the model has R = 1500, the data R = 1800: .*choo"):
        at_resolution(payne(resolving_power=1500.0), 1800.0, "toy")


@pytest.mark.parametrize(
    ("own", "data", "who"), [(None, 1800.0, "the model"), (1800.0, None, "the spectra store")]
)
def test_an_unknown_resolution_is_refused(own, data, who):
    with pytest.raises(ModelError, match=f"{who} does not say its resolving power"):
        at_resolution(payne(resolving_power=own), data)


def test_a_continuum_model_is_smoothed_as_the_data_are():
    ready = make_ready(payne(normalization=CONTINUUM), OWN, ATTRS)
    flux = np.random.default_rng(0).normal(1, 0.1, (2, 300))
    kernel = np.exp(-0.5 * (np.subtract.outer(OWN, OWN) / 50) ** 2)
    # float32 sums of 300 pixels, factors kept to 1e-6
    smooth = ready.smoothing(torch.tensor(flux).float()).numpy()
    np.testing.assert_allclose(smooth, flux @ kernel, rtol=3e-6)


def test_one_normalization_needs_no_operator():
    assert smoothing_for(payne(), OWN, {"method": "gaussian", "width_angstrom": 50}) is None


@pytest.mark.parametrize(
    ("own", "data"),
    [
        (GAUSSIAN, {"method": "gaussian", "width_angstrom": 30.0}),
        (GAUSSIAN, CONTINUUM),  # smoothing cannot be undone
        ({"method": "spline"}, GAUSSIAN),
        (CONTINUUM, None),  # the store does not say
    ],
)
def test_other_normalizations_are_refused_with_both_and_a_cure(own, data):
    with pytest.raises(ModelError) as caught:
        smoothing_for(payne(normalization=own), OWN, data, "toy")
    assert str(caught.value) == (
        f"toy: the model is normalized by {own}, the data by {data or {}}: "
        "preprocess the data as the model was, or train the model on these"
    )


def test_a_model_of_the_true_continuum_knows_one_pass_only():
    with pytest.raises(ModelError, match=r"normalized 3 times: set .*passes = 1"):
        smoothing_for(payne(normalization=CONTINUUM), OWN, GAUSSIAN | {"passes": 3}, "toy")
    trained = payne(normalization=GAUSSIAN | {"passes": 3})
    assert smoothing_for(trained, OWN, GAUSSIAN | {"passes": 3}) is None


@pytest.fixture
def stored(tmp_path):
    """A function that stores a model and returns its URL."""

    def store(name, **facts):
        save_model(str(tmp_path / name), payne(**facts))
        return str(tmp_path / name)

    return store


def test_models_are_loaded_in_the_order_given(stored):
    urls = [stored("a", maximum=[6000, 5]), stored("b", maximum=[7000, 5])]
    ready = load_ready(urls, OWN[:200], ATTRS)
    assert [one.model.spec.maximum[0] for one in ready] == [6000, 7000]
    assert [one.model.spec.n_pixel for one in ready] == [200, 200]


@pytest.mark.parametrize("labels", [("teff", "fe_h"), ("logg", "teff")])  # the order counts, too
def test_models_of_different_labels_are_refused_with_both(labels, stored):
    urls = [stored("a"), stored("b", labels=labels)]
    with pytest.raises(ModelError) as caught:
        load_ready(urls, OWN, ATTRS)
    assert str(caught.value) == (
        f"{urls[1]}: labels {labels} differ from {LABELS} of {urls[0]}: "
        "models tried on one star must measure the same labels"
    )


def test_a_model_that_does_not_fit_is_named_by_its_url(stored):
    urls = [stored("a"), stored("b", resolving_power=1000.0)]
    with pytest.raises(ModelError, match=f"^{urls[1]}: the model has R = 1000"):
        load_ready(urls, OWN, ATTRS)


@pytest.fixture
def starter(stored):
    url = stored("a", normalization=CONTINUUM)
    (starter,) = load_starters([url], OWN, ATTRS, n_template=5, seed=1)
    return starter


def test_templates_are_the_models_spectra_as_the_data_are_normalized(starter):
    labels = torch.tensor(starter.template_labels)
    with torch.inference_mode():
        flux = starter.ready.model(labels)
        continuum = starter.ready.smoothing(flux) / starter.ready.smoothing(torch.ones_like(flux))
    assert starter.template_flux.shape == (5, 300)
    # float32, through labels in K and back
    np.testing.assert_allclose(starter.template_flux, flux / continuum, atol=1e-5)


def test_the_same_seed_makes_the_same_starter(starter, stored):
    url = stored("again", normalization=CONTINUUM)
    (again,) = load_starters([url], OWN, ATTRS, n_template=5, seed=1)
    np.testing.assert_array_equal(again.template_flux, starter.template_flux)
    np.testing.assert_array_equal(again.ridge.coefficients, starter.ridge.coefficients)
    (other,) = load_starters([url], OWN, ATTRS, n_template=5, seed=2)
    assert not np.array_equal(other.template_flux, starter.template_flux)
