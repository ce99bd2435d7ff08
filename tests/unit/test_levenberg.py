"""Batched Levenberg-Marquardt against scipy, truth, Cramér-Rao and its own conditions."""

import runpy
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.objective import Objective, Smoother
from scalespec.optimize.quadratic import bounded_step, promised_gain
from scalespec.optimize.result import FitResult, FitStatus
from scalespec.optimize.shift import C_KMS
from scalespec.optimize.trust import BOX_VARIANCE

_networks = runpy.run_path(str(Path(__file__).with_name("networks.py")))

N_PIXEL, N_LABEL = 400, 4
STEP = 1e-4 * np.log(10)


class Lines:
    """Saturating absorption lines, exp(-sum of opacity), at any velocity: a toy with exact answers.

    ln(opacity) of each line is linear in the scaled labels; lines are 3.2 pixels wide.
    """

    def __init__(self, *, dtype: torch.dtype = torch.float32, n_pixel: int = N_PIXEL) -> None:
        rng = np.random.default_rng(12)
        n_line = n_pixel // 7
        self.center = rng.uniform(0, n_pixel, n_line)
        self.strength = rng.normal(-1.0, 0.7, n_line)
        self.response = rng.normal(0, 0.8, (n_line, N_LABEL))
        self.scatter = torch.zeros(n_pixel, dtype=dtype)
        self.pixel = np.arange(float(n_pixel))
        self._tensors = [
            torch.tensor(a).to(dtype) for a in (self.strength, self.response, self.profiles(0.0))
        ]
        self.spec = SimpleNamespace(
            labels=("teff", "logg", "fe_h", "mg_fe"),
            minimum=np.array([4000.0, 0.0, -2.0, -0.5]),
            maximum=np.array([6000.0, 4.0, 0.5, 0.5]),
            wavelength=10 ** (3.7 + 1e-4 * self.pixel),
        )

    def profiles(self, rv: float) -> np.ndarray:
        moved = self.center[:, None] + np.arctanh(rv / C_KMS) / STEP
        return np.exp(-0.5 * ((self.pixel - moved) * 2.3548 / 3.2) ** 2)

    def exact(self, x: np.ndarray, rv: np.ndarray) -> np.ndarray:
        """Flux made at its velocity: nothing is interpolated."""
        opacity = np.exp(self.strength + x @ self.response.T)
        profiles = np.stack([self.profiles(v) for v in rv])
        return np.exp(-np.einsum("nl,nlp->np", opacity, profiles))

    def physical(self, x: np.ndarray) -> np.ndarray:
        return self.spec.minimum + (x + 0.5) * (self.spec.maximum - self.spec.minimum)

    def scaled(self, labels: np.ndarray) -> np.ndarray:
        return (labels - self.spec.minimum) / (self.spec.maximum - self.spec.minimum) - 0.5

    def forward_scaled(self, x: Tensor) -> Tensor:
        strength, response, profiles = self._tensors
        return torch.exp(-torch.exp(strength + x @ response.T) @ profiles)

    def flux_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        strength, response, profiles = self._tensors
        opacity = torch.exp(strength + x @ response.T)
        flux = torch.exp(-opacity @ profiles)
        return flux, -flux[:, None] * ((opacity[:, None] * response.T) @ profiles)


def mocks(
    n: int, *, seed: int = 0, snr: tuple[float, float] = (50.0, 200.0), rv_limit: float = 40.0
) -> SimpleNamespace:
    """Noisy spectra of known labels and velocities, 3 % of their pixels masked."""
    rng, lines = np.random.default_rng(seed), Lines()
    x = rng.uniform(-0.4, 0.4, (n, N_LABEL))
    rv = rng.uniform(-rv_limit, rv_limit, n)
    sigma = np.ones(N_PIXEL) / rng.uniform(*snr, (n, 1))
    clean = lines.exact(x, rv)
    flux = clean + sigma * rng.standard_normal(clean.shape)
    ivar = np.where(rng.random(clean.shape) < 0.03, 0.0, sigma**-2)
    flux[ivar == 0] = 0
    return SimpleNamespace(
        model=lines,
        flux=flux.astype(np.float32),
        ivar=ivar.astype(np.float32),
        labels=lines.physical(x),
        x=x,
        rv=rv,
    )


