"""A model's card: what it says is so, and it is printed."""

import json

import numpy as np
import pytest
import torch
from labelled import GAUSSIAN, HIGH, LABELS, LOW, N_PIXEL, spectra_with_labels, store_spectra, truth

from scalespec.config import TrainTable
from scalespec.engines.local import LocalContext
from scalespec.models.base import shift_flux
from scalespec.models.payne import Payne
from scalespec.models.regressor import Prediction, RegressorSpec, Sample
from scalespec.models.transformer import SpectrumTransformer
from scalespec.optimize.domain import Domain
from scalespec.stages import card as cards
from scalespec.stages.card import (
    affordable,
    card_text,
    faults,
    label_errors,
    make_card,
    regressor_card,
    with_noise,
)
from scalespec.stages.inspect import inspect_url
from scalespec.stages.learning import select
from scalespec.stages.train import train_loop
from scalespec.store.ledger import set_current
from scalespec.store.model import load_model, model_record, save_model


def table_of(**options):
    return TrainTable(
        **({"labels": LABELS, "catalog": "a", "hidden": 6, "rounds": (0, 5)} | options)
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return store_spectra(str(tmp_path_factory.mktemp("s") / "train.zarr"), spectra_with_labels())


@pytest.fixture(scope="module")
def parts(source):
    return select(source, table_of(), 1)[:2]


def test_the_card_of_the_truth_has_no_bias(parts):
    training, validation = parts
    card = make_card(truth(), training, validation, "made up")
    json.dumps(card, allow_nan=False)
    assert card["n_training"] == len(training.rows)
    assert card["lsf"] == {"resolving_power": 1800.0, "shape": "gaussian"}
    assert card["normalization"] == GAUSSIAN
    assert card["domain"]["box"] == {n: [a, b] for n, a, b in zip(LABELS, LOW, HIGH, strict=True)}
    row = card["errors_by_snr"][0]
    assert row["snr"] == [100.0, 200.0]  # over the continuum it is 200, less within lines
    for k, name in enumerate(LABELS):
        # S/N 200 in 120 pixels of strong lines: a few percent of the range at worst
        assert abs(row[name]["bias"]) < 0.05 * (HIGH - LOW)[k]
        assert row[name]["mae"] < 0.1 * (HIGH - LOW)[k]


def test_distances_from_the_domain_are_those_of_the_training_labels(parts, tmp_path):
    training, validation = parts
    model = truth()
    card = make_card(model, training, validation, "made up")
    save_model(str(tmp_path), model, {"card": card})
    known = Domain.of_model(load_model(str(tmp_path)))  # as a fit finds it
    distance = known.distance(training.labels)
    assert distance.max() == pytest.approx(1)
    # whitened labels have unit variance: the mean square distance is 1 a label but for n - 1 over n
    square = np.mean((distance * known.reach) ** 2) / training.labels.shape[1]
    assert square == pytest.approx(1, abs=0.02)


def test_a_wrong_model_has_its_fault_said(parts):
    model = truth()
    with torch.no_grad():  # its lines are made deeper: labels come out elsewhere
        model.output.bias.add_(0.05)
    errors = label_errors(model, parts[1])
    said = faults(model, model.spec.labels, 10_000, errors)
    assert any("off at S/N over" in one for one in said)
    assert not any("few stars" in one for one in said)


def test_pixels_that_no_spectrum_showed_are_counted():
    model = truth()
    model.scatter[:7] = 1.0
    assert faults(model, model.spec.labels, 10_000, [], "none")[:2] == [
        f"7 of {N_PIXEL} pixels were shown by no spectrum: they have no say",
        "labels were not validated: none",
    ]


def transformer(width=8):
    """One that has learned nothing: its flux is 1."""
    return SpectrumTransformer(truth().spec, width=width, layers=1, heads=2, waves=8, seed=1)


def test_what_takes_too_long_to_fit_says_so(parts, monkeypatch):
    monkeypatch.setattr(cards, "FLOP_OF_FITS", 1e6)
    card = make_card(transformer(), *parts, "made up")
    assert card["errors_by_snr"] == []
    assert any("distil it" in one for one in card["known_faults"])


def test_a_models_size_says_how_many_stars_are_fitted(monkeypatch):
    assert affordable(truth()) == cards.VALIDATED
    weights = sum(p.numel() for p in transformer().parameters())
    # value and three derivatives, each twice a forward: 8 forwards of 2 FLOP per weight and pixel
    each = 8 * 2 * weights * N_PIXEL * cards.STEPS_OF_A_FIT
    monkeypatch.setattr(cards, "FLOP_OF_FITS", 37.5 * each)
    assert affordable(transformer()) == 37
    assert affordable(truth()) == cards.VALIDATED  # a linear layer makes fits cheap


TRUTH = truth()


class Asked(SpectrumTransformer):
    """The truth's spectra, made as a model without a linear layer makes them."""

    def flux_at(self, x, shift=None, pixels=None):
        flux = TRUTH.forward_scaled(x)
        flux = flux if shift is None else shift_flux(flux, shift)
        return flux if pixels is None else flux[:, pixels]

    def _flux(self, x, shift, pixels, _answer):
        return self.flux_at(x, shift, pixels)


def test_a_model_without_a_linear_layer_has_errors_by_snr_too(parts, monkeypatch):
    monkeypatch.setattr(cards, "VALIDATED", 6)
    monkeypatch.setattr(cards, "FEWEST", 1)
    model = Asked(truth().spec, width=8, layers=1, heads=2, waves=8)
    assert model.output is None
    rows = label_errors(model, parts[1])
    wanted = label_errors(truth(), parts[1])  # the same spectra, in the same fit
    assert [row["n"] for row in rows] == [row["n"] for row in wanted] != []
    for found, row in zip(rows, wanted, strict=True):
        assert found["teff"]["mae"] == pytest.approx(row["teff"]["mae"], rel=0.05)


def test_spectra_without_noise_are_given_some_of_each_snr():
    flux, ivar = np.ones((500, 400), np.float32), np.full((500, 400), np.inf, np.float32)
    ivar[:, :40] = 0
    noisy, known, added = with_noise(flux, ivar)
    assert added
    assert (noisy[:, :40] == 1).all()
    assert (known[:, :40] == 0).all()
    for k, snr in enumerate(cards.NOISE):
        np.testing.assert_allclose(known[k::5, 40:], snr**2, rtol=1e-5)
        # 100 x 360 draws: their scatter is known to 0.4 %
        assert np.std(noisy[k::5, 40:] - 1) == pytest.approx(1 / snr, rel=0.02)


def test_spectra_with_noise_stay_as_they_are():
    flux, ivar = np.ones((3, 4), np.float32), np.full((3, 4), 100.0, np.float32)
    ivar[0, 0] = np.inf  # a pixel alone makes no theory
    noisy, known, added = with_noise(flux, ivar)
    assert not added
    assert noisy is flux
    assert np.isfinite(known).all()


def test_a_library_without_noise_has_errors_by_snr(parts):
    class Library:
        """The validation spectra as theory has them."""

        labels, rows = parts[1].labels, parts[1].rows

        def read(self, which):
            labels, flux, _, shift = parts[1].read(which)
            with torch.no_grad():
                rest = truth()(torch.from_numpy(labels)).numpy()
            return labels, rest, np.full(flux.shape, np.inf, np.float32), np.zeros_like(shift)

    rows = label_errors(truth(), Library())
    assert all(row["added"] for row in rows)
    assert len(rows) >= 3
    # noise ten times lower, errors ten times smaller; few stars per bin
    assert rows[-1]["teff"]["mae"] < 0.3 * rows[0]["teff"]["mae"]
    card = {"data": {"source": "x"}, "n_training": 1, "n_validation": 1, "known_faults": []}
    card |= {"lsf": {"shape": "gaussian", "resolving_power": 1}, "errors_by_snr": rows}
    assert "of noise added" in card_text(card)[2]


class Off:
    """A regressor whose labels are those it is asked about, and `bias`."""

    spec = RegressorSpec(
        "off", ("teff", "logg"), np.arange(2.0) + 5, [5, 5], [1, 1], [1, 1], [1, 1]
    )

    def __init__(self, labels, scatter, bias):
        noise = scatter * np.random.default_rng(0).standard_normal(labels.shape)
        self.labels = (labels + noise + bias).astype(np.float32)

    def predict(self, flux, ivar, extra=None):
        return Prediction(self.labels, self.labels, self.labels, self.labels[:, 0])


def sample_of(labels, snr):
    flux = np.ones((len(labels), 2), np.float32)
    ivar = np.repeat(np.asarray(snr, np.float32)[:, None] ** 2, 2, axis=1)
    return Sample(flux, ivar, labels.astype(np.float32), np.full_like(labels, np.nan, np.float32))


def test_a_regressors_card_has_its_errors_by_snr():
    labels = np.random.default_rng(1).uniform(0, 10, (600, 2))
    snr = np.repeat([15.0, 75.0, 150.0], 200)
    labels[:50, 1] = np.nan
    model = Off(np.nan_to_num(labels), 0.2, np.array([0.0, 1.0]))
    card = regressor_card(model, labels, sample_of(labels, snr), (5000, 600), "made up")
    json.dumps(card, allow_nan=False)
    rows = card["errors_by_snr"]
    assert [row["snr"] for row in rows] == [[10.0, 20.0], [50.0, 100.0], [100.0, 200.0]]
    assert [row["n"] for row in rows] == [200, 200, 200]
    for row in rows:  # 150 draws and more: medians to 8 % of the scatter, scatter to 10 %
        assert row["logg"]["bias"] == pytest.approx(1.0, abs=0.06)
        assert row["teff"]["scatter"] == pytest.approx(0.2, rel=0.3)
    assert card["n_training"] == 5000
    assert card["domain"]["box"]["teff"] == [labels[:, 0].min(), labels[:, 0].max()]
    assert [said for said in card["known_faults"] if said.startswith("logg comes out +")]
    assert not [said for said in card["known_faults"] if said.startswith("teff comes")]


def test_a_label_that_no_validation_star_has_leaves_its_bin_out():
    labels = np.random.default_rng(1).uniform(0, 10, (300, 2))
    held = labels.copy()
    held[:, 1] = np.nan
    card = regressor_card(
        Off(labels, 0.1, 0.0), labels, sample_of(held, np.full(300, 75.0)), (300, 300), "x"
    )
    assert card["errors_by_snr"] == []
    assert "not validated" in card["known_faults"][-1]


def test_labels_that_go_together_have_no_mahalanobis_distance(parts):
    training, validation = parts
    kept = training.labels
    training.labels = np.repeat(kept[:, :1], 3, axis=1)
    try:
        domain = make_card(truth(), training, validation, "made up")["domain"]
    finally:
        training.labels = kept
    assert "vary independently" in domain["no_mahalanobis"]


def test_errors_are_given_where_enough_stars_are(parts, monkeypatch):
    monkeypatch.setattr(cards, "FEWEST", 1000)
    assert label_errors(truth(), parts[1]) == []


def test_training_leaves_a_card_and_inspect_prints_it(source, tmp_path):
    url = str(tmp_path / "model" / "0123")
    train_loop(LocalContext(), table_of(), source, url, 1)
    card = model_record(url)["metadata"]["card"]
    text = inspect_url(url)
    for line in card_text(card):
        assert line in text
    assert f"made of: train.zarr, {card['n_training']:,} training" in text
    assert "known fault: few stars" in text


def test_a_runs_model_folder_stands_for_the_model_in_use(tmp_path):
    model = Payne(truth().spec, hidden=(3,))
    save_model(str(tmp_path / "model" / "0123"), model)
    set_current(str(tmp_path), "model", "0123")
    found = load_model(str(tmp_path / "model"))
    assert torch.equal(found.output.weight, model.output.weight)
    assert inspect_url(str(tmp_path / "model")).startswith("model truth: 3 labels")
