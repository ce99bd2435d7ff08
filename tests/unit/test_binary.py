"""Two stars in one spectrum: the composite against a sum by hand, and when it is accepted."""

import runpy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from scalespec.models.binary import BinaryEmulator, MainSequence, composite_starts
from scalespec.optimize.composite import fit_composite, gain_threshold
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.result import FitResult, FitStatus
from scalespec.optimize.shift import C_KMS
from scalespec.optimize.start import ridge_start

_networks = runpy.run_path(str(Path(__file__).with_name("networks.py")))
small_payne = _networks["small_payne"]
STARTS = partial(composite_starts, q=(0.75,), dv=(-120.0, 120.0))


def models() -> tuple[torch.nn.Module, BinaryEmulator]:
    single = small_payne(n_pixel=900)
    sequence = MainSequence(
        mass=np.array([0.3, 0.6, 0.8, 1.0, 1.2]),
        teff=np.array([3500.0, 4200.0, 5000.0, 5700.0, 6200.0]),
        logg=np.array([3.98, 3.95, 3.9, 3.75, 3.6]),  # the network's box ends at 4
    )
    return single, BinaryEmulator(single, sequence, q_range=(0.5, 1.0), dv_kms=250.0)


def test_secondary_lies_on_the_main_sequence():
    _, binary = models()
    labels = torch.tensor([[5700.0, 3.4, -0.2, 0.1, 0.8, 0.0]]).double()
    second, area = binary.secondary(labels)
    torch.testing.assert_close(second, torch.tensor([[5000.0, 3.9, -0.2, 0.1]]).double())
    assert float(area) == pytest.approx(0.8 * 10 ** (3.4 - 3.9))


def test_the_secondary_stays_within_the_box_for_every_primary():
    single, binary = models()
    teff, logg, share = np.meshgrid(np.linspace(4000, 6000, 41), [0, 2, 4], np.linspace(0, 1, 11))
    rest = np.zeros((teff.size, 4))
    labels = np.column_stack([teff.ravel(), logg.ravel(), rest])
    low, high = binary.limits(labels)
    assert (low >= binary.spec.minimum).all()
    assert (high <= binary.spec.maximum).all()
    assert (low < high).all(axis=0)[:4].all()
    assert (low[:, 4] <= high[:, 4]).all()
    labels[:, 0] = labels[:, 0].clip(low[:, 0], high[:, 0])
    labels[:, 4] = low[:, 4] + share.ravel() * (high[:, 4] - low[:, 4])
    second, _ = binary.secondary(torch.tensor(labels))
    x = (second - single.minimum) / single.span - 0.5
    assert x.abs().max() <= 0.5 + 1e-9
    at_edge = labels[:, 4] == low[:, 4]
    cold = at_edge & (low[:, 4] > 0.5)  # the model's own least q is one half
    assert cold.sum() > 20
    np.testing.assert_allclose(second[cold, 0], 4000.0, atol=0.5)
    # A primary that the box knows but no main sequence of this mass has is none of a pair.
    assert low[0, 0] == pytest.approx(4000.0, abs=0.5)
    assert high[0, 0] == 6000.0


def test_a_companion_too_cold_for_the_model_ends_at_the_least_ratio_it_knows():
    """The model itself goes on to 3,500 K, which its network never saw."""
    single, binary = models()
    labels = np.array([[5000.0, 3.6, -0.2, 0.1, 0.5, 120.0]] * 6)
    flux = binary(torch.tensor(labels)).detach().numpy()
    ivar = np.full_like(flux, 100.0**2)
    flux = flux + np.random.default_rng(2).standard_normal(flux.shape) / 100
    options = FitOptions(rv_range=60.0)
    first = fit_labels(single, flux, ivar, start=labels[:, :4], options=options)
    found = fit_composite(
        (single, binary), flux, ivar, single=first, starts=STARTS, threshold=9.0, options=options
    )
    low, _ = binary.limits(first.labels)
    assert (low[:, 4] > 0.6).all()  # not 0.5
    made = found.composite
    assert (made.labels[:, 4] >= low[:, 4] - 1e-6).all()
    second, _ = binary.secondary(torch.tensor(made.labels).double())
    x = (second - single.minimum) / single.span - 0.5
    beyond = (x.abs() > 0.5 + 0.02).any(dim=1).numpy()
    flagged = made.status & np.uint32(FitStatus.OUT_OF_DOMAIN) != 0
    assert not (beyond & ~flagged).any()


