"""Several label catalogs as one: who gives a label, how well sources agree, whose star it is."""

import io
import types

import numpy as np
import pandas as pd
import pytest

from scalespec.config import RunConfig
from scalespec.errors import ConfigError
from scalespec.stages import folders
from scalespec.stages.gather import read_matches
from scalespec.stages.merged import (
    agreement_table,
    best_order,
    common_stars,
    merge_catalogs,
    merge_labels,
)
from scalespec.store import paths

RUN = {"name": "t", "workspace": "w"}


def matches_of(rows, star=None, **columns):
    rows = np.asarray(rows)
    own = {"row": rows, "obsid": rows + 500, "star": rows * 7 if star is None else star}
    own |= {"separation_arcsec": np.ones(len(rows), np.float32), "by_id": False}
    own |= {"rank": np.zeros(len(rows), np.int32), "n_candidates": np.ones(len(rows), np.int32)}
    return pd.DataFrame(own | columns).set_index("row")


@pytest.fixture
def three():
    """A reference, a source that scatters, and one that is off: of [C/Fe]; of Teff reversed."""
    rng = np.random.default_rng(0)
    rows = np.arange(300)
    true = {"c_fe": rng.normal(0, 0.3, 300), "teff": rng.uniform(4000, 6000, 300)}
    noise = {name: rng.normal(0, size, 300) for name, size in (("c_fe", 0.05), ("teff", 50))}
    reference = matches_of(rows[:150], **{n: v[:150] for n, v in true.items()})
    good = matches_of(
        rows[50:],
        c_fe=(true["c_fe"] + noise["c_fe"])[50:],
        c_fe_err=np.full(250, 0.05),
        teff=(true["teff"] + 300)[50:],
    )
    bad = matches_of(rows[:200], c_fe=true["c_fe"][:200] + 0.4, teff=true["teff"][:200])
    return reference, {"bad": bad, "good": good}, true


def test_agreement_is_bias_and_robust_scatter_on_common_stars(three):
    reference, sources, _ = three
    table = agreement_table(sources, reference, ["c_fe", "teff"]).set_index(["label", "source"])
    assert table.loc[("c_fe", "good"), "n"] == 100  # rows 50 to 149
    assert table.loc[("c_fe", "bad"), "bias"] == pytest.approx(0.4)
    assert table.loc[("c_fe", "bad"), "scatter"] == pytest.approx(0, abs=1e-12)
    # sigma 0.05 of 100 stars: the robust estimate scatters by 0.05 * 1.17 / sqrt(200)
    assert table.loc[("c_fe", "good"), "scatter"] == pytest.approx(0.05, abs=0.013)
    assert table.loc[("c_fe", "good"), "pull_scatter"] == pytest.approx(1, abs=0.3)
    assert np.isnan(table.loc[("c_fe", "bad"), "pull_scatter"])


def test_each_label_has_its_own_order(three):
    reference, sources, _ = three
    table = agreement_table(sources, reference, ["c_fe", "teff"])
    assert best_order(table, "c_fe", ["bad", "good"]) == ["good", "bad"]
    assert best_order(table, "teff", ["good", "bad"]) == ["bad", "good"]


def test_a_source_with_few_stars_in_common_comes_last(three):
    reference, sources, _ = three
    sources["few"] = reference.iloc[:5]  # perfect, of five stars
    table = agreement_table(sources, reference, ["c_fe"])
    assert best_order(table, "c_fe", ["few", "bad", "good"]) == ["good", "bad", "few"]


def test_the_first_source_in_order_gives_a_label_its_error_and_its_name(three):
    _, sources, true = three
    merged = merge_labels(sources, {"c_fe": ["good", "bad"], "teff": ["bad", "good"]})
    assert merged["row"].tolist() == list(range(300))
    assert merged["obsid"].tolist() == list(range(500, 800))
    assert (merged["c_fe_from"][:50] == "bad").all()
    assert (merged["c_fe_from"][50:] == "good").all()
    np.testing.assert_allclose(merged["c_fe"][:50], true["c_fe"][:50] + 0.4)
    assert np.isnan(merged["c_fe_err"][:50]).all()
    assert (merged["c_fe_err"][50:] == 0.05).all()
    np.testing.assert_allclose(merged["teff"][:200], true["teff"][:200])
    np.testing.assert_allclose(merged["teff"][200:], true["teff"][200:] + 300)


