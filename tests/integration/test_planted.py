"""A script planted in FITS headers, names of stars, columns and run files stays text on every page.

What was planted must also arrive: a page that drops it would pass for the wrong reason.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from pages import Reader

from scalespec.config import load_config
from scalespec.run import run
from scalespec.stages import folders
from scalespec.stages.ingest import read_index
from scalespec.store.spectra import read_spectra

SCRIPT = "<script>alert(1)</script>"
BREAKOUT = f"\"'></td></pre>{SCRIPT}<img src=x onerror=alert(2)>"
CARDS = ("CLASS", "SUBCLASS", "DESIG", "OBJECT", "TELESCOP", "BUNIT", "FLUXUNIT")
RUN_FILE = """
[run]
name = {name}
workspace = "work"
spectra_per_block = 4
[ingest]
files = "files"
[preprocess]
statistics = true
[crossmatch.labels]
catalog = "labels.parquet"
star_id = {column}
columns = {{ teff = {column} }}
[crossmatch.more]
catalog = "labels.parquet"
columns = {{ teff = "TEFF" }}
[crossmatch.merged]
sources = ["labels", "more"]
[report]
"""
HANDLERS = ("onerror", "onload", "onclick")


class Watched(Reader):
    """Also notes attributes that run."""

    def handle_starttag(self, tag, attrs):
        super().handle_starttag(tag, attrs)
        assert not [name for name, _ in attrs if name in HANDLERS]
        assert not [value for name, value in attrs if name == "href" and "script:" in value]


@pytest.fixture(scope="module")
def planted(write_survey, tmp_path_factory):
    """A run over files and catalogs that want to be believed; its workspace."""
    root = tmp_path_factory.mktemp("planted")
    for number, path in enumerate(write_survey(root / "files", 12)):
        with fits.open(path, mode="update") as hdus:
            for card in CARDS:
                hdus[0].header[card] = SCRIPT
        if number == 5:
            path.write_bytes(path.read_bytes()[:5000])  # its reason is shown, too
            path.rename(path.with_name(f"spec-{SCRIPT.replace('/', '_')}.fits"))
    rows = np.arange(12)
    labels = pd.DataFrame({"ra": 10.0 + rows, "dec": -1.0 * rows, "TEFF": 5000.0 + rows})
    labels[BREAKOUT] = labels["TEFF"]
    labels.to_parquet(root / "labels.parquet")
    texts = {name: json.dumps(text) for name, text in (("name", BREAKOUT), ("column", BREAKOUT))}
    (root / "run.toml").write_text(RUN_FILE.format(**texts))
    config = load_config(root / "run.toml")
    run(config, engine="local")
    return config


def pages(config):
    found = sorted(Path(config.run.workspace).rglob("*.html"))
    assert found
    return {str(path): path.read_text() for path in found}


def test_what_was_planted_has_arrived_in_the_stores(planted):
    index = pd.concat(
        read_index(folders.raw_url(planted), b) for b in folders.planned_blocks(planted)
    )
    texts = index.astype(str).to_numpy().ravel()
    assert (texts == SCRIPT).sum() >= 12  # classes, designations
    store = f"{folders.spectra_url(planted)}/spectra.zarr"
    assert read_spectra(store, 0, 12).sizes["spectrum"] == 12


def test_no_page_of_the_run_holds_a_script(planted):
    for name, html in pages(planted).items():
        read = Watched(html)
        assert "script" not in read.tags, name
        assert "<script" not in html, name
        assert "<img src=x" not in html, name


def test_the_pages_show_it_as_text(planted):
    html = next(iter(pages(planted).values()))
    said = [word for word in Reader(html).words if word.strip()]
    assert said[0] == BREAKOUT  # the title: a browser shows it as it stands
    assert BREAKOUT in Reader(html).text
    assert "This cannot be shown" not in html


def test_the_published_catalog_of_stars_with_such_names_is_text_too(line, tmp_path, undrawn):
    workspace = line.workspace(tmp_path, before="catalog")
    product = (
        f'[publish]\n[publish.products.hot]\nwhere = "teff > 5000"\ndescription = "{SCRIPT}"\n'
    )
    workspace.change("[publish]\n", f"{product}[report]\n")
    workspace.change('name = "line"', f"name = {json.dumps(BREAKOUT)}")
    code, said = workspace.typed("run", "--engine", "local")
    assert code == 0, said
    made = pages(workspace.config)
    assert {Path(name).name for name in made} == {"index.html", "data_model.html"}
    for name, html in made.items():
        assert "script" not in Watched(html).tags, name
        assert "<script" not in html, name
        assert BREAKOUT in Reader(html).text, name
