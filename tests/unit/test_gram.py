"""Hessians by wavelength blocks, fused loops and box steps, each against the slow obvious way."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scalespec.kernels.tiles import Tile
from scalespec.models.base import EmulatorSpec
from scalespec.models.cannon import Cannon
from scalespec.optimize import quadratic
from scalespec.optimize.blocks import Blocks
from scalespec.optimize.constraints import Constraints, Given
from scalespec.optimize.fit import FitOptions, fit_labels
from scalespec.optimize.gram import BlockGram
from scalespec.optimize.levenberg import Search, SearchOptions
from scalespec.optimize.matmul import linear
from scalespec.optimize.normalization import FreePolynomial, Smoother
from scalespec.optimize.objective import Objective
from scalespec.optimize.shift import Broadening, Shift

_networks = runpy.run_path(str(Path(__file__).with_name("networks.py")))
small_payne, small_mocks = _networks["small_payne"], _networks["small_mocks"]


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def objective_of(n: int = 6, **how) -> tuple[Objective, Tensor]:
    model = small_payne()
    stars = small_mocks(model, n)
    objective = Objective.of(
        model,
        torch.tensor(stars["flux"]),
        torch.tensor(stars["ivar"]).float(),
        rv_start=torch.zeros(n),
        rv_range=60.0,
        **how,
    )
    line = np.column_stack([stars["rv"] / 120.0, *[np.zeros(n)] * (objective.n_parameter - 5)])
    return objective, torch.tensor(np.concatenate([stars["x"], line], axis=1)).float()


def _errors(hessian: Tensor) -> Tensor:
    """(n, Q, Q) -> (n, Q) errors of scaled labels beside a uniform density over the box."""
    hessian = hessian.clone()
    hessian.diagonal(dim1=1, dim2=2)[:] += 12.0
    return torch.linalg.inv(hessian).diagonal(dim1=1, dim2=2).sqrt()


def test_matrix_product_is_that_of_float64():
    x, weight = torch.randn(64, 300), torch.randn(500, 300)
    wide = x.double() @ weight.double().T
    assert float((linear(x, weight) - wide).abs().max()) < 1e-3  # float32 sums of 300 terms
    # bfloat16 inside would be 0.1 off


def test_block_hessian_equals_that_of_every_pixel():
    objective, parameters = objective_of()
    exact = objective.hessian(parameters)
    root = torch.linalg.inv(torch.linalg.cholesky(exact))
    # 3 % of pixels masked at random, weights moved with the lines: some percent in any direction
    # with few lines in 600 pixels
    for gram in BlockGram.of(objective):
        c = gram.blocks.coefficients(objective.data()[1])
        blocks = gram.hessian(objective, parameters, c)
        values = torch.linalg.eigvalsh(root @ blocks @ root.transpose(1, 2))
        assert float(values.min()) > 0.85
        assert float(values.max()) < 1.25


def test_a_search_knows_a_stars_own_continuum():
    """Of a model whose continuum, and its slope by labels, is another one all over the box."""
    model = small_payne()
    place = torch.linspace(-1, 1, model.spec.n_pixel)
    with torch.no_grad():
        tilt = 1.2 * torch.outer(
            1 + place, torch.randn(24, generator=torch.Generator().manual_seed(1))
        )
        model.output.weight.add_(tilt)
    n, step = model.spec.n_pixel, torch.arange(model.spec.n_pixel)
    kernel = torch.exp(-0.5 * ((step[:, None] - step) / 30.0) ** 2).numpy()
    smoother = Smoother([Tile(0, n, 0, n, kernel)], model.scatter)
    x = torch.rand((40, 4), generator=torch.Generator().manual_seed(2)) - 0.5
    parameters = torch.nn.functional.pad(x, (0, 1))
    flux = model.forward_scaled(x)
    given = {"rv_start": torch.zeros(40), "rv_range": 0.0, "smoother": smoother}
    objective = Objective.of(model, flux, torch.full_like(flux, 1e4), **given)
    levels = objective.continuum.continuum(flux).median(dim=1).values
    assert float(levels.max() / levels.min()) > 1.5
    gram, _ = BlockGram.of(objective)
    wanted = objective.hessian(parameters).diagonal(dim1=1, dim2=2)[:, :4]
    plain = gram.blocks.coefficients(objective.data()[1])
    off = [
        (gram.hessian(objective, parameters, c).diagonal(dim1=1, dim2=2)[:, :4] / wanted).log()
        for c in (plain, gram.means(objective, parameters))
    ]
    assert float(off[0].abs().median()) > 2 * float(off[1].abs().median())
    assert float(off[1].abs().median()) < 0.15


def test_lost_pixels_and_odd_weights_count_one_by_one():
    """Errors against those of every pixel's derivatives; by means over blocks they are off."""
    objective, parameters = objective_of(40)
    rng = np.random.default_rng(8)
    weight = objective.data()[1].clone()
    weight[torch.tensor(rng.random(weight.shape) < 0.1)] = 0.0
    weight[torch.tensor(rng.random(weight.shape) < 0.03)] *= 0.1  # sky lines
    begins = rng.integers(0, 560, len(weight)).tolist()
    for row, begin in zip(weight, begins, strict=True):
        row[begin : begin + 30] = 0.0
    objective = replace(objective, weight=weight)
    exact = _errors(objective.hessian(parameters))
    _, gram = BlockGram.of(objective)
    c, apart, uneven = gram.blocks.weighed(weight)
    assert not uneven.any()
    hessians = (
        gram.hessian(objective, parameters, c, apart),
        gram.hessian(objective, parameters, gram.blocks.coefficients(weight)),
    )
    rms, by_blocks = (float((_errors(h) / exact - 1).square().mean().sqrt()) for h in hessians)
    assert rms < 0.02  # the weights of the others vary, too
    assert by_blocks > 1.7 * rms


