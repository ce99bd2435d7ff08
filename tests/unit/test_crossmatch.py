"""Crossmatch: the matches of brute force, ids first, and a table of matches whatever was found."""

import io
import pickle

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from scalespec.config import CrossmatchTable, IngestTable, RunConfig, RunTable
from scalespec.errors import ConfigError, StageError
from scalespec.kernels.sky import healpix_nested
from scalespec.kernels.where import where
from scalespec.plan import BlockResult, plan_blocks
from scalespec.schema import PER_SPECTRUM
from scalespec.stages import folders
from scalespec.stages.crossmatch import (
    CELL_ORDER,
    Spectra,
    combine_matches,
    crossmatch,
    match_block,
    no_matches,
    partition_catalog,
    read_catalog,
    read_left,
    star_hash,
)
from scalespec.stages.gather import read_matches
from scalespec.stages.infer import match_columns
from scalespec.stages.ingest import write_raw
from scalespec.store import paths
from scalespec.store.ledger import Ledger, write_json
from scalespec.store.spectra import create_spectra
from scalespec.store.tables import write_table

ARCSEC = 1 / 3600
RADIUS = 3.0


@pytest.fixture
def table_of(tmp_path):
    """A function that writes a label catalog and returns the table of a run file for it."""

    def write(catalog, /, **table):
        url = str(tmp_path / "labels.parquet")
        write_table(url, catalog)
        return CrossmatchTable(catalog=url, **table)

    return write


@pytest.fixture
def cut(tmp_path):
    """A function that cuts a catalog into cells and returns their folder."""

    def write(table):
        folder = tmp_path / "cells"
        folder.mkdir()
        for name, data in partition_catalog(table).items():
            (folder / name).write_bytes(data)
        return str(folder)

    return write


def spectra_of(**columns):
    """Spectra whose rows in the store begin at 100."""
    n = len(columns["ra"])
    return Spectra(np.arange(100, 100 + n), {"obsid": np.arange(n), **columns})


def seen(ra, dec, pmra, pmdec, years):
    """Unit vectors of stars after some years: a straight step east and north, put on the sphere."""
    ra, dec = np.radians(ra), np.radians(dec)
    out = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    east = np.array([-np.sin(ra), np.cos(ra), 0 * ra])
    north = np.array([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])
    moved = out + np.radians(years * ARCSEC / 1000) * (pmra * east + pmdec * north)
    return moved / np.linalg.norm(moved, axis=0)


def on_sky(vectors):
    x, y, z = vectors
    return np.degrees(np.arctan2(y, x)) % 360, np.degrees(np.arctan2(z, np.hypot(x, y)))


def edge_places(n, rng):
    """Places within an arcsecond of an edge between cells, found by halving the way across it."""
    places = []
    while len(places) < n:
        ra, dec = rng.uniform(0, 350), rng.uniform(-80, 80)
        low, high = 0.0, 8.0  # degrees eastwards: more than a cell is wide
        cell_of = lambda x, ra=ra, dec=dec: healpix_nested([ra + x], [dec], CELL_ORDER)[0]  # noqa: E731
        if cell_of(high) == cell_of(low):
            continue
        while high - low > ARCSEC:
            middle = (low + high) / 2
            low, high = (middle, high) if cell_of(middle) == cell_of(low) else (low, middle)
        places.append((ra + low, dec))
    return np.array(places).T


@pytest.fixture
def sky(table_of):
    """Stars at cell edges, at RA 0 and at the poles, some fast, each with a neighbor; spectra."""
    rng = np.random.default_rng(3)
    edge = edge_places(60, rng)
    around_zero = rng.normal(0, 1e-3, 60) % 360, rng.uniform(-85, 85, 60)
    poles = rng.uniform(0, 360, 40), np.where(np.arange(40) % 2, 89.999, -89.999)
    ra, dec = (np.concatenate(c) for c in zip(edge, around_zero, poles, strict=True))
    ra, dec = np.tile(ra, 2), np.tile(dec, 2) + np.repeat([0, 2 * ARCSEC], len(ra))
    speed = 10 ** rng.uniform(0, 3.5, len(ra))  # mas/yr, up to 3 arcsec/yr
    angle = rng.uniform(0, 2 * np.pi, len(ra))
    pmra, pmdec = speed * np.cos(angle), speed * np.sin(angle)
    catalog = {
        "ra": ra,
        "dec": dec,
        "pmra": pmra,
        "pmdec": pmdec,
        "teff": rng.normal(5e3, 1e2, 320),
    }
    table = table_of(catalog, pmra="pmra", pmdec="pmdec", columns={"teff": "teff"})
    year = rng.uniform(2011, 2024, len(ra))
    offset = rng.uniform(0, 1.5 * RADIUS, len(ra)) * 1000  # some lie outside the radius
    tilt = rng.uniform(0, 2 * np.pi, len(ra))
    there = on_sky(seen(ra, dec, pmra, pmdec, year - 2016))
    shown = on_sky(seen(*there, offset * np.cos(tilt), offset * np.sin(tilt), 1.0))
    mjd = 51544.5 + 365.25 * (year - 2000)
    return table, catalog, spectra_of(ra=shown[0], dec=shown[1], mjd=mjd)


