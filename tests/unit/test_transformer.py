"""The wavelength-query transformer: exact derivatives in bounded memory, shifts, bfloat16, fits."""

import logging

import numpy as np
import pytest
import torch

from scalespec.models import transformer
from scalespec.models.base import EmulatorSpec, shift_flux
from scalespec.models.transformer import SpectrumTransformer
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.store.model import load_model, model_record, save_model

PIXELS = 120
GRID = 10 ** (3.7 + 1e-4 * np.arange(PIXELS))
LABELS = ("teff", "logg", "fe_h")
LOW, HIGH = np.array([4000.0, 0.0, -2.0]), np.array([6000.0, 4.0, 0.5])


def spec_of(grid=GRID):
    return EmulatorSpec("toy", LABELS, LOW, HIGH, grid, resolving_power=1800.0)


def made(grid=GRID, *, seed=3, **changes):
    """A transformer whose flux differs from pixel to pixel and star to star, as if trained."""
    sizes = {"width": 16, "layers": 2, "heads": 4, "tokens": 5, "waves": 24} | changes
    model = SpectrumTransformer(spec_of(grid), seed=seed, **sizes)
    with torch.no_grad():
        model.flux.weight.copy_(0.3 * torch.randn(1, 16, generator=torch.manual_seed(seed)))
    return model


def stars(n=5, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-0.4, 0.4, (n, 3))).float()


def flux_of(model, x):
    with torch.no_grad():
        return model.forward_scaled(x)


def test_untrained_flux_is_the_continuum():
    model = SpectrumTransformer(spec_of(), width=16, layers=1, heads=2, tokens=3, waves=8)
    assert torch.all(flux_of(model, stars()) == 1)


def test_flux_answers_to_every_label_and_wavelength():
    _, jacobian = made().flux_and_jacobian(stars())
    assert float(jacobian.detach().std(dim=2).min()) > 0.01


@pytest.mark.parametrize("kind", [{"tokens": 5}, {"tokens": 0}, {"tokens": 0, "encoder": 2}])
def test_jacobian_is_that_of_differences(kind):
    model, x, step = made(**kind).double(), stars().double(), 1e-5
    with torch.no_grad():
        flux, jacobian = model.flux_and_jacobian(x)
    torch.testing.assert_close(flux, flux_of(model, x))
    for k in range(3):
        move = step * torch.nn.functional.one_hot(torch.tensor(k), 3)
        slope = (flux_of(model, x + move) - flux_of(model, x - move)) / (2 * step)
        torch.testing.assert_close(jacobian[:, k], slope, rtol=1e-6, atol=1e-8)


def test_parts_of_the_grid_change_nothing(monkeypatch):
    model, x = made(), stars()
    with torch.no_grad():
        whole, jacobian = model.flux_and_jacobian(x)
    monkeypatch.setattr(transformer, "FLOATS_AT_ONCE", 5 * 4 * 16 * 16)  # 16 pixels of 5 stars
    with torch.no_grad():
        parts, jacobian_parts = model.flux_and_jacobian(x)
    # Matrix products of other sizes round otherwise.
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(jacobian_parts, jacobian, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(flux_of(model, x), whole, rtol=1e-5, atol=1e-5)


def test_memory_follows_the_part_not_the_grid(monkeypatch):
    grid = 10 ** (3.6 + 1e-5 * np.arange(6000))
    model, sizes = made(grid), []
    monkeypatch.setattr(transformer, "FLOATS_AT_ONCE", 5 * 4 * 16 * 100)
    model.inside.register_forward_hook(lambda _, args, out: sizes.append(out.shape[1]))
    x = stars().requires_grad_()
    flux = model.forward_scaled(x)
    held = flux.grad_fn
    assert max(sizes) == 100
    assert len(sizes) == 60
    gradient = torch.autograd.grad(flux.square().sum(), x)[0]
    assert len(sizes) == 120  # each part was made again: nothing of it had been kept
    with torch.no_grad():
        value, jacobian = model.flux_and_jacobian(x.detach())
    wanted = (2 * value[:, None] * jacobian).sum(2)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=0.05)  # sums of 6000 in float32
    assert held is not None


def test_a_cut_grid_keeps_the_flux():
    model = made()
    part = model.slice_grid(30, 90)
    torch.testing.assert_close(flux_of(part, stars()), flux_of(model, stars())[:, 30:90])
    assert part.spec.n_pixel == len(part.scatter) == 60


