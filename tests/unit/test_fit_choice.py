"""Of several models the likeliest is kept, not the one that knows least."""

import numpy as np
import torch
from scipy.stats import norm

from scalespec.models.base import EmulatorSpec
from scalespec.models.payne import Payne
from scalespec.optimize.result import FitResult
from scalespec.stages.emulators import scatter_penalty
from scalespec.stages.fit import _likeliest

SPEC = EmulatorSpec("m", ("teff",), [4e3], [6e3], np.linspace(5000, 5100, 50))


def model_of(scatter):
    model = Payne(SPEC, hidden=(3,))
    model.scatter = torch.full((50,), scatter)
    return model


def result(chi2):
    made = FitResult.empty(len(chi2), 1)
    made.chi2[:], made.n_used[:], made.status[:] = chi2, 50, 0
    made.labels[:] = 5000.0
    return made


def test_the_penalty_makes_chi2_a_likelihood():
    rng = np.random.default_rng(0)
    ivar = rng.uniform(1e3, 1e4, (3, 50)).astype(np.float32)
    ivar[:, :5] = 0
    residual = rng.normal(0, 0.03, (3, 50))
    cost = []
    for scatter in (0.01, 0.05):
        used = ivar > 0
        sigma = np.sqrt(1 / np.where(used, ivar, 1) + np.float32(scatter) ** 2)
        chi2 = np.where(used, residual**2 / sigma**2, 0).sum(axis=1)
        likelihood = np.where(used, norm.logpdf(residual, scale=sigma), 0).sum(axis=1)
        cost.append(chi2 + scatter_penalty(model_of(scatter).scatter, ivar) + 2 * likelihood)
    # -2 ln L but for a constant that no model changes; float32 of ivar times scatter²
    np.testing.assert_allclose(cost[0], cost[1], rtol=1e-5)


def test_more_scatter_alone_wins_no_star():
    ivar = np.full((2, 50), 1e4, np.float32)
    models = [model_of(0.01), model_of(0.1)]
    # residuals of 0.014 all over: what the first expects; the second one's χ² is tiny
    fits = [result(np.array([50.0, 50.0])), result(np.array([1.0, 1.0]))]
    doubt = [scatter_penalty(model.scatter, ivar) for model in models]
    assert _likeliest(fits, doubt).tolist() == [0, 0]


def test_residuals_that_only_scatter_explains_choose_it():
    ivar = np.full((1, 50), 1e4, np.float32)
    models = [model_of(0.01), model_of(0.1)]
    # residuals of 0.1: 50 times what the first expects
    fits = [result(np.array([2500.0])), result(np.array([50.0]))]
    doubt = [scatter_penalty(model.scatter, ivar) for model in models]
    assert _likeliest(fits, doubt).tolist() == [1]