def brute_force(catalog, spectra):
    """(spectrum, star) angles [arcsec] at each spectrum's time, one by one."""
    place = [catalog[name] for name in ("ra", "dec", "pmra", "pmdec")]
    angles = []
    for ra, dec, mjd in zip(*(spectra.columns[n] for n in ("ra", "dec", "mjd")), strict=True):
        years = 2000 + (mjd - 51544.5) / 365.25 - 2016 if mjd > 0 else 0.0
        me = seen(np.array([ra]), np.array([dec]), 0, 0, 0)
        chord = np.linalg.norm(seen(*place, years) - me, axis=0)
        angles.append(np.degrees(2 * np.arcsin(chord / 2)) / ARCSEC)
    return np.array(angles)


def test_the_matches_are_those_of_brute_force(sky, cut):
    table, catalog, spectra = sky
    angles = brute_force(catalog, spectra)
    found = match_block(spectra, cut(table), table)
    near = angles <= RADIUS
    rows = np.flatnonzero(near.any(axis=1))
    assert 150 < len(rows) < 310  # neither all nor none
    np.testing.assert_array_equal(found["row"], 100 + rows)
    np.testing.assert_array_equal(found["teff"], catalog["teff"][angles.argmin(axis=1)[rows]])
    np.testing.assert_array_equal(found["n_candidates"], near.sum(axis=1)[rows])
    # angles from float64 chords, stored as float32
    np.testing.assert_allclose(found["separation_arcsec"], angles.min(axis=1)[rows], atol=1e-6)


def test_that_sky_has_matches_across_cell_edges_and_ra_0(sky):
    _, catalog, spectra = sky
    angles = brute_force(catalog, spectra)
    pairs = np.argwhere(angles <= RADIUS).T
    cells = [
        healpix_nested(where_["ra"][i], where_["dec"][i], CELL_ORDER)
        for where_, i in zip((spectra.columns, catalog), pairs, strict=True)
    ]
    assert np.sum(cells[0] != cells[1]) > 10
    assert np.sum(np.abs(spectra.columns["ra"][pairs[0]] - catalog["ra"][pairs[1]]) > 359) > 3


def test_spectra_without_a_date_see_stars_where_the_catalog_has_them(sky, cut):
    table, catalog, _ = sky
    undated = spectra_of(ra=catalog["ra"], dec=catalog["dec"], mjd=np.full(320, np.nan))
    found = match_block(undated, cut(table), table)
    np.testing.assert_array_equal(found["teff"], catalog["teff"])
    np.testing.assert_allclose(found["separation_arcsec"], 0, atol=1e-9)


def test_a_star_with_one_known_motion_is_followed_across_an_edge(table_of, cut):
    ra, dec = edge_places(20, np.random.default_rng(1))
    ra = ra - 25 * ARCSEC / np.cos(np.radians(dec))  # beyond what is near the edge anyway
    pm = np.full(20, 3500.0)
    catalog = {"ra": ra, "dec": dec, "pmra": pm, "pmdec": pm * np.nan}
    table = table_of(catalog, pmra="pmra", pmdec="pmdec")
    there = on_sky(seen(ra, dec, pm, 0, 10.0))
    mjd = np.full(20, 51544.5 + 365.25 * 26)
    assert len(match_block(spectra_of(ra=there[0], dec=there[1], mjd=mjd), cut(table), table)) == 20


def test_a_sentinel_is_no_motion(table_of, cut):
    columns = {"ra": np.array([10.0]), "dec": np.array([0.0]), "pm": np.array([-9999.99], "f4")}
    table = table_of(columns, pmra="pm", pmdec="pm")
    spectra = spectra_of(ra=np.array([10.0]), dec=np.array([0.0]), mjd=np.array([60000.0]))
    assert len(match_block(spectra, cut(table), table)) == 1


IDS = {"ra": np.array([10.0, 20.0, 30.0, 30.0]), "dec": np.zeros(4), "id": np.array([7, 8, 9, 9])}


