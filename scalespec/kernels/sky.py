"""Positions on the sky: degrees (ICRS) in and out, angles between them in arcseconds."""

import numpy as np
import numpy.typing as npt
from astropy_healpix import healpy, neighbours

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

ARCSEC = np.pi / 648_000  # rad
MAX_ORDER = 29  # the finest nested order whose index fits in int64

# Two cells that do not touch are at least 0.68 cell sizes apart (measured on orders 1 to 5, where
# it falls from 0.73 and settles), so a disc of 0.6 sizes fits in a cell and the cells around it.
_REACH_IN_CELLS = 0.6
_CELL_SIZE = np.sqrt(np.pi / 3)  # rad, square root of the area of one of the 12 base cells


def unit_vectors(ra: npt.ArrayLike, dec: npt.ArrayLike) -> FloatArray:
    """Turn positions into points of the unit sphere.

    Parameters
    ----------
    ra, dec : (n,) float [deg]
        Positions. Not finite, or a declination beyond a pole (a sentinel), is no position.

    Returns
    -------
    (n, 3) float64
        NaN where there is no position.

    Examples
    --------
    >>> unit_vectors([0.0, 90.0], [0.0, 0.0]).round(12) + 0.0
    array([[1., 0., 0.], [0., 1., 0.]])
    """
    alpha, delta = np.radians(_positions(ra, dec))
    cos_delta = np.cos(delta)
    return np.column_stack((cos_delta * np.cos(alpha), cos_delta * np.sin(alpha), np.sin(delta)))


def moved_vectors(
    ra: npt.ArrayLike,
    dec: npt.ArrayLike,
    pmra: npt.ArrayLike,
    pmdec: npt.ArrayLike,
    years: npt.ArrayLike,
) -> FloatArray:
    """Compute where stars are on the unit sphere after some years; arguments as of `propagate`.

    Returns
    -------
    (n, 3) float64
    """
    alpha, delta = np.radians(_positions(ra, dec))
    years = np.asarray(years, dtype=np.float64)
    east, north = (_angle_moved(motion, years) for motion in (pmra, pmdec))
    sin_alpha, cos_alpha = np.sin(alpha), np.cos(alpha)
    sin_delta, cos_delta = np.sin(delta), np.cos(delta)
    outward = cos_delta - north * sin_delta
    x = outward * cos_alpha - east * sin_alpha
    y = outward * sin_alpha + east * cos_alpha
    z = sin_delta + north * cos_delta
    moved: FloatArray = np.column_stack((x, y, z)) / np.sqrt(x * x + y * y + z * z)[:, np.newaxis]
    return moved


def separation_arcsec(a: FloatArray, b: FloatArray) -> FloatArray:
    """Compute the angle between unit vectors, row by row, from their chord.

    Parameters
    ----------
    a, b : (n, 3) float64
        Unit vectors.

    Returns
    -------
    (n,) float64 [arcsec]
        Good to about 1e-10 arcsec.

    Examples
    --------
    >>> separation_arcsec(unit_vectors([10.0], [80.0]), unit_vectors([10.0], [80.001])).round(6)
    array([3.6])
    """
    x, y, z = (a - b).T
    chord = np.minimum(np.sqrt(x * x + y * y + z * z), 2.0)
    angle: FloatArray = 2.0 * np.arcsin(chord / 2.0) / ARCSEC
    return angle


def propagate(
    ra: npt.ArrayLike,
    dec: npt.ArrayLike,
    pmra: npt.ArrayLike,
    pmdec: npt.ArrayLike,
    epoch_from: npt.ArrayLike,
    epoch_to: npt.ArrayLike,
) -> tuple[FloatArray, FloatArray]:
    """Move stars along their proper motion from one epoch to another.

    The star goes straight at constant speed in the plane of the sky (no parallax, no radial
    motion), so poles and RA = 0 are places like any other.

    Parameters
    ----------
    ra, dec : (n,) float [deg]
        Positions at `epoch_from`.
    pmra, pmdec : (n,) float [mas/yr]
        Proper motion, `pmra` with its cos(dec); NaN is no motion.
    epoch_from, epoch_to : (n,) or scalar float [Julian year]
        A NaN epoch moves nothing.

    Returns
    -------
    ra, dec : (n,) float64 [deg]
        Positions at `epoch_to`; RA in [0, 360).

    References
    ----------
    Hipparcos Catalogue, ESA SP-1200, vol. 1, section 1.5.5, with zero radial velocity.

    Examples
    --------
    >>> ra, dec = propagate([10.0], [60.0], [1000.0], [-500.0], 2016.0, 2000.0)
    >>> ((ra - 10.0) * 3600 * 0.5).round(2), ((dec - 60.0) * 3600).round(2)
    (array([-16.]), array([8.]))
    """
    xyz = moved_vectors(
        ra, dec, pmra, pmdec, np.asarray(epoch_to, float) - np.asarray(epoch_from, float)
    )
    x, y, z = xyz.T
    moved_ra = np.degrees(np.arctan2(y, x)) % 360.0
    moved_ra[moved_ra == 360.0] = 0.0  # -1e-20 % 360 rounds up to 360
    return moved_ra, np.degrees(np.arctan2(z, np.hypot(x, y)))


