"""The published mock catalog opens in what astronomers use; all agree with its manifest."""

import hashlib
import json
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.io.votable import parse
from astropy.table import Table

from scalespec.stages import folders

FORMATS = '[publish]\nformats = ["fits", "votable", "hats"]\n'
UNITS = {"teff": u.K, "teff_err": u.K, "rv": u.km / u.s, "ra": u.deg, "mjd": u.day}


@pytest.fixture(scope="module")
def catalog(line, tmp_path_factory):
    """Folder of the line's catalog in every form, and its manifest."""
    workspace = line.workspace(tmp_path_factory.mktemp("openers"), before="catalog")
    workspace.change("[publish]\n", FORMATS)
    code, said = workspace.typed("run", "--engine", "local")
    assert code == 0, said
    folder = Path(folders.catalog_url(workspace.config))
    return folder, json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="module")
def obsids(catalog):
    """Of every row, by PyArrow; every form must say the same."""
    return pq.read_table(catalog[0] / "catalog.parquet", columns=["obsid"])["obsid"].to_numpy()


def test_every_object_has_the_checksum_of_the_manifest(catalog, line):
    planned = sum(one.n for one in folders.planned_segments(line.undisturbed.config))
    folder, manifest = catalog
    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
             for name in manifest["objects"]}  # fmt: skip
    assert found == manifest["objects"]
    single = {"catalog.parquet", "catalog.fits", "catalog.vot", "data_model.html"}
    assert single < set(found)
    assert any(name.startswith("hats/dataset/Norder=") for name in found)
    assert manifest["rows"] == planned


def test_pandas_reads_every_row(catalog, obsids):
    rows = pd.read_parquet(catalog[0] / "catalog.parquet")
    assert len(rows) == catalog[1]["rows"]
    np.testing.assert_array_equal(rows["obsid"], obsids)
    assert rows["row"].tolist() == list(range(len(rows)))
    assert rows["teff"].notna().sum() > len(rows) / 2


def test_duckdb_reads_every_row_and_takes_a_recommended_cut(catalog, obsids):
    folder, manifest = catalog
    source = f"'{folder}/catalog.parquet'"
    (found,) = duckdb.sql(f"select count(*), count(distinct obsid) from {source}").fetchall()
    assert found == (manifest["rows"], len(set(obsids.tolist())))
    rows = pd.read_parquet(folder / "catalog.parquet")
    cut = manifest["cuts"]["teff"]
    chosen = duckdb.sql(f"select obsid from {source} where teff is not null and {cut}").fetchall()
    bits = rows["fit_status"].to_numpy().astype(np.int64) & int(cut.split("& ")[1].split(")")[0])
    doubtful = (bits != 0) | ((rows["at_bound"] & 1) != 0) | ((rows["prior_dominated"] & 1) != 0)
    wanted = rows["obsid"][rows["teff"].notna() & ~doubtful]
    assert sorted(one for (one,) in chosen) == sorted(wanted)


def test_astropy_reads_a_fits_table_with_units_that_passes_verification(catalog, obsids):
    path = catalog[0] / "catalog.fits"
    with fits.open(path, checksum=True) as hdus:
        hdus.verify("exception")
        assert len(hdus[1].data) == catalog[1]["rows"]
    table = Table.read(path, hdu=1)
    np.testing.assert_array_equal(table["obsid"], obsids)
    for name, unit in UNITS.items():
        assert u.Unit(table[name].unit) == unit, name
    rows = pd.read_parquet(catalog[0] / "catalog.parquet")
    known = rows["teff"].notna().to_numpy()
    np.testing.assert_array_equal(np.asarray(table["teff"])[known], rows["teff"][known])


def test_astropy_reads_the_votable_with_units_and_words(catalog, obsids):
    found = parse(str(catalog[0] / "catalog.vot"), verify="exception").get_first_table()
    table = found.to_table(use_names_over_ids=True)
    np.testing.assert_array_equal(table["obsid"], obsids)
    for name, unit in UNITS.items():
        assert u.Unit(table[name].unit) == unit, name
    assert found.get_field_by_id_or_name("teff").ucd == "phys.temperature.effective"


def test_the_hats_library_finds_a_valid_catalog(catalog, obsids):
    hats = pytest.importorskip("hats")
    from hats.io.validation import is_valid_catalog

    folder = catalog[0] / "hats"
    assert is_valid_catalog(folder, strict=True)
    placed = pd.read_parquet(catalog[0] / "catalog.parquet")["ra"].notna()
    assert hats.read_hats(folder).catalog_info.total_rows == placed.sum()
    dataset = pq.read_table(folder / "dataset", columns=["obsid"])["obsid"].to_numpy()
    assert sorted(dataset.tolist()) == sorted(obsids[placed].tolist())


def test_lsdb_opens_searches_and_crossmatches_it(catalog, obsids):
    lsdb = pytest.importorskip("lsdb")
    check_lsdb(lsdb, catalog[0])


def check_lsdb(lsdb, folder):
    """Hold what LSDB says of a catalog's HATS form against its Parquet file."""
    rows = pd.read_parquet(folder / "catalog.parquet")
    placed = rows[rows["ra"].notna() & rows["dec"].notna()].set_index("obsid")
    opened = lsdb.open_catalog(folder / "hats")
    found = opened.compute().set_index("obsid")
    assert sorted(found.index) == sorted(placed.index)
    teff = found["teff"].loc[placed.index].to_numpy(dtype=float, na_value=np.nan)
    np.testing.assert_array_equal(teff, placed["teff"])
    first = placed.iloc[0]
    near = opened.cone_search(ra=first["ra"], dec=first["dec"], radius_arcsec=5.0).compute()
    assert placed.index[0] in set(near["obsid"])
    own = lsdb.from_dataframe(
        placed.reset_index()[["obsid", "ra", "dec"]], ra_column="ra", dec_column="dec"
    )
    both = opened.crossmatch(own, radius_arcsec=1.0, suffixes=("_a", "_b")).compute()
    assert len(both) == len(placed)
    # stars that were seen twice stand at one place
    assert (both["obsid_a"] == both["obsid_b"]).mean() > 0.8
