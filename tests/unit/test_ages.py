"""Ages through the stage: mock subgiants on Dartmouth isochrones at the errors of the field."""

import io

import numpy as np
import pyarrow as pa
import pytest

from scalespec.config import AgesTable, parse_config
from scalespec.config.calibrate import CalibrateTable
from scalespec.errors import ConfigError
from scalespec.kernels.isochrone import IsochroneCube, is_subgiant, model_stars, refine
from scalespec.kernels.subgiant import total_metals
from scalespec.optimize.result import FitStatus
from scalespec.stages import folders
from scalespec.stages.ages import AgeStatus, absolute_k, ages, date_stars, load_models, make_models
from scalespec.store import paths
from scalespec.store.catalog import read_parts, write_part
from scalespec.store.isochrones import read_isochrones
from tests.kits.fitted_run import write_fitted, write_matches
from tests.kits.own_blocks import count_listings, run_blocks_of_their_own

ERRORS = {"m_k": 0.05, "teff": 25.0, "fe_h": 0.04}
"""Of subgiants in Xiang & Rix 2022, whose ages they give to 7.5 %."""
N = 700
BY_K = AgesTable(isochrones="x", magnitude="gaia.k", parallax="gaia.parallax")


def dartmouth(shared):
    return str(shared / "data" / "isochrones" / "dartmouth_dsep.h5")


@pytest.fixture(scope="module")
def subgiants(request):
    """Made-up subgiants between the points of the grid: age, and what is measured of them."""
    shared = request.getfixturevalue("shared")
    return draw_subgiants(read_isochrones(dartmouth(shared)), N)


def draw_subgiants(cube, n, seed=2):
    """Draw from the prior on a grid cut finer than, and otherwise than, the stage's own."""
    fine = refine(cube, fe_h=4, age=3, eep=3)
    made = model_stars(fine, ("m_k", "teff", "fe_h"))
    age = made.age[made.age_index]
    m_k, teff, fe_h = made.values.T
    good = is_subgiant(teff, m_k, fe_h) & (age > 1.5) & (age < 13.8) & (np.abs(fe_h + 0.7) < 1.0)
    rng = np.random.default_rng(seed)
    picked = rng.choice(len(age), n, p=made.weight * good / (made.weight * good).sum())
    seen = {"row": np.arange(n), "obsid": np.arange(n)}
    for name, values in (("m_k", m_k), ("teff", teff), ("fe_h", fe_h)):
        seen[name] = values[picked] + ERRORS[name] * rng.normal(size=n)
        seen[f"{name}_err"] = np.full(n, ERRORS[name])
    return age[picked], seen


@pytest.fixture(scope="module")
def found(request, subgiants):
    shared = request.getfixturevalue("shared")
    models = load_models(BY_K.model_copy(update={"isochrones": dartmouth(shared)}))
    return subgiants[0], date_stars(models, subgiants[1], BY_K).to_pandas(), models


def test_ages_of_mock_subgiants_are_good_to_ten_percent(found):
    true, made, _ = found
    dated = made["age"].notna()
    assert dated.mean() > 0.9  # noise moves some out of the region
    error = np.abs(made["age"][dated] / true[dated] - 1)
    assert np.median(error) < 0.10


def test_their_errors_are_calibrated(found):
    true, made, _ = found
    good = (made["age_status"] == 0).to_numpy()
    inside = (made["age_p16"] < true) & (true < made["age_p84"])
    assert 0.63 < inside[good].mean() < 0.75  # 700 stars know 68 % to 1.8
    pull = ((made["age"] - true) / made["age_err"])[good]
    assert 0.88 < 1.4826 * np.median(np.abs(pull)) < 1.12


def test_the_alpha_elements_move_a_star_to_its_total_metals(found, subgiants):
    _, plain, models = found
    table = BY_K.model_copy(update={"alpha": "alpha_fe"})
    alpha = np.full(N, 0.25)
    seen = dict(subgiants[1])
    enhanced = seen | {"alpha": alpha, "alpha_err": np.full(N, 1e-3)}
    # as metal-poor in iron as makes the same total metals
    enhanced["fe_h"] = seen["fe_h"] - (total_metals(np.zeros(1), alpha[:1])[0])
    made = date_stars(models, enhanced, table).to_pandas()
    both = made["age"].notna() & plain["age"].notna()
    np.testing.assert_allclose(made["age"][both], plain["age"][both], rtol=1e-4)


