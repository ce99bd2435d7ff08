"""The comparison of models, on a small store whose labels are known functions of the spectra."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner
from matplotlib.image import imread
from pages import undrawn
from regression import sample

from scalespec.cli import main
from scalespec.config import CompareTable, EngineTable, RayTable, parse_config
from scalespec.errors import ConfigError, StageError
from scalespec.plan import plan_blocks
from scalespec.run import run
from scalespec.schema import PER_SPECTRUM
from scalespec.stages import folders
from scalespec.stages.compare import compare
from scalespec.stages.contest import (
    deal,
    group_members,
    in_window,
    load_labelled,
    masked_outside,
    noisier,
    seen,
)
from scalespec.stages.verdict import read_facts, read_predictions
from scalespec.stages.verdict_tables import as_latex, as_text, pull_rows, score_table
from scalespec.store.spectra import create_spectra, write_spectra

N, ROWS = 400, 200
WAVELENGTH = np.linspace(4000.0, 5000.0, 40)
LABELS = ["teff", "logg", "fe_h", "c_fe", "color"]
RUN_FILE = """
[run]
name = "small"
workspace = "{root}/work"
[compare]
source = "{root}/spectra.zarr"
labels = ["teff", "logg", "fe_h", "c_fe"]
extra = ["color"]
seeds = 3
bootstrap = 20
groups = {{ giants = "logg < 3.5" }}
snr_edges = [0.0, 60.0]
[compare.models.ridge]
[compare.models.neighbors]
estimator = "knn"
options = {{ neighbors = 4, components = 4 }}
[compare.models.mean]
of = ["ridge", "neighbors"]
[compare.models.color_alone]
estimator = "ridge"
inputs = "extra"
[compare.models.both]
estimator = "ridge"
inputs = "both"
[compare.models.blue]
estimator = "ridge"
window = [4000.0, 4300.0]
[compare.models.blue_filled]
estimator = "ridge"
window = [4000.0, 4300.0]
fill = "mean"
[compare.candidates]
model = "ridge"
prevalence = 0.01
fpr = 0.05
"""


def spectra():
    """400 spectra of 300 stars; two metal-poor ones in ten, half of them rich in carbon."""
    rng = np.random.default_rng(0)
    star = np.concatenate([np.arange(300), np.arange(100)])
    one = sample(300, seed=1)
    fe_h = np.where(
        rng.random(300) < 0.2, rng.uniform(-3.2, -2.1, 300), rng.uniform(-1.9, 0.4, 300)
    )
    c_fe = np.where(rng.random(300) < 0.5, rng.uniform(1.1, 2, 300), rng.uniform(-0.3, 0.9, 300))
    flux = one.flux[star].copy()
    flux[:, 20:24] -= 0.1 * (fe_h[star, None] + 3.5)
    flux[:, 30:34] -= 0.1 * c_fe[star, None]
    snr = rng.uniform(30, 100, N)
    flux += rng.normal(size=flux.shape) / snr[:, None]
    labels = np.column_stack(
        [
            one.labels[star],
            fe_h[star],
            c_fe[star],
            one.labels[star, 0] / 1000 + rng.normal(0, 0.3, N),
        ]
    )
    labels[7, 2] = np.nan
    columns = {name: np.full(N, value, kind) for name, (kind, value, _) in PER_SPECTRUM.items()}
    columns |= {"snr": snr.astype("f4"), "obsid": np.arange(N) + 1000, "star": star}
    columns["status"][5] = 1
    ivar = np.broadcast_to(snr[:, None] ** 2, flux.shape).astype("f4")
    dims = ("spectrum", "wavelength")
    data = {"flux": (dims, flux.astype("f4")), "ivar": (dims, ivar)}
    data |= {name: ("spectrum", values) for name, values in columns.items()}
    data["labels"] = (("spectrum", "label"), labels.astype("f4"))
    attrs = {"resolving_power": 500.0, "normalization": {"method": "none"}, "label_names": LABELS}
    return xr.Dataset(data, {"wavelength": WAVELENGTH}, attrs)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A whole comparison: its run file's settings, and its folder."""
    root = tmp_path_factory.mktemp("compare")
    whole = spectra()
    create_spectra(str(root / "spectra.zarr"), whole, n_spectrum=N, shard_rows=ROWS)
    for block in plan_blocks(N, ROWS):
        part = whole.isel(spectrum=slice(block.start, block.stop))
        write_spectra(str(root / "spectra.zarr"), block, part)
    config = parse_config(RUN_FILE.format(root=root))
    with undrawn():
        summary = run(config, engine="local")
    assert summary.failed == {}
    return config, Path(folders.compare_url(config))


