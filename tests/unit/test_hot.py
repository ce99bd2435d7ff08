"""HotPayne and logarithmic labels: same borders, exact derivatives, the logarithm itself inside."""

import numpy as np
import pytest
import torch

from scalespec.models.base import EmulatorSpec
from scalespec.models.cannon import Cannon
from scalespec.models.hot import LABELS, HotPayne
from scalespec.models.logarithmic import Logarithmic
from scalespec.models.payne import Payne
from scalespec.models.regression import fit_pixels
from scalespec.store.model import load_model, save_model

SPEC = EmulatorSpec(
    "hot", ("logg", "teff", "vsini"), [2, 7e3, 0], [5, 3e4, 300], np.linspace(4000, 4100, 12)
)


def hot(dtype=torch.float64):
    model = HotPayne(SPEC, hidden=(9, 7), seed=3).to(dtype)
    with torch.no_grad():
        model.output.weight.normal_(generator=torch.Generator().manual_seed(1))
    return model.eval()


def scaled(n=40):
    rng = np.random.default_rng(5)
    return torch.from_numpy(rng.uniform(-0.5, 0.5, (n, 3)))


def test_the_axis_is_the_logarithm_of_the_physical_label():
    x = scaled()
    teff = SPEC.minimum[1] + (x[:, 1].numpy() + 0.5) * (SPEC.maximum[1] - SPEC.minimum[1])
    low, high = np.log10(7e3), np.log10(3e4)
    wanted = (np.log10(teff) - low) / (high - low) - 0.5
    bent = Logarithmic.of(SPEC, ["teff"])(x)
    np.testing.assert_allclose(bent[:, 1], wanted, atol=1e-12)  # float64
    assert torch.equal(bent[:, [0, 2]], x[:, [0, 2]])


def test_hotpayne_is_a_payne_of_log_teff():
    model, plain = hot(), Payne(SPEC, hidden=(9, 7)).double()
    plain.load_state_dict(model.state_dict())
    x = scaled()
    inside = Logarithmic.of(SPEC, ["teff"])(x)
    assert torch.equal(model.forward_scaled(x), plain.forward_scaled(inside))


@pytest.mark.parametrize("kind", ["hotpayne", "cannon"])
def test_derivatives_are_those_of_central_differences(kind):
    model = hot()
    if kind == "cannon":
        model = Cannon(SPEC, order=3, logarithmic=("teff",)).double()
        with torch.no_grad():
            model.output.weight.normal_(generator=torch.Generator().manual_seed(1))
    x, step = scaled(), 1e-5
    with torch.no_grad():
        flux, jacobian = model.flux_and_jacobian(x)
        features, slopes = model.features_and_jacobian(x)
        for k in range(3):
            move = torch.zeros(3, dtype=torch.float64)
            move[k] = step
            ends = model.forward_scaled(x + move), model.forward_scaled(x - move)
            wanted = (ends[0] - ends[1]) / (2 * step)
            # the third derivative times step²/6, and rounding over step: both below 1e-8
            np.testing.assert_allclose(jacobian[:, k], wanted, atol=1e-7)
            np.testing.assert_allclose(slopes[:, k] @ model.output.weight.T, wanted, atol=1e-7)
    assert torch.equal(flux, model.forward_scaled(x))
    assert features.shape == (40, model.output.in_features)


def test_beyond_the_box_nothing_is_nan():
    x = torch.tensor([[0.0, -3.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    flux, jacobian = hot().flux_and_jacobian(x)
    assert bool(torch.isfinite(flux).all() and torch.isfinite(jacobian).all())


def test_a_label_down_to_zero_has_no_logarithm():
    with pytest.raises(ValueError, match="vsini goes down to 0"):
        Logarithmic.of(SPEC, ["vsini"])


def test_hotpayne_wants_teff():
    spec = EmulatorSpec("hot", ("logg",), [2], [5], [4000.0, 4001.0])
    with pytest.raises(ValueError, match=r"\['teff'\] are no labels"):
        HotPayne(spec)


def test_all_eleven_labels_make_a_model():
    n = len(LABELS)
    spec = EmulatorSpec("hot", LABELS, np.full(n, 1.0), np.full(n, 2.0), [4000.0, 4001.0])
    assert HotPayne(spec, hidden=(4,)).flux_and_jacobian(torch.zeros(2, n))[1].shape == (2, n, 2)


@pytest.mark.parametrize(
    "model", [hot(torch.float32), Cannon(SPEC, logarithmic=("teff",))], ids=["hotpayne", "cannon"]
)
def test_a_stored_model_keeps_its_logarithm(model, tmp_path):
    save_model(str(tmp_path), model)
    again = load_model(str(tmp_path))
    assert type(again) is type(model)
    x = scaled().float()
    assert torch.equal(again.forward_scaled(x), model.forward_scaled(x))
    cut = again.slice_grid(2, 7)
    assert type(cut) is type(model)
    # another matrix product: sums in another order
    torch.testing.assert_close(cut.forward_scaled(x), again.forward_scaled(x)[:, 2:7])


def test_broadened_hotpayne_still_learns_log_teff():
    model = hot(torch.float32)
    blurred = model.broadened(1.0, resolving_power=1000.0)
    assert isinstance(blurred, HotPayne)
    x = scaled().float()
    assert torch.equal(blurred.features(x), model.features(x))


def test_a_line_that_follows_log_teff_is_learned_exactly():
    """A quadratic in log Teff over a factor of four, which no quadratic in Teff is."""
    x = scaled(200)
    spec = EmulatorSpec("line", SPEC.labels, SPEC.minimum, SPEC.maximum, [4000.0, 4001.0])
    bent = Logarithmic.of(spec, ["teff"])(x)
    flux = (0.8 - 0.3 * bent[:, 1] - 0.5 * bent[:, 1] ** 2 + 0.05 * x[:, 0])[:, None].repeat(1, 2)
    residual = []
    for inside in (bent, x):
        fit = fit_pixels(inside, flux, torch.full_like(flux, torch.inf))
        residual.append(float(fit.scatter.max()))
    # 1e-7: the root of the least variance that flux without noise is given
    assert residual[0] < 1.1e-7
    assert residual[1] > 1e-3
