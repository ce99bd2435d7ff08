"""Crossmatch: the matches of brute force, ids first, and a table of matches whatever was found."""

import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from scalespec.config import (
    IngestTable,
    PreprocessTable,
    RunConfig,
    RunTable,
    TrainTable,
    digest,
    parse_config,
)
from scalespec.errors import ConfigError, StageError
from scalespec.kernels.sky import healpix_nested
from scalespec.kernels.where import where
from scalespec.plan import plan_blocks
from scalespec.run import _set_current
from scalespec.schema import PER_SPECTRUM
from scalespec.stages import folders, partitions
from scalespec.stages.crossmatch import CHOSEN_FROM, crossmatch, spectra_rows
from scalespec.stages.gather import label_columns, read_matches
from scalespec.stages.ingest import write_raw
from scalespec.stages.matches import Split, combine_matches
from scalespec.stages.partitions import CELL_ORDER
from scalespec.stages.question import match_columns
from scalespec.stages.segments import Segment, add_segment
from scalespec.stages.train import train
from scalespec.stages.training_set import features_stage
from scalespec.status import stage_states
from scalespec.store import paths, streams
from scalespec.store.catalog import iterate_parts
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import create_spectra
from scalespec.store.tables import write_table

ARCSEC = 1 / 3600
RADIUS = 3.0
ROWS = 4
N = 12
SPECTRA = {"ra": np.arange(N) * 10.0, "dec": np.zeros(N), "obsid": np.arange(N) + 500}


def raw_block(block, spectra):
    rows = slice(block.start, block.stop)
    columns = {
        name: np.full(block.size, unknown, dtype)
        for name, (dtype, unknown, _) in PER_SPECTRUM.items()
    }
    columns |= {name: values[rows] for name, values in spectra.items() if name in PER_SPECTRUM}
    pixels = np.zeros((block.size, 2), np.float32)
    data = {name: ("spectrum", values) for name, values in columns.items()}
    data |= {"flux": (("spectrum", "wavelength"), pixels)}
    files = [f"plate/spec-{row}.fits.gz" for row in range(block.start, block.stop)]
    index = {name: v[rows] for name, v in spectra.items() if name not in PER_SPECTRUM}
    return xr.Dataset(data), pd.DataFrame({"file": files} | index)


@pytest.fixture
def config_of(tmp_path):
    """A function that stores raw spectra and a catalog, and returns a run that matches them."""

    def make(catalog, /, *, spectra=SPECTRA, attrs=None, seed=1, rows=ROWS, **table):
        url = str(tmp_path / "labels.parquet")
        write_table(url, catalog)
        run = {"name": "t", "workspace": str(tmp_path / "work"), "spectra_per_block": rows}
        config = RunConfig(
            run=RunTable(**run, seed=seed),
            ingest=IngestTable(files="*"),
            crossmatch={"apogee": {"catalog": url, **table}},
        )
        n = len(spectra["ra"])
        add_segment(folders.plan_url(config), 0, Segment(0, n, rows, ("*",), 1, n, "0", "a"))
        raw = folders.raw_url(config)
        blocks = plan_blocks(n, rows)
        template = raw_block(blocks[0], spectra)[0].assign_attrs(attrs or {})
        create_spectra(f"{raw}/spectra.zarr", template, n_spectrum=n, shard_rows=rows)
        for block in blocks:
            made, index = raw_block(block, spectra)
            write_raw(block, ({"": made.assign_attrs(attrs or {})}, index), raw)
        return config

    return make


def matched(tiny, config, table="matches"):
    tiny.run_stage(crossmatch(config))
    url = folders.matches_url(config, "apogee")
    if table == "matches":
        return read_matches(url)
    return pd.read_parquet(io.BytesIO(paths.read_bytes(f"{url}/{table}.parquet")))


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
def sky():
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
    year = rng.uniform(2011, 2024, len(ra))
    offset = rng.uniform(0, 1.5 * RADIUS, len(ra)) * 1000  # some lie outside the radius
    tilt = rng.uniform(0, 2 * np.pi, len(ra))
    there = on_sky(seen(ra, dec, pmra, pmdec, year - 2016))
    shown = on_sky(seen(*there, offset * np.cos(tilt), offset * np.sin(tilt), 1.0))
    mjd = 51544.5 + 365.25 * (year - 2000)
    spectra = {"ra": shown[0], "dec": shown[1], "mjd": mjd, "obsid": np.arange(len(ra))}
    return catalog, spectra


