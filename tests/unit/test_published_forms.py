"""The published catalog opens in what astronomers use, and every form holds the same rows."""

import hashlib
import html
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.io.votable import parse
from astropy.table import Table

from scalespec.config import ProductTable, PublishTable, parse_config
from scalespec.errors import ConfigError, StageError
from scalespec.kernels.where import where
from scalespec.optimize.result import FitStatus
from scalespec.stages import folders
from scalespec.stages.calibrate import calibrate
from scalespec.stages.covariance import compact_covariance, full_covariance, n_labels
from scalespec.stages.products import recommended_cuts
from scalespec.stages.publish import publish
from scalespec.stages.samples import Rows
from scalespec.stages.ucds import UCDS, ucd
from scalespec.store import hats as hats_store
from scalespec.store.catalog import open_catalog, verify_catalog
from scalespec.store.ledger import Ledger

N, ROWS = 1200, 256
LABELS = ("teff", "logg", "fe_h")
TABLES = """
[calibrate]
bootstrap = 5
snr_min = 0.0
[calibrate.pairs]
catalog = "{root}/pairs.parquet"
[publish]
formats = ["fits", "votable", "hats"]
partition_rows = 300
[publish.products.metal_poor]
where = "fe_h < -1"
trusted = ["fe_h"]
description = "metal-poor <b>stars</b>"
[publish.products.bright]
where = "snr > 60"
columns = ["obsid", "snr", "teff", "designation"]
"""


@pytest.fixture(scope="module")
def published(tiny, tmp_path_factory):
    """A catalog in every form, the folder it lies in, and the run's config."""
    from tests.kits.fitted_run import write_fitted

    root = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(5)
    stars = {
        "teff": rng.uniform(4200, 6800, N), "logg": rng.uniform(0.5, 4.8, N),
        "fe_h": rng.uniform(-2.5, 0.4, N), "snr": rng.uniform(5, 100, N),
        "ra": rng.uniform(0, 360, N), "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, N))),
        "source_id": 10**18 + np.arange(N), "fit_status": np.zeros(N, np.uint32),
    }  # fmt: skip
    stars |= {f"{name}_err": np.full(N, 0.05) for name in LABELS}
    stars["fit_status"][::7] = FitStatus.POOR_FIT
    stars["fe_h"][5], stars["ra"][6], stars["dec"][6] = np.nan, np.nan, np.nan
    pairs = {f"source_id_{i}": stars["source_id"][i - 1 :: 2] for i in (1, 2)}
    pd.DataFrame(pairs).to_parquet(root / "pairs.parquet")
    index = {"designation": np.array([f"J{i:04d}<&>" for i in range(N)])}
    tables = TABLES.format(root=root)
    config = write_fitted(root, stars, tables=tables, rows=ROWS, index=index)
    tiny.run_stage(calibrate(config))
    tiny.run_stage(publish(config))
    folder = Path(folders.catalog_url(config))
    return config, folder, json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="module")
def rows(published):
    return pd.read_parquet(published[1] / "catalog.parquet")


