"""Positions, proper motion and HEALPix cells against astropy and sampled discs."""

import warnings

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.time import Time
from astropy_healpix import HEALPix, boundaries_lonlat, neighbours
from scipy.spatial import cKDTree

from scalespec.kernels.sky import (
    cells_with_margin,
    healpix_nested,
    moved_vectors,
    propagate,
    separation_arcsec,
    unit_vectors,
)

ARCSEC_DEG = 1 / 3600


def sphere(rng, n):
    return rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))


def hard_places(rng, n, spread_deg):
    """Points scattered about the poles, RA = 0 and corners and edges of cells."""
    lon, lat = boundaries_lonlat(np.arange(12), 1, 1, order="nested")
    corners = np.column_stack((lon.to_value("deg").ravel(), lat.to_value("deg").ravel()))
    centers = np.vstack([corners, [(0, 90), (0, -90), (0, 0), (0, 30), (90, 41.81)]])
    ra, dec = centers[rng.integers(0, len(centers), n)].T
    dec = np.clip(dec + rng.normal(0, spread_deg, n), -90, 90)
    return (ra + rng.normal(0, spread_deg, n)) % 360, dec


def test_unit_vectors_agree_with_astropy():
    ra, dec = sphere(np.random.default_rng(0), 1000)
    expected = SkyCoord(ra, dec, unit="deg").cartesian.xyz.value.T
    np.testing.assert_allclose(unit_vectors(ra, dec), expected, atol=4e-16)  # rounding


@pytest.mark.parametrize(
    ("ra", "dec"),
    [
        (np.nan, 0.0),
        (0.0, np.nan),
        (np.inf, 0.0),
        (0.0, -np.inf),
        (10.0, -9999.0),  # a catalog's sentinel
    ],
)
def test_what_is_no_position_is_nowhere(ra, dec):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(unit_vectors([ra], [dec])).all()
        assert healpix_nested([ra], [dec], 5).tolist() == [-1]
        assert [len(x) for x in cells_with_margin([ra], [dec], 5, 1.0)] == [0, 0]


def test_separation_agrees_with_astropy():
    rng = np.random.default_rng(1)
    ra, dec = sphere(rng, 500)
    other_ra, other_dec = ra + rng.normal(0, 0.01, 500), np.clip(dec + 0.001, -90, 90)
    a, b = SkyCoord(ra, dec, unit="deg"), SkyCoord(other_ra, other_dec, unit="deg")
    ours = separation_arcsec(unit_vectors(ra, dec), unit_vectors(other_ra, other_dec))
    np.testing.assert_allclose(ours, a.separation(b).arcsec, atol=1e-9)  # 1e-15 rad and rounding