MOVING = {"pmra": "pmra", "pmdec": "pmdec", "columns": {"teff": "teff"}, "rows": 100}


def brute_force(catalog, spectra):
    """(spectrum, star) angles [arcsec] at each spectrum's time, one by one."""
    place = [catalog[name] for name in ("ra", "dec", "pmra", "pmdec")]
    angles = []
    for ra, dec, mjd in zip(*(spectra[n] for n in ("ra", "dec", "mjd")), strict=True):
        years = 2000 + (mjd - 51544.5) / 365.25 - 2016 if mjd > 0 else 0.0
        me = seen(np.array([ra]), np.array([dec]), 0, 0, 0)
        chord = np.linalg.norm(seen(*place, years) - me, axis=0)
        angles.append(np.degrees(2 * np.arcsin(chord / 2)) / ARCSEC)
    return np.array(angles)


@pytest.mark.parametrize("partition", [150, 1 << 17])
def test_the_matches_are_those_of_brute_force(sky, config_of, tiny, partition, monkeypatch):
    monkeypatch.setattr(partitions, "ROWS_PER_PARTITION", partition)  # many, and one
    catalog, spectra = sky
    angles = brute_force(catalog, spectra)
    found = matched(tiny, config_of(catalog, spectra=spectra, **MOVING))
    near = angles <= RADIUS
    rows = np.flatnonzero(near.any(axis=1))
    assert 150 < len(rows) < 310  # neither all nor none
    np.testing.assert_array_equal(found["row"], rows)
    np.testing.assert_array_equal(found["teff"], catalog["teff"][angles.argmin(axis=1)[rows]])
    np.testing.assert_array_equal(found["n_candidates"], near.sum(axis=1)[rows])
    # angles from float64 chords, stored as float32
    np.testing.assert_allclose(found["separation_arcsec"], angles.min(axis=1)[rows], atol=1e-6)


@pytest.mark.parametrize("partition", [150, 1 << 17])
def test_mutual_matches_are_those_of_brute_force(sky, config_of, tiny, partition, monkeypatch):
    monkeypatch.setattr(partitions, "ROWS_PER_PARTITION", partition)
    catalog, spectra = sky
    spectra = {name: np.concatenate([v, v[::3]]) for name, v in spectra.items()}
    angles = brute_force(catalog, spectra)
    found = matched(tiny, config_of(catalog, spectra=spectra, mode="mutual", **MOVING))
    best = angles.argmin(axis=1)
    mutual = (angles.argmin(axis=0)[best] == np.arange(len(best))) & (angles.min(axis=1) <= RADIUS)
    assert 100 < mutual.sum() < (angles.min(axis=1) <= RADIUS).sum() - 50
    np.testing.assert_array_equal(found["row"], np.flatnonzero(mutual))
    np.testing.assert_array_equal(found["teff"], catalog["teff"][best[mutual]])


def test_all_candidates_stand_beside_the_best(sky, config_of, tiny):
    catalog, spectra = sky
    angles = brute_force(catalog, spectra)
    config = config_of(catalog, spectra=spectra, mode="all", **MOVING)
    pairs = matched(tiny, config, "pairs")
    row, right = np.nonzero(angles <= RADIUS)
    order = np.lexsort((angles[row, right], row))
    np.testing.assert_array_equal(pairs["row"], row[order])
    np.testing.assert_array_equal(pairs["right"], right[order])
    best = read_matches(folders.matches_url(config, "apogee"))
    assert not best["row"].duplicated().any()
    assert (best["rank"] == 0).all()


def test_that_sky_has_matches_across_cell_edges_and_ra_0(sky):
    catalog, spectra = sky
    angles = brute_force(catalog, spectra)
    pairs = np.argwhere(angles <= RADIUS).T
    cells = [
        healpix_nested(where_["ra"][i], where_["dec"][i], CELL_ORDER)
        for where_, i in zip((spectra, catalog), pairs, strict=True)
    ]
    assert np.sum(cells[0] != cells[1]) > 10
    assert np.sum(np.abs(spectra["ra"][pairs[0]] - catalog["ra"][pairs[1]]) > 359) > 3


