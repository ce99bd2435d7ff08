"""Covariances on and off bounds, flags, multi-start, and errors that mean something."""

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from scalespec.optimize import trust
from scalespec.optimize.domain import Domain
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.result import FitStatus

_networks = runpy.run_path(str(Path(__file__).with_name("networks.py")))
small_payne, small_mocks = _networks["small_payne"], _networks["small_mocks"]


def state_of(hessian: np.ndarray, gradient: list[float], x: list[float], half: float = 0.5):
    return SimpleNamespace(
        hessian=torch.tensor(hessian)[None].double(),
        gradient=torch.tensor([gradient]).double(),
        parameters=torch.tensor([x]).double(),
        lower=torch.full((1, len(x)), -half).double(),
        upper=torch.full((1, len(x)), half).double(),
    )


def test_covariance_off_bounds_is_the_inverse_hessian():
    root = np.random.default_rng(0).standard_normal((5, 5))
    hessian = 1e4 * (root @ root.T + np.eye(5))
    state = state_of(hessian, [0.0] * 5, [0.0] * 5)
    found = trust.covariance(state, trust.edges(state))[1][0].numpy()
    np.testing.assert_allclose(found, np.linalg.inv(hessian), rtol=5e-3)  # the box: 4 beside 1e4


@pytest.mark.parametrize("pull", [0.0, 0.5, 2.0])
def test_label_that_noise_drove_to_its_bound_has_a_truncated_normals_spread(pull: float):
    curvature = 400.0
    state = state_of(np.diag([curvature, 900.0]), [pull * 20.0, 0.0], [-0.5, 0.1])
    found = trust.covariance(state, trust.edges(state))[1][0].numpy()
    density = lambda d: np.exp(-pull * 20 * d - curvature * d * d / 2)  # noqa: E731
    moment = quad(lambda d: d * d * density(d), 0, 1)[0] / quad(density, 0, 1)[0]
    assert found[0, 0] == pytest.approx(moment, rel=1e-3)


def test_labels_that_follow_a_bound_one_know_of_it():
    """Two correlated labels, one on its bound: the other is not known better than without it."""
    hessian = 4e4 * np.array([[1.0, 0.9], [0.9, 1.0]])
    state = state_of(hessian, [0.0, 0.0], [0.5, 0.0])
    found = trust.covariance(state, trust.edges(state))[1][0].numpy()
    np.testing.assert_allclose(found, np.linalg.inv(hessian), rtol=2e-3)  # the box: 4 beside 4e3


def test_label_far_outside_is_known_to_its_range_only():
    state = state_of(np.diag([400.0, 900.0]), [-500.0, 0.0], [0.5, 0.0])
    edges = trust.edges(state)
    found = trust.covariance(state, edges)[1][0].numpy()
    assert edges.outside[0].tolist() == [True, False]
    assert found[0, 0] == pytest.approx(1 / 12)
    assert not found[0, 1]


def test_no_variance_exceeds_that_of_the_range():
    state = state_of(np.diag([1e-6, 0.0, 1e4]), [0.0] * 3, [0.0] * 3)
    found = trust.covariance(state, trust.edges(state))[1][0].numpy()
    assert (np.diag(found)[:2] <= 1 / 12 + 1e-12).all()
    assert np.linalg.eigvalsh(found).min() > 0


def test_pulls_are_standard_normal_where_labels_are_measured():
    """Oracle 7: mean |z| 0.78-0.82 with blocks in use, and with every pixel's derivatives."""
    model = small_payne()
    stars = small_mocks(model, 4000, snr=100.0, spread=0.35)
    for exact in (False, True):
        options = FitOptions(rv_range=60.0, exact_covariance=exact)
        fit = fit_labels(model, stars["flux"], stars["ivar"], options=options)
        good = fit.status == 0
        assert good.mean() > 0.9
        pulls = ((fit.labels - stars["labels"]) / fit.label_err)[good]
        assert 0.775 < np.abs(pulls).mean() < 0.825  # 4,000 stars, 4 labels: 0.005 of chance
        robust = 1.4826 * np.median(np.abs(pulls), axis=0)
        assert np.abs(robust - 1).max() < 0.07  # 0.018 of chance
        assert abs(((fit.rv - stars["rv"]) / fit.rv_err)[good].std() - 1) < 0.06