def test_propagate_agrees_with_astropy_space_motion_to_a_milliarcsecond():
    rng = np.random.default_rng(2)
    n = 400
    ra, dec = (
        np.concatenate(x) for x in zip(sphere(rng, n), hard_places(rng, n, 1e-3), strict=True)
    )
    dec = np.clip(dec, -89.9999, 89.9999)  # astropy's motion has no RA at the pole itself
    pmra, pmdec = rng.uniform(-10_000, 10_000, (2, 2 * n))
    epoch_to = rng.uniform(1950, 2050, 2 * n)
    ours = SkyCoord(*propagate(ra, dec, pmra, pmdec, 2016.0, epoch_to), unit="deg")
    star = SkyCoord(
        ra * u.deg,
        dec * u.deg,
        pm_ra_cosdec=pmra * u.mas / u.yr,
        pm_dec=pmdec * u.mas / u.yr,
        obstime=Time(2016.0, format="jyear", scale="tdb"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it makes up a distance
        theirs = star.apply_space_motion(new_obstime=Time(epoch_to, format="jyear", scale="tdb"))
    assert ours.separation(SkyCoord(theirs.ra, theirs.dec)).mas.max() < 1.0


def test_a_star_crosses_the_pole():
    ra, dec = propagate([30.0], [90 - 2 * ARCSEC_DEG], [0.0], [1000.0], 2000.0, 2005.0)
    assert ra[0] == pytest.approx(210.0, abs=1e-6)  # 1e-16 rad of rounding, 3" from the pole
    assert (90 - dec[0]) / ARCSEC_DEG == pytest.approx(3.0, abs=1e-9)


def test_right_ascension_stays_below_360():
    tiny = [0.0, 1e-300, -1e-12, 359.99999999999999, 360.0]
    ra, _ = propagate(tiny, np.zeros(5), [-1e-9, 0, 0, 1e-9, 0], np.zeros(5), 2000.0, 2000.001)
    assert ((ra >= 0) & (ra < 360)).all()


@pytest.mark.parametrize(
    ("pmra", "pmdec", "epoch_to"),
    [(np.nan, np.nan, 2016.0), (1000.0, 1000.0, np.nan), (0.0, 0.0, 2016.0)],
)
def test_unknown_motion_or_epoch_moves_nothing(pmra, pmdec, epoch_to):
    ra, dec = propagate([123.0], [45.0], [pmra], [pmdec], 2000.0, epoch_to)
    np.testing.assert_allclose((ra[0], dec[0]), (123.0, 45.0), rtol=1e-15)


def test_moved_vectors_are_unit_vectors():
    rng = np.random.default_rng(3)
    ra, dec = sphere(rng, 100)
    xyz = moved_vectors(ra, dec, rng.normal(0, 1e4, 100), rng.normal(0, 1e4, 100), 50.0)
    np.testing.assert_allclose(np.linalg.norm(xyz, axis=1), 1.0, rtol=4e-16)


@pytest.mark.parametrize("order", [0, 3, 12, 29])
def test_healpix_nested_agrees_with_astropy_healpix(order):
    ra, dec = sphere(np.random.default_rng(4), 1000)
    expected = HEALPix(2**order, order="nested").lonlat_to_healpix(ra * u.deg, dec * u.deg)
    np.testing.assert_array_equal(healpix_nested(ra, dec, order), expected)
    np.testing.assert_array_equal(healpix_nested(ra - 360, dec, order), expected)


def test_healpix_order_is_checked():
    with pytest.raises(ValueError, match="0 to 29, got 30"):
        healpix_nested([0.0], [0.0], 30)


def test_cells_that_do_not_touch_are_more_than_the_reach_apart():
    order, step = 3, 8
    cells = np.arange(12 * 4**order)
    lon, lat = boundaries_lonlat(cells, step, 2**order, order="nested")
    edge = unit_vectors(np.degrees(lon.ravel().value), np.degrees(lat.ravel().value))
    size = np.sqrt(4 * np.pi / len(cells))
    tree = cKDTree(edge)
    found = tree.sparse_distance_matrix(tree, 0.7 * size, output_type="ndarray")
    a, b = found["i"] // (4 * step), found["j"] // (4 * step)
    with np.errstate(invalid="ignore"):
        touching = (neighbours(cells, 2**order, order="nested")[:, a] == b).any(axis=0) | (a == b)
    assert 0.68 < found["v"][~touching].min() / size < 0.7


@pytest.mark.parametrize(("order", "margin"), [(0, 3.0), (5, 3.0), (5, 2000.0), (11, 60.0)])
def test_no_cell_within_the_margin_is_missed(order, margin):
    rng = np.random.default_rng(5)
    ra, dec = hard_places(rng, 3000, 3 * margin * ARCSEC_DEG)
    rows, cells = cells_with_margin(ra, dec, order, margin)
    listed = set(zip(rows.tolist(), cells.tolist(), strict=True))
    assert len(listed) == len(rows)
    for _ in range(20):
        # a point within the margin of each row: it moves there in a year, in any direction
        angle, reach = rng.uniform(0, 2 * np.pi, 3000), margin * np.sqrt(rng.uniform(0, 1, 3000))
        motion = 1000 * reach * np.cos(angle), 1000 * reach * np.sin(angle)
        there = healpix_nested(*propagate(ra, dec, *motion, 0.0, 1.0), order)
        assert listed.issuperset(zip(range(3000), there.tolist(), strict=True))


def test_margins_cost_few_guests():
    ra, dec = sphere(np.random.default_rng(6), 100_000)
    rows, _ = cells_with_margin(ra, dec, 5, 3.0)
    assert 100_000 < len(rows) < 101_500  # four sides x 4 x 3" x 2 of a cell of 1.8 deg: 1.5 %


def test_every_row_may_have_its_own_margin():
    rng = np.random.default_rng(7)
    ra, dec = hard_places(rng, 200, 0.02)
    margin = 10 ** rng.uniform(-1, 3, 200)
    entries = set(zip(*(x.tolist() for x in cells_with_margin(ra, dec, 5, margin)), strict=True))
    one_by_one = {
        (row, cell)
        for row in range(200)
        for cell in cells_with_margin(ra[[row]], dec[[row]], 5, margin[row])[1].tolist()
    }
    assert entries == one_by_one


@pytest.mark.parametrize("margin", [-1.0, np.nan, 5000.0])
def test_a_margin_that_is_no_margin_is_refused(margin):
    with pytest.raises(ValueError, match=r"order 5 are 0 to 3957.*lower order"):
        cells_with_margin([1.0], [1.0], 5, margin)