def at(catalog, **more):
    """Spectra at the places of a catalog's stars."""
    n = len(catalog["ra"])
    return {"ra": catalog["ra"], "dec": catalog["dec"], "obsid": np.arange(n), **more}


def test_spectra_without_a_date_see_stars_where_the_catalog_has_them(sky, config_of, tiny):
    catalog, _ = sky
    found = matched(tiny, config_of(catalog, spectra=at(catalog), **MOVING))
    np.testing.assert_array_equal(found["teff"], catalog["teff"])
    np.testing.assert_allclose(found["separation_arcsec"], 0, atol=1e-9)


def mjd_of(year, n):
    return np.full(n, 51544.5 + 365.25 * (year - 2000))


@pytest.mark.parametrize("epoch", [2016.0, "when"])
def test_a_star_with_one_known_motion_is_followed_across_an_edge(config_of, tiny, epoch):
    ra, dec = edge_places(20, np.random.default_rng(1))
    ra = ra - 25 * ARCSEC / np.cos(np.radians(dec))  # beyond what is near the edge anyway
    pm = np.full(20, 3500.0)
    catalog = {"ra": ra, "dec": dec, "pmra": pm, "pmdec": pm * np.nan, "when": np.full(20, 2016.0)}
    there = on_sky(seen(ra, dec, pm, 0, 10.0))
    spectra = at({"ra": there[0], "dec": there[1]}, mjd=mjd_of(2026, 20))
    config = config_of(catalog, spectra=spectra, pmra="pmra", pmdec="pmdec", epoch=epoch)
    assert len(matched(tiny, config)) == 20


@pytest.mark.parametrize("motion", [-9999.99, 99_999.0])
def test_a_sentinel_is_no_motion(config_of, tiny, motion):
    columns = {"ra": np.array([10.0]), "dec": np.array([0.0]), "pm": np.array([motion], "f4")}
    config = config_of(columns, spectra=at(columns, mjd=np.array([6e4])), pmra="pm", pmdec="pm")
    assert len(matched(tiny, config)) == 1


IDS = {"ra": np.array([10.0, 20.0, 30.0, 30.0]), "dec": np.zeros(4), "id": np.array([7, 8, 9, 9])}
GAIA = {"key": {"source_id": "id"}, "key_kind": "gaia_dr3"}


@pytest.fixture
def by_id(config_of, tiny):
    ra = np.array([20.0, 20.0, 5.0, 30.0])  # the first one's id says 7, its place 8
    spectra = at({"ra": ra, "dec": np.zeros(4)}, source_id=np.array([7, -1, -1, 9]))
    config = config_of(IDS, spectra=spectra, columns={"place": "ra"}, **GAIA)
    return matched(tiny, config).set_index("row")


def test_an_id_goes_before_the_sky(by_id):
    assert by_id.loc[0, "place"] == 10
    assert by_id.loc[0, "by_id"]
    assert np.isnan(by_id.loc[0, "separation_arcsec"])


def test_the_sky_is_for_rows_that_no_id_joined(by_id):
    assert by_id.loc[1, "place"] == 20
    assert not by_id.loc[1, "by_id"]
    assert by_id.loc[1, "separation_arcsec"] == 0
    assert 2 not in by_id.index


def test_of_two_rows_of_one_id_the_catalogs_first_is_taken(by_id):
    assert by_id.loc[3, "n_candidates"] == 2
    assert by_id.loc[3, "rank"] == 0


def test_ids_join_over_many_partitions_with_all_their_bits(config_of, tiny, monkeypatch):
    monkeypatch.setattr(partitions, "ROWS_PER_PARTITION", 300)
    ids = 4 * 10**18 + np.random.default_rng(0).permutation(1000)
    catalog = {"id": ids, "t": np.arange(1000.0)}
    spectra = at({"ra": np.zeros(600), "dec": np.zeros(600)}, source_id=np.sort(ids)[:600])
    config = config_of(
        catalog, spectra=spectra, rows=200, ra="", dec="", columns={"teff": "t"}, **GAIA
    )
    found = matched(tiny, config)
    np.testing.assert_array_equal(ids[found["teff"].astype(int)], np.sort(ids)[:600])


