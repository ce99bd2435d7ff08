"""The loss: what it weighs, what it leaves out, and that it is never NaN."""

import numpy as np
import pytest
import torch

from scalespec.models.loss import emulator_loss, pixel_weight

FLOOR = 0.01


def some(n=3, pixels=5, seed=0):
    rng = np.random.default_rng(seed)
    prediction = torch.tensor(rng.uniform(0.5, 1, (n, pixels)), requires_grad=True)
    flux = torch.tensor(rng.uniform(0.5, 1, (n, pixels)))
    return prediction, flux, torch.tensor(rng.uniform(1e2, 1e5, (n, pixels)))


def test_loss_is_the_plain_sum():
    prediction, flux, ivar = some()
    total = weights = 0.0
    for p, f, w in zip(prediction.detach().ravel(), flux.ravel(), ivar.ravel(), strict=True):
        weight = 1 / (1 / float(w) + FLOOR**2)
        total, weights = total + weight * float(p - f) ** 2, weights + weight
    assert float(emulator_loss(prediction, flux, ivar, FLOOR)) == pytest.approx(total / weights)


@pytest.mark.parametrize("junk", [0.0, 1e30, float("nan"), float("inf")])
def test_pixels_without_information_count_for_nothing(junk):
    prediction, flux, ivar = some()
    hidden = torch.zeros_like(ivar, dtype=torch.bool)
    hidden[0, 1] = hidden[2] = True
    flux, ivar = torch.where(hidden, junk, flux), torch.where(hidden, 0.0, ivar)
    loss = emulator_loss(prediction, flux, ivar, FLOOR)
    loss.backward()
    keep = ~hidden
    alone = emulator_loss(prediction[keep][None], flux[keep][None], ivar[keep][None], FLOOR)
    torch.testing.assert_close(loss, alone)
    assert torch.all(prediction.grad[hidden] == 0)
    assert torch.all(torch.isfinite(prediction.grad))


@pytest.mark.parametrize("ivar", [0.0, -1.0, float("nan")])
def test_a_batch_without_information_has_no_loss_and_no_gradient(ivar):
    prediction, flux, like = some()
    loss = emulator_loss(prediction, flux, torch.full_like(like, ivar), FLOOR)
    loss.backward()
    assert float(loss) == 0
    assert torch.all(prediction.grad == 0)


def test_weights_of_bright_stars_level_off_at_the_floor():
    ivar = torch.tensor([20.0**2, 200.0**2, 2000.0**2, torch.inf])
    weight = pixel_weight(ivar, FLOOR)
    np.testing.assert_allclose(weight, 1 / (1 / ivar + FLOOR**2), rtol=1e-6)
    assert weight[1] / weight[0] < 25  # instead of 100
    assert weight[3] == pytest.approx(1 / FLOOR**2)


def test_loss_does_not_depend_on_the_unit_of_weight():
    prediction, flux, ivar = some()
    noiseless = torch.full_like(ivar, torch.inf)
    loss = emulator_loss(prediction, flux, noiseless, FLOOR)
    torch.testing.assert_close(loss, (prediction - flux).square().mean())


@pytest.mark.parametrize("floor", [0.0, -0.1, float("nan")])
def test_the_floor_must_be_positive(floor):
    with pytest.raises(ValueError, match="scatter_floor must be positive, got"):
        emulator_loss(*some(), floor)
