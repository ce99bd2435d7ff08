"""What a gain of chi2 means: of noise that pixels share, of searches gone astray, of the pixels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scalespec.optimize.composite import fit_composite, gain_threshold
from scalespec.optimize.fit import FitOptions, fit_labels

PIXEL = torch.arange(90.0)
SNR = 100.0
AT_REST = FitOptions(rv_range=0.0)


def shape(center: float) -> torch.Tensor:
    """A line 2 pixels wide."""
    return torch.exp(-0.5 * ((PIXEL - center) / 2) ** 2)


def model_of(first, slope, *more: float) -> SimpleNamespace:
    """One label that the flux is a function of, and lines whose depths are labels of their own."""
    n = 1 + len(more)
    lines = torch.stack([shape(center) for center in (0.0, *more)])[1:]
    return SimpleNamespace(
        spec=SimpleNamespace(
            labels=("one", "two")[:n],
            minimum=np.full(n, -1.0),
            maximum=np.ones(n),
            wavelength=10 ** (3.7 + 1e-4 * PIXEL.numpy()),
        ),
        scatter=torch.zeros(90),
        forward_scaled=lambda x: first(x[:, :1]) - 2 * x[:, 1:] @ lines,
        flux_and_jacobian=lambda x: (
            first(x[:, :1]) - 2 * x[:, 1:] @ lines,
            torch.cat([slope(x[:, :1])[:, None], -2 * lines.expand(len(x), n - 1, 90)], dim=1),
        ),
    )


def linear(*more: float) -> SimpleNamespace:
    """The first line's depth is the label."""
    return model_of(lambda x: 1 - 2 * x * shape(30), lambda x: 0 * x - 2 * shape(30), *more)


def fit_both(models, flux, first, starts, threshold, **more):
    """The single fits, and what the composite ones gain."""
    ivar, options = np.full(flux.shape, SNR**2), more.pop("options", AT_REST)
    single = fit_labels(models[0], flux, ivar, start=first, options=options, **more)
    return fit_composite(
        models, flux, ivar, single=single, starts=starts, threshold=threshold, options=options,
        **more,
    )  # fmt: skip


def without(labels):
    return np.stack([labels, 0 * labels], axis=2)


