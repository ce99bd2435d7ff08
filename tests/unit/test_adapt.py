"""An emulator of theory, corrected by what it leaves of real stars."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scalespec.config import TrainTable
from scalespec.errors import ModelError
from scalespec.models.adapt import FEWEST, STRENGTHS, adapt
from scalespec.models.scatter import UNLEARNED
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.stages.adapting import Stars, adapted, described
from scalespec.stages.card import make_card
from scalespec.stages.emulators import Ready

_networks = runpy.run_path(str(Path(__file__).with_name("networks.py")))
small_payne, small_mocks = _networks["small_payne"], _networks["small_mocks"]
N_PIXEL, SNR = 600, 100.0
PRIOR = {"mg_fe": (0.0, 0.15)}


def table(**changed: object) -> TrainTable:
    """A run file's table that adapts to a catalog of three labels."""
    settings = {"catalog": "real", "labels": ("teff", "logg", "fe_h"), "adapt": "theory"}
    return TrainTable.model_validate(settings | {"prior": PRIOR} | changed)


def theory():
    """What is adapted, with the prior of the label that no catalog has."""
    model = small_payne()
    model.spec = described(model.spec, table())
    return model.requires_grad_(False)


def real_stars():
    """The truth: lines that theory lacks, and lines that know too much of temperature."""
    model = small_payne().requires_grad_(False)
    pixel = np.arange(N_PIXEL)
    lacking = 0.04 * np.exp(-0.5 * ((pixel % 37 - 18) / 1.5) ** 2)
    model.output.bias -= torch.tensor(lacking, dtype=torch.float32)
    model.output.weight *= 1.0 + 0.15 * torch.sin(torch.tensor(pixel / 40.0))[:, None].float()
    return model


def observed(n: int, seed: int, *, snr: float = SNR) -> tuple[Stars, np.ndarray]:
    """Real stars whose catalog does not know mg_fe, and all their labels."""
    mocks = small_mocks(real_stars(), n, snr=snr, seed=seed, rv=0.0)
    rng = np.random.default_rng(seed)
    labels = mocks["labels"].astype(np.float32)
    labels[:, 3] = 0.15 * rng.standard_normal(n)
    model = real_stars()
    with torch.no_grad():
        clean = model(torch.tensor(labels)).numpy()
    flux = (clean + rng.standard_normal(clean.shape) / snr).astype(np.float32)
    ivar = np.where(mocks["ivar"] > 0, snr**2, 0.0).astype(np.float32)
    known = labels.copy()
    known[:, 3] = np.nan
    return Stars(known, flux, ivar, np.zeros(n, np.float32)), labels