def table(**changed):
    """A comparison's settings."""
    plain = {"source": "x", "labels": ("teff",), "models": {"ridge": {}}}
    return CompareTable.model_validate(plain | changed)


def test_models_that_compete_hold_no_gpu_of_ray(compared):
    """They learn and answer on the processor, and the regressions know no other."""
    engine = EngineTable(ray=RayTable(gpus_per_worker=1))
    stage = next(compare(compared[0].model_copy(update={"engine": engine})))
    assert (stage.runs_on, stage.gpus) == ("ray", 0)


def test_a_mean_of_named_models_is_made_with_their_options(compared):
    made = read_predictions(str(compared[1]))
    key = ["split", "row"]
    one, other, mean = (
        made[made["model"] == name].sort_values(key)[["teff", "logg"]].to_numpy()
        for name in ("ridge", "neighbors", "mean")
    )
    slack = 1e-5 * np.abs(mean)
    assert np.all(mean <= np.maximum(one, other) + slack)
    assert np.all(mean >= np.minimum(one, other) - slack)
    assert np.all(np.abs(mean - one).max(axis=0) > slack.max(axis=0))  # it is neither of them
    assert np.all(np.abs(mean - other).max(axis=0) > slack.max(axis=0))


def test_every_model_predicts_the_test_stars_of_every_split(compared):
    config, url = compared
    made = read_predictions(str(url))
    counts = made.groupby(["model", "split"]).size().unstack()
    assert set(counts.index) == set(config.compare.models)
    assert (counts.nunique() == 1).all()  # the same stars for every model
    assert counts.notna().all().all()


def test_no_star_is_tested_by_a_model_that_has_seen_it(compared):
    config, url = compared
    labelled = load_labelled(config.compare.source, config.compare)
    made = read_predictions(str(url))
    for split in range(3):
        dealt = deal(labelled.star, config.compare, split, config.run.seed)
        learned = set(labelled.star[dealt < 2])
        tested = set(made[made["split"] == split]["star"])
        assert tested == set(labelled.star[dealt == 2])
        assert not learned & tested


def test_rows_without_a_label_or_a_spectrum_take_no_part(compared):
    config, _ = compared
    rows = load_labelled(config.compare.source, config.compare).rows
    assert 7 not in rows
    assert 5 not in rows
    assert len(rows) == N - 2
    some = config.compare.model_copy(update={"complete": False})
    assert 7 in load_labelled(config.compare.source, some).rows


def test_scores_are_those_of_the_predictions(compared):
    _config, url = compared
    made = read_predictions(str(url))
    scored = pd.read_csv(url / "tables.csv")
    for (model, label), row in scored[scored["group"] == "all"].groupby(["model", "label"]):
        mine = made[made["model"] == model]
        residual = (mine[label] - mine[f"{label}_true"]).to_numpy(float)
        assert row["mae"].item() == pytest.approx(np.abs(residual).mean(), rel=1e-5)  # 6 digits
        assert row["median"].item() == pytest.approx(np.median(residual), rel=1e-5, abs=1e-9)
        splits = [np.abs(residual[mine["split"] == s]).mean() for s in range(3)]
        assert row["mae_seed"].item() == pytest.approx(np.std(splits, ddof=1), rel=1e-5)


def test_models_with_more_to_see_are_better(compared):
    _, url = compared
    every = pd.read_csv(url / "tables.csv").query("group == 'all'").set_index(["model", "label"])
    mae = every["mae"]
    assert mae["ridge", "fe_h"] < 0.4 * mae["color_alone", "fe_h"]  # a color knows no metals
    assert mae["ridge", "c_fe"] < 0.4 * mae["blue", "c_fe"]  # carbon's pixels lie outside
    assert mae["color_alone", "teff"] < 0.6 * mae["color_alone", "teff"] + 400  # it knows some
    # a model that has learned from all pixels is lost where most are replaced by their mean
    assert mae["blue_filled", "teff"] > mae["blue", "teff"]


