"""A label catalog under our names: what is not known, in which unit, which star, which id."""

import numpy as np
import pytest

from scalespec.config import CrossmatchTable
from scalespec.errors import ConfigError
from scalespec.stages.label_catalog import catalog_rows, iterate_catalog, key_values, star_hash
from scalespec.store.batches import list_pieces
from scalespec.store.tables import write_table


def rows_of(source, /, *, first=0, **table):
    n = len(next(iter(source.values())))
    positions = {"ra": np.zeros(n), "dec": np.zeros(n)}
    return catalog_rows(positions | source, CrossmatchTable(catalog="labels.fits", **table), first)


@pytest.mark.parametrize(
    ("values", "known"),
    [
        (np.array([5000, -9999.99], np.float32), [5000, np.nan]),  # APOGEE's, in its own precision
        (np.array([5000, -9999.99], np.float64), [5000, np.nan]),
        (np.array([5000, -9999], np.int16), [5000, np.nan]),
        (np.array([np.nan, -9998.0], np.float32), [np.nan, -9998]),  # near is not equal
    ],
)
def test_sentinels_become_nan(values, known):
    np.testing.assert_array_equal(rows_of({"x": values}, columns={"teff": "x"})["teff"], known)


def test_a_sentinel_of_zero_is_exactly_zero():
    values = np.array([0.0, 1e-3, -1e-3])
    found = rows_of({"x": values}, columns={"c_fe": "x"}, missing=(0.0,))["c_fe"]
    np.testing.assert_array_equal(found, [np.nan, 1e-3, -1e-3])


def test_strings_are_taken_over_as_they_are():
    found = rows_of({"x": np.array(["2M01", ""])}, columns={"name": "x"})
    assert found["name"].tolist() == ["2M01", ""]


def test_where_excludes_rows_and_the_others_keep_their_numbers():
    columns = {"ra": np.arange(4.0), "flag": np.array([0, 4, 1, 6])}
    found = rows_of(columns, first=100, where="flag & 4 == 0")
    assert found["right"].tolist() == [100, 102]
    assert found["ra"].tolist() == [0, 2]


def test_a_column_of_vectors_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"labels\.fits: \['PARAM'\] hold several numbers"):
        rows_of({"PARAM": np.zeros((2, 7))}, columns={"teff": "PARAM"})


@pytest.mark.parametrize(
    ("name", "unit", "theirs", "ours"),
    [
        ("ra", "hourangle", [1.0, 12.5], [15.0, 187.5]),
        ("ra", "rad", [np.pi], [180.0]),
        ("pmra", "arcsec/yr", [0.25], [250.0]),
        ("teff", "dex(K)", [3.75, np.nan], [10**3.75, np.nan]),
        ("rv", "m/s", [-2500.0], [-2.5]),
        ("fe_h", "dex", [-1.5], [-1.5]),
        ("logg", "dex(m/s2)", [2.44], [4.44]),
    ],
)
def test_columns_come_in_our_units(name, unit, theirs, ours):
    table = {"units": {name: unit}}
    table |= {name: "x"} if name in ("ra", "pmra") else {"columns": {name: "x"}}
    found = rows_of({"x": np.array(theirs)}, **table)[name]
    np.testing.assert_allclose(
        found, ours, rtol=1e-12
    )  # a multiplication, or a power and its logarithm


def test_sexagesimal_positions_are_read():
    columns = {"ra": np.array(["10:13:34.704", "", "23h59m60s"][:2])}
    columns["dec"] = np.array(["-02:07:58.08", "-00:30:00"])
    found = rows_of(columns, units={"ra": "hourangle", "dec": "deg"})
    np.testing.assert_allclose(found["ra"], [153.3946, np.nan], atol=1e-10)
    np.testing.assert_allclose(found["dec"], [-2.1328, -0.5], atol=1e-10)  # the sign of -0, too


@pytest.mark.parametrize(("name", "unit"), [("teff", "km/s"), ("teff", "parsnips"), ("logg", "K")])
def test_a_unit_that_does_not_become_ours_is_refused(name, unit):
    with pytest.raises(ConfigError, match=rf"labels\.fits: units\.{name} = '{unit}' does not"):
        rows_of({"x": np.ones(2)}, columns={name: "x"}, units={name: unit})


def test_a_motion_faster_than_any_star_is_none_and_both_its_parts():
    columns = {"a": np.array([10_390.0, 20_000.0]), "b": np.array([0.0, 5.0])}
    found = rows_of(columns, pmra="a", pmdec="b")
    np.testing.assert_array_equal(found["pmra"], [10_390, np.nan])
    np.testing.assert_array_equal(found["pmdec"], [0, np.nan])


def test_epochs_are_the_tables_or_the_rows_own():
    assert rows_of({"t": np.zeros(2)}, epoch=2000.0)["epoch"].tolist() == [2000, 2000]
    found = rows_of({"t": np.array([1999.5, -9999.0])}, epoch="t")["epoch"]
    np.testing.assert_array_equal(found, [1999.5, np.nan])