def test_2mass_ids_join_whatever_stands_before_their_digits(config_of, tiny):
    catalog = {"id": np.array(["2M00003119+1516179", "AP00003119+1516180"]), "t": np.ones(2)}
    spectra = at(
        {"ra": np.zeros(2), "dec": np.zeros(2)},
        designation=np.array(["J00003119+1516179", "J00003119+1516180"]),
    )
    config = config_of(
        catalog, spectra=spectra, ra="", dec="", key={"designation": "id"}, key_kind="twomass"
    )
    assert matched(tiny, config)["row"].tolist() == [0]


def test_gaia_ids_of_two_releases_are_never_joined(config_of):
    config = config_of(IDS, attrs={"source_id_kind": "gaia_dr2"}, **GAIA)
    message = r"crossmatch\.apogee: the survey's source_id is gaia_dr2, 'id' is gaia_dr3: .* never"
    with pytest.raises(ConfigError, match=message):
        next(crossmatch(config))


def test_a_gaia_id_that_went_through_float64_is_refused(config_of, tiny):
    config = config_of(IDS | {"id": np.array([4e18, 5.0, 6.0, 7.0])}, **GAIA)
    with pytest.raises(ConfigError, match=r"labels.parquet: key \['id'\]: 4e\+18 is no exact id"):
        tiny.run_stage(crossmatch(config))


def test_candidates_of_another_brightness_are_left_out(config_of, tiny):
    catalog = {"ra": np.array([10.0, 10 + 1.5 * ARCSEC, 50.0]), "dec": np.zeros(3)}
    catalog |= {"g": np.array([9.0, 15.2, np.nan]), "t": np.arange(3.0)}
    spectra = at({"ra": np.array([10.0, 10.0, 50.0]), "dec": np.zeros(3)})
    spectra["mag_g"] = np.array([15.0, np.nan, 8.0])
    magnitude = {"ours": "mag_g", "theirs": "g", "tolerance": 1.0}
    table = {"columns": {"teff": "t"}, "magnitude": magnitude}
    found = matched(tiny, config_of(catalog, spectra=spectra, **table)).set_index("row")
    assert found["teff"].tolist() == [1, 0, 2]  # the bright neighbor; unknown ones rule out nothing
    assert found["n_candidates"].tolist() == [1, 2, 1]


def test_ties_go_by_the_stars_id_and_not_by_the_catalogs_order(config_of, tiny):
    for order in ([0, 1, 2], [2, 1, 0]):
        catalog = {"ra": np.full(3, 10.0), "dec": np.zeros(3), "id": np.array(["c", "a", "b"])}
        catalog = {name: values[order] for name, values in catalog.items()}
        spectra = at({"ra": np.array([10.0]), "dec": np.zeros(1)})
        config = config_of(catalog, spectra=spectra, star_id="id", columns={"name": "id"})
        assert matched(tiny, config)["name"].tolist() == ["a"]


def test_spectra_of_one_star_are_grouped_the_best_first(config_of, tiny):
    spectra = at({"ra": np.array([10.0, 20, 10, 10, 50]), "dec": np.zeros(5)})
    spectra["snr"] = np.array([5, 9, 30, 30, 2], np.float32)
    config = config_of(CATALOG, spectra=spectra, columns={"snr": "t"})  # a label of that name, too
    found = matched(tiny, config, "repeats")
    assert found["row"].tolist() == [2, 3, 0]  # equal S/N: by row
    assert found["star_rank"].tolist() == [0, 1, 2]
    assert found["n_spectra"].tolist() == [3, 3, 3]
    assert found["star"].nunique() == 1


def test_blocks_that_come_later_are_matched_and_the_others_stay(config_of, tiny):
    config = config_of(CATALOG, **LABELS)
    url = f"{folders.raw_url(config)}/commits/000002.json"
    commit = paths.read_bytes(url)
    paths.delete(url)
    assert matched(tiny, config)["row"].tolist() == [1, 2, 5]
    before = Ledger(folders.matches_url(config, "apogee")).commits()
    paths.write_bytes(url, commit)
    assert matched(tiny, config)["row"].tolist() == [1, 2, 5, 9]
    after = Ledger(folders.matches_url(config, "apogee")).commits()
    assert {i: after[i] for i in before} == before