def test_the_best_model_of_a_label_is_compared_with_itself_by_nothing(compared):
    _, url = compared
    every = pd.read_csv(url / "tables.csv").query("group == 'all'")
    for _, mine in every.groupby("label"):
        best = mine.loc[mine["mae"].idxmin()]
        assert best["worse_by"] == 0
        others = mine[mine["worse_by"] != 0]
        assert (others["worse_by"] > 0).all()
        # the same stars in the same splits: a difference of means is the mean of differences
        gap = others["mae"] - best["mae"]
        np.testing.assert_allclose(others["worse_by"], gap, rtol=1e-4, atol=1e-6)


def test_files_and_page_are_there(compared):
    _, url = compared
    names = {"tables.txt", "tables.tex", "tables.csv", "index.html"}
    names |= {"candidates.parquet", "candidates.fits"}
    assert names <= {path.name for path in url.iterdir()}
    page = (url / "index.html").read_text()
    for words in ("Which lines count", "Candidates", "One to one", "7 models on 3 random splits"):
        assert words in page
    drawn = {path.stem for path in (url / "figures").iterdir()}
    assert {"mae", "lines", *(f"one_to_one_{x}" for x in LABELS[:4])} <= drawn


def test_metal_poor_stars_are_found(compared):
    from astropy.table import Table as AstropyTable

    _, url = compared
    text = (url / "tables.txt").read_text()
    assert "[Fe/H] < -2, by ridge" in text
    assert "[C/Fe] > 1, by ridge" in text
    assert "of stars below that it says nothing" in text
    found = pd.read_parquet(url / "candidates.parquet")
    truth = found["reference_fe_h"] < -2
    assert truth.mean() > 0.7  # the spectra show iron; the threshold lets 5 % of others in
    assert (found["p_metal_poor"] >= found["p_threshold"] - 0.2).all()  # means over splits
    np.testing.assert_array_equal(found["is_cemp_1p0"], found["c_fe"] > 1.0)
    same = AstropyTable.read(url / "candidates.fits")
    np.testing.assert_array_equal(np.asarray(same["obsid"]), found["obsid"])


def test_facts_say_what_was_learned_and_which_lines_count(compared):
    _, url = compared
    facts = read_facts(str(url))
    assert len(facts) == 21
    assert sum(facts["ridge", 0]["sizes"]) == N - 2
    lines = facts["ridge", 0]["attribution"]
    assert set(lines) >= {"CH G band", "elsewhere"}
    assert "attribution" not in facts["ridge", 1]
    assert "attribution" not in facts["blue", 0]


def test_a_second_run_trains_nothing_and_says_the_same(compared):
    config, url = compared
    before = (url / "tables.csv").read_bytes()
    again = run(config, engine="local")
    assert (again.done, again.resumed) == (0, 21)
    assert (url / "tables.csv").read_bytes() == before


def test_models_in_another_order_are_another_comparison(compared):
    """Blocks are numbered by models: half a comparison must not go on with others' numbers."""
    config, url = compared
    turned = dict(reversed(config.compare.models.items()))
    other = config.model_copy(
        update={"compare": config.compare.model_copy(update={"models": turned})}
    )
    assert Path(folders.compare_url(config)) == url
    assert Path(folders.compare_url(other)) != url


def test_the_verb_prints_the_tables(compared, tmp_path):
    config, url = compared
    file = tmp_path / "run.toml"
    file.write_text(RUN_FILE.format(root=Path(config.compare.source).parent))
    result = CliRunner().invoke(main, ["compare", str(file), "--engine", "local"])
    assert result.exit_code == 0, result.output
    assert (url / "tables.txt").read_text() in result.output


def test_folds_test_every_star_once_and_the_other_parts_are_apart():
    stars = np.repeat(np.arange(500), 2)
    settings = table(folds=True, seeds=4)
    dealt = np.stack([deal(stars, settings, k, 3) for k in range(4)])
    assert ((dealt == 2).sum(axis=0) == 1).all()
    assert (dealt[:, ::2] == dealt[:, 1::2]).all()  # both spectra of a star together
    held = (dealt == 1).sum() / (dealt != 2).sum()
    assert held == pytest.approx(0.1, abs=0.03)  # 2,000 deals: 3 sigma are 0.02


def test_random_splits_differ_and_keep_their_shares():
    stars = np.arange(4000)
    one, other = (deal(stars, table(), k, 1) for k in range(2))
    assert (one == 2).mean() == pytest.approx(0.3, abs=0.025)  # 3 sigma
    both = ((one == 2) & (other == 2)).mean()
    assert both == pytest.approx(0.09, abs=0.015)


