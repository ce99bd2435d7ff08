"""The Payne: its formula, its Jacobian, cutting and broadening, and reproducible first weights."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.models.payne import Payne

N_LABEL, N_PIXEL = 4, 90


def spec():
    return EmulatorSpec(
        "toy",
        ("teff", "logg", "fe_h", "mg_fe"),
        np.array([4000.0, 0, -2, -0.5]),
        np.array([6000.0, 5, 0.5, 0.5]),
        10 ** (3.6 + 1e-4 * np.arange(N_PIXEL)),
        resolving_power=3000.0,
    )


def payne(**options):
    options = {"hidden": (20, 15), "seed": 5} | options
    return Payne(spec(), **options).double()


@pytest.fixture(params=["silu", "leaky_relu"])
def model(request):
    return payne(activation=request.param, slope=0.07)


def x_of(n, seed=0):
    return torch.tensor(np.random.default_rng(seed).uniform(-0.5, 0.5, (n, N_LABEL)))


def test_flux_is_the_plain_formula(model):
    x = x_of(6)
    act = {
        "silu": lambda z: z / (1 + np.exp(-z)),
        "leaky_relu": lambda z: np.where(z > 0, z, 0.07 * z),
    }[model.activation]
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    a = x.numpy()
    for i in range(2):
        a = act(a @ state[f"hidden.{i}.weight"].T + state[f"hidden.{i}.bias"])
    wanted = a @ state["output.weight"].T + state["output.bias"]
    np.testing.assert_allclose(model.forward_scaled(x).detach().numpy(), wanted, rtol=1e-12)


def test_forward_takes_physical_labels(model):
    x = x_of(3)
    torch.testing.assert_close(model(model.unscale(x)), model.forward_scaled(x))


def test_jacobian_is_that_of_automatic_differentiation(model):
    x = x_of(7)
    flux, jacobian = model.flux_and_jacobian(x)
    wanted_flux, wanted = Emulator.flux_and_jacobian(model, x)
    torch.testing.assert_close(flux, wanted_flux)
    torch.testing.assert_close(jacobian, wanted)
    assert jacobian.shape == (7, N_LABEL, N_PIXEL)


def test_jacobian_is_that_of_finite_differences():
    model = payne()
    x, step = x_of(5), 1e-5
    _, jacobian = model.flux_and_jacobian(x)
    for k in range(N_LABEL):
        move = torch.zeros(N_LABEL, dtype=torch.float64)
        move[k] = step
        difference = model.forward_scaled(x + move) - model.forward_scaled(x - move)
        # step**2 times third derivatives of order 1, and rounding 1e-16 / step
        torch.testing.assert_close(jacobian[:, k], difference / (2 * step), rtol=0, atol=1e-9)


def test_jacobian_can_be_trained_on():
    model = payne()
    model.flux_and_jacobian(x_of(3))[1].square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "weight" in n)


def test_jacobian_in_float32_is_good_to_rounding():
    model = payne()
    exact = model.flux_and_jacobian(x_of(5))[1]
    single = model.float().flux_and_jacobian(x_of(5).float())[1]
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-5)


def test_slice_is_the_same_pixels(model):
    model.scatter.copy_(torch.arange(N_PIXEL))
    part = model.slice_grid(10, 35)
    x = x_of(4)
    torch.testing.assert_close(part.forward_scaled(x), model.forward_scaled(x)[:, 10:35])
    torch.testing.assert_close(part.scatter, model.scatter[10:35])
    np.testing.assert_array_equal(part.spec.wavelength, model.spec.wavelength[10:35])
    with torch.no_grad():
        part.output.bias.zero_()
    assert model.output.bias.abs().min() > 0


def test_broadened_is_the_filtered_flux(model):
    blurred = model.broadened(1.7, resolving_power=1500.0)
    x = x_of(4)
    wanted = gaussian_filter1d(
        model.forward_scaled(x).detach().numpy(), 1.7, axis=1, mode="nearest", truncate=5.2
    )
    np.testing.assert_allclose(blurred.forward_scaled(x).detach().numpy(), wanted, rtol=1e-9)
    assert blurred.spec.resolving_power == 1500.0


def test_one_seed_is_one_model_and_leaves_the_callers_random_numbers():
    torch.manual_seed(1)
    first = payne(seed=3).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == drawn
    again, other = payne(seed=3).state_dict(), payne(seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["output.weight"], other["output.weight"])


def test_options_build_the_model_anew(model):
    twin = Payne(model.spec, **model.options).double()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.forward_scaled(x_of(2)), model.forward_scaled(x_of(2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": ()}, r"positive, got \(\)"),
        ({"hidden": (300, 0)}, r"positive, got \(300, 0\)"),
        ({"activation": "relu"}, "got 'relu'"),
    ],
)
def test_payne_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        payne(**options)
