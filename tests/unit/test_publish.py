"""Every planned spectrum has one row in the catalog, with all that is known of it."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalespec.errors import ConfigError, StageError, StoreError
from scalespec.optimize.result import FitStatus
from scalespec.plan import plan_blocks
from scalespec.schema import SpectrumStatus
from scalespec.stages import columns, folders
from scalespec.stages.publish import join_block, publish, read_pieces, select_columns, shared_obsids
from scalespec.store import paths
from scalespec.store.catalog import open_catalog, verify_catalog
from scalespec.store.ledger import Ledger


@pytest.fixture
def catalog(tiny, tiny_run):
    tiny.run_stage(publish(tiny_run.config))
    return open_catalog(folders.catalog_url(tiny_run.config)).to_table()


def manifest_of(config):
    url = paths.join(folders.catalog_url(config), "manifest.json")
    return json.loads(paths.read_bytes(url))


def test_every_planned_spectrum_has_one_row_in_store_order(catalog, tiny):
    assert catalog["row"].to_pylist() == list(range(tiny.N))
    assert catalog["obsid"].to_pylist() == [2**55 + i for i in range(tiny.N)]


def test_labels_are_those_of_the_fit_and_null_where_there_is_none(catalog, tiny, tiny_run):
    teff = catalog["teff"].to_pylist()
    assert [i for i, value in enumerate(teff) if value is None] == [3]
    known = np.array([value for i, value in enumerate(teff) if i not in (3, 6)])
    # drawn with an error of 20 K: none of 18 is 5 sigma off
    np.testing.assert_allclose(known, np.delete(tiny_run.labels[:, 0], [3, 6]), atol=100)


def test_a_star_without_a_fit_says_why(catalog):
    row = {name: catalog[name][3].as_py() for name in catalog.column_names}
    assert row["spectrum_status"] == SpectrumStatus.CORRUPT
    assert row["fit_status"] == row["first_status"] == FitStatus.BAD_SPECTRUM
    assert row["reason"] == "corrupt: bad CRC"
    assert row["label_cov"] is None
    assert row["model"] == row["first_model"] == -1


def test_matches_are_joined_by_row_and_missing_where_there_is_none(catalog, tiny_run):
    teff = catalog["apogee_teff"].to_pylist()
    assert [i for i, value in enumerate(teff) if value is not None] == [0, 6, 9, 12, 15, 18]
    assert teff[12] == tiny_run.labels[12, 0] - 50
    assert catalog["apogee_fe_h"][9].as_py() is None
    assert catalog["apogee_split"].to_pylist()[:4] == [0, -1, -1, -1]
    assert "apogee_star" not in catalog.column_names


def test_integers_have_no_nulls_and_floats_no_nan(catalog):
    for field in catalog.schema:
        values = catalog[field.name]
        if pa.types.is_integer(field.type) or pa.types.is_string(field.type):
            assert values.null_count == 0, field.name
        elif pa.types.is_floating(field.type):
            known = values.drop_null().to_numpy()
            assert not np.isnan(known).any(), field.name


def test_the_covariance_keeps_its_length(catalog):
    assert pa.types.is_fixed_size_list(catalog.schema.field("label_cov").type)
    assert catalog.schema.field("label_cov").type.list_size == 6
    assert len(catalog["label_cov"][0].as_py()) == 6


def test_columns_carry_unit_and_description(catalog):
    facts = {field.name: field.metadata for field in catalog.schema}
    assert facts["teff_err"] == {
        b"unit": b"K",
        b"description": b"1 sigma of teff",
        b"ucd": b"stat.error;phys.temperature.effective",
    }
    assert facts["apogee_separation_arcsec"][b"unit"] == b"arcsec"
    assert facts["apogee_fe_h"][b"description"] == b"abundance ratio [Fe/H], by apogee"
    assert all(fact[b"description"] for fact in facts.values())


def test_the_catalog_can_be_verified(catalog, tiny_run):
    assert verify_catalog(folders.catalog_url(tiny_run.config)) == []


def test_two_builds_give_the_same_bytes(tiny, tmp_path):
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run = tiny.write_run(tmp_path / name)
        tiny.run_stage(publish(run.config))
        url = folders.catalog_url(run.config)
        made.append(
            [paths.read_bytes(paths.join(url, n)) for n in ("catalog.parquet", "catalog.fits")]
        )
    assert made[0] == made[1]


def test_rows_that_share_an_obsid_are_counted_and_said(catalog, tiny_run, caplog, monkeypatch):
    url = folders.catalog_url(tiny_run.config)
    assert manifest_of(tiny_run.config)["shared_obsids"] == 0
    table = pa.table({"obsid": [5, 6, 5]})
    monkeypatch.setattr("scalespec.stages.publish.iterate_parts", lambda *_: iter([table, table]))
    assert shared_obsids(url) == 6
    assert "6 rows share their obsid with another" in caplog.text


def test_publishing_again_does_nothing(catalog, tiny, tiny_run):
    before = manifest_of(tiny_run.config)
    tiny.run_stage(publish(tiny_run.config))
    assert manifest_of(tiny_run.config) == before
    parts = paths.list_keys(paths.join(folders.catalog_url(tiny_run.config), "parts"))
    assert len(parts) == 3


def lose(config, index):
    """Take a block's best labels away."""
    url = folders.best_url(config)
    paths.delete(paths.join(url, "commits", f"{index:06d}.json"))
    return Ledger(url)