def test_inputs_alone_are_seen_as_pixels(compared):
    config, _ = compared
    labelled = load_labelled(config.compare.source, config.compare)
    alone, grid = seen(labelled, config.compare.models["color_alone"], np.arange(5))
    np.testing.assert_array_equal(alone.flux, labelled.sample.extra[:5])
    assert alone.extra is None
    assert len(grid) == 1
    spectrum, _ = seen(labelled, config.compare.models["ridge"], np.arange(5))
    assert spectrum.extra is None
    assert spectrum.flux.shape == (5, 40)


def test_pixels_outside_a_window_become_the_training_mean():
    training, tested = sample(50, seed=1), sample(5, seed=2)
    made = masked_outside(tested, WAVELENGTH, (4000, 4300), training)
    inside = in_window(WAVELENGTH, (4000, 4300))
    np.testing.assert_array_equal(made.flux[:, inside], tested.flux[:, inside])
    expected = training.flux.astype(float).mean(axis=0)[~inside]
    np.testing.assert_allclose(made.flux[0, ~inside], expected, rtol=1e-6)  # float32
    with pytest.raises(ConfigError, match="0 pixels"):
        in_window(WAVELENGTH, (9000, 9100))


def test_groups_are_conditions_on_labels():
    columns = {"logg": np.array([1.0, 4.0]), "snr": np.array([5.0, 500.0])}
    settings = table(groups={"giants": "logg < 3.5"}, snr_edges=(0.0, 10.0, 100.0))
    made = group_members(columns, settings)
    assert {name: rows.tolist() for name, rows in made.items()} == {
        "giants": [True, False],
        "S/N 0 to 10": [True, False],
        "S/N over 100": [False, True],
    }
    with pytest.raises(ConfigError, match=r"compare\.groups\.odd"):
        group_members(columns, table(groups={"odd": "age > 1"}))


def test_a_condition_that_leaves_no_star_is_said(compared):
    config, _ = compared
    nobody = config.compare.model_copy(update={"where": "teff > 1e6"})
    with pytest.raises(ConfigError, match="none is left"):
        load_labelled(config.compare.source, nobody)
    unknown = config.compare.model_copy(update={"labels": ("age",)})
    with pytest.raises(ConfigError, match=r"no label \['age'\]"):
        load_labelled(config.compare.source, unknown)


def test_a_model_that_is_none_fails_its_blocks_and_no_other(compared):
    config, _ = compared
    text = RUN_FILE.format(root=Path(config.compare.source).parent)
    text = text.replace("/work", "/other").replace('estimator = "knn"', 'estimator = "oracle"')
    few = text[: text.index("[compare.models.mean]")].replace("bootstrap = 20", "bootstrap = 0")
    config = parse_config(few)
    summary = run(config, engine="local")
    for picture in Path(folders.compare_url(config), "figures").iterdir():
        assert imread(picture).std() > 0  # of the other
    assert len(summary.failed["compare"]) == 3
    assert "no model 'oracle'" in next(iter(summary.failed["compare"].values()))
    assert summary.done == 3


def test_a_comparison_of_which_nothing_came_says_why_and_what_to_do(compared):
    config, _ = compared
    text = RUN_FILE.format(root=Path(config.compare.source).parent).replace("/work", "/nothing")
    few = text[: text.index("[compare.models.neighbors]")].replace("ridge]", "oracle]")
    with pytest.raises(StageError, match=r"block 0 failed: .*no model 'oracle'.*--retry-failed"):
        run(parse_config(few), engine="local")


def test_a_comparison_stopped_before_its_first_model_is_stopped_and_no_error(compared):
    config, _ = compared
    text = RUN_FILE.format(root=Path(config.compare.source).parent).replace("/work", "/at-once")
    few = text[: text.index("[compare.models.neighbors]")]
    summary = run(parse_config(few), engine="local", stop=lambda: True)
    assert (summary.stopped, summary.done, summary.failed) == (True, 0, {})


def test_a_comparison_that_was_stopped_says_nothing_of_its_tables(compared, tmp_path, monkeypatch):
    config, _ = compared
    text = RUN_FILE.format(root=Path(config.compare.source).parent).replace("/work", "/stopped")
    file = tmp_path / "run.toml"
    file.write_text(text)
    monkeypatch.setattr("scalespec.cli._run", lambda *_, **__: 3)
    result = CliRunner().invoke(main, ["compare", str(file)])
    assert (result.exit_code, result.output) == (3, "")


