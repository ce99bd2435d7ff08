"""Integrated gradients over lines, against functions whose answer is known."""

import numpy as np
import pytest

from scalespec.kernels.attribution import ELSEWHERE, LINES, integrated_gradients, line_segments

WAVELENGTH = np.arange(3900.0, 9000.0, 5.0)


def test_segments_share_every_pixel_out_once():
    made = line_segments(WAVELENGTH)
    assert (np.sum(list(made.values()), axis=0) == 1).all()
    assert list(made)[-1] == ELSEWHERE
    assert set(made) - {ELSEWHERE} == set(LINES)


def test_lines_lie_where_they_are_in_vacuum():
    """Vacuum wavelengths of NIST: H alpha 6564.6, Na D 5891.6, Mg b 5174.1, Ca K 3934.8."""
    made = line_segments(WAVELENGTH)
    for name, line in (
        ("H alpha", 6564.6),
        ("Na D", 5891.6),
        ("Mg b", 5174.1),
        ("Ca H, K", 3934.8),
    ):
        assert made[name][np.argmin(np.abs(WAVELENGTH - line))], name


def test_lines_that_are_not_covered_are_left_out():
    assert "H alpha" not in line_segments(np.arange(4000.0, 5000.0, 1.0))


def _halves(n):
    first = np.arange(n) < n // 2
    return [first, ~first]


def test_a_linear_model_gets_weight_times_distance():
    rng = np.random.default_rng(1)
    weights, flux = rng.normal(size=(20, 3)), rng.normal(size=(7, 20)).astype(np.float32)
    base = rng.normal(size=20).astype(np.float32)
    made = integrated_gradients(lambda x: x @ weights, flux, base, _halves(20), n_step=2)
    expected = np.stack([((flux - base) * half) @ weights for half in _halves(20)], axis=1)
    np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-3)  # float32 differences of 2 %


def test_parts_add_up_to_the_change_of_the_prediction():
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(20, 2)) / 5

    def predict(flux):
        return np.tanh(flux.astype(np.float64) @ weights)

    flux, base = rng.normal(size=(9, 20)).astype(np.float32), np.zeros(20, np.float32)
    made = integrated_gradients(predict, flux, base, _halves(20), n_step=16)
    change = predict(flux) - predict(base[None])
    np.testing.assert_allclose(made.sum(axis=1), change, atol=2e-3)  # midpoint rule of 16 steps


def test_pixels_that_a_model_does_not_see_carry_nothing():
    rng = np.random.default_rng(3)
    flux, base = rng.normal(size=(5, 20)).astype(np.float32), np.zeros(20, np.float32)
    made = integrated_gradients(
        lambda x: x[:, :10].sum(axis=1, keepdims=True), flux, base, _halves(20)
    )
    assert (made[:, 1] == 0).all()
    assert np.abs(made[:, 0]).min() > 0


@pytest.mark.parametrize("options", [{"n_step": 0}, {"width": 0.0}])
def test_steps_that_are_none_are_refused(options):
    with pytest.raises(ValueError, match="wanted above 0"):
        integrated_gradients(lambda x: x, np.zeros((1, 2), np.float32), np.zeros(2, np.float32),
                             _halves(2), **options)  # fmt: skip
