"""What a label catalog's numbers are in, by run file and by file; and text that is no number."""

import gzip
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io.votable import from_table
from astropy.table import Table

from scalespec.config import CrossmatchTable
from scalespec.errors import ConfigError
from scalespec.stages.label_catalog import catalog_rows, iterate_catalog
from scalespec.stages.label_units import with_stated_units
from scalespec.store.batches import column_units, list_pieces
from scalespec.store.tables import read_table, write_table

STATED = {"RA": "rad", "TEFF": "K", "id": ""}


def write_as(kind, folder):
    """A table whose file says the units STATED."""
    columns = {name: np.arange(2) + 0.5 for name in STATED}
    path = folder / f"a.{kind.removesuffix('.gz')}"
    if kind.startswith(("fits", "parquet")):
        write_table(str(path), columns, units={k: v for k, v in STATED.items() if v})
    elif kind == "voparquet":
        head = "".join(
            f'<FIELD name="{k}" datatype="double" unit="{v}"/>' for k, v in STATED.items()
        )
        xml = f"<VOTABLE><RESOURCE><TABLE>{head}</TABLE></RESOURCE></VOTABLE>"
        table = pa.table(columns).replace_schema_metadata({"IVOA.VOTable-Parquet.content": xml})
        pq.write_table(table, path)
    else:
        from_table(Table(columns, units=STATED)).to_xml(str(path))
    if kind.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    return str(path)


@pytest.mark.parametrize("kind", ["fits", "fits.gz", "parquet", "voparquet", "vot", "vot.gz"])
def test_units_are_read_of_every_kind_of_file(tmp_path, kind):
    assert column_units(write_as(kind, tmp_path)) == STATED


def with_units(stated, /, **table):
    return with_stated_units("mine", CrossmatchTable(catalog="labels.fits", **table), stated).units


@pytest.mark.parametrize(
    ("name", "unit", "becomes"),
    [
        ("ra", "rad", "rad"),
        ("ra", "radians", "rad"),
        ("ra", "hourangle", "hourangle"),
        ("ra", "deg", None),
        ("ra", "Degrees", None),
        ("pmra", "mas.yr**-1", None),
        ("pmra", "arcsec/yr", "arcsec / yr"),
        ("teff", "", None),
        ("teff", "KELVIN", None),
        ("teff", "[K]", "dex(K)"),
        ("rv", "m/s", "m / s"),
        ("logg", "log(cm.s**-2)", None),  # Gaia's and GALAH's
        ("logg", "[cm/s2]", None),  # VizieR's
        ("logg", "[m/s2]", "dex(m / s2)"),
        ("logg", "dex", None),
        ("logg_err", "[cm/s2]", None),
        ("teff_err", "K", None),
        ("fe_h", "[Sun]", None),
        ("fe_h", "[-]", None),
        ("fe_h", "dex", None),
        ("age", "Gyr", None),  # we claim no unit for it
    ],
)
def test_what_a_file_says_is_converted_where_it_is_not_ours(name, unit, becomes):
    table = {name: "x"} if name in ("ra", "pmra") else {"columns": {name: "x"}}
    assert with_units({"x": unit}, **table) == ({} if becomes is None else {name: becomes})


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("ra", "h"),
        ("ra", "K"),
        ("teff", "km/s"),
        ("fe_h", "K"),
        ("logg", "cm/s2"),
        ("teff_err", "[K]"),
    ],
)
def test_what_does_not_become_ours_is_refused_naming_both(name, unit):
    table = {name: "x"} if name == "ra" else {"columns": {name: "x"}}
    ours = {"ra": "deg", "fe_h": "dex", "logg": "dex"}.get(name, "K")
    with pytest.raises(ConfigError) as caught:
        with_units({"x": unit}, **table)
    for said in ("crossmatch.mine: labels.fits", "'x'", f"'{unit}'", f"'{ours}", f"units.{name}"):
        assert said in str(caught.value)


def test_the_run_files_word_goes_before_the_files():
    units = {"teff": "K", "ra": "deg"}
    assert with_units({"x": "km/s", "ra": "rad"}, columns={"teff": "x"}, units=units) == units


def test_a_unit_that_nobody_knows_is_said_and_taken_for_ours(caplog):
    table = CrossmatchTable(catalog="labels.fits", columns={"teff": "x"})
    found = with_stated_units("mine", table, {"x": "parsnips"}, level=logging.WARNING)
    assert found.units == {}
    assert "'parsnips', no unit that we know: taken for K" in caplog.text


def rows_of(source, numbers=frozenset(), **table):
    n = len(next(iter(source.values())))
    positions = {"ra": np.zeros(n), "dec": np.zeros(n)}
    table = CrossmatchTable(catalog="labels.fits", **table)
    return catalog_rows(positions | source, table, 0, numbers)


def test_a_dash_in_a_column_of_numbers_is_a_number_that_is_not_known(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("ra,dec,t,g,name\n1,2,5777,--,--\n3,4,--,4.4,b\n5,6,null,NaN,c\n")
    table = CrossmatchTable(catalog=str(path), columns={"teff": "t", "logg": "g", "called": "name"})
    (piece,) = list_pieces(str(path), 10)
    (found,) = iterate_catalog(piece, table, 10)
    np.testing.assert_array_equal(found["teff"], [5777, np.nan, np.nan])
    np.testing.assert_array_equal(found["logg"], [np.nan, 4.4, np.nan])
    assert found["called"].tolist() == ["--", "b", "c"]  # text is left as it is
    np.testing.assert_array_equal(read_table(str(path), ["t"])["t"], found["teff"])


def test_text_of_numbers_is_numbers():
    text = np.array(["5777", " -- ", "", "NULL", "nan", "-9999"])
    found = rows_of({"x": text}, columns={"teff": "x"})["teff"]
    np.testing.assert_array_equal(found, [5777, *[np.nan] * 5])


@pytest.mark.parametrize("name", ["teff", "mg_fe", "vbroad_err", "vbroad"])
def test_other_text_is_refused_by_column_count_and_value(name):
    text = np.array(["1.5", "hot", "--", "?"])
    with pytest.raises(ConfigError, match=rf"'x' \({name}\) wants numbers: 2 of 4 .* as 'hot'"):
        rows_of({"x": text}, columns={name: "x"}, numbers=frozenset({"vbroad"}))


def test_text_of_rows_that_are_not_taken_does_not_matter():
    source = {"x": np.array(["1.5", "hot"]), "flag": np.array([0, 1])}
    assert rows_of(source, columns={"teff": "x"}, where="flag == 0")["teff"].tolist() == [1.5]


def test_text_in_an_epoch_or_a_position_is_refused_too():
    with pytest.raises(ConfigError, match=r"'t' \(epoch\) wants numbers"):
        rows_of({"t": np.array(["J2000"])}, epoch="t")
    with pytest.raises(ConfigError, match=r"'ra' \(ra\) wants numbers.*units\.ra = 'hourangle'"):
        rows_of({"ra": np.array(["10:13:34.704"])})
