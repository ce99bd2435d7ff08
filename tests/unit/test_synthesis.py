"""Line synthesis behaves like stars, and its derivatives are exact."""

import numpy as np
import pytest
import torch

from scalespec.kernels.wavelength import log_grid
from scalespec.models.synthesis import BALMER, LineList, LineSynthesis
from scalespec.stages.mock import load_lines

LABELS = ("teff", "logg", "fe_h", "vmic", "c_fe", "o_fe", "mg_fe", "ca_fe")
GRID = log_grid(3.5682, 1e-4, 3909)


@pytest.fixture(scope="module")
def model() -> LineSynthesis:
    return LineSynthesis(load_lines(), GRID, labels=LABELS)


def flux(model, **labels) -> np.ndarray:
    known = {"teff": 5000.0, "logg": 3.0, "fe_h": 0.0, "vmic": 1.5} | labels
    values = torch.tensor([[known.get(name, 0.0) for name in model.spec.labels]])
    with torch.no_grad():
        return model(values.double())[0].double().numpy()


def width(spectrum: np.ndarray, center: float, half: float) -> float:
    """Equivalent width [Å] within `half` of a wavelength."""
    near = np.abs(GRID - center) < half
    return float(np.sum(1 - spectrum[near]) * GRID[near][0] * 2.3026e-4)


def one_line(wavelength=5500.0, element="Fe", stage=1, excitation=2.0, log_gf=-1.0) -> LineList:
    return LineList(
        np.array([wavelength]),
        (element,),
        np.array([stage]),
        np.array([excitation]),
        np.array([log_gf]),
    )


def test_flux_lies_between_zero_and_the_continuum(model):
    for teff in (3800.0, 5000.0, 7500.0):
        for logg in (0.0, 5.0):
            spectrum = flux(model, teff=teff, logg=logg, fe_h=0.5)
            assert spectrum.min() > 0
            assert spectrum.max() <= 1


def test_a_line_lies_at_its_vacuum_wavelength_and_has_the_instruments_width():
    for power in (1800.0, 5000.0):
        fine = np.linspace(5490.0, 5510.0, 4001)
        weak = LineSynthesis(one_line(log_gf=-5.0), fine, resolving_power=power)
        depth = 1 - flux(weak)
        assert fine[depth.argmax()] == pytest.approx(5500.0, abs=0.006)  # a pixel
        above = fine[depth > depth.max() / 2]
        # 0.01 Å of pixels, and what saturation the line has
        assert np.ptp(above) == pytest.approx(5500.0 / power, rel=0.01, abs=0.01)


def test_a_line_keeps_its_equivalent_width_at_any_resolution():
    fine = np.linspace(5460.0, 5540.0, 8001)
    widths = []
    for power in (1800.0, 6000.0):
        depth = 1 - flux(LineSynthesis(one_line(log_gf=-4.0), fine, resolving_power=power))
        widths.append(np.trapezoid(depth, fine))
    assert widths[0] == pytest.approx(widths[1], rel=0.03)  # exp(-x) of a deeper line saturates


@pytest.mark.parametrize(
    ("center", "half"),
    [
        (5270.0, 8.0),  # Fe I
        (4384.8, 4.0),  # Fe I
        (5185.0, 4.0),  # Mg I b
        (5891.6, 3.0),  # Na I D
        (3934.8, 10.0),  # Ca II K
        (8544.4, 8.0),  # Ca II triplet
    ],
)
def test_metal_lines_deepen_with_metallicity(model, center, half):
    widths = [width(flux(model, fe_h=m), center, half) for m in (-2.5, -1.5, -0.5, 0.5)]
    assert np.all(np.diff(widths) > 0)


@pytest.mark.parametrize("line", BALMER[:3])
def test_balmer_lines_grow_with_temperature(line):
    alone = LineSynthesis(one_line(log_gf=-9.0), GRID, labels=LABELS)
    widths = [
        width(flux(alone, teff=t, logg=4.0, fe_h=-2.5, c_fe=-1.0), line[1], 20.0)
        for t in (4500.0, 5250.0, 6000.0, 6750.0, 7500.0)
    ]
    assert np.all(np.diff(widths) > 0)  # the n = 2 level is 10.2 eV up


def test_balmer_wings_of_warm_stars_grow_with_gravity(model):
    wing = np.abs(np.abs(GRID - 4862.69) - 12.0) < 3.0
    depths = [1 - flux(model, teff=7200.0, logg=g, fe_h=-2.0)[wing].mean() for g in (2.0, 3.0, 4.0)]
    assert np.all(np.diff(depths) > 0)  # Stark broadening: more electrons per volume


@pytest.mark.parametrize(
    ("center", "offset"),
    [
        (5185.0, 5.0),  # Mg I b
        (4227.9, 5.0),  # Ca I
        (5891.6, 4.0),  # Na I D
    ],
)
def test_wings_of_strong_lines_grow_with_gravity(center, offset):
    lines = load_lines()
    only = lines.take(np.flatnonzero(np.abs(lines.wavelength - center) < 0.1))
    pixels = np.array([center - offset, center + offset])
    alone = LineSynthesis(only, pixels)
    depths = [1 - flux(alone, teff=4600.0, logg=g).mean() for g in (1.0, 2.0, 3.0, 4.0, 5.0)]
    assert np.all(np.diff(depths) > 0)  # more collisions per volume


def test_ions_lose_against_neutrals_as_gravity_rises():
    fine = np.linspace(5490.0, 5510.0, 201)
    ratios = []
    for logg in (1.0, 2.0, 3.0, 4.0, 5.0):
        depths = [
            1
            - flux(
                LineSynthesis(one_line(stage=stage, log_gf=gf), fine), teff=5500.0, logg=logg
            ).min()
            for stage, gf in ((1, -3.5), (2, -4.0))
        ]
        ratios.append(depths[1] / depths[0])
    assert np.all(np.diff(ratios) < 0)  # Saha: recombination goes with electron pressure


