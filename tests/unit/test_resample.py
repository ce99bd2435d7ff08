import numpy as np
import pytest

from scalespec.kernels.resample import rebin, rebin_operator, shift_pixels
from scalespec.kernels.wavelength import log_grid, pixel_edges


def spectres_by_loops(flux, ivar, edges_in, edges_out):
    """SpectRes (Carnall 2017) one pixel at a time, over good pixels."""
    out_flux, out_ivar = np.zeros(len(edges_out) - 1), np.zeros(len(edges_out) - 1)
    for j in range(len(edges_out) - 1):
        length = weighted = variance = 0.0
        for i in range(len(flux)):
            low = max(edges_in[i], edges_out[j])
            high = min(edges_in[i + 1], edges_out[j + 1])
            if high > low and ivar[i] > 0:
                length += high - low
                weighted += (high - low) * flux[i]
                variance += (high - low) ** 2 / ivar[i]
        if length >= 0.5 * (edges_out[j + 1] - edges_out[j]):
            out_flux[j], out_ivar[j] = weighted / length, length**2 / variance
    return out_flux, out_ivar


@pytest.fixture
def spectra():
    rng = np.random.default_rng(3)
    flux = rng.normal(10, 1, (5, 80))
    ivar = rng.uniform(0.5, 2, (5, 80))
    ivar[rng.random((5, 80)) < 0.2] = 0
    ivar[0, 20:40] = 0
    ivar[1] = 0
    return flux, ivar


@pytest.mark.parametrize(
    "edges_out",
    [
        np.linspace(4010.0, 4150.0, 18),  # coarser
        np.linspace(4010.0, 4150.0, 400),  # finer
        np.linspace(3900.0, 4300.0, 41),  # beyond both ends
        np.array([4001.0, 4003.0, 4090.0, 4090.5]),  # uneven
        np.linspace(5000.0, 5100.0, 11),  # elsewhere
    ],
)
def test_rebin_agrees_with_loops(spectra, edges_out):
    edges_in = pixel_edges(np.linspace(4000.0, 4158.0, 80))
    flux, ivar = rebin(*spectra, edges_in, edges_out)
    for row in range(len(flux)):
        expected = spectres_by_loops(spectra[0][row], spectra[1][row], edges_in, edges_out)
        np.testing.assert_allclose(flux[row], expected[0], rtol=1e-10)
        np.testing.assert_allclose(ivar[row], expected[1], rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1])  # flux, ivar
def test_a_pixel_that_is_no_number_is_lost_alone(spectra, which, junk, dtype):
    edges_in = pixel_edges(np.linspace(4000.0, 4158.0, 80))
    flux, ivar = (values.astype(dtype) for values in spectra)
    known = ivar[[0, 2], [50, 3]]
    assert np.all(known > 0)
    ivar[[0, 2], [50, 3]] = 0
    edges = edges_in, np.linspace(4010.0, 4150.0, 41)
    expected = rebin(flux, ivar, *edges)
    ivar[[0, 2], [50, 3]] = known
    (flux, ivar)[which][[0, 2], [50, 3]] = junk
    made = rebin(flux, ivar, *edges)
    np.testing.assert_array_equal(made[0], expected[0])
    np.testing.assert_array_equal(made[1], expected[1])
    assert np.all(np.sum(made[1] > 0, axis=1)[[0, 2]] > 20)
    (flux, ivar)[which][4] = junk
    assert not np.any(rebin(flux, ivar, *edges)[1][4])


def test_rebin_keeps_a_constant_on_lamost_grids():
    edges_in = pixel_edges(log_grid(3.5682, 1e-4, 3909))
    edges_out = pixel_edges(log_grid(3.60, 1.1e-3, 300))
    flux, ivar = rebin(np.full((1, 3909), 7.0), np.ones((1, 3909)), edges_in, edges_out)
    np.testing.assert_allclose(flux, 7, rtol=1e-12)
    assert np.all(ivar > 10)  # about eleven pixels went into each


def test_rebin_to_the_same_grid_is_the_identity(spectra):
    flux, ivar = spectra
    edges = pixel_edges(np.linspace(4000.0, 4158.0, 80))
    new_flux, new_ivar = rebin(flux, ivar, edges, edges)
    np.testing.assert_allclose(new_flux, np.where(ivar > 0, flux, 0))
    np.testing.assert_allclose(new_ivar, ivar)