@pytest.fixture
def by_id(table_of, cut):
    table = table_of(IDS, key={"source_id": "id"}, columns={"place": "ra"})
    ra = np.array([20.0, 20.0, 5.0, 30.0])  # the first one's id says 7, its place 8
    ids = np.array([7, -1, -1, 9])
    spectra = spectra_of(ra=ra, dec=np.zeros(4), mjd=np.full(4, np.nan), source_id=ids)
    return match_block(spectra, cut(table), table).set_index("row")


def test_an_id_goes_before_the_sky(by_id):
    assert by_id.loc[100, "place"] == 10
    assert by_id.loc[100, "by_id"]
    assert np.isnan(by_id.loc[100, "separation_arcsec"])


def test_the_sky_is_for_rows_that_no_id_joined(by_id):
    assert by_id.loc[101, "place"] == 20
    assert not by_id.loc[101, "by_id"]
    assert by_id.loc[101, "separation_arcsec"] == 0
    assert 102 not in by_id.index


def test_of_two_rows_of_one_id_the_catalogs_first_is_taken(by_id):
    assert by_id.loc[103, "n_candidates"] == 2
    assert by_id.loc[103, "rank"] == 0


def test_a_catalog_without_positions_joins_by_id_alone(table_of, cut):
    table = table_of({"id": np.array(["a", "b"]), "t": np.array([1.0, 2.0])},
                     ra="", dec="", key={"name": "id"}, columns={"teff": "t"})  # fmt: skip
    spectra = spectra_of(ra=np.zeros(2), dec=np.zeros(2), mjd=np.zeros(2), name=np.array(["b", ""]))
    found = match_block(spectra, cut(table), table)
    assert found[["row", "teff", "by_id"]].to_numpy().tolist() == [[100, 2.0, True]]


@pytest.mark.parametrize(
    ("values", "known"),
    [
        (np.array([5000, -9999.99], np.float32), [5000, np.nan]),  # APOGEE's, in its own precision
        (np.array([5000, -9999.99], np.float64), [5000, np.nan]),
        (np.array([5000, -9999], np.int16), [5000, np.nan]),
        (np.array([np.nan, -9998.0], np.float32), [np.nan, -9998]),  # near is not equal
    ],
)
def test_sentinels_become_nan(values, known, table_of):
    table = table_of({"ra": np.zeros(2), "dec": np.zeros(2), "x": values}, columns={"teff": "x"})
    np.testing.assert_array_equal(read_catalog(table)["teff"], known)


def test_strings_are_taken_over_as_they_are(table_of):
    columns = {"ra": np.zeros(2), "dec": np.zeros(2), "x": np.array(["2M01", ""])}
    assert read_catalog(table_of(columns, columns={"name": "x"}))["name"].tolist() == ["2M01", ""]


def test_where_excludes_rows_and_the_others_keep_their_numbers(table_of):
    columns = {"ra": np.arange(4.0), "dec": np.zeros(4), "flag": np.array([0, 4, 1, 6])}
    catalog = read_catalog(table_of(columns, where="flag & 4 == 0"))
    assert catalog["right"].tolist() == [0, 2]
    assert catalog["ra"].tolist() == [0, 2]


def test_a_column_of_vectors_is_refused_by_name(table_of):
    columns = {"ra": np.zeros(2), "dec": np.zeros(2), "PARAM": np.zeros((2, 7))}
    with pytest.raises(ConfigError, match=r"labels\.parquet: \['PARAM'\] hold several numbers"):
        read_catalog(table_of(columns, columns={"teff": "PARAM"}))


def test_a_stars_hash_does_not_depend_on_order_or_company():
    ids = np.array([f"2M{i % 40:04d}" for i in range(100)])
    order = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(star_hash(ids)[order], star_hash(ids[order]))
    np.testing.assert_array_equal(star_hash(ids[:3]), star_hash(ids)[:3])
    assert len(set(star_hash(ids))) == 40
    assert star_hash(ids).min() >= 0


@pytest.mark.parametrize(
    ("ids", "stars"),
    [
        (np.array(["a", "b", "a", "", ""]), 4),
        (np.array([5, 6, 5, -1, -1]), 4),
        (np.array([5, 6, 5, np.nan, np.nan]), 4),
        (None, 5),  # a row is a star
    ],
)
def test_rows_without_an_id_are_stars_of_their_own(ids, stars, table_of):
    columns = {"ra": np.zeros(5), "dec": np.zeros(5)} | ({} if ids is None else {"id": ids})
    catalog = read_catalog(table_of(columns, star_id="" if ids is None else "id"))
    assert catalog["star"].nunique() == stars
    assert (catalog["star"][0] == catalog["star"][2]) == (ids is not None)