def test_shared_noise_makes_no_more_companions_than_white_noise():
    """Each pixel is half its neighbour's; what a line gains by chance is the square of a normal."""
    n, models = 3000, (linear(), linear(60))
    depths = np.full((n, 1), 0.5)
    white = np.random.default_rng(3).standard_normal((n, 91))
    noise = (white[:, 1:] + white[:, :-1]) / np.sqrt(2)
    flux = models[0].forward_scaled(torch.tensor(depths / 2).float()).numpy() + noise / SNR
    line = shape(60).numpy()
    excess = 1 + (line[1:] * line[:-1]).sum() / (line**2).sum()  # 1.94
    four = 0.0455  # of squares of normal numbers are above
    found = {
        name: fit_both(models, flux, depths, without, 4.0, noise_correlation=told)
        for name, told in (("untold", 1.0), ("told", np.tile([excess, 1.3], (n, 1))))
    }
    assert found["untold"].accepted.mean() > 3 * four
    assert found["told"].accepted.mean() == pytest.approx(four, abs=3 * np.sqrt(four / n))
    told, untold = found["told"], found["untold"]
    np.testing.assert_allclose(told.gain, untold.gain / excess, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(told.composite.chi2, untold.composite.chi2, rtol=1e-3)
    ratio = told.composite.label_err / untold.composite.label_err
    np.testing.assert_allclose(ratio, np.sqrt(excess), rtol=1e-3)


def test_a_single_fit_that_stopped_at_a_lesser_optimum_is_no_companion():
    """A line of depth 4 (x - 0.1)^2, and a weak one that knows on which side of 0.1 x is."""

    def slope(x):
        return -8 * (x - 0.1) * shape(25) - 0.05 * shape(70)

    def first(x):
        return 1 - 4 * (x - 0.1) ** 2 * shape(25) - 0.05 * x * shape(70)

    models = model_of(first, slope), model_of(first, slope, 50.0)
    flux = models[0].forward_scaled(torch.tensor([[0.25]])).numpy()
    wrong = np.array([[-0.8]])

    def both_sides(labels):
        return np.stack([without(labels)[:, 0], without(0 * labels + 0.8)[:, 0]], axis=1)

    ivar = np.full(flux.shape, SNR**2)
    alone = fit_labels(models[0], flux, ivar, start=wrong, options=AT_REST)
    assert alone.labels[0, 0] == pytest.approx(-0.1, abs=0.02)
    assert alone.chi2[0] > 5
    found = fit_both(models, flux, wrong, both_sides, 4.0)
    assert found.single.labels[0, 0] == pytest.approx(0.5, abs=0.01)
    assert abs(found.gain[0]) < 0.1
    assert not found.accepted[0]


def test_the_rate_holds_for_stars_whose_searches_go_astray():
    """A line as deep as a sine of x, a weak one that knows in which turn: the pair's line is there.

    What a search in the wrong turn leaves of the weak line, a companion explains.
    """

    def first(x):
        return 1 - 0.3 * (1 + torch.sin(12 * x)) * shape(25) - 0.3 * (x + 0.5) * shape(60)

    def slope(x):
        return -3.6 * torch.cos(12 * x) * shape(25) - 0.3 * shape(60)

    models, n, rate = (model_of(first, slope), model_of(first, slope, 59.0)), 400, 0.05
    rng = np.random.default_rng(7)
    depths, ivar = rng.uniform(-0.9, 0.9, (2, n, 1)), np.full((n, 90), SNR**2)
    flux = models[0].forward_scaled(torch.tensor(depths[1] / 2).float()).numpy()
    flux = flux + rng.standard_normal(flux.shape) / SNR

    def middle(flux, ivar):
        return np.zeros((len(flux), 1))

    found = fit_both(models, flux, middle(flux, ivar), without, np.inf)
    share = {}
    for name, start in (("truth", lambda *_: depths[0]), ("stars", middle)):
        threshold = gain_threshold(
            models, ivar, depths[0], start=start, starts=without, rate=rate, options=AT_REST
        )
        share[name] = (found.gain > threshold).mean()
    assert share["truth"] > 4 * rate  # what goes astray passes for a companion
    # Both the threshold and the count are of n stars: 3 sigma of chance.
    assert abs(share["stars"] - rate) <= 3 * np.sqrt(2 * rate * (1 - rate) / n)


def test_a_gain_is_of_the_same_pixels():
    """The velocity that a fit begins with says which pixels at the edges count."""
    models = linear(), linear(60)
    flux = 1 - 0.5 * np.exp(-0.5 * ((PIXEL.numpy() - 33) / 2) ** 2)[np.newaxis]  # at 207 km/s
    flux[:, :12] += 5 / SNR
    found = fit_both(
        models, flux, np.full((1, 1), 0.5), without, 4.0, options=FitOptions(rv_range=300.0)
    )
    assert found.single.rv[0] == pytest.approx(207, abs=3)
    assert abs(found.gain[0]) < 1


def test_stars_without_a_single_fit_have_neither():
    models = linear(), linear(60)
    flux = models[1].forward_scaled(torch.tensor([[0.1, 0.1]] * 3)).numpy()
    flux[1] = np.nan
    found = fit_both(models, flux, np.full((3, 1), 0.2), without, 4.0)
    assert found.single.fitted.tolist() == [True, False, True]
    assert (found.composite.status == found.single.status)[1]
    assert found.accepted.tolist() == [True, False, True]
    assert found.gain[1] == 0


def test_a_composite_model_without_the_single_ones_labels_is_refused():
    models = linear(), linear(60)
    models[1].spec.labels = ("a", "two")
    with pytest.raises(ValueError, match=r"lacks labels of the single one: \['one'\]"):
        fit_both(models, np.ones((2, 90)), np.zeros((2, 1)), without, 4.0)