def test_pixels_apart_do_not_depend_on_other_stars():
    objective, parameters = objective_of(40)
    weight = objective.data()[1].clone()
    weight[::2, 40:400:3] = 0.0  # 120 pixels of half of the stars
    objective = replace(objective, weight=weight)
    _, gram = BlockGram.of(objective)
    c, apart, _ = gram.blocks.weighed(weight)
    everyone = gram.hessian(objective, parameters, c, apart)
    rows = torch.arange(8, 16)
    some = objective.take(rows)
    c, apart, _ = gram.blocks.weighed(some.data()[1])
    assert torch.equal(gram.hessian(some, parameters[rows], c, apart), everyone[rows])
    rows = rows[1::2]  # those that lost nothing more: fewer pixels apart among themselves
    some = objective.take(rows)
    c, fewer, _ = gram.blocks.weighed(some.data()[1])
    assert fewer.pixel.shape[1] < apart.pixel.shape[1]
    expected = everyone[rows].numpy()
    np.testing.assert_allclose(gram.hessian(some, parameters[rows], c, fewer), expected, rtol=1e-5)


def test_a_star_that_lost_nearly_all_of_a_label_is_uneven():
    objective, parameters = objective_of(8)
    _, gram = BlockGram.of(objective)
    weight = torch.full_like(objective.data()[1], 1e4)
    power = gram.blocks.power[0]
    ranked = torch.argsort(power, descending=True)
    information = power[ranked].cumsum(0) / power.sum()
    most = int((information < 0.95).sum()) + 1
    weight[1, ranked[:most]] = 0.0
    weight[2, ranked[: most // 3]] = 0.0
    c, apart, uneven = gram.blocks.weighed(weight)
    assert uneven.tolist() == [False, True, *[False] * 6]
    assert int((apart.excess[2] != 0).sum()) == most // 3
    assert not apart.excess[0].any()
    objective = replace(objective, weight=weight)
    exact = _errors(objective.hessian(parameters))[2, 0]
    one_by_one = gram.hessian(objective, parameters, c, apart)
    assert float(_errors(one_by_one)[2, 0] / exact) == pytest.approx(1, abs=0.03)
    by_blocks = gram.hessian(objective, parameters, gram.blocks.coefficients(weight))
    assert float(_errors(by_blocks)[2, 0] / exact) < 0.9


def test_velocity_has_its_own_spectra():
    """Row and column of the velocity against those of every pixel."""
    objective, parameters = objective_of(40)
    exact = objective.hessian(parameters)
    _, gram = BlockGram.of(objective)
    blocks = gram.hessian(objective, parameters, gram.blocks.coefficients(objective.data()[1]))
    unit = exact.diagonal(dim1=1, dim2=2).sqrt()
    off = (blocks - exact)[:, -1] / (unit[:, -1:] * unit)
    assert float(off.square().mean().sqrt()) < 0.03  # the 3 % of masked pixels, and the stencil
    assert float((blocks / exact)[:, -1, -1].mean() - 1) == pytest.approx(0, abs=0.02)


def test_gradient_is_exact_with_blocks_in_use():
    objective, parameters = objective_of()
    point, h = objective.evaluate(parameters), 1e-3
    for q in range(parameters.shape[1]):
        move = torch.zeros(parameters.shape[1])
        move[q] = h
        above, below = (objective.evaluate(parameters + s * move).chi2 for s in (1, -1))
        slope = (above - below) / (4 * h)
        scale = objective.hessian(parameters)[:, q, q].sqrt()
        assert float(((point.gradient[:, q] - slope) / scale).abs().max()) < 0.05  # of a sigma


def test_models_without_a_last_layer_and_free_widths_form_their_derivatives():
    plain, _ = objective_of()
    assert BlockGram.of(plain) is not None
    broad, _ = objective_of(broadening=Broadening(vsini=(0.0, 200.0)))
    assert BlockGram.of(broad) is None
    free = replace(plain, continuum=FreePolynomial.of_degree(2, plain.model.scatter))
    assert BlockGram.of(free) is None


def test_a_scatter_that_is_greatest_in_lines_is_in_the_blocks():
    """Against every pixel's own weight; where blocks cannot know it errors are not theirs."""
    objective, parameters = objective_of(40)
    scatter = objective.model.scatter
    jacobian = objective.model.flux_and_jacobian(torch.zeros(1, objective.n_label))[1][0]
    power = jacobian.square().sum(dim=0).sqrt()
    scatter.copy_(0.001 + 0.02 * power / power.max())
    path, gram = BlockGram.of(objective)
    assert path is not None
    assert gram is None
    scatter.copy_(0.001 + 0.002 * power / power.max())
    scatter[:20] = 1.0  # as training leaves a grid's ends
    _, gram = BlockGram.of(objective)
    for snr in (30.0, 100.0, 350.0):
        weight = (1 / (snr**-2 + scatter.double() ** 2)).expand(len(parameters), -1)
        at = replace(objective, weight=weight.to(objective.weight).contiguous())
        exact = at.hessian(parameters)
        blocks = gram.hessian(at, parameters, gram.blocks.coefficients(at.data()[1]))
        ratio = (blocks / exact).diagonal(dim1=1, dim2=2)
        assert float((ratio.mean(dim=0) - 1).abs().max()) < 0.08


def test_searches_go_by_blocks_that_do_not_know_the_scatter_and_errors_do_not():
    objective, parameters = objective_of(40)
    jacobian = objective.model.flux_and_jacobian(torch.zeros(1, objective.n_label))[1][0]
    power = jacobian.square().sum(dim=0).sqrt()
    scatter = objective.model.scatter.copy_(0.001 + 0.02 * power / power.max())
    weight = 1 / (1 / objective.weight.clamp(min=1e-30) + scatter.square())
    objective = replace(objective, weight=weight)
    edge = torch.full_like(parameters, 0.5)
    by_blocks = Search.of(objective, SearchOptions(50, 1e-4, exact_covariance=False))
    assert by_blocks.gram is not None
    by_pixels = replace(by_blocks, gram=None)
    with torch.no_grad():
        found, right = (
            search.run(objective, torch.zeros_like(parameters), -edge, edge)
            for search in (by_blocks, by_pixels)
        )
        exact = objective.hessian(found.parameters)
    assert float((found.chi2 - right.chi2).abs().quantile(0.9)) < 0.01
    assert float((_errors(found.hessian) / _errors(exact) - 1).abs().max()) < 1e-3
    told = by_blocks.gram.hessian(objective, found.parameters, found.blocks)
    assert float((_errors(told) / _errors(exact) - 1).abs().max()) > 0.05


def test_weights_of_blocks_are_never_negative_and_keep_their_sums():
    rng = np.random.default_rng(5)
    profile = torch.tensor(rng.uniform(0, 1, 100))
    blocks = Blocks((0, 50, 100), torch.zeros(1, 100), profile)
    for weight in (1 - profile, profile**3, profile**0, 0 * profile, 2 + 3 * profile):
        flat, along = blocks.coefficients(weight[None])[0].view(2, 2)
        assert (flat >= 0).all()
        assert (along >= 0).all()
        total = 50 * flat + along * profile.view(2, 50).sum(dim=1)
        torch.testing.assert_close(total, weight.view(2, 50).sum(dim=1))
    np.testing.assert_allclose(blocks.coefficients((2 + 3 * profile)[None])[0], [2, 2, 3, 3])


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("scatter", [False, True])
def test_what_blocks_tell_against_plain_sums(scatter: bool, compiled: bool, monkeypatch):
    """Least squares of each block's known weights; what is far off counts one by one.

    By the processor's loops, and by what other devices do.
    """
    monkeypatch.setattr("scalespec.optimize.blocks._on_processor", lambda _: compiled)
    rng = np.random.default_rng(6)
    profile = rng.uniform(0.2, 1, 100) if scatter else None
    weight = rng.uniform(0.8, 1.2, (20, 100)) * 1e4
    weight[rng.random(weight.shape) < 0.1] = 0.0
    weight[3, 20:] = 0.0  # more than is counted one by one
    given = torch.tensor(weight).float()
    blocks = Blocks(
        (0, 50, 100), torch.ones(1, 100), None if profile is None else torch.tensor(profile)
    )
    c, apart, uneven = blocks.weighed(given)
    told = np.zeros_like(weight)
    for star, part in [(s, slice(b, b + 50)) for s in range(20) for b in (0, 50)]:
        w = weight[star, part]
        shapes = np.stack([np.ones(50)] + ([] if profile is None else [profile[part]]), axis=1)
        used = np.full(50, True) if star == 3 else w > 0
        best = np.linalg.lstsq(shapes[used], w[used], rcond=None)[0]
        if (best < 0).any():  # one of the two alone, whichever is positive
            only = shapes[:, int(best[0] < 0)]
            best = np.where(best < 0, 0.0, w[used].sum() / only[used].sum())
        told[star, part] = shapes @ best
    np.testing.assert_allclose(blocks.told(c), told, rtol=1e-4, atol=1)
    far = np.abs(weight - told) > 0.5 * told
    far[3] = False
    found = np.zeros_like(weight)
    np.add.at(found, (np.arange(20)[:, None], apart.pixel.numpy()), apart.excess.numpy())
    np.testing.assert_allclose(found, np.where(far, weight - told, 0), rtol=1e-3, atol=2)
    assert not uneven.any()  # means tell all of a label whose lines are everywhere


@pytest.mark.parametrize("widths", [False, True])
def test_fused_loops_equal_torch(widths: bool):
    """The processor's loops against gathers and transposes as a GPU does them."""
    rng = np.random.default_rng(1)
    n, n_pixel = 3, 90
    flux, back = (torch.tensor(rng.random((n, n_pixel))) for _ in range(2))
    broadening = Broadening(vsini=(0.0, 300.0), lsf=(0.0, 90.0)) if widths else None
    shift = Shift.by(
        torch.tensor([-900.0, 3.0, 5000.0]).double(),
        step=1e-4 * np.log(10),
        widths=torch.tensor(rng.uniform(10, 80, (n, 2))) if widths else None,
        broadening=broadening,
    )
    index = shift._index(n_pixel)
    dense = torch.zeros(n, n_pixel, n_pixel).double()
    for s in range(n):
        for i in range(n_pixel):
            for t in range(shift.taps.shape[1]):
                dense[s, i, index[s, i + t]] += shift.taps[s, t]
    moved = torch.bmm(dense, flux[:, :, None]).squeeze(-1)
    torch.testing.assert_close(shift.forward(flux), moved)
    pulled = torch.bmm(dense.transpose(1, 2), back[:, :, None]).squeeze(-1)
    torch.testing.assert_close(shift.pull(back), pulled)
    products = (shift.forward_slopes(flux) * back[:, None]).sum(dim=2)
    torch.testing.assert_close(shift.slope_products(flux, back), products)


def test_rotation_and_lsf_broaden_as_their_profiles_do():
    """A sharp line against a fine numerical convolution."""
    step, n = 1e-4 * np.log(10), 201
    pixel_kms = 299792.458 * step
    for vsini, lsf in ((250.0, 0.0), (0.0, 80.0), (150.0, 60.0)):
        broadening = Broadening(vsini=(0.0, 300.0), lsf=(0.0, 100.0))
        line = np.exp(-0.5 * ((np.arange(n) - 100) / 1.6) ** 2)
        widths = torch.tensor([[vsini, lsf]]).double()
        shift = Shift.by(torch.zeros(1).double(), step=step, widths=widths, broadening=broadening)
        made = shift.forward(torch.tensor(1 - 0.5 * line)[None])[0].numpy()
        fine = np.arange(-3000, 3001) / 100.0  # pixels
        kernel = np.exp(-0.5 * (fine * pixel_kms / max(lsf, 0.1 * pixel_kms)) ** 2)
        u = fine * pixel_kms / max(vsini, 1e-9)
        if vsini:
            root = np.sqrt(np.clip(1 - u**2, 0, None))
            rotation = 2 * 0.4 * root + 0.5 * np.pi * 0.6 * root**2
            kernel = np.convolve(kernel, rotation, mode="same") if lsf else rotation
        kernel /= kernel.sum()
        dense = np.array(
            [np.sum(kernel * np.exp(-0.5 * ((i - 100 - fine) / 1.6) ** 2)) for i in range(n)]
        )
        assert np.abs(made - (1 - 0.5 * dense)).max() < 3e-3  # of the continuum; nodes, stencil


@pytest.mark.parametrize("limits", [(5.0, 5.0), (-1.0, 5.0), (0.0, np.inf)])
def test_a_width_wants_a_range(limits):
    with pytest.raises(ValueError, match="vsini wants a range"):
        Broadening(vsini=limits)


def test_free_polynomial_forgets_a_polynomial_continuum():
    model = small_payne()
    stars = small_mocks(model, 40, snr=100.0)
    place = np.linspace(-1, 1, 600)
    tilt = 1.3 + np.random.default_rng(2).uniform(-0.3, 0.3, (40, 1)) * place + 0.1 * place**2
    options = FitOptions(polynomial=2, rv_range=60.0)
    fit = fit_labels(model, stars["flux"] * tilt, stars["ivar"] / tilt**2, options=options)
    pulls = (fit.labels - stars["labels"]) / fit.label_err
    assert np.abs(pulls.mean(axis=0)).max() < 0.6  # 40 stars: 0.16 of chance
    assert 0.75 < pulls.std() < 1.2
    assert (fit.dof == fit.n_used - 5 - 3).all()
    plain = fit_labels(model, stars["flux"] * tilt, stars["ivar"] / tilt**2)
    assert np.median(plain.chi2 / fit.chi2) > 3


def test_vsini_is_found_with_an_honest_error():
    model = small_payne()
    stars = small_mocks(model, 60, snr=150.0)
    step = 1e-4 * np.log(10)
    truth = np.random.default_rng(3).uniform(60, 240, 60)
    broadening = Broadening(vsini=(0.0, 300.0))
    shift = Shift.by(
        torch.tensor(stars["rv"]).float(),
        step=step,
        widths=torch.tensor(truth[:, None]).float(),
        broadening=broadening,
    )
    with torch.no_grad():
        clean = shift.forward(model.forward_scaled(torch.tensor(stars["x"]).float())).numpy()
    flux = clean + np.random.default_rng(4).standard_normal(clean.shape) / 150
    options = FitOptions(broadening=broadening, rv_range=60.0)
    fit = fit_labels(model, flux, np.full_like(flux, 150.0**2), options=options)
    pulls = (fit.widths[:, 0] - truth) / fit.width_err[:, 0]
    assert 0.7 < 1.4826 * np.median(np.abs(pulls)) < 1.35  # 60 stars: 0.12 of chance
    assert np.abs(fit.widths[:, 0] - truth).mean() < 15  # km/s, of pixels of 69 km/s


def problems(n: int, size: int, seed: int = 0) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((n, size, size))
    gradient = 3 * rng.standard_normal((n, size))
    lower, upper = -rng.uniform(0, 1, (n, size)), rng.uniform(0, 1, (n, size))
    lower[:, 0] = upper[:, 0] = 0  # no room at all
    return [torch.tensor(a) for a in (root @ root.transpose(0, 2, 1), gradient, lower, upper)]


def test_compiled_box_step_equals_the_batched_one(monkeypatch: pytest.MonkeyPatch):
    given = problems(300, 9)
    one = quadratic.bounded_step(*given, damping=1e-3)

    def batched(matrix, g, low, high, out):
        tensors = (torch.tensor(a) for a in (matrix, g, low, high))
        out[:] = quadratic._solve_batch(*tensors).numpy()

    monkeypatch.setattr(quadratic, "_solve_all", batched)
    torch.testing.assert_close(one, quadratic.bounded_step(*given, damping=1e-3))
    assert not one[:, 0].any()


def test_priors_bounds_and_ties_are_held():
    model = small_payne()
    stars = small_mocks(model, 30)
    data = stars["flux"], stars["ivar"]
    free = fit_labels(model, *data)
    tight = Constraints(
        prior_mean=np.array([5000.0, 2.0, 0.0, 0.1]),
        prior_sigma=np.array([np.inf, np.inf, np.inf, 1e-4]),
    )
    held = fit_labels(model, *data, constraints=tight)
    np.testing.assert_allclose(held.labels[:, 3], 0.1, atol=1e-3)  # ten of the prior's sigmas
    assert (held.prior_dominated & np.uint64(0b1000) > 0).all()
    assert (held.chi2 >= free.chi2 - 0.1).all()  # the prior's own part is not in chi2
    fixed = np.full((30, 4), np.nan)
    fixed[::2, 0] = 5000.0
    some = fit_labels(model, *data, constraints=Constraints(low=fixed, high=fixed))
    assert (some.labels[::2, 0] == 5000).all()
    assert not some.label_err[::2, 0].any()
    assert (some.at_bound[::2] & np.uint64(1) == 0).all()
    assert (some.dof == some.n_used - np.where(np.arange(30) % 2, 5, 4)).all()
    np.testing.assert_allclose(some.labels[1::2], free.labels[1::2], rtol=1e-3, atol=1e-3)


def test_tied_labels_have_one_value_and_its_error():
    model = small_payne(n_label=6)
    x = np.random.default_rng(5).uniform(-0.3, 0.3, (25, 6))
    x[:, 5] = x[:, 3]  # both ranges are -0.5 to 0.5 dex
    with torch.no_grad():
        clean = model.forward_scaled(torch.tensor(x).float()).numpy()
    flux = clean + np.random.default_rng(6).standard_normal(clean.shape) / 80
    ivar = np.full_like(clean, 6400.0)
    names = model.spec.labels
    tied = Constraints(tied={names[5]: names[3]})
    fit = fit_labels(model, flux, ivar, constraints=tied)
    np.testing.assert_allclose(fit.labels[:, 5], fit.labels[:, 3], atol=1e-6)
    np.testing.assert_allclose(fit.label_err[:, 5], fit.label_err[:, 3], rtol=1e-5)
    alone = fit_labels(model, flux, ivar)
    assert (fit.label_err[:, 3] <= alone.label_err[:, 3] * 1.02).all()
    pulls = (fit.labels[:, 3] - x[:, 3]) / fit.label_err[:, 3]
    assert 0.6 < pulls.std() < 1.4  # 25 stars: 0.14 of chance


@pytest.mark.parametrize("scatter", [0.0, 0.03])
def test_errors_know_a_scatter_that_is_greatest_in_lines(scatter: float):
    """The Cannon's: weights are least where the derivatives are; against every pixel's own."""
    rng = np.random.default_rng(8)
    wavelength = 10 ** (4.179 + 6e-6 * np.arange(600))
    spec = EmulatorSpec("toy", ("a", "b"), [-1.0, -1.0], [1.0, 1.0], wavelength)
    model = Cannon(spec)
    line = np.exp(-0.5 * ((np.arange(600) % 40 - 20) / 1.5) ** 2)
    with torch.no_grad():
        model.output.weight[:, 1:] = torch.tensor(line[:, None] * rng.normal(0, 0.2, (600, 5)))
        model.scatter.copy_(torch.tensor(0.001 + scatter * line))
    x = torch.tensor(rng.uniform(-0.2, 0.2, (4, 2)))
    flux, jacobian = model.flux_and_jacobian(x.float())
    ivar = np.full(flux.shape, 1e4, np.float32)
    fit = fit_labels(model, flux.detach().numpy(), ivar, options=FitOptions(rv_range=0.01))
    weight = 1 / (1e-4 + model.scatter.double() ** 2)
    j = jacobian.detach().double() / 2  # labels span 2
    exact = torch.linalg.inv((j * weight) @ j.mT).numpy()
    ratio = fit.label_err / np.sqrt(np.diagonal(exact, axis1=1, axis2=2))
    assert np.abs(ratio - 1).max() < 0.05  # by means over blocks: 0.5
    assert not fit.status.any()


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"tied": {"nothing": "teff"}}, "no label to tie 'nothing'"),
        ({"tied": {"teff": "logg", "logg": "fe_h"}}, "which is itself tied"),
        ({"low": np.array([7000.0, 0, 0, 0])}, "bound of 7000 lies outside"),
        ({"prior_mean": np.zeros(4)}, "both prior_mean and prior_sigma"),
        ({"prior_mean": np.zeros(4), "prior_sigma": -np.ones(4)}, "must be positive, got -1"),
        ({"low": np.zeros(3)}, r"low should be \(4,\) or \(2, 4\), got \(3,\)"),
    ],
)
def test_constraints_that_cannot_be_are_refused(constraints: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Given.of(small_payne(), Constraints(**constraints), 2)


def test_a_star_that_lost_an_elements_lines_knows_it():
    """Ten pixels of six hundred: their blocks' means hardly fall, the label's information does."""
    wavelength = 10 ** (3.7 + 1e-4 * np.arange(600))
    spec = EmulatorSpec("two", ("teff", "li"), [4000.0, -1.0], [6000.0, 1.0], wavelength)
    model, pixel, rng = Cannon(spec, order=1), np.arange(600)[:, None], np.random.default_rng(0)
    many = (0.2 * np.exp(-0.5 * ((pixel - rng.uniform(0, 600, 60)) / 2) ** 2)).sum(axis=1)
    one = 0.2 * np.exp(-0.5 * ((pixel[:, 0] - 300) / 2) ** 2)
    model.output.weight.copy_(torch.tensor(np.stack([1 - many, -many / 2, -one], axis=1)))
    x = torch.tensor(rng.uniform(-0.3, 0.3, (16, 2))).float()
    flux = model.forward_scaled(x) + torch.tensor(rng.standard_normal((16, 600)) / 50).float()
    ivar = torch.full_like(flux, 2500.0)
    ivar[::2, 295:306] = 0
    blocks, exact = (
        fit_labels(model, flux, ivar, options=FitOptions(rv_range=20.0, exact_covariance=e))
        for e in (False, True)
    )
    np.testing.assert_allclose(blocks.label_err, exact.label_err, rtol=0.05)
    assert (blocks.label_err[::2, 1] > 2 * blocks.label_err[1::2, 1]).all()
    np.testing.assert_array_equal(blocks.prior_dominated, exact.prior_dominated)
