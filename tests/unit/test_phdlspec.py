"""The label transformer: many labels, exact derivatives, one linear layer last."""

import numpy as np
import pytest
import torch

from scalespec.models.base import EmulatorSpec
from scalespec.models.linear import smoothed_pixels
from scalespec.models.phdlspec import LabelTransformer
from scalespec.store.model import load_model, save_model

PIXELS = 90


def spec_of(n_label=35):
    names = tuple(f"l{k}" for k in range(n_label))
    grid = 10 ** (3.7 + 1e-4 * np.arange(PIXELS))
    return EmulatorSpec("toy", names, [0.0] * n_label, [1.0] * n_label, grid, 1800.0)


def made(n_label=35, **changes):
    sizes = {"width": 8, "layers": 2, "heads": 2, "features": 20} | changes
    return LabelTransformer(spec_of(n_label), seed=4, **sizes)


def stars(n=4, n_label=35):
    return torch.from_numpy(np.random.default_rng(0).uniform(-0.5, 0.5, (n, n_label)))


def test_jacobian_of_thirty_five_labels_is_that_of_differences():
    model, x, step = made().double(), stars(), 1e-5
    with torch.no_grad():
        flux, jacobian = model.flux_and_jacobian(x)
        torch.testing.assert_close(flux, model.forward_scaled(x))
        for k in (0, 17, 34):
            move = step * torch.nn.functional.one_hot(torch.tensor(k), 35)
            up, down = model.forward_scaled(x + move), model.forward_scaled(x - move)
            torch.testing.assert_close(
                jacobian[:, k], (up - down) / (2 * step), rtol=1e-6, atol=1e-9
            )
    assert float(jacobian.std(dim=(0, 2)).min()) > 1e-3  # every label matters


def test_labels_act_on_each_other():
    model, x = made(3).double(), stars(1, 3)
    with torch.no_grad():
        first = model.flux_and_jacobian(x)[1][:, 0]
        x[:, 2] += 0.3
        second = model.flux_and_jacobian(x)[1][:, 0]
    assert float((first - second).abs().max()) > 1e-3


def test_a_cut_grid_keeps_the_flux():
    model, x = made(3), stars(4, 3).float()
    part = model.slice_grid(10, 60)
    torch.testing.assert_close(part.forward_scaled(x), model.forward_scaled(x)[:, 10:60])
    assert part.spec.n_pixel == 50


def test_broadening_smooths_every_spectrum():
    model, x = made(3), stars(4, 3).float()
    blurred = model.broadened(1.5, resolving_power=1200.0)
    with torch.no_grad():
        wanted = smoothed_pixels(model.forward_scaled(x), 1.5)
        torch.testing.assert_close(blurred.forward_scaled(x), wanted, rtol=1e-5, atol=1e-5)
    assert blurred.spec.resolving_power == 1200.0


def test_a_stored_model_is_the_same_model(tmp_path):
    model, x = made(3), stars(4, 3).float()
    save_model(str(tmp_path / "m"), model)
    again = load_model(str(tmp_path / "m"))
    assert isinstance(again, LabelTransformer)
    assert torch.equal(again.forward_scaled(x), model.forward_scaled(x))


@pytest.mark.parametrize(
    ("change", "said"),
    [({"features": 0}, "features must be at least 1"), ({"heads": 3}, "heads must divide width")],
)
def test_sizes_that_make_no_sense_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        made(**change)