@pytest.fixture
def late(config_of):
    """A run of mutual matches whose last block is not there yet, and what brings it.

    Each star has two spectra: one in a block that is there, a nearer one in the last.
    """
    ra, dec = 10.0 * np.arange(4) + 5, np.full(4, 20.0)
    offset = np.repeat([2.0, 2.5, 0.5], 4) * ARCSEC
    spectra = at({"ra": np.tile(ra, 3), "dec": np.tile(dec, 3) + offset})
    spectra["dec"][11] += 3 * ARCSEC  # of one star, the earlier one stays the nearest
    catalog = {"ra": ra, "dec": dec, "t": np.arange(4.0)}
    config = config_of(catalog, spectra=spectra, mode="mutual", columns={"teff": "t"})
    url = f"{folders.raw_url(config)}/commits/000002.json"
    commit = paths.read_bytes(url)
    paths.delete(url)
    return config, lambda: paths.write_bytes(url, commit)


def test_a_spectrum_that_comes_later_and_nearer_takes_the_star_from_another(late, tiny):
    config, bring = late
    assert matched(tiny, config)["row"].tolist() == [0, 1, 2, 3]
    bring()
    found = matched(tiny, config)
    assert found["row"].tolist() == [3, 8, 9, 10]
    assert found["teff"].tolist() == [3, 0, 1, 2]


def test_mutual_matches_of_the_same_spectra_stay(late, tiny):
    config, _ = late
    matched(tiny, config)
    url = folders.matches_url(config, "apogee")
    before = Ledger(url).commits()
    matched(tiny, config)
    assert Ledger(url).commits() == before


def test_mutual_matches_of_which_no_pairs_are_known_are_chosen_anew(late, tiny):
    config, bring = late
    matched(tiny, config)
    paths.delete(f"{folders.matches_url(config, 'apogee')}/{CHOSEN_FROM}")  # a version wrote none
    bring()
    assert matched(tiny, config)["row"].tolist() == [3, 8, 9, 10]


class Killed(BaseException):
    """Nobody catches it, as nobody catches a kill."""


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_kill_while_mutual_matches_are_taken_back_is_made_good(late, tiny, monkeypatch, gone):
    config, bring = late
    matched(tiny, config)
    bring()

    def die(url):
        for key in paths.list_keys(url)[:gone]:
            paths.delete(f"{url}/{key}")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("scalespec.store.paths.delete_tree", die)
        with pytest.raises(Killed):
            matched(tiny, config)
    assert matched(tiny, config)["row"].tolist() == [3, 8, 9, 10]


# The stage, on a store of 12 spectra in 3 blocks.

CATALOG = {
    "ra": np.array([90.0, 10.0, 20.0, 50.0]),
    "dec": np.zeros(4),
    "t": np.array([9.0, 1.0, 2.0, 5.0], np.float32),
    "id": np.array(["a", "b", "b", "c"]),
}
LABELS = {"columns": {"teff": "t"}, "star_id": "id"}
FAR = CATALOG | {"dec": np.full(4, 45.0)}


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


def test_ids_beside_labels_are_exact_to_the_catalog_and_to_infer(tiny, config_of):
    ids = 6917528997577384321 + np.arange(2)
    catalog = {"ra": SPECTRA["ra"][[4, 6]], "dec": np.zeros(2), "id": ids, "t": np.ones(2)}
    config = config_of(catalog, columns={"gaia_id": "id", "teff": "t"}, star_id="id")
    found = matched(tiny, config)
    assert found["gaia_id"].tolist() == ids.tolist()
    assert label_columns(found) == ["teff"]  # an id is none
    url = folders.matches_url(config, "apogee")
    columns = match_columns("apogee", url, plan_blocks(N, ROWS)[1])  # rows 4 to 7
    assert columns["apogee_gaia_id"].tolist() == [ids[0], -1, ids[1], -1]
    assert where(f"apogee_gaia_id == {ids[1]}", columns).tolist() == [False, False, True, False]


def test_spectra_are_joined_by_the_name_of_their_file(tiny, config_of):
    files = {"file": np.array(["spec-3.fits", "spec-8.fits"]), "t": np.ones(2)}
    config = config_of(files, ra="", dec="", key={"name": "file"}, columns={"teff": "t"})
    assert matched(tiny, config)["row"].tolist() == [3, 8]