@pytest.fixture(scope="module")
def fitted() -> tuple[SimpleNamespace, FitResult]:
    stars = mocks(3000)
    return stars, fit_labels(stars.model, stars.flux, stars.ivar)


def interior(fit: FitResult) -> np.ndarray:
    return fit.at_bound == 0


def test_pulls_of_labels_are_standard_normal(fitted: tuple[SimpleNamespace, FitResult]):
    stars, fit = fitted
    pulls = ((fit.labels - stars.labels) / fit.label_err)[interior(fit)]
    assert interior(fit).mean() > 0.99
    assert np.abs(pulls.std(axis=0) - 1).max() < 0.05  # 3,000 stars: 0.013 of chance
    assert 0.78 < np.abs(pulls).mean() < 0.82  # a normal has 0.798; 0.006 of chance
    assert np.abs(pulls.mean(axis=0)).max() < 0.07  # 0.018 of chance


def test_pulls_of_velocities_are_standard_normal(fitted: tuple[SimpleNamespace, FitResult]):
    stars, fit = fitted
    pulls = (fit.rv - stars.rv) / fit.rv_err
    assert abs(pulls.std() - 1) < 0.05
    assert abs(pulls.mean()) < 0.07


def test_chi2_has_its_degrees_of_freedom(fitted: tuple[SimpleNamespace, FitResult]):
    _, fit = fitted
    per_freedom = fit.chi2 / (fit.n_used - N_LABEL - 1)
    assert abs(per_freedom.mean() - 1) < 0.01  # sqrt(2 / (3000 * 380)) = 0.0013 of chance
    assert not (fit.status & ~np.uint32(FitStatus.AT_BOUND)).any()


def test_correlations_of_errors_are_those_of_the_covariance(
    fitted: tuple[SimpleNamespace, FitResult],
):
    stars, fit = fitted
    error = (fit.labels - stars.labels)[interior(fit)]
    whitened = np.linalg.solve(
        np.linalg.cholesky(fit.label_cov[interior(fit)].astype(float)), error[:, :, None]
    )[:, :, 0]
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(N_LABEL), atol=0.1)  # 0.026 of chance


def test_scatter_of_one_star_reaches_the_cramer_rao_bound():
    """The bound comes from finite differences of exact spectra, not from our Jacobian."""
    lines, n, h, sigma = Lines(), 1000, 1e-4, 0.01
    truth = np.array([0.1, -0.2, 0.15, 0.0, 0.0])
    moves = truth + h * np.concatenate([np.eye(5), -np.eye(5)])
    made = lines.exact(moves[:, :4], 100 * moves[:, 4])  # the velocity in 100 km/s
    slopes = (made[:5] - made[5:])[:, 8:-8] / (2 * h * sigma)
    bound = np.sqrt(np.diag(np.linalg.inv(slopes @ slopes.T)))
    clean = lines.exact(truth[None, :4], np.zeros(1))
    noise = sigma * np.random.default_rng(4).standard_normal((n, N_PIXEL))
    ivar = np.full((n, N_PIXEL), sigma**-2)
    fit = fit_labels(lines, clean + noise, ivar)
    found = np.column_stack([lines.scaled(fit.labels), fit.rv / 100])
    ratio = found.std(axis=0) / bound
    assert (ratio > 0.95).all()  # 1,000 realizations: 0.022 of chance
    assert (ratio < 1.10).all()


