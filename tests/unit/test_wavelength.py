import numpy as np
import pytest

from scalespec.kernels.wavelength import (
    C_KMS,
    air_to_vacuum,
    doppler_shift,
    linear_grid,
    log10_step,
    log_grid,
    pixel_edges,
    pixels_to_velocity,
    resolution_edges,
    vacuum_to_air,
    velocity_to_pixels,
)

WIDE = np.linspace(3000.0, 17000.0, 5001)


def ciddor_index(vacuum):
    """Ciddor 1996, Appl. Opt. 35, 1566, eq. 1: dry air at 15 °C, 1 atm, 450 ppm CO2."""
    s2 = (1e4 / vacuum) ** 2
    return 1 + 5792105e-8 / (238.0185 - s2) + 167917e-8 / (57.362 - s2)


def test_air_agrees_with_ciddor():
    # The two dispersion formulas differ by 1e-8 at most, 1.3e-4 Å at 17000 Å.
    np.testing.assert_allclose(vacuum_to_air(WIDE), WIDE / ciddor_index(WIDE), atol=2e-4, rtol=0)


def test_air_agrees_with_measured_lines():
    # Hα in air and vacuum, He I 10830 strongest component: NIST Atomic Spectra Database, to the
    # last digit given there.
    np.testing.assert_allclose(
        air_to_vacuum([6562.79, 10830.3398]), [6564.60, 10833.3064], atol=6e-3, rtol=0
    )


def test_air_to_vacuum_shifts_by_4_370_at_16000():
    # The oracle: 4.370 ± 0.002 Å, whichever side 16000 Å is on.
    assert abs(16000 - vacuum_to_air(16000.0) - 4.370) < 0.002
    assert abs(air_to_vacuum(16000.0) - 16000 - 4.370) < 0.002


def test_air_and_back_is_the_identity():
    # The inverse is iterated to float64; the oracle asks for 1e-4 Å.
    np.testing.assert_allclose(air_to_vacuum(vacuum_to_air(WIDE)), WIDE, rtol=1e-13)
    np.testing.assert_allclose(vacuum_to_air(air_to_vacuum(WIDE)), WIDE, rtol=1e-13)


def test_air_to_vacuum_agrees_with_the_fitted_inverse_of_vald():
    s2 = (1e4 / WIDE) ** 2
    index = (
        1
        + 8.336624212083e-5
        + 2.408926869968e-2 / (130.1065924522 - s2)
        + 1.599740894897e-4 / (38.92568793293 - s2)
    )
    # VALD states that its fit inverts Morton's formula to better than 1e-8 relative.
    np.testing.assert_allclose(air_to_vacuum(WIDE), WIDE * index, rtol=1e-8)


@pytest.mark.parametrize("convert", [air_to_vacuum, vacuum_to_air])
@pytest.mark.parametrize("bad", [1500.0, 0.0, -5000.0, np.nan])
def test_air_refuses_wavelengths_that_air_absorbs(convert, bad):
    with pytest.raises(ValueError, match="above 2000 Å only, got"):
        convert([5000.0, bad])


def test_doppler_shift_agrees_with_classical_formula_when_slow():
    shifted = doppler_shift(np.array([5000.0]), np.array([30.0]))
    # β² / 2 = 5e-9 is what the classical formula leaves out.
    np.testing.assert_allclose(shifted, [[5000 * (1 + 30 / C_KMS)]], rtol=1e-8)


def test_doppler_shift_is_relativistic():
    # At β = 0.6 the Doppler factor is sqrt(1.6 / 0.4) = 2.
    np.testing.assert_allclose(doppler_shift(np.array([1000.0]), np.array([0.6 * C_KMS])), [[2000]])


def test_doppler_shift_gives_a_row_per_velocity():
    assert doppler_shift(np.arange(1.0, 4.0), np.zeros(5)).shape == (5, 3)


