"""What training is measured by, against sums by hand."""

import numpy as np
import pytest
import torch

from scalespec.models import validation
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.models.prior import gradient_prior
from scalespec.models.validation import Aim, emulate


class Line(Emulator):
    """One line whose depth is its label; `slope` says how much."""

    def __init__(self, slope: float = 1.0) -> None:
        wave = np.linspace(5000.0, 5040.0, 41)
        super().__init__(EmulatorSpec("line", ("depth",), [0.0], [1.0], wave))
        self.profile = slope * torch.exp(-0.5 * ((torch.arange(41.0) - 20) / 1.4) ** 2)

    def forward_scaled(self, x: torch.Tensor) -> torch.Tensor:
        return 1 - (x + 0.5) * self.profile.to(x)


def held(n=7, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = torch.tensor(rng.uniform(0.1, 0.9, (n, 1)), dtype=torch.float32)
    flux = Line()(labels) + torch.tensor(rng.normal(0, 0.02, (n, 41)), dtype=torch.float32)
    ivar = torch.tensor(rng.uniform(500, 5000, (n, 41)), dtype=torch.float32)
    ivar[:, 5] = 0
    flux[:, 5] = torch.nan
    return [labels, flux, ivar, torch.full((n,), shift)]


def by_hand(spectra, floor, model):
    """Weighted mean square of the residuals, pixel by pixel."""
    flux, ivar = (t.double().numpy() for t in spectra[1:3])
    made = model(spectra[0]).double().numpy()
    top = bottom = 0.0
    for row in range(len(flux)):
        for pixel in range(41):
            if ivar[row, pixel] > 0:
                weight = 1 / (1 / ivar[row, pixel] + floor**2)
                top += weight * (made[row, pixel] - flux[row, pixel]) ** 2
                bottom += weight
    return top / bottom


@pytest.mark.parametrize("rows", [1, 3, 1024])
def test_the_loss_is_the_weighted_mean_square_whatever_the_batches(rows, monkeypatch):
    monkeypatch.setattr(validation, "VALIDATION_ROWS", rows)
    spectra = held()
    loss, measured = Aim(spectra, 0.01, None).validate(Line(0.8))
    assert loss == pytest.approx(by_hand(spectra, 0.01, Line(0.8)), rel=1e-5)  # float32 sums
    assert measured == {"validation_rms": pytest.approx(np.sqrt(loss))}


def test_no_spectra_to_validate_on_are_no_loss():
    assert Aim(held(0), 0.01, None).validate(Line()) == (0.0, {"validation_rms": 0.0})


def test_variance_is_that_of_flux_over_stars():
    labels, flux, ivar, shift = held(400)
    flux[:, 5], ivar[:] = 1.0, 1e4
    found = Aim([labels, flux, ivar, shift], 0.01, None).variance
    assert found == pytest.approx(float(flux.double().var(0, correction=0).mean()), rel=1e-4)


def test_a_prior_adds_its_relative_error_in_the_unit_of_flux():
    model, spectra = Line(0.5), held(50)
    prior = gradient_prior(Line(1.0), torch.zeros(4, 1), strength=3.0)
    alone, _ = Aim(spectra, 0.01, None).validate(model)
    aim = Aim(spectra, 0.01, prior)
    loss, measured = aim.validate(model)
    # half of each gradient is missing: a quarter of their squares
    assert measured["gradient_error"] == pytest.approx(0.5, rel=1e-4)
    assert loss == pytest.approx(alone + 3.0 * 0.25 * aim.variance, rel=1e-4)


def test_lines_are_emulated_where_the_data_have_them():
    labels = torch.tensor([[0.7], [0.7]])
    made = emulate(Line(), labels, torch.tensor([0.0, 0.4]))
    x = torch.arange(41.0) - 20
    for row, shift in enumerate((0.0, 0.4)):
        expected = 1 - 0.7 * torch.exp(-0.5 * ((x - shift) / 1.4) ** 2)
        assert made[row].numpy() == pytest.approx(expected.numpy(), abs=3e-3)  # interpolation
    assert torch.equal(emulate(Line(), labels, torch.zeros(2)), Line()(labels))