def test_an_empty_catalog_has_no_cells_and_all_its_columns(table_of, cut):
    columns = {"ra": np.zeros(2), "dec": np.zeros(2), "t": np.ones(2), "n": np.array(["a", "b"])}
    table = table_of(columns, columns={"teff": "t", "name": "n"}, where="t > 1")
    assert list(partition_catalog(table)) == ["none.parquet"]
    spectra = spectra_of(ra=np.zeros(2), dec=np.zeros(2), mjd=np.zeros(2))
    found = match_block(spectra, cut(table), table)
    assert len(found) == 0
    assert {"row", "obsid", "star", "separation_arcsec", "teff", "name"} <= set(found)


# The stage, on a store of 12 spectra in 3 blocks.

N, ROWS = 12, 4
SPECTRA = {"ra": np.arange(N) * 10.0, "dec": np.zeros(N), "obsid": np.arange(N) + 500}


def raw_block(block):
    rows = slice(block.start, block.stop)
    columns = {
        name: np.full(block.size, unknown, dtype)
        for name, (dtype, unknown, _) in PER_SPECTRUM.items()
    }
    columns |= {name: values[rows] for name, values in SPECTRA.items()}
    pixels = np.zeros((block.size, 8), np.float32)
    data = {name: ("spectrum", values) for name, values in columns.items()}
    data |= {"flux": (("spectrum", "wavelength"), pixels)}
    files = [f"plate/spec-{row}.fits.gz" for row in range(block.start, block.stop)]
    return xr.Dataset(data), pd.DataFrame({"file": files})


@pytest.fixture
def config_of(tmp_path, table_of):
    """A function that returns a run whose raw spectra are stored, and a catalog to match."""

    def make(catalog, /, *, seed=1, **table):
        crossmatched = {"apogee": table_of(catalog, **table)}
        run = RunTable(
            name="t", workspace=str(tmp_path / "work"), spectra_per_block=ROWS, seed=seed
        )
        config = RunConfig(run=run, ingest=IngestTable(files="*"), crossmatch=crossmatched)
        write_json(f"{folders.plan_url(config)}/plan.json", {"n": N, "bytes": 1, "sha256": "0"})
        url = folders.raw_url(config)
        blocks = plan_blocks(N, ROWS)
        template, _ = raw_block(blocks[0])
        create_spectra(f"{url}/spectra.zarr", template, n_spectrum=N, shard_rows=ROWS)
        for block in blocks:
            write_raw(block, raw_block(block), url)
        return config

    return make


CATALOG = {
    "ra": np.array([90.0, 10.0, 20.0, 50.0]),
    "dec": np.zeros(4),
    "t": np.array([9.0, 1.0, 2.0, 5.0], np.float32),
    "id": np.array(["a", "b", "b", "c"]),
}
LABELS = {"columns": {"teff": "t"}, "star_id": "id"}
FAR = CATALOG | {"dec": np.full(4, 45.0)}


def matched(tiny, config):
    tiny.run_stage(crossmatch(config))
    return read_matches(folders.matches_url(config, "apogee"))


def test_all_blocks_matches_are_one_table_in_the_stores_order(tiny, config_of):
    matches = matched(tiny, config_of(CATALOG, **LABELS))
    assert matches["row"].tolist() == [1, 2, 5, 9]
    assert matches["obsid"].tolist() == [501, 502, 505, 509]
    assert matches["teff"].tolist() == [1, 2, 5, 9]


def test_repeats_of_a_star_share_a_split(tiny, config_of):
    splits = set()
    for seed in range(6):
        matches = matched(tiny, config_of(CATALOG, seed=seed, **LABELS))
        split = matches.set_index("row")["split"]
        assert split[1] == split[2]
        splits.add(tuple(split))
    assert len(splits) > 1  # another seed deals anew


def test_no_match_at_all_is_a_table_with_all_columns(tiny, config_of):
    table = {"columns": {"teff": "t", "name": "id"}, "star_id": "id"}
    full = matched(tiny, config_of(CATALOG, **table))
    none = matched(tiny, config_of(FAR, **table))
    assert len(none) == 0
    assert none.dtypes.to_dict() == full.dtypes.to_dict()


def test_no_match_at_all_can_be_asked_for_by_infer(tiny, config_of):
    config = config_of(FAR, **LABELS)
    matched(tiny, config)
    block = plan_blocks(N, ROWS)[1]
    columns = match_columns("apogee", folders.matches_url(config, "apogee"), block)
    assert not where("apogee_teff > 0", columns).any()
    assert len(columns["apogee_teff"]) == ROWS


