"""The objective's parts against analytic answers, dense matrices and finite differences."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from scalespec.optimize.normalization import Renormalization, Smoother
from scalespec.optimize.objective import Objective
from scalespec.optimize.shift import C_KMS, N_TAPS, Shift, log_step

STEP = 1e-4 * np.log(10)  # of ln(wavelength) on LAMOST's grid
PIXEL_KMS = C_KMS * np.tanh(STEP)
N_PIXEL = 300
WAVELENGTH = 10 ** (3.7 + 1e-4 * np.arange(N_PIXEL))


class Network:
    """A small smooth network of random weights in float64, its Jacobian by forward mode."""

    def __init__(self, n_label: int = 3, n_pixel: int = N_PIXEL) -> None:
        generator = torch.Generator().manual_seed(5)
        shapes = [(20, n_label), (20, 20), (n_pixel, 20)]
        self.weights = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        self.scatter = torch.zeros(n_pixel, dtype=torch.float64)
        self.spec = SimpleNamespace(
            labels=tuple("abcdefgh"[:n_label]),
            minimum=np.zeros(n_label),
            maximum=np.ones(n_label),
            wavelength=10 ** (3.7 + 1e-4 * np.arange(n_pixel)),
        )

    def forward_scaled(self, x: Tensor) -> Tensor:
        return self.flux_and_jacobian(x)[0]

    def flux_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second, last = self.weights
        a = torch.tanh(x @ first.T)
        b = torch.tanh(a @ second.T / 5)
        slope = (1 - a**2)[:, None] * first.T @ second.T / 5 * (1 - b**2)[:, None]
        return 1 + b @ last.T / 20, slope @ last.T / 20


def line_flux(position: np.ndarray, center: float, fwhm: float) -> np.ndarray:
    return 1 - np.exp(-0.5 * ((position - center) / (fwhm / 2.3548)) ** 2)


def banded_kernel(width: float, n_pixel: int = N_PIXEL) -> np.ndarray:
    """(n_pixel, n_pixel) Gaussian of `width` pixels, cut at five of them."""
    distance = np.subtract.outer(np.arange(n_pixel), np.arange(n_pixel))
    return np.where(abs(distance) <= 5 * width, np.exp(-0.5 * (distance / width) ** 2), 0.0)


def as_tiles(kernel: np.ndarray, size: int = 64, reach: int = 60) -> list[SimpleNamespace]:
    tiles = []
    for start in range(0, len(kernel), size):
        stop = min(start + size, len(kernel))
        low, high = max(0, start - reach), min(len(kernel), stop + reach)
        matrix = kernel[start:stop, low:high].astype(np.float32)
        tiles.append(
            SimpleNamespace(
                out_start=start, out_stop=stop, in_start=low, in_stop=high, matrix=matrix
            )
        )
    return tiles


def objective_of(n: int = 4, *, smooth: bool = False, rv_range: float = 100.0) -> Objective:
    """Noisy spectra with masked pixels and velocities."""
    rng = np.random.default_rng(3)
    flux = torch.tensor(1 + 0.1 * rng.standard_normal((n, N_PIXEL)))
    ivar = torch.tensor(rng.uniform(50, 150, (n, N_PIXEL)) * (rng.random((n, N_PIXEL)) > 0.1))
    network = Network()
    smoother = Smoother(as_tiles(banded_kernel(12.0)), network.scatter) if smooth else None
    rv = torch.tensor(rng.uniform(-150, 150, n))
    return Objective.of(network, flux, ivar, rv_start=rv, rv_range=rv_range, smoother=smoother)


def some_parameters(n: int = 4) -> Tensor:
    return torch.tensor(np.random.default_rng(8).uniform(-0.4, 0.4, (n, 4)))


@pytest.mark.parametrize(
    ("fwhm", "error"),
    [
        (2.4, 8e-3),  # R = 1800 on LAMOST's grid; 4e-3 of it is lost by the sampling itself
        (2.8, 3e-3),
        (3.2, 1e-3),  # a line with some rotation
        (6.0, 6e-4),
    ],
)
def test_shift_moves_a_line_as_if_made_there(fwhm: float, error: float):
    pixel = np.arange(100.0)
    for rv in np.linspace(-200, 200, 41):
        moved = 50.3 + np.arctanh(rv / C_KMS) / STEP
        shift = Shift.by(torch.tensor([rv]).double(), step=STEP)
        shifted = shift.forward(torch.tensor(line_flux(pixel, 50.3, fwhm))[None])
        assert np.abs(shifted[0].numpy() - line_flux(pixel, moved, fwhm)).max() < error


def test_receding_star_is_redder():
    flux = torch.tensor(line_flux(np.arange(60.0), 30.0, 4.0))[None]
    shifted = Shift.by(torch.tensor([PIXEL_KMS]).double(), step=STEP).forward(flux)
    assert shifted[0].argmin() == 31


def test_shift_by_nothing_changes_nothing_and_keeps_constants():
    flux = torch.tensor(np.random.default_rng(0).random((2, 40)))
    rest = Shift.by(torch.zeros(2).double(), step=STEP).forward(flux)
    torch.testing.assert_close(rest, flux)
    rv = torch.tensor([33.0, -71.0]).double()
    shift = Shift.by(rv, step=STEP)
    constant, slope = (f(torch.ones_like(flux)) for f in (shift.forward, shift.forward_slopes))
    torch.testing.assert_close(constant, torch.ones_like(flux))
    torch.testing.assert_close(slope[:, 0], torch.zeros_like(flux), atol=1e-12, rtol=0)


def test_shift_is_continuous_where_the_stencil_moves():
    flux = torch.tensor(line_flux(np.arange(60.0), 30.3, 2.4))[None]
    rv = torch.tensor([-1e-7, 1e-7]).double()
    both = Shift.by(rv, step=STEP).forward(flux.repeat(2, 1))
    torch.testing.assert_close(both[0], both[1], atol=1e-8, rtol=0)  # slope times 2e-7 km/s


def test_shift_slope_is_the_derivative_with_velocity():
    flux = torch.tensor(np.random.default_rng(1).random((1, 80)))
    rv, h = torch.tensor([41.0]).double(), 1e-4
    slope = Shift.by(rv, step=STEP).forward_slopes(flux)[:, 0]
    above = Shift.by(rv + h, step=STEP).forward(flux)
    below = Shift.by(rv - h, step=STEP).forward(flux)
    torch.testing.assert_close(slope, (above - below) / (2 * h), atol=1e-9, rtol=1e-6)


def test_columns_shift_as_spectra_do():
    columns = torch.tensor(np.random.default_rng(2).random((2, 3, 50)))
    shift = Shift.by(torch.tensor([80.0, -20.0]).double(), step=STEP)
    out = shift.forward_columns(columns)
    for k in range(3):
        torch.testing.assert_close(out[:, k], shift.forward(columns[:, k].contiguous()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_pixel", [N_PIXEL, 1300])  # tiles all together, and in three
def test_smoother_equals_the_dense_matrix(dtype: torch.dtype, n_pixel: int):
    kernel = banded_kernel(12.0, n_pixel).astype(np.float32)
    values = np.random.default_rng(4).random((2, 3, n_pixel))
    smoother = Smoother(as_tiles(kernel), torch.zeros(1, dtype=dtype))
    smooth = smoother(torch.tensor(values, dtype=dtype)).numpy()
    dense = values @ kernel.T.astype(float)
    np.testing.assert_allclose(smooth, dense, rtol=3e-6)  # float32 of 120 terms


def test_smoother_wants_every_row_once():
    tiles = as_tiles(banded_kernel(12.0))
    with pytest.raises(ValueError, match=r"no tile for row 64, the next is 128"):
        Smoother([tiles[0], tiles[2]], torch.zeros(1))


def test_renormalization_divides_by_the_masked_mean_around():
    rng = np.random.default_rng(6)
    kernel, flux = banded_kernel(12.0), rng.random((3, N_PIXEL)) + 0.5
    mask = (rng.random((3, N_PIXEL)) > 0.2).astype(float)
    smoother = Smoother(as_tiles(kernel), torch.zeros(1).double())
    renormalization = Renormalization.of(smoother, torch.tensor(mask))
    slow = np.empty_like(flux)
    for star in range(3):
        for i in range(N_PIXEL):
            weight = kernel[i] * mask[star]
            slow[star, i] = flux[star, i] * weight.sum() / (weight * flux[star]).sum()
    fast = renormalization.apply(torch.tensor(flux)).numpy()
    np.testing.assert_allclose(fast, slow, rtol=1e-6)  # the tiles are float32


def test_renormalization_stays_finite_in_a_gap():
    mask = torch.ones(1, N_PIXEL).double()
    mask[:, 50:250] = 0  # wider than the kernel's reach of 60 pixels
    smoother = Smoother(as_tiles(banded_kernel(12.0)), mask)
    renormalization = Renormalization.of(smoother, mask)
    flux = torch.full((1, N_PIXEL), 3.0).double()
    assert renormalization.apply(flux)[0, 150] == 3.0
    torch.testing.assert_close(renormalization.apply(flux)[mask > 0], torch.ones(100).double())


def test_renormalization_forgets_the_level():
    smoother = Smoother(as_tiles(banded_kernel(12.0)), torch.zeros(1).double())
    renormalization = Renormalization.of(smoother, torch.ones(2, N_PIXEL).double())
    flux = torch.tensor(np.random.default_rng(7).random((2, N_PIXEL)) + 1)
    torch.testing.assert_close(renormalization.apply(flux), renormalization.apply(7 * flux))


@pytest.mark.parametrize("smooth", [False, True])
def test_jacobian_equals_finite_differences(smooth: bool):
    objective, parameters, h = objective_of(smooth=smooth), some_parameters(), 1e-5
    flux, columns = objective.jacobian(parameters)
    torch.testing.assert_close(flux, objective.predict(parameters))
    for q in range(parameters.shape[1]):
        move = torch.zeros(4).double()
        move[q] = h
        slope = (objective.predict(parameters + move) - objective.predict(parameters - move)) / (
            2 * h
        )
        # central differences in float64: h^2 of the third derivative, 1e-16 / h of rounding
        torch.testing.assert_close(columns[:, q], slope, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("smooth", [False, True])
def test_normal_equations_are_the_derivatives_of_chi2(smooth: bool):
    objective, parameters = objective_of(smooth=smooth), some_parameters()
    point, hessian = objective.evaluate(parameters), objective.hessian(parameters)
    torch.testing.assert_close(point.chi2, objective.chi2(parameters))
    flux, columns = objective.jacobian(parameters)
    for star in range(4):
        jacobian, weight = columns[star].numpy(), objective.weight[star].numpy()
        residual = (flux - objective.flux)[star].numpy()
        np.testing.assert_allclose(point.gradient[star], jacobian @ (weight * residual), rtol=1e-9)
        np.testing.assert_allclose(hessian[star], (jacobian * weight) @ jacobian.T, rtol=1e-9)


def test_weights_know_the_scatter_where_the_star_shows_it():
    network, n = Network(), 100
    network.scatter[150] = 0.3
    rv = torch.tensor([2 * PIXEL_KMS]).double()  # two pixels but for 1e-7
    flux, ivar = torch.ones(1, N_PIXEL).double(), torch.full((1, N_PIXEL), float(n)).double()
    weight = Objective.of(network, flux, ivar, rv_start=rv, rv_range=0.0).weight[0]
    assert weight[152] == pytest.approx(1 / (1 / n + 0.3**2), rel=1e-4)
    assert weight[150] == pytest.approx(n, rel=1e-4)


def test_masked_and_outside_pixels_have_no_weight():
    rv = torch.tensor([0.0, 10.5 * PIXEL_KMS, -10.5 * PIXEL_KMS]).double()
    flux, ivar = torch.ones(3, N_PIXEL).double(), torch.ones(3, N_PIXEL).double()
    ivar[0, 100], flux[0, 100] = 0, torch.nan
    objective = Objective.of(Network(), flux, ivar, rv_start=rv, rv_range=0.0)
    assert objective.weight[0, 100] == 0
    assert objective.flux[0, 100] == 0
    used = objective.weight > 0
    # A stencil of 8 reaches 3 pixels left and 4 right of the pixel below the sampled position.
    assert used[0].nonzero().flatten()[[0, -1]].tolist() == [3, N_PIXEL - 5]
    assert used[1].nonzero().flatten()[[0, -1]].tolist() == [14, N_PIXEL - 1]
    assert used[2].nonzero().flatten()[[0, -1]].tolist() == [0, N_PIXEL - 15]


def test_pixels_in_use_do_not_change_with_the_velocity_searched():
    objective = objective_of(rv_range=200.0)
    for rv in (-0.5, 0.0, 0.5):
        parameters = torch.full((4, 4), rv).double()
        shift = objective.shift(parameters)
        inside = objective.weight > 0
        index = shift._index(N_PIXEL)
        lowest = index[:, :N_PIXEL][inside]
        highest = index[:, N_TAPS - 1 :][inside]
        # Full stencils: nothing was clamped to the edge.
        assert torch.equal(highest - lowest, torch.full_like(lowest, N_TAPS - 1))


def test_take_keeps_stars_as_they_are():
    objective, parameters = objective_of(smooth=True), some_parameters()
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(
        objective.take(rows).chi2(parameters[rows]), objective.chi2(parameters)[rows]
    )


def test_uneven_grid_is_refused_with_the_deviation():
    wavelength = WAVELENGTH.copy()
    wavelength[100:] *= 10**1e-5  # a tenth of a pixel
    with pytest.raises(ValueError, match=r"0\.0\d+ px off"):
        log_step(wavelength)
    with pytest.raises(ValueError, match=r"equal steps"):
        log_step(np.linspace(4000.0, 9000.0, 500))
    with pytest.raises(ValueError, match=r"at least 8 pixels, got 5"):
        log_step(WAVELENGTH[:5])