def test_every_object_of_the_manifest_has_its_checksum(published):
    _, folder, manifest = published
    for name, sha in manifest["objects"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha, name
    assert {"catalog.parquet", "catalog.fits", "catalog.vot", "data_model.html"} < set(
        manifest["objects"]
    )
    assert verify_catalog(str(folder)) == []
    assert manifest["rows"] == N


def test_raw_and_calibrated_columns_stand_side_by_side(rows):
    assert {"fe_h", "fe_h_err", "fe_h_cal", "fe_h_cal_err", "calibration_status"} <= set(rows)
    known = rows["fit_status"] == 0
    assert np.isfinite(rows.loc[known & (rows.index != 5), "fe_h_cal"]).all()


def test_fits_passes_verification_and_has_units(published, rows):
    with fits.open(published[1] / "catalog.fits") as hdus:
        hdus.verify("exception")
        data, header = hdus[1].data, hdus[1].header
        assert len(data) == N
        np.testing.assert_array_equal(data["obsid"], rows["obsid"])
        np.testing.assert_array_equal(np.isnan(data["fe_h"]), rows["fe_h"].isna())
        cards = {header[f"TTYPE{i}"]: i for i in range(1, header["TFIELDS"] + 1)}
        assert header[f"TUNIT{cards['teff']}"] == "K"
        assert header[f"TUCD{cards['ra']}"] == "pos.eq.ra;meta.main"
    table = Table.read(published[1] / "catalog.fits", hdu=1)
    assert str(table["rv"].unit) == "km / s"


def test_the_votable_passes_verification_and_has_the_same_values(published, rows):
    made = parse(str(published[1] / "catalog.vot"), verify="exception").get_first_table()
    table = made.to_table(use_names_over_ids=True)
    assert len(table) == N
    np.testing.assert_array_equal(table["obsid"], rows["obsid"])
    np.testing.assert_array_equal(np.ma.getmaskarray(table["fe_h"]), rows["fe_h"].isna())
    known = rows["fe_h"].notna().to_numpy()
    np.testing.assert_array_equal(table["fe_h"][known], rows["fe_h"][known])
    assert str(table["teff"].unit) == "K"
    assert table["teff"].description.startswith("effective temperature")
    assert table["logg"].description.endswith("[dex]")
    assert made.get_field_by_id_or_name("dec").ucd == "pos.eq.dec;meta.main"
    assert list(table["designation"][:2]) == ["J0000<&>", "J0001<&>"]
    cov = np.stack(rows["label_cov"][known])
    np.testing.assert_array_equal(np.asarray(table["label_cov"][known]), cov)
    np.testing.assert_array_equal(table["fit_status"], rows["fit_status"])


def test_hats_holds_all_rows_with_a_position_in_the_order_of_the_sky(published, rows):
    import hats
    from hats.io.paths import pixel_catalog_file
    from hats.io.validation import is_valid_catalog

    url = published[1] / "hats"
    catalog = hats.read_hats(url)
    assert is_valid_catalog(url, strict=True)
    pixels = catalog.get_healpix_pixels()
    assert len(pixels) > 3
    found = []
    for pixel in pixels:
        part = pq.read_table(pixel_catalog_file(url, pixel)).to_pandas()
        assert len(part) <= 300
        index = part["_healpix_29"].to_numpy()
        assert (np.diff(index) >= 0).all()
        assert set(index >> (2 * (29 - pixel.order))) == {pixel.pixel}
        found.append(part)
    together = pd.concat(found)
    assert catalog.catalog_info.total_rows == len(together) == N - 1
    assert sorted(together["row"]) == [row for row in range(N) if row != 6]
    wanted = rows.set_index("row").loc[together["row"], "teff"]
    np.testing.assert_array_equal(together["teff"], wanted)


def test_hats_says_units_in_votable_metadata(published):
    schema = pq.read_schema(published[1] / "hats" / "dataset" / "_common_metadata")
    text = schema.metadata[b"IVOA.VOTable-Parquet.content"].decode()
    assert re.search(r'name="teff"[^>]*unit="K"', text)
    assert pq.read_metadata(published[1] / "hats" / "dataset" / "_metadata").num_rows == N - 1


def test_partitions_are_those_of_the_hats_library():
    from hats.pixel_math.partition_stats import generate_alignment

    rng = np.random.default_rng(3)
    counts = rng.poisson(2.0, 12 * 4**3) * (rng.random(12 * 4**3) < 0.3)
    ours = hats_store.plan_partitions(counts, 20, order=3)
    theirs = generate_alignment(counts, highest_order=3, lowest_order=0, threshold=20)
    wanted = {(int(t[0]), int(t[1])) for t in theirs if t is not None}
    assert {(one.order, one.pixel) for one in ours} == wanted


def test_duckdb_reads_the_same(published, rows):
    import duckdb

    query = f"select count(*), sum(obsid) from '{published[1]}/catalog.parquet' where teff > 5000"
    (got,) = duckdb.sql(query).fetchall()
    here = rows["teff"] > 5000
    assert got == (int(here.sum()), int(rows["obsid"][here].sum()))


def test_products_hold_the_rows_of_their_conditions(published, rows):
    _, folder, manifest = published
    poor = pd.read_parquet(folder / "products" / "metal_poor.parquet")
    wanted = (rows["fe_h"] < -1) & (rows["fit_status"] == 0)
    assert poor["row"].tolist() == rows["row"][wanted].tolist()
    assert manifest["products"]["metal_poor"]["rows"] == len(poor)
    with fits.open(folder / "products" / "bright.fits") as hdus:
        hdus.verify("exception")
        assert hdus[1].columns.names == ["obsid", "snr", "teff", "designation"]
        assert len(hdus[1].data) == int((rows["snr"] > 60).sum())


def test_recommended_cuts_choose_the_trusted_stars(rows):
    cuts = recommended_cuts(list(rows))
    assert set(cuts) == {*LABELS, "fe_h_cal"}
    columns = {name: rows[name].to_numpy() for name in rows if rows[name].dtype.kind in "iuf"}
    stars = Rows(columns, LABELS)
    for name in LABELS:
        chosen = where(cuts[name], columns)
        np.testing.assert_array_equal(chosen, stars.trusted(name) & rows[name].notna())


def test_the_data_model_says_every_column_flag_and_product(published, rows):
    text = (published[1] / "data_model.html").read_text()
    for name in rows:
        assert f"<td>{html.escape(name)}</td>" in text
    for bit in FitStatus:
        assert bit.name in text
    assert "metal-poor &lt;b&gt;stars&lt;/b&gt;" in text
    assert "not isnan(fe_h)" in text


def test_provenance_names_models_inputs_versions_and_the_run(published):
    _, folder, _ = published
    made = json.loads((folder / "provenance.json").read_text())
    assert made["run"]["run"]["name"] == "made up"
    assert len(made["models"][0]["checksum"]) == 64
    assert made["inputs"]["spectra"] == N
    assert len(made["inputs"]["manifest"]) == -(-N // ROWS)
    assert made["stages"]["catalog"] == folder.name
    assert made["versions"]["numpy"] == np.__version__


def test_publishing_again_changes_nothing(published, tiny):
    config, folder, _ = published
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    tiny.run_stage(publish(config))
    assert {f: f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file()} == before


def with_publish(config, **changes):
    return config.model_copy(update={"publish": PublishTable(**changes)})


def test_compact_covariances_come_back_to_a_part_in_ten_thousand(tiny, tiny_run):
    config = with_publish(tiny_run.config, covariance="compact", formats=("fits", "votable"))
    tiny.run_stage(publish(config))
    folder = Path(folders.catalog_url(config))
    rows = open_catalog(str(folder)).to_table()
    assert "label_cov" not in rows.column_names
    assert rows["label_corr"].type.list_size == 3
    assert rows["label_corr"][3].as_py() is None
    with fits.open(folder / "catalog.fits") as hdus:
        assert hdus[1].data["label_corr"][3].tolist() == [-32768] * 3
    table = parse(str(folder / "catalog.vot"), verify="exception").get_first_table().to_table()
    np.testing.assert_array_equal(table["label_corr"][0], rows["label_corr"][0].as_py())


def test_compact_covariances_are_those_of_a_slow_loop():
    rng = np.random.default_rng(2)
    matrix = np.einsum("nij,nkj->nik", *[rng.normal(size=(50, 4, 4))] * 2)
    upper = matrix[:, *np.triu_indices(4)]
    upper[7] = np.nan
    error = np.sqrt(np.diagonal(matrix, axis1=1, axis2=2))
    back = full_covariance(compact_covariance(upper), error)
    scale = error[:, :, None] * error[:, None, :]
    worst = np.abs(back - matrix)[np.arange(50) != 7] / scale[np.arange(50) != 7]
    assert worst.max() < 0.5 / 32767 + 1e-9  # half of the last of 16 bits
    assert np.isnan(back[7][np.triu_indices(4, 1)]).all()
    with pytest.raises(ValueError, match="4 numbers are no upper triangle"):
        n_labels(4)


def test_a_label_that_is_held_fixed_has_no_covariance_and_gets_none_back():
    nan = np.nan
    upper = np.array(  # the second label is fixed; in row 1 nothing is fitted; in row 2 no variance
        [[4.0, 0.0, 3.0, 0.0, 0.0, 9.0], [nan] * 6, [4.0, 0.0, 3.0, nan, 0.0, 9.0]]
    )
    error = np.array([[2.0, 0.0, 3.0], [nan] * 3, [2.0, nan, 3.0]])
    compact = compact_covariance(upper)
    assert compact.tolist() == [[0, 16384, 0], [-32768] * 3, [-32768, 16384, -32768]]
    wanted = [[4, 0, 3], [0, 0, 0], [3, 0, 9]]
    np.testing.assert_allclose(full_covariance(compact, error)[0], wanted, atol=6 / 32767)


def test_a_catalog_too_large_has_no_single_files(tiny, tiny_run):
    config = with_publish(tiny_run.config, formats=("fits", "votable"), single_file_rows=10)
    tiny.run_stage(publish(config))
    folder = Path(folders.catalog_url(config))
    assert not (folder / "catalog.fits").exists()
    assert not (folder / "catalog.vot").exists()
    assert verify_catalog(str(folder)) == []


def test_best_fits_are_a_store_of_the_same_rows(tiny, tiny_run):
    from scalespec.store.spectra import read_spectra

    config = with_publish(tiny_run.config, best_fit=True)
    tiny.run_stage(publish(config))
    store = Path(folders.catalog_url(config)) / "best_fit" / "spectra.zarr"
    made = read_spectra(str(store), 0, tiny.N, names=("flux", "fitted", "obsid"))
    seen = read_spectra(str(Path(folders.spectra_url(config)) / "spectra.zarr"), 0, tiny.N)
    assert made["fitted"].to_numpy().tolist() == [int(row != 3) for row in range(tiny.N)]
    pull = ((made["flux"] - seen["flux"]) * np.sqrt(seen["ivar"])).to_numpy()
    good = [row for row in range(tiny.N) if row not in (3, 6)]  # unreadable; at the model's edge
    # labels are a draw of their errors: fits are worse than noise, and far better than no fit
    assert np.sqrt((pull[good] ** 2).mean()) < 5
    assert not made["flux"][3].any()


def test_a_partition_that_failed_leaves_no_catalog(tiny, tiny_run):
    config = with_publish(tiny_run.config, formats=("hats",), partition_rows=5)
    steps = publish(config)
    for stage in steps:
        for block in stage.blocks:
            if stage.name == "publish hats" and block.index == 1:
                Ledger(stage.url).record_failure(block, "disk full")
            else:
                stage.write(block, stage.compute(None, stage.read(block)))
        if stage.name == "publish hats":
            break
    with pytest.raises(StageError, match="partition 1 failed: disk full"):
        next(steps)


@pytest.mark.parametrize(
    ("product", "said"),
    [
        (ProductTable(where="tef > 1"), r"no columns \['tef'\]"),
        (ProductTable(where="teff >"), "is no condition"),
        (ProductTable(where="teff > 1", trusted=("x",)), r"no labels \['x'\]"),
        (ProductTable(where="teff > 1", columns=("x",)), r"no columns \['x'\]"),
    ],
)
def test_a_product_that_cannot_be_is_an_error_of_the_run_file(tiny, tiny_run, product, said):
    config = with_publish(tiny_run.config, products={"mine": product})
    with pytest.raises(ConfigError, match=said):
        tiny.run_stage(publish(config))


def test_a_product_is_named_as_a_file():
    text = '[run]\nname = "a"\nworkspace = "w"\n[publish.products."../x"]\nwhere = "teff > 1"\n'
    with pytest.raises(ConfigError, match="becomes a file"):
        parse_config(text)


def test_every_ucd_is_of_the_vocabulary():
    from astropy.io.votable.ucd import check_ucd

    for name in UCDS:
        assert check_ucd(ucd(name), check_controlled_vocabulary=True), name
    for name in ("teff_err", "rv_err", "first_rv_err", "fe_h_cal", "mg_fe_cal_err", "vsini_err"):
        assert check_ucd(ucd(name), check_controlled_vocabulary=True), name