def test_any_grid_may_be_asked():
    """The wavelength is an input: on half-pixel steps the flux passes the same points."""
    model = made()
    with torch.no_grad():
        model.scatter.copy_(torch.linspace(0.001, 0.002, PIXELS))
    fine = 10 ** (3.7 + 0.5e-4 * np.arange(2 * PIXELS - 1))
    fine[-1] = GRID[-1]
    other = model.on_grid(fine)
    torch.testing.assert_close(
        flux_of(other, stars())[:, ::2], flux_of(model, stars()), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(other.scatter[::2], model.scatter)


def test_a_grid_beyond_what_was_learned_is_refused():
    with pytest.raises(ValueError, match="leave what was learned"):
        made().on_grid(GRID * 1.001)


def test_a_shift_asks_for_bluer_wavelengths():
    model, x = made(), stars()
    with torch.no_grad():
        moved = model.flux_at(x, torch.tensor([0.0, 1.0, -1.0, 0.5, -0.3]))
    rest = flux_of(model, x)
    torch.testing.assert_close(moved[0], rest[0])
    # One whole pixel to the red; the sinusoids' phases are float32.
    torch.testing.assert_close(moved[1, 1:], rest[1, :-1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved[2, :-1], rest[2, 1:], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(moved[3], rest[3], atol=1e-3)


def test_a_shift_agrees_with_interpolated_flux_where_that_is_smooth():
    model = made(periods=(20e-4, 0.03))  # no pattern shorter than 20 pixels
    x, shift = stars(), torch.full((5,), 0.4)
    with torch.no_grad():
        asked, interpolated = model.flux_at(x, shift), shift_flux(flux_of(model, x), shift)
    inner = slice(5, -5)
    torch.testing.assert_close(asked[:, inner], interpolated[:, inner], rtol=0, atol=3e-3)


def test_some_pixels_are_those_pixels():
    model, x, pixels = made(), stars(), torch.tensor([3, 50, 119])
    shift = torch.full((5,), 0.25)
    with torch.no_grad():
        torch.testing.assert_close(
            model.flux_at(x, shift, pixels), model.flux_at(x, shift)[:, pixels]
        )


def test_bfloat16_is_near_float32_and_leaves_derivatives_exact():
    model, x = made(), stars()
    with torch.no_grad():
        whole, jacobian = model.flux_and_jacobian(x)
        model.precision = "bfloat16"
        rough = model.forward_scaled(x)
        torch.testing.assert_close(model.flux_and_jacobian(x)[1], jacobian)
    assert model.precision == "bfloat16"
    assert rough.dtype == torch.float32
    error = float((rough - whole).square().mean().sqrt() / whole.std())
    assert 0 < error < 0.02  # 8 bits of mantissa, a few products in a row


def test_what_torch_cannot_compile_runs_as_it_is_and_says_so(monkeypatch, caplog):
    def broken(*_, **__):
        def fail(*_):
            raise RuntimeError("no C++ compiler")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    model = made()
    with caplog.at_level(logging.WARNING):
        assert model.compile_blocks() is False
    assert "toy runs uncompiled" in caplog.text
    assert "no C++ compiler" in caplog.text
    labels = model.unscale(stars())
    torch.testing.assert_close(
        model(labels).detach(), flux_of(model, stars()), rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow  # torch.compile takes half a minute
def test_compiled_blocks_give_the_same_flux_and_gradients():
    model, labels = made(), made().unscale(stars())
    pixels = torch.arange(7, 60)
    plain = model(labels, None, pixels)
    wanted = torch.autograd.grad(plain.square().sum(), model.parameters())
    assert model.compile_blocks()
    fast = model(labels, None, pixels)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad(fast.square().sum(), model.parameters())
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [{"tokens": 5}, {"tokens": 0, "encoder": 1}])
def test_a_stored_model_is_the_same_model(tmp_path, kind):
    model = made(**kind)
    with torch.no_grad():
        model.scatter.fill_(0.003)
    save_model(str(tmp_path / "m"), model)
    again = load_model(str(tmp_path / "m"))
    assert model_record(str(tmp_path / "m"))["model"] == "transformer"
    assert isinstance(again, SpectrumTransformer)
    assert torch.equal(flux_of(again, stars()), flux_of(model, stars()))
    assert torch.equal(again.scatter, model.scatter)


def test_labels_of_noisy_spectra_are_fitted():
    model, x = made(), stars(6, seed=4)
    labels = model.unscale(x).numpy()
    rng = np.random.default_rng(0)
    sigma = 0.002
    flux = flux_of(model, x).numpy() + sigma * rng.normal(size=(6, PIXELS)).astype(np.float32)
    ivar = np.full(flux.shape, sigma**-2, np.float32)
    start = np.clip(labels + 0.05 * (HIGH - LOW) * rng.choice([-1, 1], labels.shape), LOW, HIGH)
    fit = fit_labels(
        model, flux, ivar, start=start, rv_start=np.zeros(6), options=FitOptions(rv_range=50.0)
    )
    # The line velocity is a parameter too; the pull of a label is of order 1.
    error = np.sqrt(np.diagonal(fit.label_cov, axis1=1, axis2=2))[:, :3]
    assert np.abs((fit.labels - labels) / error).max() < 4.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"heads": 3}, "heads must divide width, got 3 and 16"),
        ({"waves": -1}, "waves must be at least 1, got -1"),
        ({"tokens": -1}, "must not be negative, got -1, 0"),
        ({"periods": (0.1, 0.01)}, "periods must rise"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        made(**change)


def test_broadening_is_refused_with_its_cure():
    with pytest.raises(ValueError, match="distil it into a Payne"):
        made().broadened(1.0, resolving_power=1200.0)