def test_rebin_variance_is_what_noise_shows():
    rng = np.random.default_rng(5)
    sigma = rng.uniform(0.5, 2, 60)
    flux = rng.normal(0, sigma, (20_000, 60))
    edges_in, edges_out = np.arange(61.0), np.arange(3.3, 50.0, 4.7)
    new_flux, new_ivar = rebin(flux, np.tile(sigma**-2, (20_000, 1)), edges_in, edges_out)
    # A standard deviation of 20,000 draws has an error of 0.5 %; four of those.
    np.testing.assert_allclose(new_flux.std(axis=0) * np.sqrt(new_ivar[0]), 1, atol=0.02)


@pytest.mark.parametrize(
    ("n_good", "kept"),
    [(2, True), (1, False)],  # of four input pixels: exactly half is enough
)
def test_rebin_drops_pixels_less_than_half_covered(n_good, kept):
    ivar = np.zeros((1, 4))
    ivar[0, :n_good] = 1
    flux, ivar = rebin(np.ones((1, 4)), ivar, np.arange(5.0), np.array([0.0, 4.0]))
    assert (flux[0, 0], ivar[0, 0]) == ((1.0, n_good) if kept else (0.0, 0.0))


def test_rebin_ignores_nan_where_ivar_is_0():
    flux, ivar = np.array([[1.0, np.nan, 1.0, 1.0]]), np.array([[1.0, 0.0, 1.0, 1.0]])
    flux, ivar = rebin(flux, ivar, np.arange(5.0), np.array([0.0, 4.0]))
    assert flux[0, 0] == 1
    assert ivar[0, 0] == 3


def test_rebin_operator_serves_many_spectra_and_keeps_float32(spectra):
    flux, ivar = (x.astype(np.float32) for x in spectra)
    edges_in, edges_out = np.arange(81.0), np.arange(2.0, 70.0, 3.3)
    operator = rebin_operator(edges_in, edges_out)
    new_flux, new_ivar = operator.apply(flux, ivar)
    expected = rebin(*spectra, edges_in, edges_out)
    assert new_flux.dtype == new_ivar.dtype == np.float32
    # float32 sums over at most five pixels
    np.testing.assert_allclose(new_flux, expected[0], rtol=1e-6)
    np.testing.assert_allclose(new_ivar, expected[1], rtol=1e-6)


def test_rebin_refuses_edges_that_do_not_increase():
    with pytest.raises(ValueError, match="edges_out must be at least two increasing"):
        rebin_operator(np.arange(5.0), np.array([2.0, 1.0]))
    with pytest.raises(ValueError, match="edges_in must be at least two increasing"):
        rebin_operator(np.array([1.0]), np.arange(5.0))


def test_rebin_refuses_other_grids():
    operator = rebin_operator(np.arange(5.0), np.arange(3.0))
    with pytest.raises(ValueError, match=r"wants \(n, 4\), got flux \(1, 5\)"):
        operator.apply(np.ones((1, 5)), np.ones((1, 5)))


@pytest.mark.parametrize("dtype", [np.float32, np.uint32, np.bool_])
def test_shift_pixels_agrees_with_a_loop(dtype):
    rng = np.random.default_rng(7)
    array = rng.integers(0, 2, (40, 12)).astype(dtype)
    n = rng.integers(-15, 16, 40)
    shifted = shift_pixels(array, n, fill=dtype(1))
    assert shifted.dtype == dtype
    for row in range(40):
        for i in range(12):
            source = i + n[row]
            expected = array[row, source] if 0 <= source < 12 else 1
            assert shifted[row, i] == expected


def test_shift_pixels_brings_a_receding_star_to_rest():
    rest, observed = np.zeros((1, 20)), np.zeros((1, 20))
    rest[0, 8], observed[0, 11] = 1, 1  # three pixels redder
    np.testing.assert_array_equal(shift_pixels(observed, np.array([3]), fill=0), rest)


def test_shift_pixels_takes_no_rows():
    assert shift_pixels(np.ones((0, 5)), np.zeros(0, np.int64), fill=0).shape == (0, 5)


@pytest.mark.parametrize(
    "n",
    [
        np.zeros(2),  # not whole
        np.zeros(3, np.int64),  # not one per row
    ],
)
def test_shift_pixels_wants_one_integer_per_row(n):
    with pytest.raises(ValueError, match="one integer per row"):
        shift_pixels(np.ones((2, 4)), n, fill=0)
