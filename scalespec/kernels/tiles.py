"""Banded matrices as dense tiles, and Gaussians by way of knots. Wavelengths in Å."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Float32Array: TypeAlias = npt.NDArray[np.float32]

KNOT_STEP = 0.4
"""Distance between knots, in widths of the Gaussian."""
KNOT_TAPS = 10
"""Knots that a pixel's value is interpolated from."""
KNOTS_PER_TILE = 16


@dataclass(frozen=True, slots=True)
class Tile:
    """A dense piece of a banded matrix.

    Attributes
    ----------
    out_start, out_stop, in_start, in_stop : int
        Output pixels (rows) and input pixels (columns) of the piece, half-open.
    matrix : (out_stop - out_start, in_stop - in_start) float32
    """

    out_start: int
    out_stop: int
    in_start: int
    in_stop: int
    matrix: Float32Array


def multiply(tiles: tuple[Tile, ...], rows: Float32Array) -> Float32Array:
    """Return the tiles' matrix applied to each row, (n_row, n_in) to (n_row, n_out)."""
    result = np.empty((len(rows), tiles[-1].out_stop if tiles else 0), np.float32)
    for tile in tiles:
        np.matmul(
            rows[:, tile.in_start : tile.in_stop],
            tile.matrix.T,
            out=result[:, tile.out_start : tile.out_stop],
        )
    return result


def kernel_tiles(
    rows: FloatArray, columns: FloatArray, kernel: tuple[float, float], tile: int
) -> tuple[Tile, ...]:
    """Return the Gaussian of (width, cut) between two sets of wavelengths."""
    width, cut = kernel
    tiles = []
    for start in range(0, len(rows), tile):
        out = rows[start : start + tile]
        first = int(np.searchsorted(columns, out[0] - cut * width, side="left"))
        last = int(np.searchsorted(columns, out[-1] + cut * width, side="right"))
        distance = np.subtract.outer(out, columns[first:last])
        values = np.exp(-0.5 * (distance / width) ** 2)
        # Products of denormals make a matrix multiplication six times slower.
        values[(np.abs(distance) > cut * width) | (values < 1e-12)] = 0
        tiles.append(Tile(start, start + len(out), first, last, values.astype(np.float32)))
    return tuple(tiles)


def interpolation_tiles(center: FloatArray, knots: FloatArray, tile: int) -> tuple[Tile, ...]:
    """Return the weights of the KNOT_TAPS knots around each pixel."""
    place = (center - knots[0]) / (knots[1] - knots[0])
    first = np.floor(place).astype(np.int64) - KNOT_TAPS // 2 + 1
    first = np.clip(first, 0, len(knots) - KNOT_TAPS)
    nodes = np.arange(KNOT_TAPS)
    blur = 4 / KNOT_STEP**2
    # The ridge is what rounding allows: neighbors 0.4 L apart are nearly the same.
    system = np.exp(-(np.subtract.outer(nodes, nodes) ** 2) / blur) + 1e-13 * np.eye(KNOT_TAPS)
    wanted = np.exp(-(((place - first)[:, np.newaxis] - nodes) ** 2) / blur)
    weights = np.linalg.solve(system, wanted.T).T  # (n_pixel, KNOT_TAPS)
    tiles = []
    for start in range(0, len(center), tile):
        stop = min(start + tile, len(center))
        low, high = int(first[start]), int(first[stop - 1]) + KNOT_TAPS
        matrix = np.zeros((stop - start, high - low), np.float32)
        columns = (first[start:stop] - low)[:, np.newaxis] + nodes
        np.put_along_axis(matrix, columns, weights[start:stop].astype(np.float32), axis=1)
        tiles.append(Tile(start, stop, low, high, matrix))
    return tuple(tiles)