def test_labels_without_lines_are_flagged():
    model = small_payne(n_label=5)
    with torch.no_grad():
        model.hidden[0].weight[:, 4] = 0  # nothing depends on the last label
    stars = small_mocks(model, 20)
    fit = fit_labels(model, stars["flux"], stars["ivar"])
    assert (fit.prior_dominated & np.uint64(16) > 0).all()
    assert (fit.status & FitStatus.PRIOR_DOMINATED > 0).all()
    np.testing.assert_allclose(fit.label_err[:, 4], 1 / np.sqrt(12), rtol=0.01)


def test_stars_beyond_the_box_are_said_to_be_so():
    model = small_payne()
    with torch.no_grad():
        far = model.forward_scaled(torch.tensor([[0.0, 0.0, 1.2, 0.0], [0.0, 0.0, 0.2, 0.0]]))
    fit = fit_labels(model, far, torch.full_like(far, 1e4))
    assert fit.distance[0] > 10
    assert fit.status[0] & FitStatus.OUT_OF_DOMAIN
    assert fit.distance[1] < 0.1
    assert fit.status[1] == 0


def test_stars_farther_than_all_that_a_model_learned_from_are_flagged():
    """Inside the box, whose edges are those of each label alone."""
    model = small_payne()
    learned = small_mocks(model, 300, spread=0.1)["labels"]
    domain = Domain.of(learned)
    model.spec = replace(model.spec, extra={"domain": domain.to_dict()})
    width = model.spec.maximum - model.spec.minimum
    corner = model.spec.minimum + 0.9 * width
    labels = np.stack([learned[0], corner, corner]).astype(np.float32)
    with torch.no_grad():
        flux = model(torch.from_numpy(labels)).numpy()
    ivar = np.full_like(flux, 1e6)
    ivar[2] = 1e-2  # hardly a star at all: it says nothing of how far it is
    fit = fit_labels(model, flux, ivar, start=labels)
    far = fit.status & np.uint32(FitStatus.OUT_OF_DOMAIN) != 0
    assert fit.training_distance[0] <= 1
    assert fit.training_distance[1] > 2
    assert far.tolist() == [False, True, False]
    assert domain.distance(learned).max() == pytest.approx(1)
    model.spec = replace(model.spec, extra={})
    again = fit_labels(model, flux, ivar, start=labels)
    assert np.isnan(again.training_distance).all()
    assert not (again.status & np.uint32(FitStatus.OUT_OF_DOMAIN)).any()
    with pytest.raises(ValueError, match="more label sets than labels"):
        Domain.of(np.zeros((3, 4)))


def test_few_pixels_are_said():
    model = small_payne()
    stars = small_mocks(model, 2)
    stars["ivar"][0, 100:] = 0
    fit = fit_labels(model, stars["flux"], stars["ivar"])
    assert fit.status[0] & FitStatus.FEW_PIXELS
    assert not fit.status[1] & FitStatus.FEW_PIXELS


def test_two_optima_are_found_and_said():
    """Flux depends on (x - 0.1)^2 and a little on x: two labels fit nearly as well."""
    line = torch.exp(-0.5 * ((torch.arange(80.0) - 40) / 3) ** 2)
    tilt = torch.exp(-0.5 * ((torch.arange(80.0) - 15) / 3) ** 2)

    def forward(x):
        return 1 - (4 * (x - 0.1) ** 2) * line - 0.002 * x * tilt

    model = SimpleNamespace(
        spec=SimpleNamespace(
            labels=("a",),
            minimum=np.zeros(1),
            maximum=np.ones(1),
            wavelength=10 ** (3.7 + 1e-4 * np.arange(80)),
        ),
        scatter=torch.zeros(80),
        forward_scaled=forward,
        flux_and_jacobian=lambda x: (
            forward(x), (-8 * (x - 0.1) * line - 0.002 * tilt)[:, None]
        ),
    )  # fmt: skip
    flux, ivar = forward(torch.tensor([[0.35]])), torch.full((1, 80), 1e4)
    start = np.array([[[0.3], [0.9]]])
    options = FitOptions(rv_range=0.0)
    fit = fit_labels(model, flux, ivar, start=start, options=options)
    assert fit.labels[0, 0] == pytest.approx(0.85, abs=0.01)
    assert fit.status[0] & FitStatus.MULTIPLE_OPTIMA
    one = fit_labels(model, flux, ivar, start=start[:, :1], options=options)
    assert one.labels[0, 0] == pytest.approx(0.35, abs=0.05)
    assert one.chi2[0] > fit.chi2[0]