def healpix_nested(ra: npt.ArrayLike, dec: npt.ArrayLike, order: int) -> IntArray:
    """Find the nested HEALPix cell of each position.

    Parameters
    ----------
    ra, dec : (n,) float [deg]
        Positions.
    order : int
        0 to 29; a cell of order k is 58.6 / 2**k degrees wide.

    Returns
    -------
    (n,) int64
        The cell, -1 where there is no position.

    Raises
    ------
    ValueError
        If the order is out of range.

    Examples
    --------
    >>> healpix_nested([45.0, 0.0, float("nan")], [90.0, 0.0, 0.0], 0)
    array([ 0,  4, -1])
    """
    if not 0 <= order <= MAX_ORDER:
        raise ValueError(f"a HEALPix order is 0 to {MAX_ORDER}, got {order}")
    longitude, latitude = _positions(ra, dec)
    known = ~np.isnan(longitude)
    cells = np.full(known.shape, -1, dtype=np.int64)
    cells[known] = healpy.ang2pix(
        2**order, longitude[known] % 360.0, latitude[known], nest=True, lonlat=True
    )
    return cells


def cells_with_margin(
    ra: npt.ArrayLike, dec: npt.ArrayLike, order: int, margin_arcsec: npt.ArrayLike
) -> tuple[IntArray, IntArray]:
    """List the cells each row belongs to, its own and those whose edge it is near.

    A right row handed to all of these is seen by every left row it can match, whatever cell that
    one is in, when the margin is the match radius plus what the row may move. To have `mutual`
    right as well, hand the left rows out too, with the right margin plus the radius, and drop the
    pairs whose left row is a guest. No cell within the margin is ever left out; a cell up to about
    four margins away may be listed.

    Parameters
    ----------
    ra, dec : (n,) float [deg]
        Positions; a row without one is in no cell.
    order : int
        Order of the cells.
    margin_arcsec : (n,) or scalar float
        How near an edge is near, for each row.

    Returns
    -------
    rows, cells : (n_entry,) int64
        Sorted by cell, then row; no entry twice.

    Raises
    ------
    ValueError
        If a margin is negative, not finite, or more than 0.6 of a cell.

    Examples
    --------
    >>> rows, cells = cells_with_margin([0.0, 45.0], [0.0, 0.0001], 0, 1.0)
    >>> rows, cells
    (array([1, 0, 1, 1, 1]), array([0, 4, 4, 5, 8]))
    """
    finest = healpix_nested(ra, dec, MAX_ORDER)
    own = finest >> 2 * (MAX_ORDER - order)  # -1 stays -1
    fine_order = np.where(own >= 0, _reach_order(margin_arcsec, order), -1)
    known = np.flatnonzero(own >= 0)
    rows, cells = [known], [own[known]]
    for fine in np.unique(fine_order[known]).tolist():
        near = np.flatnonzero(fine_order == fine)
        index = finest[near] >> 2 * (MAX_ORDER - fine)
        at_edge = _at_edge(index, fine - order)
        near, index = near[at_edge], index[at_edge]
        around = _neighbours(index, fine) >> 2 * (fine - order)  # (8, n_near); -1 stays -1
        row = np.broadcast_to(near, around.shape)
        guest = (around >= 0) & (around != own[row])
        rows.append(row[guest])
        cells.append(around[guest])
    return _unique_entries(np.concatenate(rows), np.concatenate(cells))


def _angle_moved(motion: npt.ArrayLike, years: FloatArray) -> FloatArray:
    """Radians from mas/yr; what is unknown has not moved."""
    angle = np.asarray(motion, dtype=np.float64) * years * (ARCSEC / 1000)
    return np.where(np.isnan(angle), 0.0, angle)


def _positions(ra: npt.ArrayLike, dec: npt.ArrayLike) -> FloatArray:
    """(2, n) degrees; NaN for both where either is not finite or the star is beyond a pole."""
    # copied to contiguous rows: NumPy's sine of a strided array may differ in the last bit
    positions = np.array([ra, dec], dtype=np.float64, order="C")
    known = np.isfinite(positions).all(axis=0) & (np.abs(positions[1]) <= 90.0)
    positions[:, ~known] = np.nan
    return positions


def _reach_order(margin_arcsec: npt.ArrayLike, order: int) -> IntArray:
    """Finest order at which a disc of the margin fits in a cell and the cells around it."""
    margin = np.asarray(margin_arcsec, dtype=np.float64) * ARCSEC
    limit = _REACH_IN_CELLS * _CELL_SIZE / 2**order
    if not np.all((margin >= 0) & (margin <= limit)):
        raise ValueError(
            f"margins at order {order} are 0 to {limit / ARCSEC:.6g} arcsec, got "
            f"{np.min(margin) / ARCSEC:.6g} to {np.max(margin) / ARCSEC:.6g}: choose a lower order"
        )
    with np.errstate(divide="ignore"):
        finer = np.floor(np.log2(limit / margin))
    reach_order: IntArray = np.minimum(order + finer, MAX_ORDER).astype(np.int64)
    return reach_order


def _at_edge(index: IntArray, depth: int) -> BoolArray:
    """Whether cells `depth` orders down lie along the edge of their ancestor."""
    ones = 0x5555_5555_5555_5555 & (4**depth - 1)  # nested: x in the even bits, y in the odd ones
    x, y = index & ones, (index >> 1) & ones
    at_edge: BoolArray = (x == 0) | (x == ones) | (y == 0) | (y == ones)
    return at_edge


def _neighbours(index: IntArray, order: int) -> IntArray:
    with np.errstate(invalid="ignore"):  # it warns where a cell has seven, and answers -1
        return np.asarray(neighbours(index, 2**order, order="nested"), dtype=np.int64)


def _unique_entries(rows: IntArray, cells: IntArray) -> tuple[IntArray, IntArray]:
    order = np.lexsort((rows, cells))
    rows, cells = rows[order], cells[order]
    new = (np.diff(rows, prepend=-1) != 0) | (np.diff(cells, prepend=-1) != 0)
    return rows[new], cells[new]
