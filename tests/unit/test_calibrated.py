"""Scales of errors: found again where they are known, shrunk where stars are few."""

import numpy as np
import pytest
import torch

from scalespec.models.calibrated import LEVEL, SNR_CENTERS, STEP, ErrorScale, shares
from scalespec.models.regressor import Sample

BINS = ((5, 10), (10, 20), (20, 40), (40, 80), (80, 200))
"""Of S/N, in each of which pulls should be of 0.9 to 1.1."""


def stars(n, *, seed=0, snr=(5, 200), junk=0.0, tail=None):
    """Return residuals, stated variances, S/N and true errors of stars whose errors are known.

    What is stated is too small, by more the higher the S/N, and `junk` (in ln) off the truth from
    star to star; `tail` are the degrees of freedom of Student's t instead of a Gaussian.
    """
    rng = np.random.default_rng(seed)
    ratio = np.exp(rng.uniform(*np.log(snr), n))
    true = 0.05 + 2 / ratio
    stated = true * (0.2 + 1 / ratio) * np.exp(junk * rng.normal(size=n))
    unit = rng.normal(size=n) if tail is None else rng.standard_t(tail, n) * np.sqrt(1 - 2 / tail)
    parts = unit * true, stated**2, ratio, true
    return tuple(torch.from_numpy(part) for part in parts)


def learned(residual, variance, snr, label_err=None, weight=None):
    scale = ErrorScale(1)
    err = torch.zeros_like(residual) if label_err is None else label_err
    scale.learn(residual[:, None], variance[:, None], err[:, None], snr, weight)
    return scale


def pulls(scale, residual, variance, snr):
    factor = scale(variance[:, None].float(), snr.float())[:, 0].double()
    return residual / (factor * variance.sqrt())


@pytest.mark.parametrize("junk", [0.0, 0.7])
def test_pulls_are_of_one_in_every_bin_of_snr(junk):
    residual, variance, snr, _ = stars(4000, junk=junk)
    scale = learned(residual, variance, snr)
    test = stars(40_000, seed=1, junk=junk)
    pull = pulls(scale, *test[:3])
    for low, high in BINS:
        # 800 stars to learn from in a bin: 2.5 %; limits wanted are 10 %.
        inside = (test[2] >= low) & (test[2] < high)
        assert float(pull[inside].std()) == pytest.approx(1, abs=0.06), (low, high)


def test_few_stars_calibrate_seven_bins_better_than_each_bin_alone():
    def worst(scale):
        test = stars(20_000, seed=99)
        pull = pulls(scale, *test[:3])
        inside = [(test[2] >= low) & (test[2] < high) for low, high in BINS]
        return max(abs(float(pull[k].std().log())) for k in inside)

    def alone(residual, variance, snr):
        """The root mean square pull of each center's nearest stars, as it was done before."""
        scale = ErrorScale(1)
        nearest = shares(snr).argmax(dim=1)
        square = residual.square() / variance
        for k in range(len(SNR_CENTERS)):
            mine = square[nearest == k]
            scale.level[k] = 0.5 * mine.mean().log() if len(mine) > 3 else scale.level[k - 1]
        return scale

    together, each = [], []
    for seed in range(12):
        sample = stars(80, seed=seed, tail=5)
        together.append(worst(learned(*sample[:3])))
        each.append(worst(alone(*sample[:3])))
    assert np.mean(together) < 0.8 * np.mean(each), (together, each)


def test_errors_that_mean_nothing_are_made_equal_and_good_ones_are_kept():
    residual, variance, snr, true = stars(5000, junk=1.0)
    noise = learned(residual, variance, snr)
    # The best guess of ln true from ln stated, where 1.0 of scatter hides next to no signal.
    assert float(noise.power[0]) < 0.25
    factor = noise(variance[:, None].float(), snr.float())[:, 0]
    off = (factor * variance.sqrt().float()).log() - true.log().float()
    assert float(off.std()) < 0.25  # 1.0 before
    good = learned(residual, true**2, snr)
    assert float(good.power[0]) == pytest.approx(1, abs=0.15)


def test_no_star_is_surer_than_those_held_back():
    residual, variance, snr, _ = stars(5000)
    scale = learned(residual, variance, snr)
    own = scale(variance[:, None].float(), snr.float())[:, 0] * variance.sqrt()
    strange = torch.tensor([[1e-12], [1e2]])
    made = scale(strange, torch.full((2,), 40.0))[:, 0] * strange[:, 0].sqrt()
    near = (snr > 38) & (snr < 42)
    assert 0.5 * own[near].min() < made[0] < 1.5 * own[near].max()
    assert made[1] > 10 * own[near].max()  # but a spectrum may be as odd as it says


def test_powers_are_found_again():
    rng = np.random.default_rng(3)
    n = 20_000
    true = np.exp(0.6 * rng.normal(size=n))
    residual = torch.from_numpy(true * rng.normal(size=n))
    stated = torch.from_numpy(true**2)  # sigma was squared: its root is right
    scale = learned(residual, stated**2, torch.full((n,), 40.0).double())
    assert float(scale.power[0]) == pytest.approx(0.5, abs=0.03)
    at = scale(torch.ones(1, 1), torch.tensor([40.0]))
    assert float(at) == pytest.approx(1, abs=0.03)


