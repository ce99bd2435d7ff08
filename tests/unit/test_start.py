"""First estimates: better than the box's middle, in the box, and the same every time."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from scalespec.optimize.fit import fit_labels
from scalespec.optimize.objective import Smoother
from scalespec.optimize.shift import Shift, log_step
from scalespec.optimize.start import (
    RidgeStart,
    best_start,
    ridge_start,
    start_of_kind,
    templates,
)

N_PIXEL, N_LABEL = 400, 3


class Lines:
    """Saturating lines of 4 pixels whose ln(opacity) is linear in the labels."""

    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        offset = np.arange(N_PIXEL) - rng.uniform(0, N_PIXEL, (50, 1))
        self.profiles = torch.tensor(np.exp(-0.5 * (offset / 1.7) ** 2)).float()
        self.strength = torch.tensor(rng.normal(-1.0, 0.7, 50)).float()
        self.response = torch.tensor(rng.normal(0, [1.5, 0.8, 0.4], (50, N_LABEL))).float()
        self.scatter = torch.zeros(N_PIXEL)
        self.spec = SimpleNamespace(
            labels=("teff", "logg", "fe_h"),
            minimum=np.array([4000.0, 0.0, -2.0]),
            maximum=np.array([6000.0, 4.0, 0.5]),
            wavelength=10 ** (3.7 + 1e-4 * np.arange(N_PIXEL)),
        )

    def forward_scaled(self, x: Tensor) -> Tensor:
        return torch.exp(-torch.exp(self.strength + x @ self.response.T) @ self.profiles)

    def flux_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        opacity = torch.exp(self.strength + x @ self.response.T)
        flux = torch.exp(-opacity @ self.profiles)
        return flux, -flux[:, None] * ((opacity[:, None] * self.response.T) @ self.profiles)

    def physical(self, x: np.ndarray) -> np.ndarray:
        return self.spec.minimum + (x + 0.5) * (self.spec.maximum - self.spec.minimum)


MODEL = Lines()
WIDTH = MODEL.spec.maximum - MODEL.spec.minimum


def mocks(n: int, *, snr: float = 50.0, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flux, ivar and labels; 5 % of the pixels are masked and hold rubbish."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-0.5, 0.5, (n, N_LABEL)).astype(np.float32)
    flux = MODEL.forward_scaled(torch.tensor(x)).numpy() + rng.normal(0, 1 / snr, (n, N_PIXEL))
    ivar = np.where(rng.random(flux.shape) < 0.05, 0, snr**2).astype(np.float32)
    flux[ivar == 0] = -99
    return flux.astype(np.float32), ivar, MODEL.physical(x)


@pytest.fixture(scope="module")
def ridge() -> RidgeStart:
    return ridge_start(MODEL, n_draws=2048)


@pytest.mark.parametrize(
    ("snr", "worst"),
    [
        (100.0, 0.03),  # of the box; the middle of the box is wrong by 0.29
        (50.0, 0.04),
        (10.0, 0.15),
    ],
)
def test_ridge_finds_labels_to_a_part_of_the_box(ridge: RidgeStart, snr: float, worst: float):
    flux, ivar, labels = mocks(500, snr=snr)
    error = (ridge.apply(flux, ivar) - labels) / WIDTH
    assert np.sqrt((error**2).mean(axis=0)).max() < worst


def test_ridge_bears_half_a_pixel_of_velocity(ridge: RidgeStart):
    flux, ivar, labels = mocks(300, snr=200.0)
    moved = 0.5 * (flux + np.roll(flux, 1, axis=1))  # half a pixel, and blurred for it
    used = (ivar > 0) & (np.roll(ivar, 1, axis=1) > 0)
    error = (ridge.apply(moved, np.where(used, ivar, 0)) - labels) / WIDTH
    assert np.sqrt((error**2).mean(axis=0)).max() < 0.06


def test_ridge_stays_in_the_box_whatever_comes(ridge: RidgeStart):
    rng = np.random.default_rng(0)
    flux = rng.normal(0, 1e4, (20, N_PIXEL)).astype(np.float32)
    flux[3] = np.nan
    flux[4, ::2] = np.inf
    ivar = np.ones_like(flux)
    ivar[5] = 0
    labels = ridge.apply(flux, ivar)
    assert labels.dtype == np.float32
    assert (labels >= MODEL.spec.minimum - 1e-3).all()
    assert (labels <= MODEL.spec.maximum + 1e-3).all()
    # Without information: the same for all, near the middle.
    np.testing.assert_allclose(labels[3], labels[5])
    assert (np.abs(labels[5] - MODEL.physical(np.zeros(3))) < 0.25 * WIDTH).all()


def test_ridge_does_not_depend_on_the_other_rows(ridge: RidgeStart):
    flux, ivar, _ = mocks(300)
    together, alone = ridge.apply(flux, ivar), ridge.apply(flux[280:281], ivar[280:281])
    np.testing.assert_allclose(together[280:281], alone, rtol=1e-5)
    assert ridge.apply(flux[:0], ivar[:0]).shape == (0, N_LABEL)


def test_ridge_is_the_same_for_the_same_seed_and_travels(ridge: RidgeStart):
    flux, ivar, _ = mocks(10)
    again = ridge_start(MODEL, n_draws=2048)
    np.testing.assert_array_equal(again.apply(flux, ivar), ridge.apply(flux, ivar))
    travelled = pickle.loads(pickle.dumps(ridge))
    np.testing.assert_array_equal(travelled.apply(flux, ivar), ridge.apply(flux, ivar))
    other = ridge_start(MODEL, n_draws=2048, seed=1)
    assert not np.array_equal(other.apply(flux, ivar), ridge.apply(flux, ivar))


def test_ridge_shortens_the_fit_and_keeps_its_optimum(ridge: RidgeStart):
    flux, ivar, _ = mocks(200, snr=100.0)
    middle = fit_labels(MODEL, flux, ivar)
    quick = fit_labels(MODEL, flux, ivar, start=ridge.apply(flux, ivar))
    assert quick.n_steps.mean() < middle.n_steps.mean()
    inside = (middle.status == 0) & (quick.status == 0)
    assert inside.mean() > 0.8
    moved = ((quick.labels - middle.labels) / middle.label_err)[inside]
    assert np.abs(moved).max() < 0.05  # both stop at 0.01 of chi2


def test_ridge_learns_spectra_normalized_as_the_data():
    distance = np.subtract.outer(np.arange(N_PIXEL), np.arange(N_PIXEL))
    kernel = np.exp(-0.5 * (distance / 25.0) ** 2)
    tile = SimpleNamespace(
        out_start=0, out_stop=N_PIXEL, in_start=0, in_stop=N_PIXEL, matrix=kernel
    )
    smoothing = Smoother([tile], MODEL.scatter)
    flux, ivar, labels = mocks(300, snr=100.0)
    mask = ivar > 0
    continuum = (np.where(mask, flux, 0) @ kernel) / (mask @ kernel)
    ridge = ridge_start(MODEL, n_draws=2048, smoothing=smoothing)
    error = (ridge.apply(flux / continuum, ivar * continuum**2) - labels) / WIDTH
    assert np.sqrt((error**2).mean(axis=0)).max() < 0.06


def test_templates_are_spectra_of_their_labels():
    flux, labels = templates(MODEL, 12)
    x = ((labels - MODEL.spec.minimum) / WIDTH - 0.5).astype(np.float32)
    assert flux.shape == (12, N_PIXEL)
    np.testing.assert_allclose(flux, MODEL.forward_scaled(torch.tensor(x)).numpy(), atol=1e-5)
    assert len(np.unique(labels, axis=0)) == 12


def test_templates_stand_nearer_to_all_spectra_than_random_ones():
    rng = np.random.default_rng(9)
    x = torch.tensor(rng.uniform(-0.5, 0.5, (1000, N_LABEL))).float()
    spectra = MODEL.forward_scaled(x).numpy()

    def misfit(chosen: np.ndarray) -> float:
        return float(((spectra[:, None] - chosen) ** 2).sum(axis=2).min(axis=1).mean())

    random = np.mean([misfit(spectra[rng.integers(0, 1000, 15)]) for _ in range(10)])
    assert misfit(templates(MODEL, 15)[0]) < 0.85 * random


def test_one_template_is_of_the_middle_kind_and_none_is_refused():
    flux, labels = templates(MODEL, 1)
    assert flux.shape == (1, N_PIXEL)
    assert (np.abs(labels[0] - MODEL.physical(np.zeros(3)))[0] < 0.25 * WIDTH[0]).all()
    with pytest.raises(ValueError, match=r"at least 1 template, got n = 0"):
        templates(MODEL, 0)


def test_best_start_keeps_the_candidate_of_least_chi2():
    flux, ivar, labels = mocks(40)
    rng = np.random.default_rng(3)
    candidates = MODEL.physical(rng.uniform(-0.5, 0.5, (40, 5, N_LABEL)))
    place = rng.integers(0, 5, 40)
    candidates[np.arange(40), place] = labels
    best, chi2 = best_start(MODEL, flux, ivar, candidates, stars_per_batch=7)
    np.testing.assert_allclose(best, labels, rtol=1e-6)
    assert abs(chi2.mean() / (0.95 * N_PIXEL) - 1) < 0.05  # 40 stars: 0.012 of chance


def test_best_start_compares_at_the_velocity_given():
    flux, ivar, labels = mocks(30, snr=200.0)
    moved = np.roll(flux, 2, axis=1)
    shallow = MODEL.physical(np.full((30, N_LABEL), -0.5))  # lines that miss cost least if weak
    candidates = np.stack([shallow, labels], axis=1)
    rv = np.full(30, 2 * 69.03)  # two pixels
    right, _ = best_start(MODEL, moved, np.roll(ivar, 2, axis=1), candidates, rv=rv)
    np.testing.assert_allclose(right, labels, rtol=1e-6)


def test_best_start_takes_the_first_where_nothing_can_be_compared():
    flux, ivar, labels = mocks(3)
    flux[0], ivar[0], ivar[1] = np.nan, 1, 0
    candidates = np.stack([MODEL.physical(np.zeros((3, N_LABEL))), labels], axis=1)
    best, chi2 = best_start(MODEL, flux, ivar, candidates)
    np.testing.assert_allclose(best[:2], candidates[:2, 0], rtol=1e-6)
    np.testing.assert_allclose(best[2], labels[2], rtol=1e-6)
    assert chi2[0] == np.inf


def test_best_start_refuses_candidates_of_another_shape():
    flux, ivar, _ = mocks(3)
    with pytest.raises(ValueError, match=r"candidates should be \(3, C, 3\), got \(3, 3\)"):
        best_start(MODEL, flux, ivar, np.zeros((3, N_LABEL)))
    with pytest.raises(ValueError, match=r"got \(3, 0, 3\)"):
        best_start(MODEL, flux, ivar, np.zeros((3, 0, N_LABEL)))


def test_kinds_of_star_stay_in_the_box():
    spec = SimpleNamespace(
        labels=("teff", "logg", "fe_h"),
        minimum=np.array([5000.0, 0.0, -2.0]),
        maximum=np.array([6000.0, 4.0, 0.5]),
    )
    first = np.array([[5500.0, 3.0, -1.0]], np.float32)
    np.testing.assert_allclose(start_of_kind(spec, first, "giant"), [[5000.0, 2.0, -1.0]])
    np.testing.assert_allclose(start_of_kind(spec, first, "dwarf"), [[5700.0, 4.0, -1.0]])
    with pytest.raises(ValueError, match=r"one of .*'dwarf', 'giant', 'subgiant'.* got 'comet'"):
        start_of_kind(spec, first, "comet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_draws": 0}, "at least 1 draw, got 0"),
        ({"snr": (0.0, 100.0)}, "positive numbers, got 0 to 100"),
        ({"snr": (100.0, 10.0)}, "got 100 to 10"),
        ({"snr": (10.0, np.nan)}, "got 10 to nan"),
        ({"rv_kms": -3.0}, "must be 0 km/s or more, got -3"),
        ({"rv_kms": np.inf}, "got inf"),
    ],
)
def test_draws_that_cannot_be_made_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ridge_start(MODEL, **options)


def test_ridge_finds_velocities_within_those_it_has_learned_from():
    """Half a pixel is 34.5 km/s here; lines of 4 pixels at S/N 50 tell 2 km/s or better."""
    rng = np.random.default_rng(4)
    x = rng.uniform(-0.4, 0.4, (200, N_LABEL)).astype(np.float32)
    rv = rng.uniform(-30, 30, 200).astype(np.float32)
    rest = MODEL.forward_scaled(torch.tensor(x))
    flux = Shift.by(torch.tensor(rv), step=log_step(MODEL.spec.wavelength)).forward(rest).numpy()
    flux += rng.normal(0, 1 / 50, flux.shape).astype(np.float32)
    start = ridge_start(MODEL, n_draws=4096)
    labels, found = start.estimate(flux, np.full_like(flux, 2500))
    assert np.std(found - rv) < 6  # 17 km/s without looking
    np.testing.assert_array_equal(labels, start.apply(flux, np.full_like(flux, 2500)))
    far = start.estimate(np.roll(flux, 4, axis=1), np.full_like(flux, 2500))[1]
    assert np.abs(far).max() <= start.rv_kms