def left(
    model, stars: Stars, labels: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scaled labels, residuals and ivar."""
    x = model.scale(torch.tensor(labels))
    return x, torch.tensor(stars.flux) - model.forward_scaled(x), torch.tensor(stars.ivar)


def test_residuals_of_stars_held_out_are_those_of_fits_without_them():
    model = theory()
    stars, labels = observed(24, 1)
    x, residual, ivar = left(model, stars, labels)
    made, found = adapt(model, x, residual, ivar)
    rest = torch.arange(1, 24)
    # One star of 24 hardly moves weights and clips, which are those of all.
    without, _ = adapt(model, x[rest], residual[rest], ivar[rest])
    expected = torch.tensor(stars.flux[0]) - without.forward_scaled(x[:1])[0]
    used = ivar[0] > 0
    seen = (residual - (made.forward_scaled(x) - model.forward_scaled(x)))[0]
    near = (found.residual[0] - expected)[used].square().mean().sqrt()
    assert near < 0.35 * (seen - expected)[used].square().mean().sqrt()
    assert near < 0.1 * expected[used].square().mean().sqrt()


def test_stars_bring_theory_to_what_they_show_and_leave_what_they_do_not_know():
    model, truth = theory(), real_stars()
    stars, labels = observed(200, 2)
    made, found = adapt(model, *left(model, stars, labels))
    x = model.scale(torch.tensor(observed(100, 3)[1]))
    wrong = [(one.forward_scaled(x) - truth.forward_scaled(x)).std() for one in (model, made)]
    assert wrong[1] < 0.25 * wrong[0]
    assert found.strength < STRENGTHS[-1]
    # What is left of stars not learned from is the model's scatter: nearly nothing, but not less.
    assert float(made.scatter.median()) < 0.01


def test_noise_alone_teaches_next_to_nothing():
    model = theory()
    stars, labels = observed(60, 4)
    x, _, ivar = left(model, stars, labels)
    noise = torch.randn(ivar.shape, generator=torch.Generator().manual_seed(5)) / SNR
    made, found = adapt(model, x, noise, ivar)
    assert found.strength == STRENGTHS[-1]
    changed = (made.forward_scaled(x) - model.forward_scaled(x)).std()
    assert changed < 1.5 / SNR / np.sqrt(60)  # the mean's own chance
    assert float(made.scatter.median()) < 0.3 / SNR


def test_a_pixel_that_no_star_shows_stays_theory_and_says_nothing():
    model = theory()
    stars, labels = observed(40, 6)
    x, residual, ivar = left(model, stars, labels)
    ivar[:, 100:110] = 0.0
    residual[:, 100:110] = torch.nan
    made, found = adapt(model, x, residual, ivar)
    torch.testing.assert_close(made.output.weight[100:110], model.output.weight[100:110])
    assert float(made.scatter[100:110].min()) == UNLEARNED
    assert bool(made.output.weight.isfinite().all())
    assert bool(found.residual.isfinite().all())


def test_too_few_stars_and_other_shapes_are_refused():
    model = theory()
    stars, labels = observed(FEWEST, 7)
    x, residual, ivar = left(model, stars, labels)
    with pytest.raises(ValueError, match="9 stars are too few"):
        adapt(model, x[1:], residual[1:], ivar[1:])
    with pytest.raises(ValueError, match="should be of 10 stars and 600 pixels"):
        adapt(model, x, residual[:, 1:], ivar[:, 1:])


def test_labels_that_no_catalog_knows_are_found_on_the_way():
    stars, _ = observed(250, 8)
    made = adapted(Ready(theory(), None), stars)
    rms = [row["validation_rms"] for row in made.history]
    assert rms[0] > 0.01
    assert rms[-1] < 0.3 * rms[0]
    new, labels = observed(200, 9)
    wrong = []
    for model in (theory(), made.model):
        fit = fit_labels(model, new.flux, new.ivar, options=FitOptions(rv_range=30.0))
        wrong.append(np.abs(fit.labels - labels).mean(axis=0)[:3])
    assert np.all(wrong[1] < 0.7 * wrong[0])
    # The zero point of a label that no catalog knows is its prior's.
    assert abs(np.median(fit.labels[:, 3] - labels[:, 3])) < 0.04
    assert np.std(fit.labels[:, 3] - labels[:, 3]) < 0.03
    pulls = ((fit.labels - labels) / fit.label_err)[:, :3]
    assert 1.4826 * np.median(np.abs(pulls), axis=0) == pytest.approx(1, abs=0.35)


def test_a_star_whose_velocity_is_wrong_is_not_learned_from():
    stars, _ = observed(60, 10)
    far = np.roll(stars.flux, 2, axis=1)
    mixed = replace(stars, flux=np.where(np.arange(60)[:, None] < 5, far, stars.flux))
    made = adapted(Ready(theory(), None), mixed)
    assert len(made.found.residual) == 55


def test_the_card_measures_the_labels_that_are_known():
    stars, _ = observed(60, 11)

    class Held:
        labels, rows = stars.labels, np.arange(60)

        def read(self, which):
            return stars.labels[which], stars.flux[which], stars.ivar[which], np.zeros(len(which))

    card = make_card(real_stars(), Held(), Held(), "toy")
    (row,) = card["errors_by_snr"]
    assert set(row) >= {"teff", "logg", "fe_h"}
    assert "mg_fe" not in row
    assert "not known" in card["domain"]["no_mahalanobis"]


def test_a_label_that_theory_lacks_is_named():
    with pytest.raises(ModelError, match=r"theory: it has no label \['vsini'\]"):
        described(small_payne().spec, table(prior={"vsini": (5.0, 2.0)}))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"catalog": "", "library": "lib"}, "adapt wants a catalog"),
        ({"model": "cannon"}, "adapt wants a catalog, and model = 'payne'"),
        ({"prior": {"teff": (5000, 100)}}, r"prior names \['teff'\], which the catalog knows"),
        ({"prior": {"vsini": (5.0, -2.0)}}, "prior.vsini.1\n.*should be greater than 0"),
        ({"prior": {"vsini": (5.0, np.inf)}}, "prior.vsini.1\n.*should be a finite number"),
        ({"adapt": ""}, "prior is of labels that an emulator to adapt has"),
        ({"search": {"trials": 2, "choices": {"hidden": [8]}}}, "of which adapt has none"),
    ],
)
def test_settings_that_go_ill_together_are_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        table(**changed)