def test_scores_against_a_plain_frame():
    rng = np.random.default_rng(1)
    n = 200
    truth = rng.normal(size=n).astype("f4")
    frame = pd.concat(
        pd.DataFrame({
            "model": name, "split": np.arange(n) % 2, "row": np.arange(n), "star": np.arange(n),
            "snr": 10.0, "teff_true": truth, "teff": truth + rng.normal(0, width, n),
            "teff_sigma": 0.1,
        })
        for name, width in (("a", 0.1), ("b", 1.0))
    )  # fmt: skip
    asked = table(models={"a": {}, "b": {}}, snr_edges=(0.0,))
    made = score_table(frame, asked, seed=1)
    every = made[made["group"] == "all"].set_index("model")
    assert every.loc["b", "worse_by"] > 0
    assert every.loc["b", "p"] < 0.1
    assert "a & 0.1" in as_latex(made, asked)
    columns, rows = pull_rows(made, asked)
    assert columns == ["label", "model", "all", "S/N over 0"]
    residual = (frame["teff"] - frame["teff_true"]).to_numpy().reshape(2, n)
    for row, width in zip(rows, residual.std(axis=1) / 0.1, strict=True):
        assert row[2:] == [f"{width:.2f}"] * 2


def test_text_columns_stand_below_each_other():
    made = as_text(["model", "MAE"], [["ridge", "1.0"], ["a", "22.0"]])
    assert {line.index(word) for line, word in zip(made.splitlines(), ("MAE", "1.0", "22.0"),
                                                   strict=True)} == {7}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"catalog": "c"}, "one of source and catalog"),
        ({"labels": ("teff", "teff")}, "different names"),
        ({"extra": ("teff",)}, "labels and inputs at once"),
        ({"models": {}}, "at least one"),
        ({"models": {"a": {"inputs": "both"}}}, "wants inputs of extra"),
        ({"models": {"a": {"window": (5000, 4000)}}}, "models.a.window\n.*limit first"),
        ({"models": {"a": {"of": ("a",)}}}, "is for a mean"),
        (
            {"models": {"a": {}, "mean": {"of": ("a",), "options": {"models": {"a": {}}}}}},
            "has no options.models",
        ),
        ({"models": {"a": {}, "mean": {"of": ("b", "mean")}}}, r"no models \['b', 'mean'\]"),
        ({"folds": True, "seeds": 1}, "folds wants seeds >= 2"),
        ({"candidates": {"model": "oracle"}}, r"no \[compare.models.oracle\]"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        table(**changed)


def test_a_comparison_wants_something_to_compare_on():
    text = (
        '[run]\nname = "a"\nworkspace = "w"\n[compare]\nlabels = ["teff"]\n[compare.models.ridge]'
    )
    with pytest.raises(ConfigError, match=r"wants a source, or a \[preprocess\] table"):
        parse_config(text)
    with pytest.raises(ConfigError, match=r"wants a \[crossmatch.c\] table"):
        parse_config(
            text.replace("labels", 'catalog = "c"\nlabels')
            + "\n[preprocess]\n[ingest]\nfiles = 'x'"
        )


def test_predictions_keep_their_facts_as_json(compared):
    _, url = compared
    import pyarrow.parquet as pq

    part = next((url / "parts").iterdir())
    metadata = pq.read_schema(io.BytesIO(part.read_bytes())).metadata
    assert json.loads(metadata[b"facts"])["sizes"]


def test_added_noise_is_of_the_row_and_as_strong_as_asked():
    one = sample(200, seed=1, noise=1e-5)
    rows = np.arange(200)
    made = noisier(one, rows, 20.0)
    relative = (made.flux - one.flux) / one.flux
    assert relative.std() == pytest.approx(1 / 20, rel=0.03)  # 8,000 draws: 3 sigma are 2.4 %
    np.testing.assert_allclose(made.ivar, (20 / one.flux) ** 2, rtol=1e-3)  # they had some
    again = noisier(one.take(rows[50:60]), rows[50:60], 20.0)
    np.testing.assert_array_equal(again.flux, made.flux[50:60])
    masked = one.take(slice(0, 3))
    masked.ivar[:, 4] = 0
    assert (noisier(masked, rows[:3], 20.0).ivar[:, 4] == 0).all()