def test_a_key_that_we_do_not_have_is_refused_with_those_there_are(config_of):
    config = config_of(CATALOG, key={"gaia": "id"})
    table = config.crossmatch["apogee"]
    with pytest.raises(ConfigError, match=r"'gaia' is no column of ours; there are .*'source_id'"):
        spectra_rows(plan_blocks(N, ROWS)[0], folders.raw_url(config), table)


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


def test_without_one_block_ingested_there_is_nothing_to_match(config_of):
    config = config_of(CATALOG, **LABELS)
    for index in range(3):
        paths.delete(f"{folders.raw_url(config)}/commits/{index:06d}.json")
    steps = crossmatch(config)
    next(steps)
    with pytest.raises(StageError, match="not one block of spectra"):
        next(steps)


def test_a_catalog_that_cannot_be_cut_stops_the_verb_before_it_matches_nothing(config_of):
    steps = crossmatch(config_of(CATALOG, columns={"teff": "TEFF"}))
    catalog = next(steps)
    Ledger(catalog.url).record_failure(catalog.blocks[0], "StoreError: no column 'TEFF'")
    with pytest.raises(StageError, match=r"apogee: .*no column 'TEFF'.*--retry-failed"):
        next(steps)


def test_whichever_block_fails_the_verb_stops_before_it_passes_for_no_match(
    config_of, tiny, monkeypatch
):
    config = config_of(CATALOG, **LABELS)
    config = config.model_copy(update={"preprocess": PreprocessTable()})
    train = replace(next(crossmatch(config)), name="train.zarr", url=f"{config.run.workspace}/t")
    monkeypatch.setattr("scalespec.stages.crossmatch.gather", lambda *_: iter([train]))
    names = [stage.name for stage in _done(crossmatch(config), tiny)]
    assert len(names) == 5
    for name in names:
        broken = config_of(CATALOG, **LABELS).model_copy(update={"preprocess": PreprocessTable()})
        url = folders.matches_url(broken, "apogee")
        for folder in (url, train.url):
            paths.delete_tree(folder)
        steps = crossmatch(broken)
        for stage in steps:
            if stage.name == name:
                break
            tiny.run_stage([stage])
        Ledger(stage.url).record_failure(stage.blocks[0], "OSError: Input/output error")
        with pytest.raises(StageError, match=r"apogee: 1 blocks of .*Input/output.*--retry-failed"):
            next(steps)
        # Nothing says of the rows of a block that failed that they have no match.
        assert paths.exists(f"{url}/matches.parquet") == (name == "train.zarr"), name


def test_status_says_which_of_a_crossmatchs_own_steps_failed(config_of, tiny):
    config = config_of(CATALOG, **LABELS)
    for step in crossmatch(config):
        name = step.name.removeprefix("apogee ")
        _set_current(config, step)
        if name.startswith("match"):
            break
        Ledger(step.url).record_failure(step.blocks[0], "OSError: Input/output error")
        shown = {state["stage"]: state for state in stage_states(config)}
        failed = shown.pop(f"crossmatch apogee {name}")
        assert (failed["failed"], failed["left"]) == (1, len(step.blocks) - 1)
        assert failed["why"] == {str(step.blocks[0].index): "OSError: Input/output error"}
        assert list(shown) == ["ingest", "crossmatch apogee"]
        tiny.run_stage([step])  # once it is done nothing is said of it
        assert f"crossmatch apogee {name}" not in {s["stage"] for s in stage_states(config)}
    assert name == "match apogee"


def test_status_says_that_features_of_a_training_set_failed(config_of, tiny):
    config = config_of(CATALOG, **LABELS)
    matches = matched(tiny, config)
    config = config.model_copy(update={"preprocess": PreprocessTable()})
    url = f"{folders.training_url(config, 'apogee')}/features"
    step = features_stage("apogee", url, ("never read", matches, 4))
    _set_current(config, step)
    Ledger(url).record_failure(step.blocks[0], "OSError: Input/output error")
    shown = [state["stage"] for state in stage_states(config) if state["failed"]]
    assert shown == ["crossmatch apogee train.zarr features"]


def _done(steps, tiny):
    """Run stages one by one, as they come; return them."""
    stages = []
    for stage in steps:
        tiny.run_stage([stage])
        stages.append(stage)
    return stages


