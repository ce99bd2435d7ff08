"""Label catalogs, pairs and broken files of a made-up survey."""

import numpy as np
import pytest

from scalespec.kernels.families import Recipe
from scalespec.kernels.population import star_of
from scalespec.kernels.sky import propagate, separation_arcsec, unit_vectors
from scalespec.models.base import EmulatorSpec
from scalespec.stages.mock_records import (
    BROKEN,
    CATALOGS,
    break_file,
    catalog_rng,
    label_catalog,
    pair_list,
)
from scalespec.stages.mock_stars import observed_stars, source_ids, told, units_of

LABELS = ("teff", "logg", "fe_h", "mg_fe")
SPEC = EmulatorSpec(
    "any", LABELS, [3800.0, 0.0, -4.0, -1.0], [30000.0, 5.0, 0.6, 1.5], [5000.0, 5001.0]
)
N = 6000


@pytest.fixture(scope="module")
def stars():
    return observed_stars(2, np.arange(N), SPEC, Recipe())


@pytest.fixture(scope="module")
def tables(stars):
    return {c.name: label_catalog(c, stars, LABELS, catalog_rng(2, 0, c)) for c in CATALOGS}


def rows_of(stars, table):
    """Rows of the stars that a table's rows with an id are of."""
    place = {int(s): i for i, s in enumerate(stars["source_id"])}
    known = np.flatnonzero(table["source_id"] > 0)
    return known, np.array([place[int(s)] for s in table["source_id"][known]])


def test_repeated_stars_have_the_same_truth_and_another_night(stars):
    again = np.flatnonzero(stars["star"] != stars["spectrum"])
    assert 0.08 < len(again) / N < 0.12
    first = stars["star"][again]
    for name in ("teff", "logg", "fe_h", "rv_system", "source_id", "g", "ra_2016"):
        np.testing.assert_array_equal(stars[name][again], stars[name][first])
    other = stars["mjd"][again] != stars["mjd"][first]
    assert np.mean(other) > 0.2  # the other plate of the field
    moved = stars["k_1"][again] > 0
    assert np.any(stars["rv"][again] != stars["rv"][first])
    assert not np.any((stars["rv"][again] != stars["rv"][first]) & ~(moved & other))