def scipy_fit(objective: Objective, star: int) -> tuple[np.ndarray, float]:
    """The public way: one star, TRF, numeric Jacobian."""
    one = objective.take(torch.tensor([star]))
    data, weight = one.data()

    def residuals(parameters: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            flux = one.predict(torch.tensor(parameters)[None])
            return (torch.sqrt(weight) * (flux - data))[0].numpy()

    tight = {"ftol": 1e-12, "xtol": 1e-12, "gtol": 1e-12}
    best = scipy.optimize.least_squares(residuals, np.zeros(5), bounds=(-0.5, 0.5), **tight)
    return best.x, 2 * best.cost


@pytest.mark.parametrize(
    ("beyond", "n"), [(False, 30), (True, 30), pytest.param(False, 200, marks=pytest.mark.slow)]
)
def test_fit_agrees_with_scipy(beyond: bool, n: int):
    """Same optimum, also for stars outside the box, whose optimum lies on its edge."""
    stars = mocks(n, seed=21)
    if beyond:
        x = stars.x.copy()
        x[:, 2] = np.where(np.arange(n) % 2, 0.6, -0.6)
        stars.flux = np.where(stars.ivar > 0, stars.model.exact(x, stars.rv), 0)
        stars.flux += np.random.default_rng(2).standard_normal(stars.flux.shape) * 0.01
    fit = fit_labels(stars.model, stars.flux, stars.ivar)
    objective = Objective.of(
        Lines(dtype=torch.float64),
        torch.tensor(stars.flux).double(),
        torch.tensor(stars.ivar).double(),
        rv_start=torch.zeros(n).double(),
        rv_range=FitOptions().rv_range,
    )
    for star in range(n):
        best, chi2 = scipy_fit(objective, star)
        sigma = fit.label_err[star]
        moved = np.abs(fit.labels[star] - stars.model.physical(best[:4])) / sigma
        assert moved.max() < 0.05
        assert abs(fit.rv[star] - 300 * best[4]) < 0.05 * fit.rv_err[star]
        assert fit.chi2[star] < chi2 + 0.1
        edge = np.abs(best[:4]) > 0.5 - 1e-6
        assert int(fit.at_bound[star]) == sum(1 << k for k in range(4) if edge[k])


def test_bound_labels_are_flagged_and_known_to_the_box_only():
    lines = Lines()
    x = np.array([[0.1, 0.7, 0.0, -0.7]])  # beyond in the 2nd and the 4th
    flux = lines.exact(x, np.zeros(1))
    fit = fit_labels(lines, flux, np.full_like(flux, 1e4))
    width = lines.spec.maximum - lines.spec.minimum
    assert fit.at_bound[0] == 0b1010
    assert fit.status[0] & FitStatus.AT_BOUND
    assert fit.labels[0, 1] == lines.spec.maximum[1]
    assert fit.labels[0, 3] == lines.spec.minimum[3]
    np.testing.assert_allclose(fit.label_err[0, [1, 3]], (width / np.sqrt(12))[[1, 3]], rtol=1e-6)
    np.testing.assert_array_equal(fit.label_cov[0, 1, [0, 2, 3]], 0)
    assert (fit.label_err[0, [0, 2]] < 0.05 * width[[0, 2]]).all()


def smoothing_of(lines: Lines, width_angstrom: float) -> tuple[np.ndarray, Smoother]:
    """Gaussian smoothing as one matrix, for the data, and as a one-tile operator, for the model."""
    distance = np.subtract.outer(lines.spec.wavelength, lines.spec.wavelength)
    kernel = np.exp(-0.5 * (distance / width_angstrom) ** 2)
    n = len(kernel)
    tile = SimpleNamespace(out_start=0, out_stop=n, in_start=0, in_stop=n, matrix=kernel)
    return kernel, Smoother([tile], lines.scatter)


def test_smoothing_both_sides_forgets_tilts_of_thirty_percent():
    """Noiseless spectra with a tilt of the survey's kind: 0.6 over 100 smoothing widths."""
    lines, n = Lines(n_pixel=1200), 40
    rng = np.random.default_rng(31)
    x, rv = rng.uniform(-0.4, 0.4, (n, N_LABEL)), rng.uniform(-30, 30, n)
    tilt = 1 + np.where(np.arange(n) % 2, 0.3, -0.3)[:, None] * np.linspace(-1, 1, 1200)
    ivar = np.where(rng.random((n, 1200)) < 0.03, 0, 1e4) * np.ones((n, 1))
    kernel, smoother = smoothing_of(lines, 15.0)
    mask = ivar > 0
    observed = tilt * lines.exact(x, rv) * mask
    continuum = (observed @ kernel) / (mask @ kernel)
    fit = fit_labels(lines, observed / continuum, ivar * continuum**2, smoothing=smoother)
    offset = (fit.labels - lines.physical(x)) / fit.label_err
    assert np.abs(offset.mean(axis=0)).max() < 0.05
    assert np.abs(offset).max() < 0.5  # of one sigma at S/N 100: what the edges' half kernels leave
    plain = fit_labels(lines, observed, ivar)
    assert np.abs((plain.labels - lines.physical(x)) / plain.label_err).max() > 10


def test_pulls_stay_standard_with_smoothing():
    lines, n = Lines(), 1500
    rng = np.random.default_rng(5)
    x, rv, sigma = rng.uniform(-0.4, 0.4, (n, N_LABEL)), rng.uniform(-40, 40, n), 0.01
    kernel, smoother = smoothing_of(lines, 30.0)
    clean = lines.exact(x, rv)
    mask = (rng.random(clean.shape) > 0.03).astype(float)
    continuum = ((clean * mask) @ kernel) / (mask @ kernel)
    observed = clean + sigma * rng.standard_normal(clean.shape)
    fit = fit_labels(
        lines, observed / continuum, mask * (continuum / sigma) ** 2, smoothing=smoother
    )
    pulls = ((fit.labels - lines.physical(x)) / fit.label_err)[interior(fit)]
    assert np.abs(pulls.std(axis=0) - 1).max() < 0.06  # 1,500 stars: 0.018 of chance
    assert abs(((fit.rv - rv) / fit.rv_err).std() - 1) < 0.06


@pytest.mark.parametrize("exact", [False, True])
def test_a_star_is_fitted_alike_in_any_company(exact: bool):
    """To the last bit: what a catalog says of a star must not depend on the batches of its run."""
    model = _networks["small_payne"]()
    stars = _networks["small_mocks"](model, 90)
    every = FitOptions(restarts=2, exact_covariance=exact)
    together = fit_labels(model, stars["flux"], stars["ivar"], options=every)
    for per_batch, n in ((1, 30), (8, 90), (50, 90)):  # each of thirty alone
        apart = fit_labels(
            model,
            stars["flux"][:n],
            stars["ivar"][:n],
            options=replace(every, stars_per_batch=per_batch),
        )
        for field in fields(FitResult):
            one, other = getattr(together, field.name), getattr(apart, field.name)
            np.testing.assert_array_equal(one[:n], other, err_msg=f"{field.name}, {per_batch}")


def test_rows_of_an_objective_are_not_taken_for_all_in_order():
    model = _networks["small_payne"]()
    stars = _networks["small_mocks"](model, 8)
    flux, ivar = torch.tensor(stars["flux"]), torch.tensor(stars["ivar"])
    objective = Objective.of(model, flux, ivar, rv_start=torch.zeros(8), rv_range=10.0)
    some = objective.take(torch.full((8,), 2))
    assert torch.equal(some.data()[0], objective.data()[0][2].expand(8, -1))


def test_order_and_batch_size_change_nothing_beyond_rounding():
    stars = mocks(60, seed=3)
    stars.flux[7], stars.flux[20, 5], stars.ivar[30] = 1e20, np.nan, 0
    order = np.random.default_rng(0).permutation(60)
    together = fit_labels(stars.model, stars.flux, stars.ivar)
    shuffled = fit_labels(
        stars.model, stars.flux[order], stars.ivar[order], options=FitOptions(stars_per_batch=7)
    ).take(np.argsort(order))
    np.testing.assert_array_equal(together.status, shuffled.status)
    np.testing.assert_array_equal(together.n_used, shuffled.n_used)
    good = together.status == 0
    assert good.sum() > 50
    moved = (together.labels - shuffled.labels)[good] / together.label_err[good]
    assert np.abs(moved).max() < 0.01  # float32 sums in another order


def test_same_input_gives_the_same_bytes():
    stars = mocks(20, seed=8)
    first, second = (fit_labels(stars.model, stars.flux, stars.ivar) for _ in range(2))
    for name, values in vars(first).items():
        assert values.tobytes() == getattr(second, name).tobytes(), name


def test_one_bad_star_leaves_the_others_alone():
    stars = mocks(9, seed=4)
    alone = fit_labels(stars.model, stars.flux[:1], stars.ivar[:1])
    stars.flux[1, 50] = np.nan  # where there is information
    stars.ivar[2, 50] = np.inf
    stars.ivar[3, 50] = np.nan
    stars.ivar[4] = 0
    stars.ivar[5, 8:] = 0  # five left after the edge, for five parameters
    stars.flux[6] = 3e19  # its chi2 leaves float32
    stars.flux[7] = -stars.flux[7]
    stars.flux[8, stars.ivar[8] == 0] = np.nan  # where there is none
    fit = fit_labels(stars.model, stars.flux, stars.ivar)
    np.testing.assert_allclose(fit.labels[0], alone.labels[0], rtol=1e-5)
    wanted = [FitStatus.NONFINITE] * 3 + [FitStatus.NO_PIXELS] * 2 + [FitStatus.NONFINITE]
    assert [FitStatus(int(s)) for s in fit.status[1:7]] == wanted
    assert fit.fitted.tolist() == [True] + [False] * 6 + [True] * 2
    assert fit.status[7] & FitStatus.POOR_FIT
    assert fit.status[7] & FitStatus.LOW_SNR
    assert fit.status[8] == 0
    assert np.isfinite(fit.labels[fit.fitted]).all()
    assert np.isfinite(fit.label_cov[fit.fitted]).all()
    assert np.isnan(fit.labels[~fit.fitted]).all()
    assert fit.n_used[4] == 0


def test_no_stars_give_no_rows():
    empty = np.zeros((0, N_PIXEL), np.float32)
    fit = fit_labels(Lines(), empty, empty)
    assert len(fit) == 0
    assert fit.labels.shape == (0, N_LABEL)
    assert fit.label_cov.shape == (0, N_LABEL, N_LABEL)


def test_spectrum_of_noise_is_a_flagged_row_with_honest_errors():
    stars = mocks(50, seed=6, snr=(0.05, 0.1))
    fit = fit_labels(stars.model, stars.flux, stars.ivar)
    assert (fit.status & FitStatus.LOW_SNR).all()
    width = stars.model.spec.maximum - stars.model.spec.minimum
    assert (fit.label_err <= width * np.sqrt(BOX_VARIANCE) * (1 + 1e-6)).all()
    assert (fit.label_err > 0.2 * width).mean() > 0.9
    assert np.linalg.eigvalsh(fit.label_cov / np.multiply.outer(width, width)).min() > 0


def test_velocity_starts_where_told_and_stops_at_its_limit():
    stars = mocks(20, seed=9, rv_limit=1.0)
    far = stars.model.exact(stars.x, np.full(20, 450.0))
    ivar = np.full_like(far, 1e4)
    fit = fit_labels(stars.model, far, ivar, rv_start=np.full(20, 430.0))
    np.testing.assert_allclose(fit.rv, 450, atol=1.0)  # sigma is 1.5 km/s, there is no noise
    short = FitOptions(rv_range=10.0)
    fit = fit_labels(stars.model, far, ivar, rv_start=np.full(20, 430.0), options=short)
    assert (fit.status & FitStatus.RV_AT_LIMIT).all()
    np.testing.assert_allclose(fit.rv, 440, rtol=1e-6)


def test_velocity_is_held_without_a_range():
    stars = mocks(20, seed=10, rv_limit=0.0)
    fit = fit_labels(stars.model, stars.flux, stars.ivar, options=FitOptions(rv_range=0.0))
    np.testing.assert_array_equal(fit.rv, 0)
    np.testing.assert_array_equal(fit.rv_err, 0)
    assert not (fit.status & FitStatus.RV_AT_LIMIT).any()
    assert np.abs((fit.labels - stars.labels) / fit.label_err).max() < 5


def test_start_of_nan_or_beyond_the_box_is_a_start_all_the_same():
    stars = mocks(6, seed=11)
    start = stars.labels.copy()
    start[0], start[1, 2], start[2] = np.nan, np.nan, 1e9
    rv_start = np.array([np.nan, 0, 0, 5, -5, 0])
    fit = fit_labels(stars.model, stars.flux, stars.ivar, start=start, rv_start=rv_start)
    middle = fit_labels(stars.model, stars.flux, stars.ivar)
    assert np.abs((fit.labels - middle.labels) / middle.label_err).max() < 0.05


def test_running_out_of_steps_is_said():
    stars = mocks(10, seed=12)
    fit = fit_labels(stars.model, stars.flux, stars.ivar, options=FitOptions(max_steps=1))
    assert (fit.status & FitStatus.MAX_STEPS).all()
    assert (fit.n_steps == 1).all()


def test_steps_that_are_twice_too_long_do_not_end_a_search():
    """What the Gauss-Newton matrix leaves out is as much as what it has: steps gain nothing.

    Half the pixels say x and want 0, half say x^2 and want -1 / 2: chi2 grows by 2 x^2 for each
    pair of them where the matrix, blind to the bend, says x^2.
    """
    half = torch.arange(60) < 30
    spec = SimpleNamespace(
        labels=("a",),
        minimum=np.full(1, -0.5),
        maximum=np.full(1, 0.5),
        wavelength=10 ** (3.7 + 1e-4 * np.arange(60)),
    )
    model = SimpleNamespace(
        spec=spec,
        scatter=torch.zeros(60).double(),
        forward_scaled=lambda x: torch.where(half, x, x**2),
        flux_and_jacobian=lambda x: (
            torch.where(half, x, x**2),
            torch.where(half, torch.ones_like(x), 2 * x)[:, None],
        ),
    )
    flux, ivar = torch.where(half, 0.0, -0.5)[None], np.full((1, 60), 1.0)
    for first in (0.05, 0.07, 0.1):  # chi2 is 0.15 to 0.6 above the least
        fit = fit_labels(
            model, flux, ivar, start=np.full((1, 1), first), options=FitOptions(rv_range=0.0)
        )
        assert not fit.status[0] & (FitStatus.STALLED | FitStatus.MAX_STEPS)
        assert abs(fit.labels[0, 0]) < 0.1 * fit.label_err[0, 0]


def test_kink_that_withholds_its_promise_is_said():
    """A model of |x|: chi2 is least in the kink, where the slope promises more on both sides."""
    bend = torch.linspace(-1, 1, 50, dtype=torch.float64)
    spec = SimpleNamespace(
        labels=("a",),
        minimum=np.zeros(1),
        maximum=np.ones(1),
        wavelength=10 ** (3.7 + 1e-4 * np.arange(50)),
    )
    model = SimpleNamespace(
        spec=spec,
        scatter=torch.zeros(50).double(),
        forward_scaled=lambda x: 1 + x.abs() * bend,
        flux_and_jacobian=lambda x: (1 + x.abs() * bend, torch.sign(x)[:, :, None] * bend),
    )
    flux, ivar = 1 - 0.2 * bend[None], np.full((1, 50), 100.0)  # wants |x| = -0.2
    start = np.full((1, 1), 0.5001)
    fit = fit_labels(model, flux, ivar, start=start, options=FitOptions(rv_range=0.0))
    assert abs(fit.labels[0, 0] - 0.5) < 0.001
    assert fit.status[0] & FitStatus.STALLED
    assert fit.n_steps[0] < 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flux": np.ones((2, 5))}, r"flux should be \(2, 400\) for this model, got \(2, 5\)"),
        ({"ivar": np.ones((3, N_PIXEL))}, r"ivar should be \(2, 400\)"),
        ({"start": np.ones((2, 3))}, r"start should be \(2, 4\)"),
        ({"rv_start": np.ones(3)}, r"rv_start should be \(2,\)"),
    ],
)
def test_wrong_shapes_are_refused_with_both_shapes(change: dict, message: str):
    arguments = {"flux": np.ones((2, N_PIXEL)), "ivar": np.ones((2, N_PIXEL)), **change}
    with pytest.raises(ValueError, match=message):
        fit_labels(Lines(), **arguments)