def test_spectra_are_joined_by_the_name_of_their_file(tiny, config_of):
    files = {"file": np.array(["spec-3.fits", "spec-8.fits"]), "t": np.ones(2)}
    config = config_of(files, ra="", dec="", key={"name": "file"}, columns={"teff": "t"})
    assert matched(tiny, config)["row"].tolist() == [3, 8]


def test_a_key_that_we_do_not_have_is_refused_with_those_there_are(config_of):
    config = config_of(CATALOG, key={"gaia": "id"})
    table = config.crossmatch["apogee"]
    with pytest.raises(ConfigError, match=r"'gaia' is no column of ours; there are .*'source_id'"):
        read_left(plan_blocks(N, ROWS)[0], folders.raw_url(config), table)


def test_blocks_that_were_not_ingested_are_left_out(tiny, config_of):
    config = config_of(CATALOG, **LABELS)
    paths.delete(f"{folders.raw_url(config)}/commits/000001.json")
    assert matched(tiny, config)["row"].tolist() == [1, 2, 9]


def test_commits_count_what_was_matched(tiny, config_of):
    config = config_of(CATALOG, **LABELS)
    matched(tiny, config)
    commits = Ledger(folders.matches_url(config, "apogee")).commits()
    assert commits[0].counts == {"matched": 2, "by_id": 0, "unmatched": 2}


def test_matching_again_changes_nothing(tiny, config_of):
    config = config_of(CATALOG, **LABELS)
    first = matched(tiny, config)
    url = folders.matches_url(config, "apogee")
    keys = paths.list_keys(url)
    pd.testing.assert_frame_equal(matched(tiny, config), first)
    assert paths.list_keys(url) == keys


def test_without_one_block_matched_there_is_an_empty_table(config_of):
    config = config_of(CATALOG, **LABELS)
    cells = next(crossmatch(config))
    cells.write(cells.blocks[0], cells.compute(None, None))
    url = folders.matches_url(config, "apogee")
    combine_matches(url, 1)
    assert list(read_matches(url)) == [*no_matches(cells.url), "split"]


def test_a_catalog_that_cannot_be_cut_stops_the_verb_before_it_matches_nothing(config_of):
    steps = crossmatch(config_of(CATALOG, columns={"teff": "TEFF"}))
    cells = next(steps)
    Ledger(cells.url).record_failure(cells.blocks[0], "StoreError: no column 'TEFF'")
    with pytest.raises(StageError, match=r"apogee: .*no column 'TEFF'.*--retry-failed"):
        next(steps)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"columns": {"row": "t"}}, r"crossmatch\.apogee\.columns: \['row'\] are names of ours"),
        ({"columns": {"ra": "t"}}, r"\['ra'\] are names of ours"),
        ({"key": {"obsid": "t", "name": "id"}}, r"apogee\.key: one id joins, got \['name', 'obs"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_before_work_begins(table, message, config_of):
    with pytest.raises(ConfigError, match=message):
        next(crossmatch(config_of(CATALOG, **table)))


def test_stages_travel_to_other_processes(config_of):
    steps = crossmatch(config_of(CATALOG, **LABELS))
    cells = pickle.loads(pickle.dumps(next(steps)))
    result = cells.write(cells.blocks[0], cells.compute(None, cells.read(cells.blocks[0])))
    assert result.counts == {"cells": len(result.objects)}
    match = pickle.loads(pickle.dumps(next(steps)))
    assert [block.size for block in match.blocks] == [ROWS] * 3


def test_a_block_that_stands_is_not_written_again(config_of):
    steps = crossmatch(config_of(CATALOG, **LABELS))
    cells = next(steps)
    cells.write(cells.blocks[0], cells.compute(None, None))
    match = next(steps)
    block = match.blocks[0]
    standing = Ledger(match.url).commit(block, BlockResult(4, {"parts/x": "0"}, {}, "x"))
    assert match.write(block, match.compute(None, match.read(block))) == standing


def test_parts_are_parquet_with_their_checksum(tiny, config_of):
    config = config_of(CATALOG, **LABELS)
    matched(tiny, config)
    url = folders.matches_url(config, "apogee")
    for result in Ledger(url).commits().values():
        ((key, checksum),) = result.objects.items()
        data = paths.read_bytes(f"{url}/{key}")
        assert paths.sha256(data) == checksum
        assert "teff" in pd.read_parquet(io.BytesIO(data))
