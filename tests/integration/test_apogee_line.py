"""The APOGEE lab line on some 400 generated giants, over a quarter of the wavelengths.

The run file is the one users have; the whole of it is benchmarks/compare_apogee_lab.py's.
"""

import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from scalespec.config import PreprocessTable, RunConfig
from scalespec.engines.local import LocalEngine
from scalespec.kernels.families import Recipe
from scalespec.models.synthesis import LineSynthesis
from scalespec.run import run
from scalespec.stages import folders
from scalespec.stages.fit import symmetric
from scalespec.stages.mock import make_mock
from scalespec.stages.mock_files import survey_grid
from scalespec.stages.mock_spectra import load_lines
from scalespec.stages.model_spectra import model_spectra
from scalespec.stages.posterior_page import posteriors
from scalespec.stages.preprocess import preprocess_block
from scalespec.stages.training_pages import derivatives
from scalespec.store import paths
from scalespec.store.catalog import read_parts
from scalespec.store.model import load_model
from scalespec.surveys import read_survey

RUN_FILE = Path(__file__).parents[2] / "deploy" / "runs" / "apogee-cannon.toml"
LAB = {"teff": 78.9, "logg": 0.15, "fe_h": 0.056, "mg_fe": 0.062, "si_fe": 0.059}
"""Rms of its test stars, fit less table: seed 003, table 2."""
LOW, HIGH = 15_600.0, 16_000.0
LINES = {
    "mg_fe": (15883.90,),
    "si_fe": (15964.41,),
    "fe_h": (15636.22, 15666.16, 15697.03, 15793.31),
}
"""Lines in vacuum that are neither blended nor so strong that only their wings answer, and that
some 300 stars show above noise: NIST's air wavelengths, doi:10.18434/T4W30F, by Edlen's formula."""
N = 420


def giants(folder: Path) -> None:
    """Write a survey of giants whose spectra hold the wavelengths of the test alone."""
    grid, power = survey_grid("apogee")
    here = (grid.wavelength > LOW - 40) & (grid.wavelength < HIGH + 40)
    labels = ("teff", "logg", "fe_h", "c_fe", "n_fe", "o_fe", "mg_fe", "si_fe", "ca_fe", "ti_fe")
    model = LineSynthesis(
        load_lines(), grid.wavelength[here], labels=labels, resolving_power=power
    ).eval()
    make_mock(
        str(folder),
        n_spectra=N,
        engine=LocalEngine(),
        seed=3,
        truth_model=model,
        survey="apogee",
        spectra_per_block=N,
        recipe=Recipe(young=0.0, blue=0.0),
        limits=(("teff", 3900.0, 5700.0), ("logg", 0.0, 4.0), ("fe_h", -1.0, 0.5)),
    )


def config_of(folder: Path, mystery: str) -> RunConfig:
    """Return the users' run file for this folder and these wavelengths."""
    text = RUN_FILE.read_text().replace("../../demo/apogee", str(folder))
    tables = tomllib.loads(text)
    tables["run"]["spectra_per_block"] = 100
    windows = tables["preprocess"]["continuum"]["pixels"]
    tables["preprocess"] |= {"wavelength_min_angstrom": LOW, "wavelength_max_angstrom": HIGH}
    tables["preprocess"]["continuum"] |= {
        "pixels": [w for w in windows if w[0] > LOW and w[1] < HIGH],
        "chips": [[LOW, 15_833.0], [15_833.0, HIGH]],
        "degree": 2,  # of chips so short
    }
    tables["crossmatch"]["allstar"]["training"] = {"fractions": [0.75, 0.05, 0.2]}
    tables["posterior"] = {"stars": [mystery], "draws": 100, "chains": 20}  # side by side
    tables["report"] = {"truth": tables["report"]["truth"]}
    return RunConfig.model_validate(tables)


VERBS = ("ingest", "preprocess", "crossmatch", "train", "infer", "fit", "posterior")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> RunConfig:
    """The run, as far as the posterior."""
    folder = tmp_path_factory.mktemp("apogee")
    giants(folder)
    table = pq.read_table(folder / "allStar.parquet").to_pandas()
    unknown = table[(table.TEFF < -9000) & (table.SNR > 150)]
    config = config_of(folder, unknown.APOGEE_ID.iloc[0])
    summary = run(config, verbs=VERBS, engine="local")
    assert summary.exit_code == 0, summary.failed
    return config


