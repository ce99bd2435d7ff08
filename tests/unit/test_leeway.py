"""A model's common errors as labels with a prior."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from scalespec.config import TrainTable
from scalespec.errors import ModelError
from scalespec.models.base import EmulatorSpec
from scalespec.models.hot import HotPayne
from scalespec.models.leeway import REACH, with_leeway
from scalespec.models.payne import Payne
from scalespec.optimize.constraints import Constraints, Given
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.stages.leeway import learn_leeway
from scalespec.store.model import export_payne, load_model, save_model

_networks = runpy.run_path(str(Path(__file__).with_name("networks.py")))
small_payne = _networks["small_payne"]
SNR, N_PIXEL = 100.0, 600


def templates() -> np.ndarray:
    """Two errors that run along the whole spectrum, of 1 % of the flux: as large as the noise."""
    place = np.arange(N_PIXEL)
    return 0.01 * np.stack([np.sin(place / 9.0), np.cos(place / 31.0)])


def stars(model: Payne, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, flux with common errors and noise, and the flux less the model's."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-0.4, 0.4, (n, model.spec.n_label)).astype(np.float32)
    with torch.no_grad():
        clean = model.forward_scaled(torch.tensor(x)).numpy()
    wrong = rng.standard_normal((n, 2)) @ templates()
    noise = rng.standard_normal(clean.shape) / SNR
    flux = (clean + wrong + noise).astype(np.float32)
    return model.unscale(torch.tensor(x)).numpy(), flux, flux - clean


def test_errors_of_labels_are_honest_with_the_models_errors_as_labels():
    model = small_payne()
    ivar = np.full((300, N_PIXEL), SNR**2, np.float32)
    _, _, residual = stars(model, 300, 1)
    loose = with_leeway(model, torch.tensor(residual), torch.tensor(ivar), 2)
    assert float(loose.scatter.square().mean().sqrt()) < 2e-3  # the noise is none of the model's
    labels, flux, _ = stars(model, 300, 2)
    widths = []
    for one in (model, loose):
        fit = fit_labels(one, flux, ivar, options=FitOptions(rv_range=60.0))
        pulls = (fit.labels[:, :4] - labels) / fit.label_err[:, :4]
        widths.append(1.4826 * np.median(np.abs(pulls), axis=0))
    assert widths[0].max() > 1.3
    assert widths[1] == pytest.approx(1, abs=0.2)  # 300 stars: 0.06 of chance
    amplitudes = fit.labels[:, 4:]
    assert amplitudes.std(axis=0) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("kind", [Payne, HotPayne])
def test_a_model_with_leeway_is_a_model(kind, tmp_path):
    wavelength = 5000.0 + np.arange(40)
    spec = EmulatorSpec("toy", ("teff", "logg"), [7e3, 2.0], [2e4, 5.0], wavelength)
    model = kind(spec, hidden=(5, 4))
    residual = torch.randn(30, 40, generator=torch.Generator().manual_seed(0)) * 0.01
    made = with_leeway(model, residual, torch.full((30, 40), torch.inf), 3, growth=2.0)
    x = torch.tensor([[0.1, -0.2, 0.0, 0.0, 0.0], [0.1, -0.2, 0.1, -0.05, 0.2]])
    made.requires_grad_(False)
    flux, jacobian = made.flux_and_jacobian(x)
    torch.testing.assert_close(flux[:1], model.forward_scaled(x[:1, :2]).detach())
    for k in range(5):
        move = torch.zeros(5)
        move[k] = 1e-3
        slope = (made.forward_scaled(x + move) - made.forward_scaled(x - move)) / 2e-3
        torch.testing.assert_close(jacobian[:, k], slope, atol=2e-3, rtol=0)
    one_sigma = (made.forward_scaled(x + 0.5 / REACH) - made.forward_scaled(x))[0]
    assert float(one_sigma.square().mean().sqrt()) > 0.005
    save_model(str(tmp_path / "model"), made)
    again = load_model(str(tmp_path / "model"))
    assert torch.equal(again.forward_scaled(x), made.forward_scaled(x))
    assert again.spec.extra["prior"] == {f"leeway_{k}": [0.0, 1.0] for k in (1, 2, 3)}
    torch.testing.assert_close(made.slice_grid(5, 20).forward_scaled(x), flux[:, 5:20])


def test_a_prior_of_the_run_stands_before_the_models_own():
    model = small_payne()
    residual = torch.randn(30, N_PIXEL) * 0.01
    made = with_leeway(model, residual, torch.full((30, N_PIXEL), torch.inf), 2)
    given = Given.of(made, Constraints(), 3)
    assert given.precision[:, 4:] == pytest.approx(np.full((3, 2), (2 * REACH) ** 2))
    assert not given.precision[:, :4].any()
    nan = np.full(5, np.nan)
    tight = Constraints(prior_mean=np.append(nan, 1.0), prior_sigma=np.append(nan, 0.5))
    given = Given.of(made, tight, 3)
    assert given.mean[0, 4:] == pytest.approx([0.0, 0.1])
    assert given.precision[0, 4:] == pytest.approx([100.0, 400.0])


def test_leeway_wants_spectra_and_is_given_once(tmp_path):
    model = small_payne()
    residual, ivar = torch.randn(5, N_PIXEL), torch.ones(5, N_PIXEL)
    with pytest.raises(ValueError, match="more spectra than labels, got 5 for 5"):
        with_leeway(model, residual, ivar, 5)
    made = with_leeway(model, residual, ivar, 1)
    with pytest.raises(ValueError, match="has leeway already"):
        with_leeway(made, residual, ivar, 1)
    with pytest.raises(ValueError, match="leeway must leave a label of 1, got 1"):
        Payne(EmulatorSpec("toy", ("teff",), [4e3], [6e3], 5e3 + np.arange(9)), leeway=1)
    with pytest.raises(ModelError, match="knows no leeway"):
        export_payne(str(tmp_path / "x.npz"), made)


class _Part:
    """Spectra as a training store gives them."""

    def __init__(self, labels, flux, ivar):
        self.labels, self.flux, self.ivar = labels.astype(np.float32), flux, ivar
        self.rows = np.arange(len(labels))

    def read(self, which):
        nothing = np.zeros(len(which), np.float32)
        return self.labels[which], self.flux[which], self.ivar[which], nothing


def test_pixels_that_most_spectra_lack_have_leeway_too():
    model = small_payne()
    wave = torch.tensor(templates()[:1]).float()
    residual = torch.randn(60, 1, generator=torch.Generator().manual_seed(2)) * wave
    ivar = torch.full(residual.shape, torch.inf)
    ivar[:40, :100] = 0.0  # a median over all of them is 0
    made = with_leeway(model, residual, ivar, 1)
    column = made.output.weight[:, -1].detach()[:100].abs() / (2 * REACH)
    assert float(column.max()) > 0.002


def test_components_are_as_large_as_errors_of_stars_not_learned_from():
    model = small_payne()
    labels, flux, residual = stars(model, 200, 3)
    ivar = np.full(flux.shape, SNR**2, np.float32)
    by_heart = flux - 0.5 * residual  # as if the model had learned half of what it misses
    part, other = _Part(labels, by_heart, 4 * ivar), _Part(*stars(model, 80, 4)[:2], ivar[:80])
    made = learn_leeway(model, part, other, 2)
    columns = made.output.weight[:, -2:].detach().numpy() / (2 * REACH)
    wanted = np.linalg.svd(templates(), compute_uv=False)
    assert np.linalg.svd(columns, compute_uv=False) == pytest.approx(wanted, rel=0.2)
    few = _Part(labels[:3], by_heart[:3], ivar[:3])
    with pytest.raises(ModelError, match=r"train.leeway = 3: .* got 3 for 3"):
        learn_leeway(model, few, other, 3)


def test_a_run_file_asks_for_leeway_of_perceptrons_alone():
    assert TrainTable(labels=("teff",), library="x", leeway=4).leeway == 4
    with pytest.raises(ValueError, match="leeway is for model"):
        TrainTable(model="cannon", labels=("teff",), library="x", leeway=4)
