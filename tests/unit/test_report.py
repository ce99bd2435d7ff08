"""The page says what the run holds, whatever is missing, and believes no text it is given."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread
from pages import Reader

from scalespec import figures
from scalespec.config import TrainTable
from scalespec.errors import ConfigError, StoreError
from scalespec.figures.learning import learning_curve
from scalespec.optimize.result import FitStatus
from scalespec.stages import folders, page
from scalespec.stages import report as report_stage
from scalespec.stages.comparison import references, truth
from scalespec.stages.evidence import gather, read_evidence, stage_folders
from scalespec.stages.examples import mean_residual, pick_examples
from scalespec.stages.inspect import (
    best_fit_flux,
    draw_star,
    inspect_url,
    load_fitted,
    star_title,
    status_text,
)
from scalespec.stages.publish import publish
from scalespec.stages.report import report, summary, throughput, write_report
from scalespec.stages.samples import Rows
from scalespec.store import paths
from scalespec.store.catalog import read_parts
from scalespec.store.ledger import current, write_json
from scalespec.store.spectra import read_spectra

LABELS = ("teff", "logg", "fe_h")


@pytest.fixture
def config(tiny, tiny_run):
    tiny.run_stage(publish(tiny_run.config))
    return tiny_run.config


@pytest.fixture(scope="session")
def built(tiny, _one_tiny_run):
    """The page of a published run, and its config; made once, for drawing takes seconds."""
    config = _one_tiny_run.config
    tiny.run_stage(publish(config))
    return config, paths.read_bytes(write_report(config)).decode()


@pytest.fixture
def evidence(config, undrawn):
    return read_evidence(config)


@pytest.fixture
def columns(config, undrawn):
    """All numeric columns of the catalog."""
    table = read_parts(folders.catalog_url(config))
    kinds = {name: table[name].to_numpy() for name in table.column_names if name != "label_cov"}
    return {name: values for name, values in kinds.items() if values.dtype.kind in "iuf"}


def gathered(config, columns, planned=20, labels=LABELS):
    """What the pages need of a catalog with these columns."""
    return gather(config, planned, [Rows(columns, labels)])


def with_table(config, name, **values):
    return config.model_copy(update={name: getattr(config, name).model_copy(update=values)})


def test_the_page_is_one_whole_file_with_all_sections(built):
    config, html = built
    read = Reader(html)
    names = re.findall("<h2>(.*?)</h2>", html)
    assert names == [
        *("Summary", "Sky", "Kiel diagram", "Metal-poor stars", "Against other catalogs"),
        *("Against the truth", "Example spectra", "Mean residual", "Spectra", "Before and after"),
        *("Survey statistics", "Gradients", "Throughput", "Provenance"),
    ]
    assert "script" not in read.tags
    assert "link" not in read.tags
    assert all(source.startswith("data:image/png;base64,") for source in read.pictures)
    digest = current(config.run.workspace, "report")["digest"]
    assert folders.report_url(config).endswith(digest)
    assert "This cannot be shown" not in read.text


def test_every_picture_of_the_page_can_be_seen(built):
    read = Reader(built[1])
    assert len(read.pictures) >= 10
    for source in read.pictures:
        pixels = imread(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert pixels.std() > 0


def test_no_text_of_the_run_becomes_markup(built):
    html = built[1]
    assert "<b>run" not in html
    assert "tiny &lt;b&gt;run&lt;/b&gt;" in html


@pytest.mark.parametrize(
    "made",
    [
        lambda text: page.page(text, text, [(text, page.paragraph(text))]),
        lambda text: page.table([text], [[text]]),
        lambda text: page.tiles([(text, text)]),
        lambda text: page.bars([text], [(text, 2.0)]),
        lambda text: page.folded(text, text),
        page.heading,
        lambda text: page.picture(learning_curve([]), text),
    ],
)
def test_a_script_stays_text_wherever_it_stands(made):
    html = made('"><script>alert(1)</script>')
    assert "script" not in Reader(html).tags
    assert "<script" not in html


@pytest.mark.parametrize("name", ["Kiel diagram", "Mean residual"])
def test_a_section_that_is_drawn_again_is_the_same(built, name):
    config, html = built
    assert report_stage.OF_CATALOG[name](read_evidence(config)) in html


@pytest.mark.slow  # some sections are drawn again every day
def test_reporting_again_gives_the_same_page(built):
    config, html = built
    assert list(report(config)) == []
    url = paths.join(folders.report_url(config), "index.html")
    assert paths.read_bytes(url).decode() == html


def test_a_section_that_cannot_be_made_says_so_and_the_others_stand(config, monkeypatch):
    def broken(_):
        raise StoreError("spectra.zarr: no <space> left")

    # Not key by key: what is put back into a dict stands at its end, for all tests that follow.
    monkeypatch.setattr(report_stage, "OF_CATALOG", {"Summary": summary, "A": broken})
    monkeypatch.setattr(report_stage, "OF_SPECTRA", {})
    monkeypatch.setattr(report_stage, "OF_RUN", {"Provenance": report_stage.provenance})
    read = Reader(paths.read_bytes(write_report(config)).decode())
    assert "This cannot be shown: spectra.zarr: no <space> left" in read.text
    assert "20 spectra planned" in read.text


def test_the_summary_counts_each_kind(evidence):
    text = Reader(summary(evidence)).text
    for words in ("20 spectra planned", "19 readable", "19 with labels", "18 without any flag"):
        assert words in text
    assert "BAD_SPECTRUM 1 5 the spectrum itself is unusable (see spectrum_status)" in text
    assert "CORRUPT 1 5 gzip stream or checksum broken" in text
    # one of 19 stars has Teff at its bound: 18 are to be trusted
    assert "Teff 18 94.7 1 0 log g 19 100 0 0" in text


def test_the_summary_says_how_many_spectra_are_missing(config, columns):
    short = {name: values[:12] for name, values in columns.items()}
    text = Reader(summary(gathered(config, short))).text
    assert "8 planned spectra are in blocks that failed" in text


def test_a_reference_is_compared_as_prediction_minus_reference(evidence, tiny_run):
    text = Reader(references(evidence)).text
    rows = [0, 6, 9, 12, 15, 18]
    inside = evidence.stars.columns["teff"][rows] - (tiny_run.labels[rows, 0] - 50)
    assert "6 stars with labels are in this catalog. 6 of them are inside the range" in text
    # inside holds the star at its bound, trusted does not
    found = [figures.spread(inside), figures.spread(np.delete(inside, 1))]
    for one in found:
        assert f"{one.n} {one.bias:.3g} {one.scatter:.3g}" in text


def test_stars_outside_the_range_by_the_reference_are_apart(config, columns):
    teff = columns["apogee_teff"].copy()
    teff[[0, 9]] = 9000.0  # the model ends at 6,500 K
    text = Reader(references(gathered(config, columns | {"apogee_teff": teff}))).text
    assert "6 stars with labels are in this catalog. 4 of them are inside the range" in text


def test_stars_that_a_model_never_learned_from_are_told_apart(evidence, columns):
    train = TrainTable(labels=("teff",), catalog="apogee")
    split = np.where(np.arange(20) > 8, 2, 0)  # of the matched ones 9, 12, 15 and 18 are test stars
    config = evidence.config.model_copy(update={"train": train})
    learned = gathered(config, columns | {"apogee_split": split})
    assert "Teff [K] of these, never learned from 4" in Reader(references(learned)).text
    assert "never learned from" not in references(evidence)


def test_a_metallicity_is_compared_with_an_iron_abundance(config, columns):
    columns = {
        name.replace("fe_h", "m_h") if not name.startswith("apogee") else name: values
        for name, values in columns.items()
    }
    renamed = gathered(config, columns, labels=("teff", "logg", "m_h"))
    object.__setattr__(renamed, "models", [])  # a cached property: the tiny model knows no m_h
    assert "[M/H]" in Reader(references(renamed)).text


def test_a_reference_nobody_is_in_says_so(config, columns):
    theirs = [name for name in columns if name.startswith("apogee_")]
    nobody = columns | {n: np.full(20, np.nan) for n in theirs}
    assert "No star with labels is in this catalog" in references(gathered(config, nobody))


def test_truth_gives_pulls_of_the_known_errors(evidence, tiny_run):
    text = Reader(truth(evidence)).text
    chosen = np.delete(np.arange(20), [3, 6])
    pull = (evidence.stars.columns["teff"] - tiny_run.labels[:, 0]) / 20.0
    rows = [i for i in chosen if evidence.stars.columns["snr"][i] >= 100]
    assert f"over 100 {len(rows)}" in text
    assert f"{figures.spread(pull[rows]).scatter:.3g}" in text


def test_truth_is_joined_by_obsid_in_any_order(evidence, tiny_run, tmp_path):
    order = np.random.default_rng(1).permutation(30)  # ten of them are not in the run
    teff = np.concatenate([tiny_run.labels[:, 0], np.full(10, 5000.0)])[order]
    url = str(tmp_path / "other.parquet")
    pq.write_table(pa.table({"obsid": 2**55 + order, "teff": teff}), url)
    other = replace(evidence, config=with_table(evidence.config, "report", truth=url))
    first, second = (Reader(truth(one)).text for one in (evidence, other))
    line = first[first.index("Teff [K] over 100") :].partition(" log g")[0]
    assert line in second


def test_a_truth_table_without_obsid_is_an_error_of_the_run_file(evidence):
    bare = with_table(evidence.config, "report", truth=evidence.config.crossmatch["apogee"].catalog)
    with pytest.raises(ConfigError, match="has no column obsid"):
        truth(replace(evidence, config=bare))


def test_examples_are_of_each_kind(evidence):
    rows = {kind: among.columns["row"][i] for kind, (among, i) in pick_examples(evidence).items()}
    stars = evidence.stars
    logg = stars.columns["logg"]
    assert logg[rows["A giant"]] < 3.5 < logg[rows["A dwarf"]]
    assert rows["A label at the edge of the model"] == 6
    assert rows["A broken file"] == 3
    assert rows["The worst χ²"] == np.nanargmax(stars.columns["chi2"] / stars.columns["n_used"])
    snr = np.where(stars.fitted, stars.columns["snr"], np.inf)
    assert rows["The lowest S/N with labels"] == np.argmin(snr)


def test_the_best_fit_flux_of_the_truth_is_the_data_but_for_noise(evidence, tiny_run):
    spectra = read_spectra(evidence.store, 0, 20)
    best = {n: tiny_run.labels[:, k] for k, n in enumerate(("teff", "logg", "fe_h"))}
    best |= {name: evidence.stars.columns[name] for name in ("model", "rv_residual")}
    flux = best_fit_flux(evidence.models, spectra, best)
    assert np.isnan(flux[3]).all()
    pull = (flux - spectra["flux"].to_numpy()) * np.sqrt(spectra["ivar"].to_numpy())
    used = np.delete(pull, 3, axis=0)[:, spectra["ivar"].to_numpy()[0] > 0]
    # 19 x 190 draws of a unit normal: their standard deviation is known to 1.2 %
    assert used.std() == pytest.approx(1, abs=0.05)


def test_the_mean_residual_is_drawn_of_the_good_stars(evidence):
    assert "Weighted mean of 19 stars" in mean_residual(evidence)


def test_a_run_without_one_fitted_star_has_its_page(config, columns):
    nothing = {
        name: np.full(20, np.nan) if values.dtype.kind == "f" and name != "snr" else values
        for name, values in columns.items()
    }
    nothing["fit_status"] = np.full(20, FitStatus.BAD_SPECTRUM, np.uint32)
    empty = gathered(config, nothing)
    assert "0 with labels" in Reader(summary(empty)).text
    assert "No star was fitted" in mean_residual(empty)
    assert [kind for kind, one in pick_examples(empty).items() if one] == ["A broken file"]
    assert "No star with labels" in references(empty)
    Reader(truth(empty))


def test_a_run_without_truth_and_references_says_so(config):
    plain = with_table(config, "report", truth="").model_copy(update={"crossmatch": None})
    evidence = replace(read_evidence(config), config=plain)
    assert "no reference catalog" in references(evidence)
    assert "no table of true labels" in truth(evidence)


def test_a_page_before_anything_is_published_is_an_error(tiny_run):
    with pytest.raises(StoreError, match="no block is committed"):
        write_report(tiny_run.config)


def test_throughput_is_rows_by_seconds(evidence):
    assert "no record of time" in throughput(evidence.config)
    record = {"stage": "fit", "seconds": 4.0, "rows": 20, "workers": 2}
    write_json(paths.join(folders.best_url(evidence.config), "timing.json"), record)
    assert "fit 20 2 4 – 111 5" in Reader(throughput(evidence.config)).text


def test_the_folders_of_stages_that_never_ran_are_left_out(config):
    known = stage_folders(config)
    assert known["best"] == folders.best_url(config)
    assert "model" not in known  # the run has no [train] table


def test_a_star_is_drawn_and_told(config, tmp_path, tiny_run):
    text = draw_star(config, 2**55 + 9, tmp_path / "star.png")
    assert "row 9, block 1, spectrum: OK" in text
    assert "file: spec-9.fits" in text
    assert "fit: OK" in text
    assert "teff:" in text
    assert imread(tmp_path / "star.png").std() > 0


def test_a_broken_star_is_drawn_without_fit(config, tmp_path):
    text = draw_star(config, 2**55 + 3, tmp_path / "star.png")
    assert "spectrum: CORRUPT" in text
    assert "fit: BAD_SPECTRUM" in text
    assert "teff:" not in text
    assert (tmp_path / "star.png").exists()


def test_a_star_that_is_not_fitted_yet_is_drawn(tiny_run, tmp_path):
    paths.delete_tree(folders.best_url(tiny_run.config))
    text = draw_star(tiny_run.config, 2**55, tmp_path / "star.png")
    assert "fit:" not in text


def test_an_unknown_star_is_an_error(config, tmp_path):
    with pytest.raises(StoreError, match="none of its 20 spectra has obsid 7"):
        draw_star(config, 7, tmp_path / "star.png")


def test_a_title_says_labels_with_errors():
    star = {"obsid": 1, "snr": 50.0, "teff": 5000.4, "teff_err": 20.0, "fit_status": 4}
    star |= {"chi2": 380.0, "n_used": 190}
    assert star_title(star, ["teff"]) == (
        "obsid 1 · S/N 50 · AT_BOUND\nTeff 5000 ± 20 · χ²/pixel 2.00"
    )


def test_status_zero_is_ok():
    assert status_text(0, FitStatus) == "OK"


def test_inspect_says_what_each_thing_holds(config, tiny_run):
    workspace = config.run.workspace
    write_json(paths.join(workspace, "run.json"), {"config": {"run": {"name": "tiny"}}})
    store = paths.join(folders.spectra_url(config), "spectra.zarr")
    assert "20 of 200 pixels" in inspect_url(store)
    assert "CORRUPT 1" in inspect_url(store)
    catalog = inspect_url(folders.catalog_url(config))
    assert "20 rows" in catalog
    assert "effective temperature" in catalog
    assert "teff" in inspect_url(str(tiny_run.root / "model"))
    assert "workspace of the run 'tiny'" in inspect_url(workspace)


def test_inspecting_something_else_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="no spectra store, model, catalog"):
        inspect_url(str(tmp_path))


def test_models_are_loaded_as_the_fit_used_them(evidence):
    fitted = load_fitted(evidence.config, evidence.store)
    assert [one.smoother for one in fitted] == [None]  # normalized as the data are
    assert fitted[0].model.spec.labels == ("teff", "logg", "fe_h")


def test_the_manifest_and_the_page_agree(config):
    manifest = json.loads(
        paths.read_bytes(paths.join(folders.catalog_url(config), "manifest.json"))
    )
    assert read_evidence(config).counts["rows", "all"] == manifest["rows"]
