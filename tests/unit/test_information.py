"""Fisher matrices against finite differences, and fits against the bound they set."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from scalespec.cli import main
from scalespec.errors import ConfigError
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.information import information
from scalespec.optimize.objective import Objective
from scalespec.stages.information import Survey, bounds_figure, measurable, parse_labels
from scalespec.store.model import save_model

_networks = runpy.run_path(str(Path(__file__).with_name("networks.py")))
small_payne, small_mocks = _networks["small_payne"], _networks["small_mocks"]


def test_fisher_matrix_is_that_of_finite_differences():
    model = small_payne().double()
    labels, ivar = np.array([[5100.0, 2.2, -0.4, 0.1]]), np.full(600, 2500.0)
    found = information(model, labels, ivar, rv=np.array([20.0]))
    width = model.spec.maximum - model.spec.minimum
    moves = np.diag(np.append(width * 1e-5, 1e-2))

    def predict(values):
        objective = Objective.of(
            model,
            torch.ones(1, 600).double(),
            torch.tensor(ivar)[None],
            rv_start=torch.tensor(values[None, -1]).reshape(1),
            rv_range=0.5,
        )
        x = (values[:-1] - model.spec.minimum) / width - 0.5
        with torch.no_grad():
            flux = objective.predict(torch.tensor(np.append(x, 0.0))[None])[0].numpy()
        return flux, objective.weight[0].numpy()

    star = np.append(labels[0], 20.0)
    _, weight = predict(star)
    slopes = np.stack(
        [(predict(star + m)[0] - predict(star - m)[0]) / (2 * m.sum()) for m in moves]
    )
    wanted = (slopes * weight) @ slopes.T
    scale = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    assert (
        np.abs((found.fisher[0] - wanted) / scale).max() < 1e-4
    )  # central differences of 0.01 km/s
    bound = np.sqrt(np.diag(np.linalg.inv(wanted)))
    np.testing.assert_allclose(np.append(found.bound[0], found.rv_bound), bound, rtol=1e-3)
    np.testing.assert_allclose(found.alone[0], 1 / np.sqrt(np.diag(wanted))[:-1], rtol=1e-3)


def test_bounds_go_as_the_noise_and_a_prior_limits_them():
    model, labels = small_payne(), np.array([[5000.0, 2.0, -0.5, 0.0]])
    low, high = (information(model, labels, np.full(600, s**2)) for s in (50.0, 100.0))
    np.testing.assert_allclose(low.bound, 2 * high.bound, rtol=1e-3)
    sigma = np.array([10.0, np.inf, np.inf, np.inf])
    prior = information(model, labels, np.full(600, 50.0**2), prior_sigma=sigma)
    assert prior.bound[0, 0] < 10
    assert (prior.bound <= low.bound * (1 + 1e-6)).all()


def test_label_that_nothing_depends_on_has_no_bound():
    model = small_payne()
    with torch.no_grad():
        model.hidden[0].weight[:, 1] = 0
    found = information(model, np.array([[5000.0, 2.0, -0.5, 0.0]]), np.full(600, 1e4))
    assert np.isinf(found.bound[0, 1])
    assert np.isfinite(np.delete(found.bound[0], 1)).all()


def test_empirical_scatter_reaches_the_bound():
    """Oracle 8: 600 realizations of one star, scatter over bound in 0.95 to 1.10."""
    model, n, snr = small_payne(), 600, 100.0
    star = np.array([[5050.0, 2.1, -0.6, 0.05]])
    with torch.no_grad():
        clean = model(torch.tensor(star)).numpy()
    noise = np.random.default_rng(9).standard_normal((n, 600)) / snr
    ivar = np.full((n, 600), snr**2)
    fit = fit_labels(model, clean + noise, ivar, options=FitOptions(rv_range=60.0))
    ratio = fit.labels.std(axis=0) / information(model, star, ivar[0]).bound[0]
    assert (ratio > 0.93).all()  # 0.95 less the chance of 600: 0.029
    assert (ratio < 1.10).all()


@pytest.fixture
def saved(tmp_path: Path) -> str:
    save_model(str(tmp_path / "model"), small_payne())
    return str(tmp_path / "model")


def test_measurable_tells_what_resolution_and_range_cost(saved: str):
    full = measurable(saved, {"teff": 5000.0}, Survey(snr=(50.0, 100.0)))
    assert list(full["label"]) == ["teff", "logg", "fe_h", "mg_fe", "rv"]
    assert (full["snr_50"] > full["snr_100"]).all()
    blurred = measurable(saved, {}, Survey(snr=(100.0,), resolving_power=600.0))
    half = measurable(saved, {}, Survey(snr=(100.0,), wavelength=(5050.0, 5400.0)))
    whole = measurable(saved, {}, Survey(snr=(100.0,)))
    assert (blurred["snr_100"] > whole["snr_100"]).all()
    assert (half["snr_100"] > whole["snr_100"]).all()
    assert len(bounds_figure(full, "a model").axes[0].lines) == 3  # two S/N, one limit


@pytest.mark.parametrize(
    ("labels", "message"),
    [({"vmic": 1.0}, "has no label"), ({"teff": 9000.0}, "teff = 9000 lies outside")],
)
def test_stars_that_the_model_does_not_have_are_refused(saved: str, labels: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        measurable(saved, labels, Survey())


def test_labels_are_read_from_the_command_line():
    assert parse_labels(["teff=5000", "fe_h=-1"]) == {"teff": 5000.0, "fe_h": -1.0}
    for wrong in ("teff", "teff=hot"):
        with pytest.raises(ConfigError, match=f"got '{wrong}'"):
            parse_labels([wrong])


def test_the_verb_prints_and_draws(saved: str, tmp_path: Path):
    target = tmp_path / "bounds.png"
    given = ["information", saved, "--label", "teff=5000", "--snr", "80", "-o", str(target)]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    assert "snr_80" in result.output
    assert target.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--snr", "0"], "snr = 0: give a finite number above 0"),
        (["--snr", "50", "--snr", "-5"], "snr = -5: give a finite number above 0"),
        (["--snr", "nan"], "snr = nan: give"),
        (["--snr", "inf"], "snr = inf: give"),
        (["--resolving-power", "-1"], "resolving_power = -1: give"),
        (["--wavelength", "9000", "4000"], "turn them around: 4000 9000"),
        (["--wavelength", "nan", "4000"], "wavelength = nan 4000: give the lower end first"),
        (["--wavelength", "900", "950"], "lies in 900 to 950 Å: it covers 5012 to 5753 Å"),
        (["-o", "bounds.jpg"], "-o bounds.jpg: no form of file we write: end it in .png, .pdf or"),
        (["-o", "nowhere/bounds.pdf"], "make it first"),
    ],
)
def test_what_is_no_survey_is_refused_with_the_value_and_the_cure(saved: str, given, said):
    result = CliRunner().invoke(main, ["information", saved, *given])
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


@pytest.mark.parametrize(
    ("ending", "begins"), [("PNG", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")]
)
def test_a_picture_is_what_its_name_says(saved: str, tmp_path: Path, ending, begins):
    twice = []
    for name in ("a", "b"):
        target = tmp_path / f"{name}.{ending}"
        assert CliRunner().invoke(main, ["information", saved, "-o", str(target)]).exit_code == 0
        twice.append(target.read_bytes())
    assert twice[0].startswith(begins)
    assert twice[0] == twice[1]


@pytest.mark.parametrize("sigma", [[1.0, 0.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0], 1.0])
def test_a_prior_that_is_none_is_refused(sigma):
    model = small_payne(n_label=3)
    labels = np.array([[5000.0, 2.0, -1.0]])
    with pytest.raises(ValueError, match="prior_sigma should be 3 numbers above 0, got"):
        information(model, labels, np.full(600, 1e3), prior_sigma=np.array(sigma))
