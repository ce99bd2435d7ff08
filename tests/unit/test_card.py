"""A model's card: what it says is so, and it is printed."""

import json

import numpy as np
import pytest
import torch
from labelled import GAUSSIAN, HIGH, LABELS, LOW, N_PIXEL, spectra_with_labels, store_spectra, truth

from scalespec.config import TrainTable
from scalespec.engines.local import LocalContext
from scalespec.models.payne import Payne
from scalespec.optimize.constraints import Domain
from scalespec.stages import card as cards
from scalespec.stages.card import card_text, faults, label_errors, make_card
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


def test_distances_from_the_domain_are_those_of_the_training_labels(parts):
    training, validation = parts
    domain = make_card(truth(), training, validation, "made up")["domain"]
    known = Domain(np.array(domain["mean"]), np.array(domain["whitening"]))
    distance = known.distance(training.labels)
    # whitened labels have unit variance: the mean square distance is 1 but for n - 1 over n
    assert np.mean(distance**2) == pytest.approx(1, abs=0.02)


def test_a_wrong_model_has_its_fault_said(parts):
    model = truth()
    with torch.no_grad():  # its lines are made deeper: labels come out elsewhere
        model.output.bias.add_(0.05)
    errors = label_errors(model, parts[1])
    said = faults(model, 10_000, errors)
    assert any("off at S/N over" in one for one in said)
    assert not any("few stars" in one for one in said)


def test_pixels_that_no_spectrum_showed_are_counted():
    model = truth()
    model.scatter[:7] = 1.0
    assert faults(model, 10_000, [], "none")[:2] == [
        f"7 of {N_PIXEL} pixels were shown by no spectrum: they have no say",
        "labels were not validated: none",
    ]


def test_what_cannot_be_fitted_says_why(parts):
    model = truth()
    model.output = None
    card = make_card(model, *parts, "made up")
    assert card["errors_by_snr"] == []
    assert any("does not end in a linear layer" in one for one in card["known_faults"])


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