@pytest.mark.parametrize("rv", [C_KMS, -4e5, np.nan])
def test_velocities_of_light_are_refused(rv):
    with pytest.raises(ValueError, match="slower than light, got"):
        doppler_shift(np.array([5000.0]), np.array([rv]))
    with pytest.raises(ValueError, match="slower than light, got"):
        velocity_to_pixels(rv, 1e-4)


def test_whole_pixels_of_velocity_move_a_grid_onto_itself():
    grid = log_grid(3.5682, 1e-4, 200)
    shifted = doppler_shift(grid, pixels_to_velocity([7], 1e-4))
    np.testing.assert_allclose(shifted[0, :-7], grid[7:], rtol=1e-13)


def test_one_lamost_pixel_is_69_km_s():
    assert pixels_to_velocity(1, 1e-4) == pytest.approx(69.03, abs=5e-3)


def test_velocity_to_pixels_and_back_is_the_identity():
    rv = np.linspace(-2000, 2000, 41)
    np.testing.assert_allclose(
        pixels_to_velocity(velocity_to_pixels(rv, 6e-6), 6e-6), rv, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("step", [0.0, -1e-4, np.nan])
def test_a_grid_wants_a_positive_step(step):
    for call in (velocity_to_pixels, pixels_to_velocity):
        with pytest.raises(ValueError, match="must be positive, got"):
            call(1.0, step)
    with pytest.raises(ValueError, match="must be positive, got"):
        log_grid(3.5, step, 10)


def test_a_grid_wants_a_pixel():
    with pytest.raises(ValueError, match="n = 0"):
        log_grid(3.5, 1e-4, 0)


def test_pixel_edges_lie_halfway_in_log():
    grid = log_grid(3.6, 1e-4, 50)
    edges = log_grid(3.6 - 0.5e-4, 1e-4, 51)
    np.testing.assert_allclose(pixel_edges(grid), edges, rtol=1e-13)


@pytest.mark.parametrize(
    ("wavelength", "message"),
    [
        ([5000.0], "at least two"),  # no neighbor to be halfway from
        ([[5000.0, 5001.0]], "in one row"),  # a batch of grids
        ([5001.0, 5000.0], "must increase"),
        ([-1.0, 5000.0], "from above 0"),
        ([5000.0, np.nan], "must increase"),
    ],
)
def test_pixel_edges_refuse_what_is_no_grid(wavelength, message):
    with pytest.raises(ValueError, match=message):
        pixel_edges(np.array(wavelength))


def test_a_linear_grid_has_even_steps():
    grid = linear_grid(4000.0, 1.0, 4096)
    assert grid[-1] == 8095
    assert np.all(np.diff(grid) == 1)
    with pytest.raises(ValueError, match=r"positive start, step and n, got 4000\.0, 0\.0, 5"):
        linear_grid(4000.0, 0.0, 5)


@pytest.mark.parametrize(("n", "pixels"), [(1.0, 143), (2.0, 286)])
def test_resolution_edges_are_even_parts_of_a_resolution_element(n, pixels):
    edges = resolution_edges(4000.0, 8177.0, 200.0, pixels_per_fwhm=n)
    assert len(edges) == pixels + 1
    assert edges[-1] <= 8177
    np.testing.assert_allclose(np.log(edges[1:] / edges[:-1]), 1 / (200 * n))


@pytest.mark.parametrize(
    ("low", "high", "power"), [(5000, 4000, 200), (4000, 5000, 0), (4000, 4001, 200)]
)
def test_resolution_edges_refuse_what_gives_no_pixel(low, high, power):
    with pytest.raises(ValueError, match=r"want 0 < low|no pixel of"):
        resolution_edges(low, high, power)


def test_a_log_grid_says_its_step_and_another_says_none():
    assert log10_step(log_grid(3.5682, 1e-4, 3909)) == 1e-4
    assert log10_step(log_grid(4.179, 6e-6, 8575)) == 6e-6
    assert log10_step(linear_grid(4000.0, 0.8, 2751)) is None
    bent = log_grid(3.6, 1e-4, 100)
    bent[50] *= 1 + 1e-6
    assert log10_step(bent) is None
    assert log10_step(np.array([5000.0])) is None
