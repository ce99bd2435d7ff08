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
from scalespec.optimize.result import FitResult
from scalespec.optimize.shift import C_KMS

_networks = runpy.run_path(str(Path(__file__).with_name("networks.py")))
small_payne = _networks["small_payne"]
STARTS = partial(composite_starts, q=(0.6, 0.9), dv=(-120.0, 0.0, 120.0))


def models() -> tuple[torch.nn.Module, BinaryEmulator]:
    single = small_payne(n_pixel=900)
    sequence = MainSequence(
        mass=np.array([0.3, 0.6, 0.8, 1.0, 1.2]),
        teff=np.array([3500.0, 4200.0, 5000.0, 5700.0, 6200.0]),
        logg=np.array([4.9, 4.7, 4.6, 4.45, 4.3]),
    )
    return single, BinaryEmulator(single, sequence, q_range=(0.5, 1.0), dv_kms=250.0)


def test_secondary_lies_on_the_main_sequence():
    _, binary = models()
    labels = torch.tensor([[5700.0, 3.9, -0.2, 0.1, 0.8, 0.0]]).double()
    second, area = binary.secondary(labels)
    torch.testing.assert_close(second, torch.tensor([[5000.0, 4.6, -0.2, 0.1]]).double())
    assert float(area) == pytest.approx(0.8 * 10 ** (3.9 - 4.6))


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
    assert 0.02 < light.mean() < 0.5


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
    both = (single, binary)
    threshold = gain_threshold(
        both, ivar, labels, starts=STARTS, rate=rate, seed=1, options=options
    )
    assert 1 < threshold < 60  # two more parameters
    pair = np.column_stack([labels, rng.uniform(0.7, 0.95, n), rng.choice([-1, 1], n) * 160.0])
    with torch.no_grad():
        clean = [single(torch.tensor(labels)).numpy(), binary(torch.tensor(pair)).numpy()]
    accepted = []
    for made in clean:
        flux = made + rng.standard_normal(made.shape) / snr
        first = fit_labels(single, flux, ivar, start=labels, options=options)
        found = fit_composite(
            both, flux, ivar, single=first, starts=STARTS, threshold=threshold, options=options
        )
        accepted.append(found.accepted.mean())
    # Both the threshold and the count are of n stars: 3 sigma of chance.
    assert accepted[0] <= rate + 3 * np.sqrt(2 * rate / n)
    assert accepted[1] > 0.8
    q_off = np.abs(found.composite.labels[found.accepted, 4] - pair[found.accepted, 4])
    assert np.median(q_off) < 0.1


def test_a_rate_wants_as_many_mocks():
    single, binary = models()
    with pytest.raises(ValueError, match="wants at least 100 mocks, got 5"):
        gain_threshold(
            (single, binary), np.ones((5, 900)), np.zeros((5, 4)), starts=STARTS, rate=0.01
        )


def test_fits_of_other_stars_are_refused():
    both, ones = models(), np.ones((3, 900), np.float32)
    single = FitResult.empty(3, 4)
    with pytest.raises(ValueError, match="fits of 3 stars, but spectra of 2"):
        fit_composite(both, ones[:2], ones[:2], single=single, starts=STARTS, threshold=1.0)