def test_a_label_that_nobody_knows_is_nan_and_from_nobody():
    one = matches_of([1, 2], teff=[np.nan, 5000.0])
    merged = merge_labels({"one": one}, {"teff": ["one"]})
    assert merged["teff_from"].tolist() == ["", "one"]
    assert np.isnan(merged["teff"][0])


def test_spectra_are_of_one_star_if_any_catalog_says_so():
    rows = np.arange(6)
    a = matches_of([0, 1, 4], star=[10, 11, 12])["star"]  # 0 and 1 are two stars here
    b = matches_of([1, 2, 3, 5], star=[7, 7, 8, 8])["star"]  # 1 and 2 one, 3 and 5 one
    star = common_stars({"a": a, "b": b}, rows)
    groups = [set(np.flatnonzero(star == name).tolist()) for name in sorted(set(star))]
    assert sorted(groups, key=min) == [{0}, {1, 2}, {3, 5}, {4}]


def run_of(workspace, **table):
    run = RUN | {"workspace": str(workspace)}
    crossmatch = {name: {"catalog": f"{name}.csv"} for name in ("bad", "good", "high")}
    crossmatch["best"] = {"sources": ["bad", "good"], "reference": "high", **table}
    return RunConfig.model_validate(
        {"run": run, "ingest": {"files": "*"}, "crossmatch": crossmatch}
    )


@pytest.fixture
def stored(three, tmp_path, monkeypatch):
    """A function that stores the three catalogs' matches, merges them and returns their folder."""
    reference, sources, _ = three
    monkeypatch.setattr(
        "scalespec.stages.merged.folders",
        types.SimpleNamespace(matches_url=lambda config, name: f"{tmp_path}/{name}"),
    )

    def merge(**table):
        for name, one in {**sources, "high": reference}.items():
            kept = one.assign(split=np.uint8(0)).reset_index()
            paths.write_bytes(f"{tmp_path}/{name}/matches.parquet", kept.to_parquet())
        merge_catalogs(run_of(tmp_path, **table), "best")
        return f"{tmp_path}/best"

    return merge


@pytest.mark.parametrize(("choose", "source"), [("priority", "bad"), ("agreement", "good")])
def test_the_source_of_carbon_is_chosen_as_the_run_file_says(stored, choose, source):
    url = stored(choose=choose)
    merged = read_matches(url)
    assert merged["c_fe_from"][100] == source  # both know it
    assert set(merged["split"]) == {0, 1, 2}
    table = pd.read_parquet(io.BytesIO(paths.read_bytes(f"{url}/agreement.parquet")))
    first = table[(table["label"] == "c_fe") & (table["order"] == 0)]
    assert first["source"].tolist() == [source]
    picture = paths.read_bytes(f"{url}/agreement-c_fe.png")
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


def test_without_a_reference_there_is_no_table_of_agreement(stored):
    url = stored(reference="")
    assert paths.list_keys(url) == ["matches.json", "matches.parquet"]


def test_sources_without_labels_are_refused(stored, three):
    for one in three[1].values():
        for label in {"c_fe", "teff", "c_fe_err"} & set(one):
            del one[label]
    with pytest.raises(ConfigError, match=r"crossmatch\.best: \['bad', 'good'\] have no label"):
        stored()


def test_the_folder_of_a_merge_depends_on_its_sources(tiny, tiny_run):
    config = tiny_run.config
    tables = {**config.model_dump(mode="json")["crossmatch"], "best": {"sources": ["apogee"]}}
    merged = config.model_copy(
        update={"crossmatch": RunConfig.model_validate(
            config.model_dump(mode="json") | {"crossmatch": tables}).crossmatch}
    )  # fmt: skip
    before = folders.matches_url(merged, "best")
    url = f"{folders.matches_url(config, 'apogee')}/matches.parquet"
    matches = read_matches(folders.matches_url(config, "apogee"))
    paths.write_bytes(url, matches[1:].to_parquet(index=False))
    assert folders.matches_url(merged, "best") != before