def small_cube():
    """Isochrones by rule: brighter means younger."""
    fe_h, age = np.linspace(-1, 0.4, 8), np.geomspace(1.5, 13.5, 15)
    u = np.linspace(0, 1, 25)[None, None, :]
    mass = (10 * (1 + 0.3 * fe_h[:, None, None]) / age[None, :, None]) ** (1 / 2.7) * (1 + 0.02 * u)
    teff = 6000 + 1100 * (mass - 1) - 350 * fe_h[:, None, None] - 900 * u
    m_k = 2.6 - 3.4 * np.log(mass) - 1.1 * u
    logg = 4.1 - 0.5 * u + 0.3 * np.log(mass)
    return IsochroneCube(fe_h, age, mass, {"teff": teff, "m_k": m_k, "logg": logg})


def text_table(cube):
    """Write a cube as the PARSEC web page would."""
    out = io.StringIO()
    out.write("# made up\n# Zini MH logAge Mini logTe logg label Ksmag\n")
    for i, metal in enumerate(cube.fe_h):
        for j, age in enumerate(cube.age):
            for k in range(cube.mass.shape[2]):
                line = [0.01, metal, np.log10(age) + 9, cube.mass[i, j, k]]
                columns = cube.columns
                line += [np.log10(columns["teff"][i, j, k]), columns["logg"][i, j, k], 2]
                out.write(" ".join(f"{x:.8f}" for x in [*line, columns["m_k"][i, j, k]]) + "\n")
    return out.getvalue()