def test_a_block_that_failed_upstream_is_missing_and_named(tiny, tiny_run):
    lose(tiny_run.config, 1).record_failure(plan_blocks(20, 8)[1], "a worker died")
    tiny.run_stage(publish(tiny_run.config))
    manifest = manifest_of(tiny_run.config)
    assert (manifest["missing_blocks"], manifest["rows"]) == ([1], 12)
    rows = open_catalog(folders.catalog_url(tiny_run.config)).to_table()["row"]
    assert rows.to_pylist() == [*range(8), *range(16, 20)]


def test_a_block_that_nobody_fitted_is_an_error(tiny_run):
    lose(tiny_run.config, 1)
    with pytest.raises(StageError, match=r"blocks \[1\] have no labels yet"):
        next(publish(tiny_run.config))


def test_matches_that_are_not_there_yet_are_an_error(tiny_run):
    url = folders.matches_url(tiny_run.config, "apogee")
    paths.delete(paths.join(url, "matches.parquet"))
    with pytest.raises(StoreError, match="no matches with 'apogee' yet"):
        next(publish(tiny_run.config))


def test_a_run_that_was_stopped_leaves_no_catalog(tiny_run):
    steps = publish(tiny_run.config)
    stage = next(steps)
    block = stage.blocks[0]
    stage.write(block, stage.compute(None, stage.read(block)))
    assert next(steps, None) is None
    assert not paths.exists(paths.join(stage.url, "manifest.json"))


def test_a_block_that_failed_here_is_missing_and_named(tiny_run):
    steps = publish(tiny_run.config)
    stage = next(steps)
    for block in stage.blocks[:2]:
        stage.write(block, stage.compute(None, stage.read(block)))
    Ledger(stage.url).record_failure(stage.blocks[2], "disk full")
    assert next(steps, None) is None
    assert manifest_of(tiny_run.config)["missing_blocks"] == [2]


def test_a_catalog_of_no_block_at_all_is_an_error(tiny_run):
    steps = publish(tiny_run.config)
    stage = next(steps)
    for block in stage.blocks:
        Ledger(stage.url).record_failure(block, "disk full")
    with pytest.raises(StageError, match="no block was fitted"):
        next(steps)


@pytest.fixture
def pieces(tiny_run):
    stage = next(publish(tiny_run.config))
    return read_pieces(stage.blocks[1], **stage.read.keywords)


def test_a_table_of_other_rows_is_refused(pieces):
    short = type(pieces)(**{**vars(pieces), "best": pieces.best.slice(1)})
    with pytest.raises(StageError, match="'best' holds 7 rows that are not the store's 8:16"):
        join_block(short)


def test_two_columns_of_one_name_are_refused(pieces):
    table = pa.table({"row": [8], "teff": [1.0]})
    with pytest.raises(StageError, match=r"two columns would be called \['first_teff'\]"):
        join_block(type(pieces)(**{**vars(pieces), "matches": {"first": table}}))


def test_a_catalog_with_no_match_in_a_block_still_has_its_columns(pieces):
    empty = pieces.matches["apogee"].slice(0, 0)
    joined = join_block(type(pieces)(**{**vars(pieces), "matches": {"apogee": empty}}))
    assert joined.schema.equals(join_block(pieces).schema)
    assert joined["apogee_teff"].null_count == joined.num_rows


NAMES = ["row", "obsid", "teff", "teff_err", "logg", "logg_err", "label_cov", "rv", "rv_err"]
NAMES += ["first_teff", "first_logg", "first_rv", "first_rv_err", "apogee_teff", "apogee_teff_err"]
NAMES += ["spectrum_status", "first_status", "fit_status"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ((), None),  # all of them
        (("obsid", "labels"), ["obsid", "teff", "teff_err", "logg", "logg_err"]),
        (("label_cov", "status"), ["label_cov", "spectrum_status", "first_status", "fit_status"]),
        (("teff", "labels"), ["teff", "teff_err", "logg", "logg_err"]),  # none twice
    ],
)
def test_columns_are_chosen_by_name_and_by_group(wanted, found):
    assert select_columns(wanted, NAMES) == found


def test_an_unknown_column_is_an_error_of_the_run_file():
    with pytest.raises(ConfigError, match=r"the catalog has no \['tef'\]"):
        select_columns(("tef",), NAMES)


def test_chosen_columns_are_published_and_nothing_else(tiny, tiny_run):
    table = tiny_run.config.publish.model_copy(update={"columns": ("source_id", "labels")})
    config = tiny_run.config.model_copy(update={"publish": table})
    tiny.run_stage(publish(config))
    found = pq.read_schema(paths.join(folders.catalog_url(config), "catalog.parquet"))
    assert found.names == ["source_id"] + [
        name for label in tiny.LABELS for name in (label, f"{label}_err")
    ]


@pytest.mark.parametrize(
    ("flags", "meanings"),
    [(FitStatus, columns.FIT_STATUS), (SpectrumStatus, columns.SPECTRUM_STATUS)],
)
def test_every_status_bit_has_its_meaning(flags, meanings):
    assert set(flags) == set(meanings)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("teff", ("K", "effective temperature")),
        ("first_teff", ("K", "first estimate: effective temperature")),
        ("alpha_m", ("dex", "abundance ratio [Alpha/M]")),
        ("lamost_dr10_teff_err", ("K", "1 sigma of teff, by lamost_dr10")),
        ("lamost_dr10_split", ("", columns.COLUMNS["split"][1] + ", by lamost_dr10")),
        ("phase", ("", "phase")),  # not known: it says its name
    ],
)  # fmt: skip
def test_columns_are_described_by_their_name(name, wanted):
    assert columns.describe(name, ["lamost_dr10"]) == wanted