def test_a_fit_that_ends_beyond_its_own_limits_is_flagged():
    single, binary = models()
    labels = np.array([[5000.0, 3.9, -0.2, 0.1, 0.8, 100.0]] * 2)
    flux = binary(torch.tensor(labels)).detach().numpy()
    ivar = np.full_like(flux, 100.0**2)
    options = FitOptions(rv_range=60.0)
    first = fit_labels(single, flux, ivar, start=labels[:, :4], options=options)

    def after(labels):
        low, high = inside(labels)
        low[:, 4] = 0.9 if labels.dtype == np.float32 else 0.5  # of what was fitted; of the starts
        return low, high

    inside, binary.limits = binary.limits, after
    found = fit_composite(
        (single, binary), flux, ivar, single=first, starts=STARTS, threshold=9.0, options=options
    )
    assert (found.composite.labels[:, 4] < 0.88).all()
    assert (found.composite.status & np.uint32(FitStatus.OUT_OF_DOMAIN) != 0).all()


def test_a_sequence_outside_the_models_box_is_refused():
    sequence = MainSequence(np.array([0.5, 1.0]), np.array([4e3, 6e3]), np.array([4.7, 4.4]))
    with pytest.raises(ValueError, match="no star of the main sequence has teff in"):
        BinaryEmulator(small_payne(), sequence)


def test_composite_is_the_sum_of_two_black_bodies_with_lines():
    single, binary = models()
    labels = torch.tensor([[5700.0, 3.9, -0.2, 0.1, 0.8, 138.0]]).double()
    flux = binary(labels)[0].detach().double().numpy()
    second, area = binary.secondary(labels)
    with torch.no_grad():
        bright, faint = (single(x).double()[0].numpy() for x in (labels[:, :4], second))
    step = 1e-4 * np.log(10)
    pixels = np.arctanh(138.0 / C_KMS) / step  # 1.999
    wavelength = binary.spec.wavelength
    planck = lambda t: 1 / np.expm1(1.438776877e8 / (wavelength * t))  # noqa: E731
    light = float(area) * planck(5000.0) / planck(5700.0)
    moved = np.interp(np.arange(900) - pixels, np.arange(900), faint)
    wanted = (bright + light * moved) / (1 + light)
    assert np.abs(flux - wanted)[5:-5].max() < 1e-3  # a thousandth of a pixel
    assert 0.02 < light.mean() < 0.7


def test_derivatives_equal_finite_differences():
    single, binary = models()
    single.double()
    binary.double()
    x = torch.tensor([[0.1, 0.3, 0.0, 0.1, 0.12, 0.21], [0.2, 0.4, -0.2, 0.0, -0.3, -0.4]]).double()
    _, jacobian = binary.flux_and_jacobian(x)
    for k in range(6):
        move = torch.zeros(6).double()
        move[k] = 1e-6
        with torch.no_grad():
            slope = (binary.forward_scaled(x + move) - binary.forward_scaled(x - move)) / 2e-6
        torch.testing.assert_close(jacobian[:, k], slope, atol=1e-6, rtol=1e-5)


def test_a_model_without_gravity_cannot_be_two_stars():
    sequence = MainSequence(np.array([0.5, 1.0]), np.array([4e3, 6e3]), np.array([4.7, 4.4]))
    thin = small_payne(n_label=1)
    with pytest.raises(ValueError, match="want a continuum-normalized model of teff and logg"):
        BinaryEmulator(thin, sequence)
    with pytest.raises(ValueError, match="wants mass to increase"):
        MainSequence(np.array([1.0, 0.5]), np.array([4e3, 6e3]), np.array([4.7, 4.4]))