def test_stars_move_between_epochs(stars):
    year = 2000.0 + (stars["mjd"] - 51544.5) / 365.25
    far = separation_arcsec(
        unit_vectors(stars["ra"], stars["dec"]), unit_vectors(stars["ra_2016"], stars["dec_2016"])
    )
    expected = np.hypot(stars["pmra"], stars["pmdec"]) / 1000 * np.abs(year - 2016)
    assert np.allclose(far, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("catalog", CATALOGS, ids=lambda c: c.name)
def test_catalog_positions_meet_the_observations(catalog, stars, tables):
    table = tables[catalog.name]
    known, row = rows_of(stars, table)
    year = 2000.0 + (stars["mjd"][row] - 51544.5) / 365.25
    columns = [table[name][known] for name in ("ra", "dec", "pmra", "pmdec")]
    moved = unit_vectors(*propagate(*columns, catalog.epoch, year))
    seen = unit_vectors(stars["ra"][row], stars["dec"][row])
    assert separation_arcsec(moved, seen).max() < 0.1  # 0.015 each axis, 0.05 mas/yr in 19 years
    if catalog.epoch == 2000.0:
        assert separation_arcsec(unit_vectors(*columns[:2]), seen).max() > 2.5


@pytest.mark.parametrize("catalog", CATALOGS, ids=lambda c: c.name)
def test_catalog_labels_scatter_by_their_errors_around_their_offset(catalog, stars, tables):
    table = tables[catalog.name]
    known, row = rows_of(stars, table)
    for name in LABELS:
        value, error = (table[c][known] for c in (name, f"{name}_err"))
        measured = np.isfinite(value) & (value > -9000)
        off = value - stars[name][row] - catalog.offsets.get(name, 0.0)
        pulls = (off / error)[measured]
        low, high = np.quantile(pulls, [0.1587, 0.8413])
        assert (high - low) / 2 == pytest.approx(1.0, abs=0.06)  # 4 sigma of 5400 and outliers
        assert np.median(pulls) == pytest.approx(0.0, abs=0.07)
        wild = np.mean(np.abs(pulls) > 5)  # of an outlier's 10 sigma, 62 % lie beyond 5
        assert 0.2 * catalog.outliers < wild < 1.2 * catalog.outliers
        assert np.array_equal(np.isfinite(value), np.isfinite(error))
    logg = table["logg"]
    assert np.mean(np.isnan(logg)) == pytest.approx(catalog.missing, abs=0.01)
    assert np.mean(logg < -9000) == pytest.approx(catalog.sentinels, abs=0.008)
    assert np.all(table["teff"] > 0)  # always known


def test_catalogs_name_most_stars_and_some_twice(stars, tables):
    table = tables["labels"]
    assert np.mean(table["source_id"] == -1) == pytest.approx(0.1, abs=0.02)
    assert len(table["ra"]) == pytest.approx(1.02 * N, rel=0.01)
    assert all(name.startswith("2M") and len(name) == 18 for name in table["apogee_id"])
    assert table["epoch"].tolist() == [2000.0] * len(table["ra"])


def test_catalogs_overlap_on_stars_but_not_in_their_noise():
    (low, high), (other, end) = (c.stars for c in CATALOGS)
    assert low < other < high < end
    noise = [catalog_rng(1, 0, c).normal() for c in CATALOGS]
    assert noise[0] != noise[1]


def test_offsets_are_told():
    told_of = CATALOGS[1].descriptions(["teff", "ca_fe"])
    assert told_of["teff"].startswith("truth +60, with a scatter of teff_err")
    assert told_of["ca_fe"].startswith("truth +0, ")


def test_pairs_are_those_of_the_stars_and_both_observed(stars):
    table = pair_list(2, np.arange(N), N, SPEC, Recipe())
    first, second = table["star_1"], table["star_2"]
    assert np.all(stars["pair"][first] == second)
    np.testing.assert_array_equal(stars["fe_h"][first], stars["fe_h"][second])
    assert np.array_equal(table["source_id_2"], source_ids(second))
    for name, ours in (("ra", "ra_2016"), ("parallax", "parallax"), ("g", "g")):
        np.testing.assert_array_equal(table[f"{name}_2"], stars[ours][second])
    assert units_of(table)["pmra_1"] == "mas/yr"
    shown = set(star_of(2, np.arange(N)).tolist())
    all_pairs = np.flatnonzero((stars["pair"] >= 0) & (stars["star"] == np.arange(N)))
    both = {int(s) for s in all_pairs if s % 2 == 0 and int(s) + 1 in shown}
    assert set(first.tolist()) == both


@pytest.mark.parametrize("cut", [7, 500, 1001])
def test_blocks_give_every_pair_once(cut):
    whole = pair_list(2, np.arange(2000), 2000, SPEC, Recipe())
    blocks = [np.arange(a, min(a + cut, 2000)) for a in range(0, 2000, cut)]
    parts = [pair_list(2, block, 2000, SPEC, Recipe())["star_1"] for block in blocks]
    assert np.concatenate(parts).tolist() == whole["star_1"].tolist()


def test_a_pair_cut_by_the_surveys_end_is_none():
    pairs = pair_list(2, np.arange(2000), 2000, SPEC, Recipe())["star_1"]
    end = int(pairs[-1]) + 1  # without its second star
    assert int(pairs[-1]) not in pair_list(2, np.arange(end), end, SPEC, Recipe())["star_1"]


def test_source_ids_differ_and_are_int64():
    ids = source_ids(np.arange(10**5))
    assert len(set(ids.tolist())) == 10**5
    assert ids.min() > 0


@pytest.mark.parametrize("kind", BROKEN[:4])
def test_broken_files_are_broken(kind):
    data = bytes(range(256)) * 40
    spoiled = break_file(data, kind, np.random.default_rng(1))
    assert spoiled != data
    assert len(spoiled) <= len(data)
    assert break_file(data, "", np.random.default_rng(1)) == data
    assert break_file(b"tiny", kind, np.random.default_rng(1)) != b"tiny"


def test_populations_and_phases_are_told_by_name(stars):
    table = told(stars)
    assert {"thin disk", "halo", "young disk"} <= set(table["population"])
    assert {"dwarf", "giant", "clump"} <= set(table["phase"])
    assert units_of(table)["teff_2"] == "K"
    assert "binary" not in units_of(table)