def test_restarts_find_better_optima_of_kinked_models():
    model = small_payne(activation="leaky_relu", n_label=6, hidden=40)
    stars = small_mocks(model, 150, snr=150.0)
    data, one = (stars["flux"], stars["ivar"]), FitOptions(rv_range=60.0, restarts=0)
    single = fit_labels(model, *data, options=one)
    many = fit_labels(model, *data, options=FitOptions(rv_range=60.0, restarts=5))
    again = fit_labels(model, *data, options=FitOptions(rv_range=60.0, restarts=5))
    assert (many.chi2 <= single.chi2 + 1e-2).all()
    assert (many.chi2 < single.chi2 - 1).any()
    assert many.labels.tobytes() == again.labels.tobytes()


def test_robust_pass_forgets_outliers():
    model = small_payne()
    stars = small_mocks(model, 60, snr=100.0)
    spoiled = stars["flux"].copy()
    hit = np.random.default_rng(8).random(spoiled.shape) < 0.02
    spoiled[hit] += 0.3
    plain = fit_labels(model, spoiled, stars["ivar"])
    robust = fit_labels(model, spoiled, stars["ivar"], options=FitOptions(robust=3.0))
    off = lambda fit: np.median(np.abs(fit.labels - stars["labels"]) / fit.label_err)  # noqa: E731
    assert off(robust) < 1.3  # 0.67 without outliers
    assert off(plain) > 2 * off(robust)


def one_line():
    """One label, the depth of one line: the line, and the model."""
    line = torch.exp(-0.5 * ((torch.arange(60) - 30.0) / 2) ** 2)
    spec = SimpleNamespace(
        labels=("depth",),
        minimum=np.zeros(1),
        maximum=np.ones(1),
        wavelength=10 ** (3.7 + 1e-4 * np.arange(60)),
    )
    model = SimpleNamespace(
        spec=spec,
        scatter=torch.zeros(60),
        forward_scaled=lambda x: 1 - (x + 0.5) * line,
        flux_and_jacobian=lambda x: (1 - (x + 0.5) * line, -line.expand(len(x), 1, 60)),
    )
    return line, model


def test_errors_know_that_a_truth_lies_within_the_bounds():
    """Uniform truths whose sigma is 0.14 of the range; by curvature alone pulls are 0.95 wide."""
    line, model = one_line()
    truth = torch.rand(6000, 1, generator=torch.Generator().manual_seed(0))
    noise = 0.14 * float(line.square().sum()) ** 0.5
    drawn = torch.randn(6000, 60, generator=torch.Generator().manual_seed(1))
    flux = 1 - truth * line + noise * drawn
    ivar = torch.full_like(flux, noise**-2)
    fit = fit_labels(model, flux, ivar, options=FitOptions(rv_range=0.0))
    pull = (fit.labels - truth.numpy()) / fit.label_err
    low, high = np.percentile(pull, [15.865, 84.135])
    assert abs((high - low) / 2 - 1) < 0.03


def test_a_robust_pass_weighs_by_the_last_fit_alone():
    """Huber: k over the residual, whatever the pass before thought of the pixel."""
    line, model = one_line()
    flux = (1 - 0.5 * line)[None].clone()
    flux[0, 40] += 0.9  # 90 sigma off, where the line is not
    options = FitOptions(rv_range=0.0, robust=3.0)
    fit = fit_labels(model, flux, torch.full((1, 60), 1e4), options=options)
    assert fit.chi2[0] == pytest.approx(3.0 * 90.0, rel=1e-3)  # k |r| of one pixel
