"""A run whose model is a regressor: its labels are published and shown without any fit."""

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from toy_lines import LABELS, toy, toy_spec

from scalespec.config import parse_config
from scalespec.errors import ConfigError, StageError
from scalespec.models.networks import Regressor
from scalespec.models.regressor import RegressorSpec
from scalespec.optimize.result import FitStatus
from scalespec.stages import folders
from scalespec.stages.infer import infer
from scalespec.stages.publish import publish
from scalespec.stages.report import write_report
from scalespec.store import paths
from scalespec.store.catalog import read_part, verify_catalog
from scalespec.store.model import save_model


@pytest.fixture
def config(tiny, tiny_run, tmp_path):
    """The tiny run's spectra, asked of a regressor on their grid; there is no [fit]."""
    sample, _ = toy(60, n_pixel=200, seed=1, snr=(20, 100))
    spec = toy_spec(sample).to_dict()
    spec |= {"wavelength": tiny.WAVELENGTH.tolist(), "resolving_power": 1800.0}
    spec |= {"normalization": {"method": "gaussian", "width_angstrom": 50.0}}
    network = Regressor(
        RegressorSpec.from_dict(spec), network="mlp", members=2, options={"hidden": [8]}
    )
    save_model(str(tmp_path / "regressor"), network)
    asked = tiny_run.config.infer.model_copy(update={"models": (str(tmp_path / "regressor"),)})
    # an untrained network is of no use for labels, but what it says must arrive
    asked = asked.model_copy(update={"spectra_per_batch": 8, "out_of_domain": 1e9})
    return tiny_run.config.model_copy(update={"infer": asked, "fit": None})


@pytest.fixture
def published(tiny, config):
    tiny.run_stage(infer(config))
    tiny.run_stage(publish(config))
    return config, folders.catalog_url(config)


def test_the_catalog_holds_what_was_inferred_as_labels(published):
    config, url = published
    rows = pd.read_parquet(f"{url}/catalog.parquet")
    first = folders.first_url(config)
    parts = pd.concat(
        read_part(first, block).to_pandas() for block in folders.planned_blocks(config)
    )
    assert len(rows) == 20
    for label in LABELS:
        for end in ("", "_err", "_aleatoric", "_epistemic"):
            np.testing.assert_array_equal(rows[label + end], parts[f"first_{label}{end}"])
    np.testing.assert_array_equal(rows["fit_status"], parts["first_status"])
    np.testing.assert_array_equal(rows["out_of_domain"], parts["out_of_domain"])
    assert not any(name.startswith(("first_", "rv_res", "chi2", "label_c")) for name in rows)
    assert rows["fit_status"][3] == FitStatus.BAD_SPECTRUM
    assert np.isnan(rows["teff"][3])
    assert verify_catalog(url) == []


def test_its_columns_have_units_and_a_recommended_cut(published):
    _, url = published
    with fits.open(f"{url}/catalog.fits") as hdus:
        hdus.verify("exception")
        cards = hdus[1].header
        units = {cards[f"TTYPE{i}"]: cards.get(f"TUNIT{i}") for i in range(1, cards["TFIELDS"] + 1)}
    assert units["teff_epistemic"] == units["teff_aleatoric"] == units["teff"] == "K"
    text = paths.read_bytes(f"{url}/data_model.html").decode()
    assert "1 sigma of teff by noise" in text
    assert "not isnan(teff) and (fit_status" in text


def test_its_page_says_how_right_the_labels_are_and_shows_no_fit(published, undrawn):
    config, _ = published
    html = paths.read_bytes(write_report(config)).decode()
    assert "This cannot be shown" not in html
    for name in ("Summary", "Kiel diagram", "Against other catalogs", "Against the truth"):
        assert f"<h2>{name}</h2>" in html
    for name in ("Example spectra", "Mean residual", "Gradients"):
        assert f"<h2>{name}</h2>" not in html
    assert "19</b><span>with labels" in html


def test_labels_may_be_chosen_by_their_group(tiny, config):
    table = config.publish.model_copy(update={"columns": ("obsid", "labels", "status")})
    config = config.model_copy(update={"publish": table})
    tiny.run_stage(infer(config))
    tiny.run_stage(publish(config))
    rows = pd.read_parquet(f"{folders.catalog_url(config)}/catalog.parquet")
    labels = [f"{label}{end}" for label in LABELS for end in ("", "_err")]
    assert list(rows) == ["obsid", *labels, "spectrum_status", "fit_status"]


def test_before_it_was_asked_there_is_nothing_to_publish(config):
    with pytest.raises(StageError, match="have no labels yet: run infer first"):
        next(publish(config))


def test_the_first_estimate_of_an_emulator_is_no_catalog(tiny_run):
    with pytest.raises(ConfigError, match="wants the labels of a regressor"):
        next(publish(tiny_run.config.model_copy(update={"fit": None})))


def test_best_fits_want_a_fit():
    text = '[run]\nname = "a"\nworkspace = "w"\n[ingest]\nfiles = "x"\n[preprocess]\n[infer]\n'
    assert parse_config(f'{text}models = ["m"]\n[publish]\n').fit is None
    with pytest.raises(ConfigError, match=r"best_fit wants a \[fit\] table"):
        parse_config(f'{text}models = ["m"]\n[publish]\nbest_fit = true\n')