@pytest.mark.parametrize("n", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_binaries_are_told_from_singles_at_the_stated_rate(n: int):
    """The threshold comes from mocks of its own; singles and binaries are others."""
    single, binary = models()
    rng, snr, rate = np.random.default_rng(11), 100.0, max(0.05, 1 / n)
    teff = rng.uniform(5200, 5900, n)
    labels = np.column_stack([teff, rng.uniform(3.6, 3.95, n), rng.uniform(-1, 0.3, n),
                              rng.uniform(-0.2, 0.2, n)])  # fmt: skip
    options = FitOptions(rv_range=60.0)
    ivar = np.full((n, 900), snr**2, np.float32)
    both, start = (single, binary), ridge_start(single).apply
    threshold = gain_threshold(
        both, ivar, labels, start=start, starts=STARTS, rate=rate, seed=1, options=options
    )
    assert 1 < threshold < 60  # two more parameters
    pair = np.column_stack([labels, rng.uniform(0.7, 0.95, n), rng.choice([-1, 1], n) * 160.0])
    with torch.no_grad():
        clean = [single(torch.tensor(labels)).numpy(), binary(torch.tensor(pair)).numpy()]
    accepted = []
    for made in clean:
        flux = made + rng.standard_normal(made.shape) / snr
        first = fit_labels(single, flux, ivar, start=start(flux, ivar), options=options)
        found = fit_composite(
            both, flux, ivar, single=first, starts=STARTS, threshold=threshold, options=options
        )
        accepted.append(found.accepted.mean())
    # Both the threshold and the count are of n stars: 3 sigma of chance.
    assert accepted[0] <= rate + 3 * np.sqrt(2 * rate / n)
    assert accepted[1] > 0.8
    q_off = np.abs(found.composite.labels[found.accepted, 4] - pair[found.accepted, 4])
    assert np.median(q_off) < 0.1


def test_the_rate_holds_for_a_model_that_errs_itself():
    """Chi2 knows the model's scatter, and so must the mocks whose gains are the threshold."""
    single, binary = models()
    single.scatter.fill_(0.02)
    binary.scatter.fill_(0.02)
    n, snr, rate, options = 60, 100.0, 0.1, FitOptions(rv_range=60.0)
    rng, both = np.random.default_rng(5), (single, binary)
    labels = np.column_stack([rng.uniform(5200, 5900, n), rng.uniform(3.6, 3.95, n),
                              rng.uniform(-1, 0.3, n), rng.uniform(-0.2, 0.2, n)])  # fmt: skip
    ivar = np.full((n, 900), snr**2, np.float32)
    ivar[:, 100:110] = 0
    starts = partial(composite_starts, q=(0.75,), dv=(-90.0, 90.0))
    start = ridge_start(single).apply
    threshold = gain_threshold(
        both, ivar, labels, start=start, starts=starts, rate=rate, options=options
    )
    flux = single(torch.tensor(labels)).detach().numpy()
    flux += np.hypot(0.02, 1 / snr) * rng.standard_normal(flux.shape).astype(np.float32)
    first = fit_labels(single, flux, ivar, start=start(flux, ivar), options=options)
    found = fit_composite(
        both, flux, ivar, single=first, starts=starts, threshold=threshold, options=options
    )
    # Both the threshold and the count are of n stars: 3 sigma of chance.
    assert abs(found.accepted.mean() - rate) <= 3 * np.sqrt(2 * rate * (1 - rate) / n)


def test_a_rate_wants_as_many_mocks():
    single, binary = models()
    with pytest.raises(ValueError, match="wants at least 100 mocks, got 5"):
        gain_threshold(
            (single, binary), np.ones((5, 900)), np.zeros((5, 4)), rate=0.01, starts=STARTS,
            start=lambda flux, ivar: np.zeros((len(flux), 4)),
        )  # fmt: skip


def test_fits_of_other_stars_are_refused():
    both, ones = models(), np.ones((3, 900), np.float32)
    single = FitResult.empty(3, 4)
    with pytest.raises(ValueError, match="fits of 3 stars, but spectra of 2"):
        fit_composite(both, ones[:2], ones[:2], single=single, starts=STARTS, threshold=1.0)