def test_the_labels_own_errors_are_not_taken_for_the_models():
    rng = np.random.default_rng(0)
    n = 40_000
    sigma, err = rng.uniform(0.5, 2, n), rng.uniform(0, 3, n)
    residual = rng.normal(size=n) * np.hypot(1.7 * sigma, err)
    made = [torch.from_numpy(a) for a in (residual, sigma**2, np.full(n, 20.0), err)]
    scale = learned(*made)
    assert float(scale(torch.ones(1, 1), torch.tensor([20.0]))) == pytest.approx(1.7, rel=0.05)
    unknown = learned(*made[:3], torch.full((n,), torch.nan).double())
    assert float(unknown(torch.ones(1, 1), torch.tensor([20.0]))) > 1.8


def test_where_there_are_no_stars_the_neighbors_factor_holds():
    n = 4000
    residual = torch.tensor([3.0, -3.0]).repeat(n // 2).double()
    scale = learned(residual, torch.ones(n).double(), torch.full((n,), 40.0).double())
    found = scale(torch.ones(4, 1), torch.tensor([5.0, 40.0, 200.0, torch.inf]))[:, 0]
    assert torch.allclose(found, torch.tensor(3.0), rtol=0.01)


def test_one_star_moves_a_factor_as_far_as_the_prior_lets_it():
    one = torch.ones(1).double()
    scale = learned(5 * one, one, 40 * one)
    at = float(scale(torch.ones(1, 1), torch.tensor([40.0])).log())
    # The maximum of -(25 exp(-2 t) / 2 + t) - t² / (2 v), v the prior's variance of ln factor at
    # a center: that of the level, and of a walk of all centers about its own mean.
    place, n = SNR_CENTERS.index(40.0), len(SNR_CENTERS)
    walk = np.tril(np.ones((n, n - 1)), -1) * STEP
    away = walk - walk.mean(axis=0)
    v = LEVEL**2 + np.square(away[place]).sum()
    t = np.linspace(0, np.log(5), 100_001)
    best = t[np.argmax(-(25 * np.exp(-2 * t) / 2 + t) - t**2 / (2 * v))]
    assert at == pytest.approx(best, abs=1e-3)


def test_a_label_that_no_star_has_keeps_its_errors():
    scale = ErrorScale(2)
    residual = torch.full((50, 2), torch.nan)
    residual[:, 0] = 5.0
    scale.learn(residual, torch.ones(50, 2), torch.zeros(50, 2), torch.full((50,), 20.0))
    found = scale(torch.full((3, 2), 0.3), torch.tensor([1.0, 30.0, torch.inf]))
    assert torch.equal(found[:, 1], torch.ones(3))
    assert (found[:, 0] > 4).all()


def test_weights_count_as_stars_do():
    residual, variance, snr, _ = stars(300)
    twice = learned(*(torch.cat([a, a]) for a in (residual, variance, snr)))
    heavy = learned(residual, variance, snr, weight=torch.full((300,), 2.0).double())
    for name, value in twice.state_dict().items():
        # A quantile lies between the same two stars, but not at the same place.
        assert torch.allclose(value, heavy.state_dict()[name], atol=1e-3), name


def test_wild_residuals_and_vanishing_errors_leave_finite_factors():
    residual = torch.tensor([1e6, 1e-9, 0.0, 3.0, -2.0] * 8).double()
    variance = torch.tensor([1e-30, 1e3, 0.0, 1.0, 1e-8] * 8).double()
    snr = torch.tensor([0.0, 5.0, torch.inf, 30.0, 1e9] * 8).double()
    scale = learned(residual, variance, snr)
    for value in scale.state_dict().values():
        assert torch.isfinite(value).all()
    assert torch.isfinite(scale(variance[:, None].float(), snr.float())).all()


def test_arrays_are_learned_from_as_tensors_are():
    residual, variance, snr, _ = stars(200)
    flux = np.ones((200, 7), np.float32)
    ivar = np.repeat(snr.numpy().astype(np.float32)[:, None] ** 2, 7, axis=1)
    none = np.zeros((200, 1), np.float32)
    scale = ErrorScale(1)
    held = Sample(flux, ivar, none, none)
    scale.learn_of(residual.numpy()[:, None], variance.numpy()[:, None], held)
    direct = learned(residual, variance, snr)
    assert torch.allclose(scale.level, direct.level, atol=1e-4)  # S/N was rounded to float32
    made = scale.of(variance.numpy()[:, None], flux, ivar)
    assert np.allclose(made, direct(variance[:, None].float(), snr.float()), rtol=1e-3)


def test_bits_of_matrix_products_do_not_touch_the_factors():
    residual, variance, snr, _ = stars(200)
    scale = learned(residual, variance, snr)
    plain = scale(variance[:, None].float(), snr.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(scale(variance[:, None].float(), snr.float()), plain)