def test_what_names_later_folders_is_the_table_and_nobody_reads_it_for_that(
    config_of, tiny, monkeypatch
):
    config = config_of(CATALOG, **LABELS)
    matched(tiny, config)
    url = folders.matches_url(config, "apogee")
    table = paths.read_bytes(f"{url}/matches.parquet")
    named = folders._matched(config, "apogee")
    assert named == digest(url.rpartition("/")[2], paths.sha256(table))  # as ever
    before = Path(f"{url}/matches.parquet").stat().st_mtime_ns
    read = []
    monkeypatch.setattr(streams, "sha256", lambda name: read.append(name) or paths.sha256(table))
    assert folders._matched(config, "apogee") == named
    _done(crossmatch(config), tiny)  # nothing is new: what stands is left alone
    assert Path(f"{url}/matches.parquet").stat().st_mtime_ns == before
    assert read == []
    paths.delete(f"{url}/matches.json")  # as older versions left it
    assert [folders._matched(config, "apogee") for _ in range(3)] == [named] * 3
    assert read == [f"{url}/matches.parquet"]
    _done(crossmatch(config), tiny)
    assert paths.exists(f"{url}/matches.json")
    assert folders._matched(config, "apogee") == named


def test_a_table_of_matches_that_was_lost_is_made_again(config_of, tiny):
    config = config_of(CATALOG, **LABELS)
    first = matched(tiny, config)
    url = folders.matches_url(config, "apogee")
    for name in ("matches", "repeats"):
        paths.delete(f"{url}/{name}.parquet")
        pd.testing.assert_frame_equal(matched(tiny, config), first)
        assert paths.exists(f"{url}/{name}.parquet")


def test_a_kill_between_table_and_record_leaves_no_record_of_another_table(
    config_of, tiny, monkeypatch
):
    config = config_of(CATALOG, **LABELS)
    matched(tiny, config)
    named = folders._matched(config, "apogee")
    url = folders.matches_url(config, "apogee")
    paths.delete(f"{url}/commits/000000.json")  # a block's matches go

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("scalespec.stages.matches.repeats", killed)
    with pytest.raises(KeyboardInterrupt):
        combine_matches(url, Split((0.8, 0.1, 0.1), 1), matched_nobody(url))
    assert not paths.exists(f"{url}/matches.json")
    assert folders._matched(config, "apogee") != named


def matched_nobody(url):
    """A table of matches without a row, as one of the parts has it."""
    return next(iterate_parts(url)).to_pandas().iloc[:0]


def test_stages_travel_to_other_processes_and_a_block_that_stands_is_not_written_again(config_of):
    steps = crossmatch(config_of(CATALOG, **LABELS))
    names = []
    for stage in steps:
        there = pickle.loads(pickle.dumps(stage))
        names.append(there.name)
        for block in there.blocks:
            standing = there.write(block, there.compute(None, there.read(block)))
            assert there.write(block, there.compute(None, there.read(block))) == standing
    assert names == ["apogee catalog", "apogee spectra", "apogee pairs", "match apogee"]


def test_parts_are_parquet_with_their_checksum(tiny, config_of):
    config = config_of(CATALOG, **LABELS)
    matched(tiny, config)
    url = folders.matches_url(config, "apogee")
    for result in Ledger(url).commits().values():
        ((key, checksum),) = result.objects.items()
        data = paths.read_bytes(f"{url}/{key}")
        assert paths.sha256(data) == checksum
        assert "teff" in pd.read_parquet(io.BytesIO(data))


def test_a_table_of_the_run_file_is_read_as_it_is_written():
    text = """
[run]
name = "a"
workspace = "w"
[ingest]
files = "*"
[crossmatch.galah]
catalog = "galah.fits"
key = { source_id = "gaiadr3_source_id" }
key_kind = "gaia_dr3"
columns = { c_fe = "C_fe", c_fe_err = "e_C_fe" }
units = { ra = "hourangle" }
mode = "mutual"
magnitude = { ours = "mag_g", theirs = "phot_g_mean_mag" }
training = { flatten = 100, outlier_sigma = 5 }
"""
    table = parse_config(text).crossmatch["galah"]
    assert (table.mode, table.magnitude.tolerance, table.training.flatten) == ("mutual", 2.0, 100)