def test_smoothing_of_another_grid_is_refused():
    _, smoother = smoothing_of(Lines(n_pixel=300), 30.0)
    with pytest.raises(ValueError, match=r"smoothing has 300 pixels, the model 400"):
        fit_labels(Lines(), np.ones((1, 400)), np.ones((1, 400)), smoothing=smoother)


def test_tensors_and_arrays_fit_alike():
    stars = mocks(5, seed=13)
    arrays = fit_labels(stars.model, stars.flux, stars.ivar)
    tensors = fit_labels(stars.model, torch.tensor(stars.flux), torch.tensor(stars.ivar))
    np.testing.assert_array_equal(arrays.labels, tensors.labels)
    stars.flux.flags.writeable = False  # what a reader of memory-mapped stores hands over
    readonly = fit_labels(stars.model, stars.flux, stars.ivar)
    np.testing.assert_array_equal(arrays.labels, readonly.labels)


def random_problems(n: int, size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    root = torch.randn((n, size, size + 2), generator=generator, dtype=torch.float64)
    scale = torch.exp(torch.randn((n, size), generator=generator, dtype=torch.float64) * 2)
    root = root * scale[:, :, None]
    gradient = 3 * scale * torch.randn((n, size), generator=generator, dtype=torch.float64)
    edges = torch.rand((2, n, size), generator=generator, dtype=torch.float64) / scale
    edges[:, :, 0] = 0  # pinned on both sides
    edges[0, ::2, 1] = 0  # on its lower bound
    return [root @ root.transpose(1, 2), gradient, -edges[0], edges[1]]


@pytest.mark.parametrize("size", [2, 5, 23])
def test_bounded_step_keeps_the_conditions_of_a_minimum(size: int):
    """Karush-Kuhn-Tucker: zero slope inside, slope pointing outward on a bound."""
    hessian, gradient, lower, upper = random_problems(200, size)
    step = bounded_step(hessian, gradient, lower, upper, damping=0.0)
    unit = hessian.diagonal(dim1=1, dim2=2).sqrt()
    slope = (gradient + (hessian @ step[:, :, None]).squeeze(-1)) / unit
    assert (step >= lower).all()
    assert (step <= upper).all()
    near = 1e-12 / unit
    at_lower, at_upper = step <= lower + near, step >= upper - near
    small = 1e-9 * (gradient / unit).abs().amax(dim=1, keepdim=True).expand_as(slope)
    assert (slope[at_lower & ~at_upper] >= -small[at_lower & ~at_upper]).all()
    assert (slope[at_upper & ~at_lower] <= small[at_upper & ~at_lower]).all()
    free = ~at_lower & ~at_upper
    assert (slope[free].abs() <= small[free]).all()
    assert at_lower.any()
    assert at_upper.any()
    assert free.any()


def test_bounded_step_equals_scipy():
    hessian, gradient, lower, upper = random_problems(20, 6)
    lower[:, 0], upper[:, 0] = -1e-3, 1e-3  # lsq_linear wants room
    lower = lower.clamp(max=-1e-6)
    step = bounded_step(hessian, gradient, lower, upper, damping=0.0)
    for star in range(20):
        factor = np.linalg.cholesky(hessian[star].numpy())
        target = -np.linalg.solve(factor, gradient[star].numpy())
        bounds = (lower[star].numpy(), upper[star].numpy())
        best = scipy.optimize.lsq_linear(factor.T, target, bounds, method="bvls", tol=1e-14)
        np.testing.assert_allclose(step[star], best.x, atol=1e-6 * np.abs(best.x).max())


def test_step_of_a_label_without_information_is_zero():
    hessian, gradient, lower, upper = random_problems(4, 5)
    hessian[:, 3], hessian[:, :, 3], gradient[:, 3] = 0, 0, 0
    assert (bounded_step(hessian, gradient, lower, upper, damping=1e-5)[:, 3] == 0).all()


def test_step_of_an_indefinite_matrix_is_no_number():
    hessian = torch.tensor([[[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]).double()
    gradient, edge = torch.ones(2, 2).double(), torch.full((2, 2), 9.0).double()
    step = bounded_step(hessian, gradient, -edge, edge, damping=0.0)
    assert step[0].isnan().all()
    torch.testing.assert_close(step[1], -torch.ones(2).double())


def test_promised_gain_is_that_of_the_quadratic():
    hessian, gradient, _, _ = random_problems(3, 4)
    step = torch.randn((3, 4), generator=torch.Generator().manual_seed(1)).double()
    for star in range(3):
        d, h, g = step[star].numpy(), hessian[star].numpy(), gradient[star].numpy()
        wanted = -(2 * g @ d + d @ h @ d)
        assert promised_gain(hessian, gradient, step)[star].item() == pytest.approx(wanted)
