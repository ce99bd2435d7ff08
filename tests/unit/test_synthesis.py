"""Line synthesis behaves like stars, and its derivatives are exact."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scalespec.kernels.wavelength import log_grid
from scalespec.models.gas import SYMBOLS
from scalespec.models.lines import LineList
from scalespec.models.starlabels import label_box
from scalespec.models.synthesis import LineSynthesis
from scalespec.stages.mock_spectra import load_lines

METALS = tuple(f"{symbol.lower()}_fe" for symbol in SYMBOLS[2:])
LABELS = ("teff", "logg", "fe_h", "vmic", "vsini", "vmac", "he_h", *METALS)
GRID = log_grid(3.5682, 1e-4, 3909)


@pytest.fixture(scope="module")
def lines() -> LineList:
    return load_lines()


@pytest.fixture(scope="module")
def model(lines) -> LineSynthesis:
    return LineSynthesis(lines, GRID, labels=LABELS)


def values(model, stars) -> torch.Tensor:
    """Labels of stars given as dicts; of a dwarf of 5000 K where they say nothing."""
    usual = {"teff": 5000.0, "logg": 4.0, "vmic": 1.5}
    rows = [[(usual | star).get(name, 0.0) for name in model.spec.labels] for star in stars]
    return torch.tensor(rows, dtype=torch.float64)


def fluxes(model, *stars) -> np.ndarray:
    with torch.no_grad():
        return model(values(model, stars)).double().numpy()


def widths(model, center: float, half: float, stars) -> np.ndarray:
    """Equivalent widths [Å] within `half` of a wavelength."""
    grid = model.spec.wavelength
    near = np.abs(grid - center) < half
    return np.sum((1 - fluxes(model, *stars)[:, near]) * np.gradient(grid)[near], axis=1)


def one_line(wavelength=5500.0, element="Fe", stage=1, excitation=2.0, log_gf=-1.0) -> LineList:
    columns = (np.array([x]) for x in (wavelength, stage, excitation, log_gf))
    wave, ion_stage, energy, gf = columns
    return LineList(wave, (element,), ion_stage, energy, gf)


def depth_of(line, grid, *stars, **options) -> np.ndarray:
    """Depth of some lines alone: hydrogen and molecules, which are always there, divided out."""
    with_, without = (
        fluxes(LineSynthesis(lines, grid, **options), *stars)
        for lines in (line, one_line(log_gf=-30.0))
    )
    return 1 - with_ / without


def test_there_are_the_labels_that_experiments_want(model):
    assert len(METALS) >= 25
    assert model.spec.labels == LABELS


@pytest.fixture(scope="module")
def exact(lines) -> LineSynthesis:
    """The same in float64, where metals, CH, C2 and hydrogen have lines."""
    return LineSynthesis(lines, GRID[500:1500:5], labels=LABELS, dtype=torch.float64)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("which", ["model", "exact"])
def test_flux_is_finite_and_lies_between_zero_and_the_continuum(which, corners, request):
    synthesis, rng = request.getfixturevalue(which), np.random.default_rng(1)
    low, high = synthesis.spec.minimum, synthesis.spec.maximum
    share = rng.random((48, len(LABELS)))
    drawn = low + (high - low) * (np.round(share) if corners else share)
    with torch.no_grad():
        flux = synthesis(torch.from_numpy(drawn)).numpy()
    assert np.all(np.isfinite(flux))
    assert flux.min() >= 0
    assert flux.max() <= 1 + 1e-5  # rounding of the transforms
    assert flux.std() > 0.01


@pytest.mark.parametrize(
    ("element", "center", "half"),
    [("ba_fe", 4935.46, 6.0), ("sr_fe", 4078.86, 4.0), ("mg_fe", 5178.0, 30.0)],
)
def test_lines_of_an_element_grow_over_its_whole_range(model, element, center, half):
    """Ba II 4934, Sr II 4078, Mg b in a metal-poor giant."""
    low, high = label_box((element,), None)[0]
    star = {"teff": 4800.0, "logg": 2.0, "fe_h": -2.5}
    found = widths(model, center, half, [star | {element: x} for x in np.linspace(low, high, 9)])
    assert np.all(np.diff(found) > 0)
    assert found[-1] > 1.5 * found[0]  # others are there, too


def test_a_metal_poor_star_of_much_carbon_is_a_carbon_star(model):
    """Its G band and Swan bands grow with every half dex; without carbon it has neither."""
    star = {"teff": 4800.0, "logg": 2.0, "fe_h": -2.5}
    stars = [star | {"c_fe": x} for x in np.arange(-1.5, 3.1, 0.5)]
    g_band, swan = widths(model, 4302.0, 12.0, stars), widths(model, 5130.0, 35.0, stars)
    assert np.all(np.diff(g_band) > 0)
    assert g_band[-1] > 10.0  # of 24 Å
    assert np.all(np.diff(swan) > -1e-3)  # electrons of carbon raise the continuum's opacity
    assert swan[-1] - swan[0] > 2.0


def test_every_label_moves_the_flux(model):
    star = {"teff": 5200.0, "logg": 2.5, "vsini": 20.0, "vmac": 5.0}
    with torch.no_grad():
        base = model.scale(values(model, [star]).float())
        moved = base + 0.02 * torch.eye(len(LABELS))
        change = (model.forward_scaled(moved) - model.forward_scaled(base)).abs().amax(1)
    assert float(change.min()) > 1e-6, LABELS[int(change.argmin())]


# Lines ------------------------------------------------------------------------------------------


def test_a_line_lies_at_its_vacuum_wavelength_and_has_the_instruments_width():
    fine = np.linspace(5490.0, 5510.0, 4001)
    for power in (1800.0, 5000.0):
        depth = depth_of(one_line(log_gf=-5.0), fine, {}, resolving_power=power)[0]
        assert fine[depth.argmax()] == pytest.approx(5500.0, abs=0.006)  # a pixel
        above = fine[depth > depth.max() / 2]
        # 0.01 Å of pixels, and 0.5 % by the gas's own 2 km/s at R = 5000
        assert np.ptp(above) == pytest.approx(5500.0 / power, rel=0.01, abs=0.01)


@pytest.mark.parametrize("log_gf", [-5.0, -3.0, -1.0, 0.5])
def test_a_line_keeps_its_equivalent_width_at_any_resolution(log_gf):
    fine = np.linspace(5440.0, 5560.0, 2401)
    line = one_line(log_gf=log_gf)
    found = [
        np.trapezoid(depth_of(line, fine, {}, resolving_power=r)[0], fine)
        for r in (1800.0, 6000.0, 20000.0)
    ]
    # Weak lines are exact; of strong ones the resolved wing and the unresolved core multiply
    assert found == pytest.approx(3 * [found[1]], rel=0.01 if log_gf < -4 else 0.1)


def test_the_curve_of_growth_is_linear_then_flat_then_damped():
    fine = np.linspace(5300.0, 5700.0, 1001)
    found = [
        np.trapezoid(depth_of(one_line(log_gf=g), fine, {})[0], fine)
        for g in (-7.0, -6.0, -3.0, -2.0, 1.0, 2.0)
    ]
    slope = np.diff(np.log10(found))
    slope[[1, 3]] = np.nan  # ends of different branches
    assert slope[0] == pytest.approx(1.0, abs=0.02)  # optically thin
    assert slope[2] < 0.35  # only the Gaussian core is black, and that grows as sqrt(ln)
    assert slope[-1] == pytest.approx(0.5, abs=0.06)  # wings of x^-2


def test_blended_lines_add_up_to_less_than_their_sum():
    fine = np.linspace(5480.0, 5520.0, 401)
    pair = LineList(
        np.array([5500.0, 5500.02]),
        ("Fe", "Fe"),
        np.array([1, 1]),
        np.array([2.0, 2.0]),
        np.array([0.0, 0.0]),
    )
    alone, both = (
        np.trapezoid(depth_of(x, fine, {})[0], fine) for x in (one_line(log_gf=0.0), pair)
    )
    assert 1.3 * alone < both < 1.98 * alone


def test_an_entry_for_many_lines_saturates_later_than_one_line():
    fine = np.linspace(5480.0, 5520.0, 401)
    one = one_line(log_gf=-1.5)
    many = replace(one, count=np.array([20.0]), spread=np.array([2.0]))
    single, veil = (np.trapezoid(depth_of(x, fine, {})[0], fine) for x in (one, many))
    assert veil > 2 * single


def test_microturbulence_strengthens_saturated_lines_only():
    fine = np.linspace(5480.0, 5520.0, 401)

    def gain(log_gf: float) -> float:
        stars, names = ({"vmic": 1.0}, {"vmic": 2.5}), ("teff", "logg", "fe_h", "vmic")
        narrow, wide = depth_of(one_line(log_gf=log_gf), fine, *stars, labels=names).sum(1)
        return float(wide / narrow)

    assert gain(-2.0) > 1.3
    assert gain(-6.0) == pytest.approx(1.0, abs=0.01)  # its depth is not quite 0


@pytest.mark.parametrize("center", [5185.0, 4227.9, 5891.6])  # Mg I b, Ca I, Na I D
def test_wings_of_strong_lines_grow_with_gravity(lines, center):
    only = lines.take(np.flatnonzero(np.abs(lines.wavelength - center) < 0.1))
    alone = LineSynthesis(only, np.array([center - 6.0, center - 5.0, center + 5.0, center + 6.0]))
    depths = 1 - fluxes(alone, *({"teff": 4600.0, "logg": g} for g in range(6)))
    # More collisions per volume
    assert np.all(np.diff(depths[:, [0, -1]].mean(1)) > 0)


# Stars ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("center", "half"),
    [
        (5270.0, 8.0),  # Fe I
        (5185.0, 4.0),  # Mg I b
        (5893.5, 8.0),  # Na I D
        (3934.8, 10.0),  # Ca II K
        (8544.4, 8.0),  # Ca II triplet
        (4305.0, 10.0),  # G band
    ],
)
@pytest.mark.parametrize("star", [{"teff": 4700.0, "logg": 2.3}, {"teff": 5800.0, "logg": 4.4}])
def test_metal_lines_deepen_with_metallicity(model, center, half, star):
    found = widths(model, center, half, [star | {"fe_h": m} for m in (-4, -3, -2, -1, 0, 0.5)])
    assert np.all(np.diff(found) > 0)  # more absorbers over the same hydrogen


@pytest.mark.parametrize(
    ("center", "half"),
    [
        (5185.0, 5.0),  # Mg I b: the neutral is 1 % of magnesium and goes as exp(7.6 eV / kT)
        (5893.5, 8.0),  # Na I D: likewise, 5.1 eV
        (4305.0, 10.0),  # G band: CH dissociates
        (8544.4, 8.0),  # Ca triplet: its 1.7 eV pay, but Ca II gives way to Ca III and H- to H
    ],
)
def test_lines_of_cool_gas_fade_with_temperature(model, center, half):
    stars = [{"teff": t, "logg": 4.0} for t in (5000, 5750, 6500, 7250, 8000)]
    alone = widths(model, center, half, stars)
    hydrogen = widths(model, center, half, [s | {"fe_h": -4.0} for s in stars])
    assert np.all(np.diff(alone - hydrogen) < 0)


def test_the_calcium_triplet_grows_as_giants_expand(model):
    found = widths(model, 8544.4, 8.0, [{"teff": 4800.0, "logg": g} for g in (0, 1, 2, 3)])
    # H- per gram goes with the electrons' pressure while calcium stays ionized
    assert np.all(np.diff(found) < 0)


@pytest.mark.parametrize("teff", [4500.0, 5500.0])
def test_magnesium_b_is_strongest_in_dwarfs(model, teff):
    found = widths(model, 5178.0, 14.0, [{"teff": teff, "logg": g} for g in (3, 3.5, 4, 4.5, 5)])
    assert np.all(np.diff(found) > 0)  # wings broadened by hydrogen


@pytest.mark.parametrize("center", [6564.6, 4862.7, 4341.7])
def test_balmer_lines_grow_with_temperature_up_to_a_stars(lines, center):
    alone = LineSynthesis(one_line(log_gf=-9.0), GRID[np.abs(GRID - center) < 60])
    stars = [{"teff": t, "fe_h": -4.0} for t in (5250, 6000, 6750, 7500, 8250)]
    found = widths(alone, center, 50.0, stars)
    assert np.all(np.diff(found) > 0)  # the n = 2 level is 10.2 eV up


@pytest.mark.parametrize("center", [6564.6, 4862.7, 4341.7, 4102.9])
def test_balmer_lines_are_strongest_near_9000_kelvin(center):
    alone = LineSynthesis(one_line(log_gf=-9.0), GRID[np.abs(GRID - center) < 80])
    teff = np.array([7000, 8000, 9000, 10000, 11000, 13000, 17000, 22000, 30000])
    found = widths(alone, center, 60.0, [{"teff": t, "fe_h": -4.0} for t in teff])
    assert 8000 <= teff[found.argmax()] <= 10000  # above, hydrogen is ionized
    assert np.all(np.diff(found[teff >= 10000]) < 0)


def test_balmer_wings_of_warm_stars_grow_with_gravity(model):
    wing = np.abs(np.abs(GRID - 4862.69) - 12.0) < 3.0
    stars = ({"teff": 9500.0, "logg": g, "fe_h": -2.0} for g in (2.0, 3.0, 4.0, 5.0))
    depths = 1 - fluxes(model, *stars)[:, wing].mean(1)
    assert np.all(np.diff(depths) > 0)  # Stark broadening: more electrons per volume


@pytest.mark.parametrize("center", [4472.7, 5877.2])
def test_helium_appears_in_b_stars_and_follows_its_abundance(model, center):
    stars = [{"teff": t, "fe_h": -4.0} for t in (10000, 12000, 14000, 16000, 18000)]
    found = widths(model, center, 4.0, stars)
    assert np.all(np.diff(found) > 0)  # its lower level is 21 eV up
    assert found[-1] > 0.3
    poor, rich = widths(model, center, 4.0, [stars[-1] | {"he_h": h} for h in (-0.5, 0.5)])
    assert poor < found[-1] < rich


def test_ions_lose_against_neutrals_as_gravity_rises():
    fine = np.linspace(5490.0, 5510.0, 201)
    depths = [
        1 - fluxes(
            LineSynthesis(one_line(stage=stage, log_gf=gf), fine),
            *({"teff": 5500.0, "logg": g} for g in range(1, 6)),
        ).min(1)
        for stage, gf in ((1, -3.5), (2, -4.0))
    ]  # fmt: skip
    # Saha: recombination goes with electron pressure
    assert np.all(np.diff(depths[1] / depths[0]) < 0)


@pytest.mark.parametrize(
    ("label", "center", "half"),
    [
        ("mg_fe", 5178.0, 12.0),
        ("ca_fe", 4227.9, 4.0),
        ("na_fe", 5893.5, 6.0),
        ("c_fe", 5160.0, 10.0),
    ],
)
def test_an_element_moves_its_own_lines(model, label, center, half):
    star = {"teff": 5000.0, "logg": 3.0}
    base, more = fluxes(model, star, star | {label: 0.3})
    change = base - more
    near = np.abs(GRID - center) < half
    assert change[near].max() > 0.02
    assert change[near].max() > 0.5 * np.abs(change).max()


def test_g_band_dies_in_hot_stars(model):
    stars = [{"teff": t, "c_fe": c} for t in (5000.0, 8000.0) for c in (-0.3, 0.3)]
    found = widths(model, 4305.0, 10.0, stars)
    assert found[1] > found[0] + 1.0
    assert found[3] == pytest.approx(found[2], abs=0.1)  # 3.5 eV are not enough


def test_oxygen_takes_carbon_from_the_g_band_of_cool_giants(model):
    cool, warm = {"teff": 3900.0, "logg": 1.0}, {"teff": 5800.0, "logg": 4.4}
    found = widths(model, 4305.0, 10.0, [s | {"o_fe": o} for s in (cool, warm) for o in (0.0, 0.5)])
    assert found[1] < found[0] - 0.5  # of a black band
    assert found[3] == pytest.approx(found[2], rel=0.05)  # most CO is dissociated


@pytest.mark.parametrize(("center", "half"), [(7072.0, 15.0), (6175.0, 15.0), (4965.0, 10.0)])
def test_titanium_oxide_appears_below_4000_kelvin(model, center, half):
    stars = [{"teff": t, "logg": 4.8} for t in (3800.0, 4000.0, 4400.0)]
    with_, without = (
        widths(model, center, half, [s | {"o_fe": o} for s in stars]) for o in (0.0, -1.0)
    )
    taken = with_ - without
    assert taken[0] > 0.5
    assert np.all(np.diff(taken) < 0)  # 6.9 eV hold it together, and CO leaves it oxygen


# Broadening -------------------------------------------------------------------------------------


def test_rotation_keeps_equivalent_widths(model):
    stars = [{"teff": 6000.0, "fe_h": -1.0, "vsini": v} for v in (0.0, 50.0, 200.0)]
    found = widths(model, 6564.6, 80.0, stars)
    # what of a line of 8 Å rotation moves over the ends
    assert found == pytest.approx(3 * [found[0]], rel=0.01)


def test_a_rotating_line_has_the_analytic_profile():
    step = 1e-5  # 6.9 km/s
    pixel = np.arange(-120, 121)
    grid = 5500.0 * 10 ** (step * pixel)
    names = ("teff", "logg", "fe_h", "vsini")
    weak = LineSynthesis(one_line(log_gf=-3.0), grid, labels=names, resolving_power=20000.0)
    still, moving = 1 - fluxes(weak, {"vsini": 0.0}, {"vsini": 150.0})
    v = np.log(10.0) * step * pixel * 299792.458
    # Gray 2005, eq. 18.14, averaged over pixels
    fine = np.linspace(-0.5, 0.5, 101)[:, None] * (v[1] - v[0])
    x2 = np.minimum(((v + fine) / 150.0) ** 2, 1.0)
    kernel = np.mean(0.8 * np.sqrt(1 - x2) + 0.3 * np.pi * (1 - x2), 0)
    inside = kernel > 0
    expected = np.convolve(still, (kernel / kernel.sum())[inside], "same")
    seen = slice(30, -30)  # beyond, light comes from over the ends
    # the kernel averaged over pixels is a little broader than it is
    assert moving[seen] == pytest.approx(expected[seen], abs=0.01 * expected.max())


def test_any_grid_gives_the_same_rotating_star(lines):
    names = ("teff", "logg", "fe_h", "vsini")
    uneven = np.sort(np.concatenate([np.arange(5100.0, 5300.0, 1.3), np.arange(5150.0, 5200, 0.7)]))
    star = {"vsini": 80.0}
    on_log = LineSynthesis(lines, log_grid(np.log10(5080.0), 2e-5, 1100), labels=names)
    found = fluxes(LineSynthesis(lines, uneven, labels=names), star)[0]
    expected = np.interp(uneven, on_log.spec.wavelength, fluxes(on_log, star)[0])
    # linear interpolation of the fine grid, and continua solved at other wavelengths
    assert found == pytest.approx(expected, abs=2e-3)


# The module -------------------------------------------------------------------------------------


def test_jacobian_equals_central_differences(lines):
    names = (*LABELS[:7], "c_fe", "n_fe", "o_fe", "mg_fe", "ti_fe", "cr_fe", "ni_fe")
    exact = LineSynthesis(lines, GRID[1485:1515], labels=names, dtype=torch.float64)
    star = {"teff": 5000.0, "logg": 2.5, "fe_h": -0.4, "vsini": 30.0, "vmac": 8.0, "he_h": 0.1}
    x = (values(exact, [star]) - exact.minimum) / exact.span - 0.5
    spectrum, jacobian = exact.flux_and_jacobian(x)
    step = 2e-5  # 0.5 K
    shifts = step * torch.eye(len(names), dtype=torch.float64)
    with torch.no_grad():
        slopes = (exact.forward_scaled(x + shifts) - exact.forward_scaled(x - shifts)) / (2 * step)
        assert torch.allclose(spectrum, exact.forward_scaled(x))
    # step**2 times third derivatives by scaled labels, up to 1e3 for temperature
    scale = 1 + slopes.abs().amax(1, keepdim=True)
    assert float(((jacobian[0] - slopes).abs() / scale).max()) < 1e-6


def test_backward_and_forward_derivatives_agree(lines):
    names = ("teff", "logg", "fe_h", "c_fe")
    exact = LineSynthesis(lines, GRID[1400:1420], labels=names, dtype=torch.float64)
    x = torch.full((1, 4), -0.3, dtype=torch.float64)
    _, forward = exact.flux_and_jacobian(x)
    backward = torch.autograd.functional.jacobian(exact.forward_scaled, x)[0, :, 0]
    # the order of float64 sums, of slopes up to 10
    assert torch.allclose(forward[0], backward.T, atol=1e-9)


def test_float32_is_good_to_2e_4(lines, model):
    exact = LineSynthesis(lines, GRID, labels=LABELS, dtype=torch.float64)
    stars = ({"teff": 3900.0, "logg": 1.0}, {"teff": 5777.0}, {"teff": 9000.0})
    # exponents up to 60, saturated by no more than a factor of 2 in flux
    assert np.abs(fluxes(model, *stars) - fluxes(exact, *stars)).max() < 2e-4


def test_a_star_does_not_depend_on_its_batch(model):
    stars = [{"teff": 5000.0}, {"teff": 20000.0, "fe_h": -1.0}]
    both, alone = fluxes(model, *stars), fluxes(model, stars[1])
    assert both[1] == pytest.approx(alone[0], abs=2e-6)  # float32 sums in another order


def test_there_may_be_no_stars(lines):
    small = LineSynthesis(lines, GRID[1300:1320], labels=("teff", "logg", "fe_h", "vsini"))
    assert small(torch.zeros(0, 4)).shape == (0, 20)


def test_a_grid_may_be_one_pixel(lines):
    whole = LineSynthesis(lines, GRID[1300:1360])
    one = whole.slice_grid(30, 31)
    # the continuum is solved at other wavelengths
    assert fluxes(one, {})[0] == pytest.approx(fluxes(whole, {})[0, 30:31], abs=2e-3)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 2)])
def test_labels_want_a_column_each(shape, lines):
    small = LineSynthesis(lines, GRID[1300:1310])
    with pytest.raises(ValueError, match=r"want labels \(n, 3\), got"):
        small(torch.zeros(shape))


def test_slicing_the_grid_keeps_the_pixels(lines):
    whole = LineSynthesis(lines, GRID[1300:1700])
    part = whole.slice_grid(100, 200)
    # lines beyond the ends of the slice are the same; the continuum is solved elsewhere
    assert fluxes(part, {})[0] == pytest.approx(fluxes(whole, {})[0, 100:200], abs=2e-3)


@pytest.mark.parametrize(("low", "high", "power"), [(2500.0, 3700.0, 300.0), (9000, 17000, 2000)])
def test_the_ultraviolet_and_the_infrared_have_lines(lines, low, high, power):
    grid = np.geomspace(low, high, int(2.5 * power * np.log(high / low)))
    reach = LineSynthesis(lines, grid, resolving_power=power)
    poor, rich = fluxes(reach, {"fe_h": -2.0}, {"fe_h": 0.0})
    for part in np.array_split(np.arange(grid.size), 4):
        assert poor[part].mean() > rich[part].mean() + 1e-3
        assert rich[part].max() <= 1


def test_carbon_monoxide_has_its_overtones_in_giants(lines):
    grid = np.geomspace(15500.0, 16800.0, 1200)
    reach = LineSynthesis(
        lines, grid, labels=("teff", "logg", "fe_h", "c_fe"), resolving_power=5000
    )
    change = np.subtract(
        *fluxes(reach, *({"teff": 4000.0, "logg": 1.0, "c_fe": c} for c in (-0.3, 0)))
    )
    heads = [15586.0, 15782.0, 15982.0, 16189.0]  # 3-0 to 6-3, vacuum: each opens towards the red
    for head in heads:
        red = change[(grid > head) & (grid < head + 12)].mean()
        blue = change[(grid > head - 12) & (grid < head - 2)].mean()
        assert red > 0.005 + blue


def test_ranges_may_be_narrower(lines):
    narrow = LineSynthesis(lines, GRID[:50], limits={"teff": (4000.0, 7000.0)})
    assert narrow.spec.maximum.tolist() == [7000.0, 5.0, 0.5]
    assert narrow.slice_grid(0, 20).spec.maximum[0] == 7000.0


@pytest.mark.parametrize(
    ("labels", "lines", "message"),
    [
        (("teff", "logg", "fe_h", "xx_fe"), one_line(), "xx_fe"),
        (("teff", "logg"), one_line(), "fe_h"),
        (("teff", "logg", "fe_h"), one_line(element="Uuo"), "Uuo"),
    ],
)
def test_what_cannot_be_synthesized_is_refused(labels, lines, message):
    with pytest.raises(ValueError, match=message):
        LineSynthesis(lines, GRID, labels=labels)


def test_wavelengths_beyond_the_tables_are_refused():
    with pytest.raises(ValueError, match="2400 to 17200"):
        LineSynthesis(one_line(), np.array([5000.0, 25000.0]))
