"""Variable velocities, reddening and anomalies through the stages: what was put in is found."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from scalespec.errors import ConfigError, StageError
from scalespec.kernels.photometry import magnitudes
from scalespec.optimize.result import FitStatus
from scalespec.stages import folders
from scalespec.stages.anomalies import anomaly, learn_usual
from scalespec.stages.derive import derive
from scalespec.stages.publish import publish
from scalespec.store.catalog import open_catalog, read_parts
from scalespec.store.ledger import Ledger, read_json
from tests.kits.fitted_run import write_fitted, write_matches
from tests.kits.own_blocks import count_listings, run_blocks_of_their_own

N = 600
TABLES = """
[crossmatch.gaia]
catalog = "{root}/gaia.parquet"
columns = {{ bp_rp = "BP_RP" }}
[derive]
plate = "plate"
color = "gaia.bp_rp"
"""
ZERO = {"HD01": 0.0, "HD02": 8.0, "HD03": -5.0}


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """Three visits of 200 stars on three plates with zero points; the first 20 are binaries."""
    root = tmp_path_factory.mktemp("derive")
    rng = np.random.default_rng(8)
    star = np.tile(np.arange(200), 3)
    plate = np.repeat(list(ZERO), 200)
    rv = rng.normal(0, 40, 200)[star] + 3 * rng.normal(size=N)
    rv += np.array([ZERO[p] for p in plate])
    rv[star < 20] += rng.normal(0, 80, (star < 20).sum())
    teff, ebv = rng.uniform(4500, 6500, 200)[star], rng.uniform(0, 0.5, 200)[star]
    stars = {
        "teff": teff, "logg": np.full(N, 4.4), "fe_h": np.zeros(N), "source_id": 1000 + star,
        "rv": rv, "rv_err": np.full(N, 3.0), "fit_status": np.zeros(N, np.uint32),
    }  # fmt: skip
    stars |= {
        f"{name}_err": np.full(N, e) for name, e in (("teff", 50.0), ("logg", 0.1), ("fe_h", 0.1))
    }
    stars["fit_status"][5] = FitStatus.POOR_FIT
    tables = TABLES.format(root=root)
    (root / "gaia.parquet").write_bytes(b"there")
    config = write_fitted(root, stars, tables=tables, rows=128, index={"plate": plate})
    rows = np.arange(N)[np.arange(N) != 7]
    color = magnitudes(teff, np.full(N, 13.0), ebv)["bp_rp"]
    write_matches(config, "gaia", {"row": rows, "bp_rp": color[rows]})
    tiny.run_stage(derive(config))
    return config, star, ebv


def test_binaries_are_found_and_plates_do_not_make_any(made):
    config, star, _ = made
    got = read_parts(folders.derived_url(config)).to_pandas()
    p = got["rv_p_value"].to_numpy()
    known = np.isfinite(p)
    assert (p[known & (star < 20)] < 1e-3).mean() > 0.9
    # 180 constant stars, three rows each; without zero points nearly all would vary
    assert (p[known & (star >= 20)] < 1e-3).mean() < 0.02
    assert got["n_visit"][np.flatnonzero(star == 5)[1]] == 2  # one of three is flagged
    assert got["n_visit"][6] == 3


def test_the_table_of_stars_has_one_row_a_star(made):
    folder = Path(folders.derived_url(made[0]))
    table = pq.read_table(folder / "variability.parquet")
    assert table["star"].to_pylist() == list(range(1000, 1200))
    assert table.schema.field("scatter").metadata[b"unit"] == b"km/s"
    assert float(table.schema.metadata[b"rv_floor_kms"]) < 1.5


def test_reddening_comes_from_color_and_temperature(made):
    config, _, ebv = made
    got = read_parts(folders.derived_url(config)).to_pandas()
    assert got["ebv"].isna().to_numpy().nonzero()[0].tolist() == [5, 7]  # flagged; not in Gaia
    error = got["ebv"].to_numpy() - ebv
    assert np.nanmax(np.abs(error)) < 1e-3  # no noise was put in
    assert (got["ebv_err"].dropna() > 0.03).all()


def with_derive(config, **changes):
    from scalespec.config import DeriveTable

    return config.model_copy(update={"derive": DeriveTable(**changes)})


def test_anomalies_are_listed_and_published(tiny, tiny_run):
    config = with_derive(tiny_run.config, anomaly_sample=1000, anomaly_components=2)
    tiny.run_stage(derive(config))
    url = folders.derived_url(config)
    listed = read_json(f"{url}/anomalies.json")["anomalies"]
    assert len(listed) == 19  # all that have a fit
    # its Teff was moved to the model's edge: its fit is no fit of its spectrum
    assert listed[0]["row"] == 6
    scores = read_parts(url)["anomaly"].to_numpy()
    assert np.isnan(scores[3])
    tiny.run_stage(publish(config))
    rows = open_catalog(folders.catalog_url(config)).to_table()
    assert rows["anomaly"][3].as_py() is None
    assert rows["anomaly"][6].as_py() == pytest.approx(scores[6])


def test_blocks_read_their_own_only(tiny_run, monkeypatch):
    config = with_derive(
        tiny_run.config,
        color="apogee.teff",
        plate="file",
        anomaly_sample=10,
        anomaly_components=2,
    )
    names = run_blocks_of_their_own(derive(config), monkeypatch)
    assert names == ["derive visits", "derive sample", "derive"]
    assert {"n_visit", "ebv", "anomaly"} <= set(
        read_parts(folders.derived_url(config)).column_names
    )


def test_what_is_done_is_listed_as_often_however_many_blocks_there_are(tiny_run, monkeypatch):
    config = with_derive(tiny_run.config)
    assert count_listings(derive(config), monkeypatch, 100) < 10


def test_what_all_residuals_share_is_usual_and_what_one_has_alone_is_not():
    rng = np.random.default_rng(4)
    shape = np.sin(np.arange(300) / 20)
    pull = rng.normal(size=(500, 300)) + rng.normal(0, 3, (500, 1)) * shape
    usual = learn_usual(pull.astype(np.float32), 3)
    odd = rng.normal(size=(2, 300))
    odd[0, 100:130] += 5
    odd = np.concatenate([odd, np.full((1, 300), np.nan)]).astype(np.float32)
    scores = anomaly(usual, odd)
    assert scores[0] > 6
    assert scores[1] < 4
    assert np.isnan(scores[2])
    assert np.quantile(anomaly(usual, pull.astype(np.float32)), 0.95) < 4


def test_too_small_a_sample_is_an_error_that_says_so(tiny, tiny_run):
    config = with_derive(tiny_run.config, anomaly_sample=1000, anomaly_components=50)
    with pytest.raises(StageError, match="have no 50 components: sample more"):
        tiny.run_stage(derive(config))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"color": "gaia.bp_rp"}, r"wants a \[crossmatch.gaia\] table"),
        ({"color": "apogee.bp_rp"}, "no column 'bp_rp'"),
        ({"plate": "field"}, r"no columns \['field'\]"),
    ],
)
def test_what_is_not_there_is_an_error_of_the_run_file(tiny, tiny_run, changes, said):
    with pytest.raises(ConfigError, match=said):
        tiny.run_stage(derive(with_derive(tiny_run.config, **changes)))


def test_a_block_that_failed_stops_it(tiny_run):
    config = with_derive(tiny_run.config)
    steps = derive(config)
    stage = next(steps)
    for block in stage.blocks:
        Ledger(stage.url).record_failure(block, "a worker died")
    with pytest.raises(StageError, match="a worker died"):
        next(steps)
