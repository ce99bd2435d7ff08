"""Visits of stars put together over blocks: against a plain loop over a real run's own stores."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from scalespec.config import (
    DaskTable,
    EngineTable,
    IngestTable,
    PreprocessTable,
    RunConfig,
    RunTable,
    VisitsTable,
)
from scalespec.errors import ConfigError
from scalespec.run import run
from scalespec.schema import C_KMS, NOISE_CORRELATION, SpectrumStatus, check_spectra
from scalespec.stages import folders
from scalespec.stages.visits import combine_block, find_stars, repeat_rows
from scalespec.store.ledger import Ledger
from scalespec.store.spectra import count_spectra, read_spectra
from scalespec.surveys.lamost_files import file_path, write_lrs

N_STAR, PLATES = 7, ("P1", "P2", "P3", "P4")
ZERO = np.array([6.0, -4.0, 0.0, 2.0])
VELOCITY = np.array([0.0, 50.0, -120.0, 33.0, 210.0, -7.0, 90.0])
PATTERN = r"spec-\d+-(.+)_sp\d+-\d+\.fits"


def visit(star, plate):
    """Return one file: its path and its bytes."""
    rng = np.random.default_rng([star, plate])
    wavelength = 10 ** (3.5682 + 1e-4 * np.arange(3909))
    velocity = VELOCITY[star] + ZERO[plate]
    flux = 1000 - 400 * np.exp(-0.5 * ((wavelength / (1 + velocity / C_KMS) - 5000) / 8) ** 2)
    flux = flux + rng.normal(0, 10 + 2 * star, wavelength.size)
    ivar = np.full(wavelength.size, 1 / (10 + 2 * star) ** 2)
    rows = np.stack([flux, ivar, wavelength, 0 * flux, 0 * flux, 0 * flux]).astype(np.float32)
    facts = {"obsid": 100 * star + plate, "mjd": 57000.6 + plate, "planid": PLATES[plate]}
    facts |= {"spid": 1, "fiberid": star + 1, "ra": 10.0 + star, "dec": 20.0, "subclass": "K5"}
    facts |= {"z": velocity / C_KMS, "z_err": 1 / C_KMS, "helio_rv": 0.0, "first_pixel": 0}
    facts |= {f"snr_{band}": 50.0 for band in "ugriz"}
    return file_path(facts), write_lrs(facts, rows, layout="image")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run of 7 stars on 4 plates, star 6 on one alone, in blocks of 6: preprocessed."""
    folder = tmp_path_factory.mktemp("visits")
    for star in range(N_STAR):
        for plate in range(4) if star < 6 else (1,):
            name, data = visit(star, plate)
            path = folder / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"no FITS" if (star, plate) == (2, 2) else data)
    table = PreprocessTable(visits=VisitsTable(star="designation", plate=PATTERN), windows=())
    config = RunConfig(
        run=RunTable(name="t", workspace=f"{folder}/work", spectra_per_block=6),
        ingest=IngestTable(files=f"{folder}/files"),
        preprocess=table,
    )
    assert run(config, engine="local").exit_code == 0
    return config


def made_in(config):
    """Return the folder of stars."""
    root = Path(folders.spectra_url(config), "visits")
    (found,) = [path for path in root.iterdir() if path.is_dir()]
    return str(found)


@pytest.fixture(scope="module")
def stars(config):
    url = f"{made_in(config)}/spectra.zarr"
    return read_spectra(url, 0, count_spectra(url))


@pytest.fixture(scope="module")
def visits(config):
    url = f"{folders.spectra_url(config)}/spectra.zarr"
    return read_spectra(url, 0, count_spectra(url))


def test_a_run_puts_the_visits_of_all_blocks_together(config, stars):
    assert len(folders.planned_blocks(config)) == 5
    assert len(Ledger(made_in(config)).done()) == 2  # of stars
    check_spectra(stars)
    assert stars.sizes["spectrum"] == N_STAR
    by_ra = stars.sortby("ra")
    assert by_ra["n_visits"].values.tolist() == [4, 4, 3, 4, 4, 4, 1]
    assert (by_ra["status"].values == 0).all()


def test_each_star_is_the_weighted_mean_of_its_visits(stars, visits):
    for star in range(stars.sizes["spectrum"]):
        one = stars.isel(spectrum=star)
        own = visits.isel(spectrum=np.flatnonzero(visits["ra"].to_numpy() == float(one["ra"])))
        weight = own["ivar"].to_numpy().astype(float)
        total = weight.sum(axis=0)
        # Nothing is five sigma off, save by chance: 26 spectra of 3,700 pixels.
        whole = total > 0
        mean = (weight * own["flux"].to_numpy()).sum(axis=0)[whole] / total[whole]
        close = np.isclose(one["flux"].to_numpy()[whole], mean, rtol=1e-5)
        assert close.mean() > 0.999
        assert np.isclose(one["ivar"].to_numpy()[whole], total[whole], rtol=1e-5).mean() > 0.999
        assert float(one["snr"]) > 0.9 * np.sqrt(len(own["snr"])) * float(own["snr"].mean())