def test_a_catalog_that_matches_nothing_is_said_with_both_ranges(tiny, config_of, caplog):
    radians = np.radians(SPECTRA["ra"][1:4])
    catalog = {"ra": radians, "dec": np.full(3, 0.1), "TEFF": np.full(3, 5e3)}
    config = config_of(catalog, columns={"teff": "TEFF"})
    found = matched(tiny, config)
    assert len(found) == 0
    (said,) = [one for one in caplog.messages if "matched nothing" in one]
    assert said.startswith(
        "crossmatch.apogee matched nothing: the spectra have RA 0 to 110, Dec 0 "
    )
    assert "labels.parquet has RA 0.17453 to 0.5236, Dec 0.1 to 0.1 deg" in said
    table = TrainTable(catalog="apogee", labels=("teff",))
    config = config.model_copy(update={"train": table, "preprocess": PreprocessTable()})
    with pytest.raises(StageError, match=r"crossmatch\.apogee matched nothing"):
        next(train(config))


def test_ids_that_match_nothing_are_said_by_example(tiny, config_of, caplog):
    catalog = {"name": np.array(["spec-0.fit"]), "TEFF": np.full(1, 5e3)}
    table = {"ra": "", "dec": "", "key": {"name": "name"}, "columns": {"teff": "TEFF"}}
    matched(tiny, config_of(catalog, **table))
    assert "the spectra have ids as 'spec-" in caplog.text
    assert "has ids as 'spec-0.fit'" in caplog.text


def test_units_that_the_file_says_are_converted(tiny, config_of, tmp_path):
    catalog = {"ra": np.radians(SPECTRA["ra"]), "dec": np.zeros(N), "TEFF": np.full(N, 3.7)}
    config = config_of(catalog, columns={"teff": "TEFF"})
    units = {"ra": "rad", "TEFF": "[K]"}
    write_table(str(tmp_path / "labels.parquet"), catalog, units=units)
    found = matched(tiny, config)
    assert len(found) == N
    np.testing.assert_allclose(found["teff"], 10**3.7)


def test_ids_with_several_labels_are_counted_and_said(tiny, config_of, caplog):
    """Of the spectra 500 to 503: one label, two that are alike, two that are not, one of two."""
    catalog = {
        "id": np.array([500, 501, 501, 502, 502, 503, 503, 999, 999]),
        "TEFF": np.array([1.0, 2, 2, 3, 4, 5, np.nan, 6, 7]),
        "name": np.array(list("abcdefghi")),
    }
    table = {"ra": "", "dec": "", "key": {"obsid": "id"}, "columns": {"teff": "TEFF"}}
    config = config_of(catalog, **table)
    found = matched(tiny, config)
    assert found["obsid"].tolist() == [500, 501, 502, 503]
    assert "conflicting" not in found
    commits = Ledger(folders.matches_url(config, "apogee")).commits().values()
    assert sum(result.counts.get("conflicting", 0) for result in commits) == 1
    (said,) = [one for one in caplog.messages if "several rows" in one]
    assert said.startswith("crossmatch.apogee: 1 spectra are joined by an id that ")


def test_catalogs_without_such_ids_are_not_spoken_of(tiny, config_of, caplog):
    catalog = {"ra": SPECTRA["ra"], "dec": SPECTRA["dec"], "TEFF": np.arange(N)}
    config = config_of(catalog, columns={"teff": "TEFF"})
    matched(tiny, config)
    counts = [r.counts for r in Ledger(folders.matches_url(config, "apogee")).commits().values()]
    assert all(set(one) == {"matched", "by_id", "unmatched"} for one in counts)
    assert caplog.messages == []


def test_a_label_that_was_taken_over_as_text_is_not_learned(tiny, config_of):
    catalog = {"ra": SPECTRA["ra"], "dec": SPECTRA["dec"], "KIND": np.array(["a"] * N)}
    config = config_of(catalog, columns={"kind": "KIND"})
    matched(tiny, config)
    table = TrainTable(catalog="apogee", labels=("kind",))
    config = config.model_copy(update={"train": table, "preprocess": PreprocessTable()})
    with pytest.raises(StageError, match=r"crossmatch\.apogee: \['kind'\] hold text"):
        next(train(config))
