"""The page of a run's models: history, search, and derivatives that are those of the model."""

import numpy as np
import pytest
import torch
from pages import Reader

from scalespec.config import TrainTable
from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.stages import folders
from scalespec.stages.report import WANTS
from scalespec.stages.training_pages import (
    derivatives,
    gradients,
    learning,
    reference_stars,
    search,
)
from scalespec.store.model import save_model

LABELS = ("teff", "logg", "fe_h", "ca_fe", "vmic")
LOW = np.array([4000.0, 0.5, -2.0, -0.5, 0.5])
HIGH = np.array([7000.0, 5.0, 0.5, 0.6, 3.0])
WAVELENGTH = 10 ** (3.6 + 1e-4 * np.arange(300))


def spec_of(low=LOW, high=HIGH, labels=LABELS):
    normalization = {"method": "gaussian", "width_angstrom": 50.0}
    return EmulatorSpec("p", labels, low, high, WAVELENGTH, 1800.0, normalization)


@pytest.fixture(scope="module")
def model():
    return Payne(spec_of(), hidden=(8,), seed=3)


@pytest.fixture
def trained(tiny_run, tmp_path, model, monkeypatch):
    """A run whose model was trained in it, with what its metadata is to say."""
    table = TrainTable(labels=LABELS, library="library")
    infer = tiny_run.config.infer.model_copy(update={"models": ()})
    config = tiny_run.config.model_copy(update={"train": table, "infer": infer})
    url = str(tmp_path / "model")
    monkeypatch.setattr(folders, "model_url", lambda _: url)

    def keep(**metadata):
        save_model(url, model, metadata)
        return config

    return keep


def test_derivatives_are_differences_of_the_flux(model):
    stars = reference_stars(model.spec)
    found = derivatives(model, stars)
    steps = np.array([10.0, 0.02, 0.02, 0.02, 0.02])
    for name, labels in stars.items():
        for k, step in enumerate(steps):
            around = np.repeat(labels[None], 2, axis=0)
            around[:, k] += [-step, step]
            with torch.no_grad():
                low, high = model(torch.from_numpy(around)).double().numpy()
            slope = (high - low) / (2 * step)
            # float32 flux: 6e-8 over the step; and the third derivative of a smooth model
            limit = 1e-7 / step + 0.01 * np.abs(slope).max()
            np.testing.assert_allclose(found[name][k], slope, atol=limit)


def test_stars_lie_inside_the_model():
    stars = reference_stars(spec_of())
    assert list(stars) == ["dwarf", "giant"]
    for labels in stars.values():
        assert (labels > LOW).all()
        assert (labels < HIGH).all()
    assert stars["dwarf"][1] > 4
    assert stars["giant"][1] == 2.0
    assert stars["dwarf"][4] == pytest.approx(1.75)  # no dex: the middle


def test_a_model_of_one_kind_of_star_is_shown_in_its_middle():
    hot = spec_of(np.array([9000.0, 4.0]), np.array([12000.0, 4.6]), ("teff", "logg"))
    stars = reference_stars(hot)
    assert list(stars) == ["the middle of its range"]
    np.testing.assert_allclose(next(iter(stars.values())), [10500.0, 4.3])


def test_every_label_has_a_row_of_its_strongest_line(trained):
    html = gradients(trained())
    read = Reader(html)
    assert len(read.pictures) == 1
    rows = read.text[read.text.index("% of pixels") :]
    for title in ("Teff", "log g", "[Fe/H]", "[Ca/Fe]", "vmic"):
        assert f" {title} " in rows
    calcium = rows[rows.index("[Ca/Fe]") :].split()
    share, pixels = (float(x) for x in (calcium[6], calcium[7]) if x != "–")
    assert 0 < pixels < 30
    assert 0 <= share <= 100


def test_regressors_have_no_derivatives_to_show(trained, monkeypatch):
    monkeypatch.setattr("scalespec.stages.training_pages.is_regressor", lambda _: True)
    assert gradients(trained()) == ""


def test_the_history_is_drawn(trained):
    config = trained(history=[{"step": 0.0, "validation_rms": 0.1, "loss": 0.04}])
    assert len(Reader(learning(config)).pictures) == 1
    elsewhere = config.infer.model_copy(update={"models": ("m",)})
    text = learning(config.model_copy(update={"infer": elsewhere}))
    assert "trained elsewhere" in text


def test_a_search_is_a_table_of_all_its_trials(trained):
    rows = [
        {"trial": 2, "validation_rms": 0.01, "settings": {"hidden": 64, "a": [1]}, "error": ""},
        {"trial": 0, "validation_rms": 0.02, "settings": {}, "error": ""},
        {"trial": 1, "validation_rms": None, "settings": {"hidden": 9}, "error": "<b>lost</b>"},
    ]
    config = trained(search=rows)
    read = Reader(search(config))
    assert "trial validation rms a hidden error 2 0.01 [1] 64 0 0.02 as the run file" in read.text
    assert "1 – as the run file 9 <b>lost</b>" in read.text
    assert "b" not in read.tags
    assert len(read.pictures) == 1
    assert search(trained()) == ""
    assert not WANTS["Search"](config)  # the run file has no [train.search]


def test_a_run_without_training_has_no_search(tiny_run):
    assert search(tiny_run.config) == ""