def test_stars_share_noise_as_their_visits_do_by_weight(visits):
    two = visits.isel(spectrum=[0, 0]).assign(
        noise_correlation=("spectrum", np.float32([1, 2])), snr=("spectrum", np.float32([10, 20]))
    )
    rows = pd.DataFrame({"star": [0, 0], "zero_point": 0.0, "zero_point_err": 0.0})
    made = combine_block(two, rows, VisitsTable())
    assert made["noise_correlation"].item() == pytest.approx(1.8)  # weights of 1 and 4
    assert made["noise_correlation_rv"].item() == 1
    silent = combine_block(two.drop_vars(NOISE_CORRELATION), rows, VisitsTable())
    assert not set(NOISE_CORRELATION) & set(silent)


def test_zero_points_come_back_and_leave_the_velocities(config, stars):
    url = made_in(config)
    plates = pd.read_parquet(f"{url}/zero_points.parquet").set_index("plate")
    assert sorted(plates.index) == list(PLATES)
    count = plates.loc[list(PLATES), "n_spectra"].to_numpy()
    assert count.tolist() == [6, 7, 5, 6]
    # Stars on several plates set them: 6, 6, 5 and 6. Files have z to eight digits: 3 m/s.
    expected = ZERO - np.average(ZERO, weights=[6, 6, 5, 6])
    np.testing.assert_allclose(plates.loc[list(PLATES), "zero_point"], expected, atol=3e-3)
    shift = np.average(ZERO, weights=[6, 6, 5, 6])
    by_ra = stars.sortby("ra")
    np.testing.assert_allclose(by_ra["rv"], VELOCITY + shift, atol=3e-3)
    assert (by_ra["rv_scatter"] < 3e-3).all()
    assert by_ra["rv_err"].values[0] == pytest.approx(np.sqrt(1 / 4), rel=0.2)


def test_what_is_done_is_not_done_again(config):
    assert run(config, engine="local").done == 0


@pytest.mark.parametrize("engine", ["local", pytest.param("dask", marks=pytest.mark.dask)])
def test_stars_come_out_the_same_to_the_byte_on_any_engine(config, tmp_path, engine):
    table = EngineTable(dask=DaskTable(workers=1))
    run_table = config.run.model_copy(update={"workspace": f"{tmp_path}/work"})
    elsewhere = config.model_copy(update={"run": run_table, "engine": table})
    assert run(elsewhere, engine=engine).exit_code == 0
    first, second = (
        {i: c.objects for i, c in Ledger(made_in(one)).commits().items()}
        for one in (config, elsewhere)
    )
    assert first == second  # sha256 of every object


def test_a_star_that_no_column_names_is_refused(config):
    table = config.preprocess.model_copy(update={"visits": VisitsTable(star="hd_number")})
    wrong = config.model_copy(update={"preprocess": table})
    with pytest.raises(ConfigError, match=r"visits\.star = 'hd_number' is none of"):
        run(wrong, engine="local")


def rows(names, plates, rv, err):
    return pd.DataFrame(
        {"row": np.arange(len(names)), "name": names, "plate": plates, "rv": rv, "rv_err": err}
    )


def test_without_plates_nothing_is_taken_out():
    stars, plates = find_stars(rows([5, 9, 5], [""] * 3, [1.0, 2.0, 3.0], [1.0] * 3))
    assert stars["star"].tolist() == [0, 0, 1]
    assert stars["row"].tolist() == [0, 2, 1]
    assert not stars["zero_point"].any()
    assert len(plates) == 0


def test_no_spectra_have_no_stars():
    stars, plates = find_stars(rows([], [], [], []).astype({"name": "int64", "plate": "str"}))
    assert len(stars) == len(plates) == 0


def test_rows_without_a_spectrum_are_no_visits_and_nameless_ones_are_alone():
    n = 4
    scalars = xr.Dataset({k: ("spectrum", np.zeros(n, np.float32)) for k in ("rv", "rv_err")})
    status = np.array([0, SpectrumStatus.CORRUPT, SpectrumStatus.NO_REDSHIFT, 0], np.uint32)
    made = repeat_rows(
        scalars.assign(status=("spectrum", status)), np.array([-1, 7, -1, 7]), [""] * n,
        VisitsTable(), 10,
    )  # fmt: skip
    assert made["row"].tolist() == [10, 12, 13]
    assert made["name"].nunique() == 3


def test_unknown_velocities_do_not_count(visits):
    two = visits.isel(spectrum=[0, 1]).copy(deep=True)
    two["rv"][0] = np.nan
    table = pd.DataFrame({"star": [0, 0], "zero_point": 1.0, "zero_point_err": np.inf})
    made = combine_block(two, table, VisitsTable())
    assert float(made["rv"][0]) == pytest.approx(float(two["rv"][1]) - 1)
    two["rv"][:] = np.nan
    assert np.isnan(combine_block(two, table, VisitsTable())["rv"][0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"plate": "spec-("}, "no regular expression"),
        ({"plate": "spec-.*"}, r"with a \(group\)"),  # nothing would name the plate
    ],
)
def test_plates_want_a_group(settings, message):
    with pytest.raises(ValueError, match=message):
        VisitsTable(**settings)