TABLES = """
[crossmatch.gaia]
catalog = "{root}/gaia.parquet"
columns = {{ k = "K", parallax = "PLX", parallax_err = "PLX_ERR" }}
[ages]
isochrones = "{root}/grid.dat"
magnitude = "gaia.k"
parallax = "gaia.parallax"
refine = [4, 2, 1]
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "grid.dat").write_text(text_table(small_cube()))
    (tmp_path / "gaia.parquet").write_bytes(b"there")
    n = 40
    rng = np.random.default_rng(4)
    fe_h, age = np.full(n, -0.2), rng.uniform(3, 11, n)
    mass = (10 * (1 + 0.3 * fe_h) / age) ** (1 / 2.7) * 1.01
    stars = {
        "teff": 6000 + 1100 * (mass - 1) - 350 * fe_h - 450, "logg": np.full(n, 3.9),
        "fe_h": fe_h, "fit_status": np.zeros(n, np.uint32),
    }  # fmt: skip
    m_k = 2.6 - 3.4 * np.log(mass) - 0.55
    stars |= {f"{name}_err": np.full(n, err) for name, err in
              (("teff", 25.0), ("logg", 0.1), ("fe_h", 0.04))}  # fmt: skip
    stars["teff"][0], stars["fe_h"][1], stars["fit_status"][2] = 4400, np.nan, FitStatus.POOR_FIT
    config = write_fitted(tmp_path, stars, tables=TABLES.format(root=tmp_path), rows=16)
    rows = np.setdiff1d(np.arange(n), [3])
    parallax = np.where(rows == 4, 0.05, 2.0)
    gaia = {"row": rows, "k": m_k[rows] + 5 * np.log10(1000 / 2.0) - 5, "parallax": parallax}
    gaia["parallax_err"] = np.full(len(rows), 0.03)
    write_matches(config, "gaia", gaia)
    return config, age


def test_every_row_has_an_age_or_says_why_not(run, tiny):
    config, age = run
    tiny.run_stage(ages(config))
    made = read_parts(folders.ages_url(config)).to_pandas()
    assert made["row"].tolist() == list(range(40))
    unknown = int(AgeStatus.UNKNOWN_LABEL)
    assert made["age_status"][:5].tolist() == [int(AgeStatus.NOT_SUBGIANT)] + [unknown] * 4
    assert made["age"][:5].isna().all()
    assert (made["age_status"][5:] == 0).all()
    error = np.abs(made["age"][5:] / age[5:] - 1)
    assert np.median(error) < 0.05  # without noise: the grid's own steps, and the prior
    assert (np.abs(made["age"][5:] - age[5:]) < 2 * made["age_err"][5:]).all()


def test_blocks_read_their_own_only(run, monkeypatch):
    assert run_blocks_of_their_own(ages(run[0]), monkeypatch) == ["ages"]


def test_calibrated_labels_are_used_and_each_block_reads_its_own(run, tmp_path, monkeypatch):
    plain, _ = run
    (tmp_path / "pairs.parquet").write_bytes(b"there")
    table = CalibrateTable(pairs={"catalog": str(tmp_path / "pairs.parquet")})
    config = plain.model_copy(update={"calibrate": table})
    for block in folders.planned_blocks(config):
        rows = np.arange(block.start, block.stop)
        metals = np.full((2, block.size), [[0.1], [0.04]], np.float32)  # 0.3 dex above the fit's
        made = {"row": rows, "fe_h_cal": metals[0], "fe_h_cal_err": metals[1]}
        write_part(folders.calibrated_url(config), block, pa.table(made), counts={})
    assert run_blocks_of_their_own(ages(config), monkeypatch) == ["ages"]
    run_blocks_of_their_own(ages(plain), monkeypatch)
    found, raw = (read_parts(folders.ages_url(one))["age"].to_numpy() for one in (config, plain))
    dated = np.isfinite(found) & np.isfinite(raw)
    assert dated.sum() > 20
    assert (found[dated] != raw[dated]).all()


def test_what_is_done_is_listed_as_often_however_many_blocks_there_are(run, monkeypatch):
    assert count_listings(ages(run[0]), monkeypatch, 100) < 10


def test_a_text_table_is_read_as_it_was_written(tmp_path):
    cube = small_cube()
    (tmp_path / "grid.dat").write_text(text_table(cube))
    made = read_isochrones(str(tmp_path / "grid.dat"))
    np.testing.assert_allclose(made.fe_h, cube.fe_h, atol=1e-4)
    np.testing.assert_allclose(made.age, cube.age, rtol=1e-3)
    # points are others, along the same line
    for name in ("teff", "m_k"):
        for i, j in ((0, 0), (4, 7)):
            order = np.argsort(cube.columns["logg"][i, j])
            line = np.interp(made.columns["logg"][i, j], cube.columns["logg"][i, j][order],
                             cube.columns[name][i, j][order])  # fmt: skip
            np.testing.assert_allclose(made.columns[name][i, j], line, rtol=2e-3, atol=2e-3)


def test_absolute_magnitudes_are_those_of_a_slow_formula():
    columns = {"k": np.array([9.0, 9.0]), "k_err": np.array([0.02, np.nan])}
    columns |= {"parallax": np.array([4.0, 0.1]), "parallax_err": np.array([0.04, 0.04])}
    made = absolute_k(columns | {"ebv": np.array([0.1, 0.1])}, 5.0)
    distance_pc = 1000 / 4.0
    assert made["m_k"][0] == pytest.approx(9.0 - 5 * np.log10(distance_pc / 10) - 0.031)
    assert made["m_k_err"][0] == pytest.approx(np.hypot(0.02, 2.1715 * 0.01), rel=1e-3)
    assert np.isnan(made["m_k"][1])
    assert np.isnan(made["m_k_err"][1])


def test_ages_by_gravity_ask_for_no_parallax():
    table = AgesTable(isochrones="x", brightness="logg", refine=(2, 2, 1))
    models = make_models(small_cube(), table)
    seen = {"row": np.arange(2), "obsid": np.arange(2)}
    seen |= {"teff": np.array([5600.0, 5600.0]), "logg": np.array([3.85, 4.6])}
    seen |= {"fe_h": np.zeros(2), "teff_err": np.full(2, 50.0), "logg_err": np.full(2, 0.1)}
    made = date_stars(models, seen | {"fe_h_err": np.full(2, 0.05)}, table)
    assert made["age_status"].to_pylist() == [0, int(AgeStatus.NOT_SUBGIANT)]
    assert "m_k" not in made.column_names


RUN = """
[run]
name = "a"
workspace = "w"
[ingest]
files = "f"
[preprocess]
[infer]
models = ["m"]
[fit]
"""


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('isochrones = "x"', "wants magnitude and parallax"),
        ('isochrones = "x"\nmagnitude = "k"\nparallax = "gaia.plx"', "say catalog and column"),
        ('isochrones = "x"\nbrightness = "logg"\nrefine = [0, 1, 1]', "must be 1 or more"),
        ('isochrones = "x"\nbrightness = "logg"\nleast_errors = { teff = 0 }', "above 0"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(table, said):
    with pytest.raises(ConfigError, match=said):
        parse_config(f"{RUN}[ages]\n{table}\n")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"alpha": "mg_fe"}, r"the fit has no \['mg_fe'\]"),
        ({"magnitude": "apogee.k"}, r"wants a \[crossmatch.apogee\] table"),
        ({"magnitude": "gaia.h"}, "no column 'h'"),
    ],
)
def test_what_is_not_there_is_an_error_of_the_run_file(run, changes, said):
    config = run[0]
    config = config.model_copy(update={"ages": config.ages.model_copy(update=changes)})
    with pytest.raises(ConfigError, match=said):
        next(ages(config))


def test_another_grid_is_another_folder(run):
    config, _ = run
    before = folders.ages_url(config)
    paths.write_bytes(config.ages.isochrones, text_table(small_cube()).encode() + b"\n")
    assert folders.ages_url(config) != before