def test_an_element_moves_its_own_lines_only(model):
    change = np.abs(flux(model, mg_fe=0.3) - flux(model))
    near = np.abs(GRID - 5178.0) < 12.0
    assert change[near].max() > 0.02
    far = (GRID > 6000.0) & (GRID < 6300.0)
    assert change[far].max() < 0.01  # through the electrons only


def test_g_band_follows_carbon_and_dies_in_hot_stars(model):
    band = (GRID > 4295.0) & (GRID < 4317.0)

    def response(**labels: float) -> float:
        rich, poor = (flux(model, c_fe=c, **labels)[band].mean() for c in (0.2, -0.2))
        return float(poor - rich)

    assert response(teff=4750.0) > 0.1
    assert response(teff=7200.0, logg=4.0) < 0.01


def test_oxygen_takes_carbon_from_the_g_band_of_cool_giants(model):
    band = (GRID > 4295.0) & (GRID < 4317.0)
    cool = {"teff": 3900.0, "logg": 1.0}
    assert flux(model, o_fe=0.5, **cool)[band].mean() > flux(model, **cool)[band].mean() + 0.01
    warm = {"teff": 5800.0, "logg": 4.4}
    change = flux(model, o_fe=0.5, **warm)[band].mean() - flux(model, **warm)[band].mean()
    assert abs(change) < 0.01  # CO is dissociated


def test_microturbulence_strengthens_saturated_lines_only():
    fine = np.linspace(5480.0, 5520.0, 4001)

    def gain(log_gf: float) -> float:
        lines = LineSynthesis(
            one_line(log_gf=log_gf), fine, labels=("teff", "logg", "fe_h", "vmic")
        )
        narrow, wide = (np.sum(1 - flux(lines, vmic=v)) for v in (1.0, 2.5))
        return float(wide / narrow)

    assert gain(-3.0) > 1.3
    assert gain(-7.5) == pytest.approx(1.0, abs=0.01)  # eta is not quite 0


def test_jacobian_equals_central_differences():
    exact = LineSynthesis(load_lines(), GRID[1000:1700], labels=LABELS, dtype=torch.float64)
    x = torch.tensor([[0.1, -0.1, 0.2, 0.0, 0.05, 0.0, 0.1, -0.1]], dtype=torch.float64)
    spectrum, jacobian = exact.flux_and_jacobian(x)
    step = 1e-4
    for k in range(len(LABELS)):
        unit = torch.zeros_like(x)
        unit[0, k] = step
        with torch.no_grad():
            slope = (exact.forward_scaled(x + unit) - exact.forward_scaled(x - unit)) / (2 * step)
        # step**2 times third derivatives, of the order of 10
        assert torch.allclose(jacobian[:, k], slope, atol=1e-6 * (1 + float(slope.abs().max())))
    with torch.no_grad():
        assert torch.allclose(spectrum, exact.forward_scaled(x))


def test_backward_and_forward_derivatives_agree():
    exact = LineSynthesis(load_lines(), GRID[1400:1500], labels=LABELS, dtype=torch.float64)
    x = torch.zeros(1, len(LABELS), dtype=torch.float64)
    _, forward = exact.flux_and_jacobian(x)
    backward = torch.autograd.functional.jacobian(exact.forward_scaled, x)[0, :, 0]
    assert torch.allclose(forward[0], backward.T, atol=1e-10)  # the order of float64 sums


def test_float32_is_good_to_1e_4(model):
    exact = LineSynthesis(load_lines(), GRID, labels=LABELS, dtype=torch.float64)
    for teff, logg in ((3900.0, 1.0), (5777.0, 4.4), (7300.0, 4.0)):
        apart = flux(model, teff=teff, logg=logg) - flux(exact, teff=teff, logg=logg)
        assert np.abs(apart).max() < 1e-4  # exponents up to 40 in float32


def test_a_star_does_not_depend_on_its_batch(model):
    labels = torch.tensor([[5000.0, 3, 0, 1.5, 0, 0, 0, 0], [6500.0, 4, -1, 1.5, 0, 0, 0.3, 0.3]])
    with torch.no_grad():
        both, alone = model(labels), model(labels[1:])
    assert torch.allclose(both[1], alone[0], atol=1e-6)  # float32 sums in another order


def test_slicing_the_grid_keeps_the_pixels(model):
    labels = torch.tensor([[5000.0, 3, 0, 1.5, 0, 0, 0, 0]])
    with torch.no_grad():
        part, whole = model.slice_grid(500, 900)(labels), model(labels)[:, 500:900]
    assert torch.allclose(part, whole, atol=1e-6)  # float32 sums in another order


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


def test_flux_looks_like_that_of_synspec_giants(model, shared):
    with np.load(shared / "data/emulators/giants_4900-6000_lamost.npz") as npz:
        z = dict(npz)
    labels = np.zeros(22)
    labels[:3] = 5200.0, 2.8, -0.5
    x = (labels - z["x_min"]) / (z["x_max"] - z["x_min"]) - 0.5
    for layer in "01":
        x = z[f"w_array_{layer}"] @ x + z[f"b_array_{layer}"]
        x = np.where(x > 0, x, 0.01 * x)
    theirs = z["w_array_2"] @ x + z["b_array_2"]
    ours = flux(model, teff=5200.0, logg=2.8, fe_h=-0.5)
    red = (GRID > 3800.0) & (GRID < 8900.0)
    # the list has 2,100 of all lines: enough for the shape, not for the level
    assert np.corrcoef(theirs[red], ours[red])[0, 1] > 0.85
