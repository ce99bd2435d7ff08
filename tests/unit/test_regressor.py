"""The border of regressors: specifications, samples, predictions, estimators by name."""

import json

import numpy as np
import pytest
from toy_lines import LABELS, grid, toy, toy_spec

from scalespec.models.estimators import ESTIMATORS, make_estimator
from scalespec.models.networks import NETWORKS
from scalespec.models.regressor import Prediction, RegressorSpec, Sample, describe

GOOD = {
    "name": "toy",
    "labels": ("teff", "logg"),
    "wavelength": [5000.0, 5001.0, 5002.0],
    "label_mean": [5000.0, 3.0],
    "label_std": [500.0, 1.0],
    "flux_mean": [0.9, 0.8, 0.7],
    "flux_std": [0.1, 0.1, 0.1],
}


def test_a_specification_survives_json():
    inputs = {"names": ["g_mag"], "mean": [12.5], "std": [1.0]}
    spec = RegressorSpec(**GOOD, resolving_power=200.0, extra={"inputs": inputs})
    back = RegressorSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert back.to_dict() == spec.to_dict()
    assert back.inputs == ("g_mag",)
    assert (back.n_pixel, back.n_label) == (3, 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": ("teff", "teff")}, "named once"),
        ({"labels": ()}, "named once"),
        ({"wavelength": [5002.0, 5001.0, 5000.0]}, "increase"),
        ({"wavelength": [-1.0, 1.0, 2.0]}, "positive"),
        ({"wavelength": [np.nan, 1.0, 2.0]}, "finite"),
        ({"label_mean": [1.0]}, "label_mean must be 2 finite"),
        ({"flux_mean": [1.0, np.nan, 1.0]}, "flux_mean must be 3 finite"),
        ({"flux_std": [1.0, 0.0, 1.0]}, "flux_std must be positive, got 0"),
        ({"label_std": [1.0, -1.0]}, "label_std must be positive, got -1"),
        ({"resolving_power": -200.0}, "resolving_power must be positive"),
        ({"normalization": {}}, "name its method"),
        ({"extra": {"inputs": {"names": ["g"], "mean": [], "std": []}}}, "as many means"),
    ],
)
def test_a_wrong_specification_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        RegressorSpec(**(GOOD | wrong))


def test_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="not a regressor specification"):
        RegressorSpec.from_dict(GOOD | {"colour": 1})


def test_samples_of_unequal_sizes_are_refused():
    flux, labels = np.ones((3, 4), np.float32), np.ones((3, 2), np.float32)
    for arrays in (
        (flux, flux[:2], labels, labels),
        (flux, flux, labels, labels[:, :1]),
        (flux, flux, labels[:2], labels[:2]),
        (flux, flux, labels, labels, labels[:1]),
    ):
        with pytest.raises(ValueError, match=r"3 spectra|\(3, "):
            Sample(*arrays)


def test_rows_of_a_sample_are_taken_together():
    sample, _ = toy(10)
    sample.extra = np.arange(10, dtype=np.float32)[:, None]
    some = sample.take([7, 2])
    assert np.array_equal(some.flux, sample.flux[[7, 2]])
    assert some.extra.ravel().tolist() == [7, 2]
    assert len(some) == 2


def test_scales_are_those_of_known_labels_and_good_pixels():
    sample, _ = toy(200)
    sample.labels[::2, 1] = np.nan
    sample.ivar[:50, 3] = 0
    sample.flux[:50, 3] = 1e6
    spec = toy_spec(sample)
    known = sample.labels[1::2, 1].astype(float)
    assert spec.label_mean[1] == pytest.approx(known.mean(), rel=1e-9)
    assert spec.label_std[1] == pytest.approx(known.std(), rel=1e-9)
    assert spec.flux_mean[3] == pytest.approx(sample.flux[50:, 3].astype(float).mean(), rel=1e-6)
    assert spec.flux_std[3] == pytest.approx(sample.flux[50:, 3].astype(float).std(), rel=1e-6)


def test_a_dead_pixel_gets_a_scale_too():
    sample, _ = toy(50)
    sample.ivar[:, 5] = 0
    spec = toy_spec(sample)
    assert spec.flux_std[5] > 0


def test_a_label_without_spread_is_refused():
    sample, _ = toy(20)
    sample.labels[:, 2] = np.where(np.arange(20) < 1, -1.0, np.nan)
    with pytest.raises(ValueError, match="fe_h has no spread in 20 training spectra"):
        toy_spec(sample)


def test_inputs_are_described_where_they_are_there():
    sample, _ = toy(20)
    sample.extra = np.array([[np.nan], [1.0]] * 10, np.float32)
    spec = toy_spec(sample, inputs=["parallax"])
    assert spec.extra["inputs"] == {"names": ["parallax"], "mean": [1.0], "std": [1.0]}
    with pytest.raises(ValueError, match="not the columns of training"):
        describe("toy", LABELS, grid(), sample, inputs=["a", "b"])


def test_both_uncertainties_add_in_quadrature():
    one = np.array([[3.0]], np.float32)
    assert Prediction(one, one, one * 4 / 3, one[:, 0]).sigma.tolist() == [[5.0]]


def test_every_network_is_an_estimator():
    assert set(NETWORKS) <= set(ESTIMATORS)


def test_unknown_estimators_and_options_are_refused():
    sample, _ = toy(20)
    spec = toy_spec(sample)
    with pytest.raises(ValueError, match="no estimator 'oracle'; there are"):
        make_estimator("oracle", spec)
    with pytest.raises(ValueError, match="colour"):
        make_estimator("mlp", spec, colour="red")
    with pytest.raises(ValueError, match="members must be at least 1, got 0"):
        make_estimator("mlp", spec, members=0)