def test_a_stars_hash_does_not_depend_on_order_or_company():
    ids = np.array([f"2M{i % 40:04d}" for i in range(100)])
    order = np.random.default_rng(0).permutation(100)
    for one in (ids, np.arange(100) % 40):
        np.testing.assert_array_equal(star_hash(one)[order], star_hash(one[order]))
        np.testing.assert_array_equal(star_hash(one[:3]), star_hash(one)[:3])
        assert len(set(star_hash(one).tolist())) == 40
        assert star_hash(one).min() >= 0


@pytest.mark.parametrize(
    ("ids", "stars"),
    [
        (np.array(["a", "b", "a", "", ""]), 4),
        (np.array([5, 6, 5, -1, -1]), 4),
        (np.array([5, 6, 5, np.nan, np.nan]), 4),
        (None, 5),  # a row is a star
    ],
)
def test_rows_without_an_id_are_stars_of_their_own(ids, stars):
    columns = {"t": np.zeros(5)} | ({} if ids is None else {"id": ids})
    found = rows_of(columns, star_id="" if ids is None else "id")
    assert found["star"].nunique() == stars
    assert (found["star"][0] == found["star"][2]) == (ids is not None)


def test_stars_without_an_id_are_others_in_the_next_piece():
    ids = {"id": np.array(["", "a"])}
    first, second = (rows_of(ids, first=first, star_id="id")["star"] for first in (0, 2))
    assert first[0] != second[0]
    assert first[1] == second[1]


@pytest.mark.parametrize(
    ("values", "kind", "known"),
    [
        (np.array([5, -1]), "gaia_dr3", [5, -1]),
        (np.array([5.0, np.nan]), "gaia_dr3", [5, -1]),
        (np.array(["2M00003119+1516179", "x"]), "twomass", ["00003119+1516179", ""]),
        (np.array([" a ", ""]), "name", ["a", ""]),
    ],
)
def test_identifiers_have_one_type_and_one_spelling(values, kind, known):
    ours = {"gaia_dr3": "source_id", "twomass": "designation", "name": "name"}[kind]
    table = CrossmatchTable(catalog="c", key={ours: "id"}, key_kind=kind)
    found = key_values(values, table)
    assert found.tolist() == known
    assert found.dtype.kind == ("i" if kind == "gaia_dr3" else "U")


def test_pieces_and_batches_number_the_rows_of_the_whole_catalog(tmp_path):
    n = 1000
    url = str(tmp_path / "a.fits")
    write_table(url, {"ra": np.arange(n) * 0.1, "dec": np.zeros(n), "t": np.arange(n) * 1.0})
    table = CrossmatchTable(catalog=url, columns={"teff": "t"}, where="t > 4")
    parts = [part for piece in list_pieces(url, 300) for part in iterate_catalog(piece, table, 90)]
    right = np.concatenate([part["right"] for part in parts])
    np.testing.assert_array_equal(right, np.arange(5, n))
    np.testing.assert_array_equal(np.concatenate([part["teff"] for part in parts]), right)


GAIA = np.array([6917528997577384321, 6917528997577384320, -1])


def test_a_column_called_an_id_is_kept_to_the_last_digit():
    found = rows_of({"x": GAIA}, columns={"gaia_id": "x"})["gaia_id"]
    assert found.dtype == np.int64
    assert found.tolist() == GAIA.tolist()
    # Pieces of one catalog have one type, whatever they lack.
    lacking = rows_of({"x": np.array([5, np.nan, -9999.0])}, columns={"gaia_id": "x"})["gaia_id"]
    assert lacking.tolist() == [5, -1, -1]
    assert lacking.dtype == np.int64
    names = rows_of({"x": np.array(["2M01", ""])}, columns={"apogee_id": "x"})["apogee_id"]
    assert names.tolist() == ["2M01", ""]


def test_whole_numbers_that_a_label_cannot_hold_are_refused():
    with pytest.raises(ConfigError, match=r"column 'x' holds .* 6917528997577384321, .* 'gaia_id'"):
        rows_of({"x": GAIA}, columns={"gaia": "x"})
    assert rows_of({"x": np.array([-(2**63), 3])}, columns={"flag": "x"})["flag"][1] == 3


@pytest.mark.parametrize(
    "table", [{"columns": {"gaia_id": "x"}}, {"star_id": "x"}], ids=["column", "star_id"]
)
def test_ids_that_went_through_float64_are_refused_by_column(table):
    """Two stars would be one: these ids differ in the last digit."""
    with pytest.raises(
        ConfigError, match=r"labels\.fits: .*'x': 6\.9\d*e\+18 is no exact id: .*'K'"
    ):
        rows_of({"x": GAIA.astype(float)}, **table)


def test_a_star_is_the_same_in_a_piece_that_lacks_ids():
    """Whole numbers with missing ones come as floats."""
    whole = rows_of({"x": np.array([5, 6])}, star_id="x")
    lacking = rows_of({"x": np.array([5.0, np.nan])}, first=2, star_id="x")
    assert whole["star"][0] == lacking["star"][0]
    assert whole["tie"].dtype == lacking["tie"].dtype == np.int64
