"""Banded matrices in tiles against dense ones; Gaussians by knots against Gaussians."""

import numpy as np
import pytest

from scalespec.kernels.tiles import (
    KNOT_STEP,
    KNOT_TAPS,
    interpolation_tiles,
    kernel_tiles,
    multiply,
)

WAVELENGTH = np.geomspace(4000.0, 5000.0, 300)


def dense(tiles, n_in):
    """Write tiles into one matrix; rows must follow each other without gap."""
    matrix = np.zeros((tiles[-1].out_stop, n_in))
    at = 0
    for tile in tiles:
        assert tile.out_start == at
        matrix[tile.out_start : tile.out_stop, tile.in_start : tile.in_stop] = tile.matrix
        at = tile.out_stop
    return matrix


@pytest.mark.parametrize("tile", [1, 7, 128, 1000])
def test_a_product_by_tiles_is_that_of_the_whole_matrix(tile):
    tiles = kernel_tiles(WAVELENGTH, WAVELENGTH, (20.0, 4.0), tile)
    rows = np.random.default_rng(1).normal(size=(5, 300)).astype(np.float32)
    expected = rows @ dense(tiles, 300).T
    assert multiply(tiles, rows) == pytest.approx(expected, rel=1e-5, abs=1e-4)  # float32 sums


def test_a_product_of_no_rows_and_of_no_tiles():
    tiles = kernel_tiles(WAVELENGTH, WAVELENGTH, (20.0, 4.0), 64)
    assert multiply(tiles, np.zeros((0, 300), np.float32)).shape == (0, 300)
    assert multiply((), np.zeros((3, 300), np.float32)).shape == (3, 0)


@pytest.mark.parametrize("width", [0.5, 20.0, 5000.0])
def test_kernels_are_gaussians_up_to_the_cut(width):
    columns = np.linspace(4200.0, 4700.0, 101)
    found = dense(kernel_tiles(WAVELENGTH, columns, (width, 3.0), 50), 101)
    for i in range(0, 300, 13):
        for j in range(101):
            x = (WAVELENGTH[i] - columns[j]) / width
            expected = np.exp(-0.5 * x**2) if abs(x) <= 3 else 0.0
            assert found[i, j] == pytest.approx(expected, rel=1e-6)


def test_there_are_no_numbers_too_small_to_multiply_fast():
    tiles = kernel_tiles(WAVELENGTH, WAVELENGTH, (10.0, 40.0), 64)
    small = np.concatenate([tile.matrix.ravel() for tile in tiles])
    assert small[small > 0].min() >= 1e-12


def test_knots_interpolate_what_is_as_smooth_as_the_gaussian():
    """Sums of Gaussians one width wide and more, at pixels between the knots."""
    width = 30.0
    knots = 3950.0 + KNOT_STEP * width * np.arange(95)
    rng = np.random.default_rng(2)
    centers, sizes = rng.uniform(4000, 5000, 12), rng.normal(size=12)

    def smooth(x):
        return np.exp(-0.5 * ((x[:, None] - centers) / (np.sqrt(2) * width)) ** 2) @ sizes

    found = multiply(
        interpolation_tiles(WAVELENGTH, knots, 64), smooth(knots)[None].astype(np.float32)
    )
    assert found[0] == pytest.approx(smooth(WAVELENGTH), abs=3e-5)  # of values up to 2, in float32


def test_pixels_take_ten_knots_each_and_those_beside_the_ends_take_what_there_is():
    knots = np.arange(4000.0, 5000.0, 20.0)
    matrix = dense(interpolation_tiles(np.array([4000.0, 4500.0, 4980.0]), knots, 2), len(knots))
    assert np.count_nonzero(matrix, axis=1).max() <= KNOT_TAPS
    # a pixel on a knot is that knot
    assert matrix[[0, 1, 2], [0, 25, 49]] == pytest.approx([1, 1, 1], abs=1e-4)
    assert np.abs(matrix).sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-2)