def fits(config: RunConfig) -> pd.DataFrame:
    """Fits beside the table's labels, one row per spectrum."""
    best = read_parts(folders.best_url(config)).to_pandas().set_index("row")
    url = paths.join(folders.matches_url(config, "allstar"), "matches.parquet")
    matches = pq.read_table(url).to_pandas().set_index("row")
    return best.join(matches.add_prefix("allstar_"))


@pytest.mark.parametrize("label", LAB)
def test_labels_are_nearer_the_table_than_the_labs(made, label):
    stars = fits(made)
    test = stars[(stars.allstar_split == 2) & np.isfinite(stars[label])]
    assert len(test) > 40  # of chance, 11 % of an rms
    away = test[label] - test[f"allstar_{label}"]
    assert np.sqrt((away**2).mean()) < LAB[label]


@pytest.mark.parametrize(("label", "line"), [(k, x) for k, v in LINES.items() for x in v])
def test_a_labels_derivative_peaks_where_its_elements_line_is_in_vacuum(made, label, line):
    """In air the lines are 4.3 Å, 20 pixels, to the blue."""
    model = load_model(folders.model_url(made))
    spec = model.spec
    star = np.array([{"teff": 4700.0, "logg": 2.5}.get(name, 0.05) for name in spec.labels])
    slope = derivatives(model, {"star": star})["star"][spec.labels.index(label)]
    near = np.flatnonzero(np.abs(spec.wavelength - line) < 1.0)  # what a line of R = 22,500 covers
    peak = near[np.argmin(slope[near])]
    pixel = spec.wavelength[peak] - spec.wavelength[peak - 1]
    assert slope[peak] < 0
    assert abs(spec.wavelength[peak] - line) < pixel


def test_the_posterior_of_a_mystery_star_has_the_fits_covariance(made):
    drawn = read_parts(folders.posterior_url(made)).to_pylist()
    assert [one["designation"] for one in drawn] == list(made.posterior.stars)
    star = drawn[0]
    best = fits(made).loc[star["row"]]
    labels = made.train.labels
    assert np.isnan(best["allstar_teff"])  # the table knows nothing of it
    draws = np.array([star[name] for name in labels], np.float64)
    assert draws.shape == (len(labels), made.posterior.draws * made.posterior.chains)
    cov = symmetric(np.array(best["label_cov"], np.float64), len(labels))
    sigma = np.sqrt(np.diag(cov))
    assert np.abs(draws.std(axis=1) / sigma - 1).max() < 0.15  # chance 0.03, and curvature
    off = (draws.mean(axis=1) - best[list(labels)].to_numpy(float)) / sigma
    assert np.abs(off).max() < 0.3
    twist = np.corrcoef(draws) - cov / np.outer(sigma, sigma)
    assert np.abs(twist).max() < 0.15  # chance 0.03, and curvature
    assert star["r_hat"] < 1.05
    assert best["rv"] - 5 < np.mean(star["rv"]) < best["rv"] + 5


def test_pages_show_the_model_and_the_posterior(made, undrawn):
    shown = model_spectra(made)
    for said in ("Scatter", "Lines at large", "Along [Fe/H]", "Up the giant branch"):
        assert f"<h3>{said}</h3>" in shown
    assert shown.count("<img") == 4
    page = posteriors(made)
    assert f"<h3>{made.posterior.stars[0]}</h3>" in page
    assert page.count("<img") == 1


@pytest.mark.parametrize("line", [15745.02, 15753.29, 15770.15, 15892.77, 15964.42])
def test_a_real_stars_lines_are_where_vacuum_has_them(shared, line):
    """Mg I and Si I of a real apStar, as the run file prepares it: no list of ours is asked."""
    raw = read_survey(shared / "data/apogee/apStar-dr17-2M19485057+5005279.fits.gz", "apogee")
    tables = tomllib.loads(RUN_FILE.read_text())
    spectra = preprocess_block(raw, PreprocessTable.model_validate(tables["preprocess"]))
    wavelength, flux = spectra["wavelength"].to_numpy(), spectra["flux"].to_numpy()[0]
    near = np.flatnonzero((np.abs(wavelength - line) < 1.0) & (spectra["ivar"].to_numpy()[0] > 0))
    deepest = near[np.argmin(flux[near])]
    assert flux[deepest] < 0.9
    assert abs(wavelength[deepest] - line) < 1.1 * (wavelength[1] - wavelength[0])
    assert 0.97 < np.quantile(flux[spectra["ivar"].to_numpy()[0] > 0], 0.8) < 1.03
