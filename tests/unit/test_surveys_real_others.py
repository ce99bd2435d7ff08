"""Real files of MRS, APOGEE, Gaia XP and libraries, against astropy's and NumPy's own reading."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from parsed import assert_parsed_as_astropy_does

from scalespec.schema import SpectrumStatus, check_spectra
from scalespec.surveys import open_survey, read_arms, read_survey
from scalespec.surveys.inflate import gunzip

MILES = {
    "name": "miles",
    "medium": "air",
    "frame": "rest",
    "flux_unit": "relative",
    "wavelength": {"start": 3540.5, "step": 0.9, "n": 4300},
    "resolution": {"fwhm_angstrom": 2.5},
    "flux": "HDU0",
    "assumed_snr": 100,
}
REAL = {
    "lamost/mrs/*.fits.gz": 9,
    "apogee/ap*.fits.gz": 5,
    "gaia_xp_apogee/*.fits.gz": 1,
    "benchmark/*.fits.gz": 1,
    "miles/*.fits.gz": 1,
}


def _files(shared: Path, pattern: str) -> list[Path]:
    files = sorted((shared / "data").glob(pattern))
    if not files:
        pytest.skip(f"no {pattern} beside this checkout")
    return files


@pytest.mark.parametrize("pattern", REAL)
def test_strict_parser_equals_astropy_on_every_real_file(shared, pattern):
    files = _files(shared, pattern)
    assert len(files) == REAL[pattern]
    for path in files:
        data = gunzip(path.read_bytes(), limit_bytes=2**28)
        # Theirs is as wide as the longest text of a column.
        assert_parsed_as_astropy_does(data, path, text_width=False)


def test_real_coadds_lie_where_loglam_says(shared):
    files = _files(shared, "lamost/mrs/*.fits.gz")
    arms = read_arms(files[0].parent, "lamost_mrs")
    assert arms[""].attrs["fallbacks"] == 0
    for i, path in enumerate(files):
        with fits.open(path) as hdus:
            for arm, hdu in (("blue", hdus["COADD_B"]), ("red", hdus["COADD_R"])):
                log10 = np.array(hdu.data["LOGLAM"], np.float64)
                ours = np.log10(arms[arm].wavelength.values)
                place = int(np.argmin(np.abs(ours - log10[0]))) + np.arange(len(log10))
                # half a pixel is 5e-6; float32 of 3.8 is good to 1.2e-7
                assert np.max(np.abs(ours[place] - log10)) < 5e-7, path
                flux, ivar = (np.array(hdu.data[name]) for name in ("FLUX", "IVAR"))
                good = ivar > 0
                spectrum = arms[arm].isel(spectrum=i)
                assert np.array_equal(spectrum.flux.values[place][good], flux[good]), path
                assert np.array_equal(spectrum.ivar.values[place] > 0, good), path
                outside = np.setdiff1d(np.arange(len(ours)), place)
                assert not spectrum.ivar.values[outside].any(), path


def test_the_two_failed_nights_are_kept_and_marked(shared):
    files = _files(shared, "lamost/mrs/*.fits.gz")
    spectra = read_arms(files[0].parent, "lamost_mrs")[""]
    failed = spectra.status.values & SpectrumStatus.NO_SIGNAL > 0
    assert [path.name[4:9] for path, bad in zip(files, failed, strict=True) if bad] == [
        "58268",
        "58269",
    ]


def test_real_exposures_keep_their_own_grids_and_times(shared):
    files = _files(shared, "lamost/mrs/*.fits.gz")
    arms = read_arms(files[0].parent, "lamost_mrs_exposures")
    row = 0
    for path in files:
        with fits.open(path) as hdus:
            names = sorted(hdu.name for hdu in hdus if hdu.name.startswith("R-"))
            for name in names:
                table = hdus[name].data
                wavelength = 10 ** np.array(table["LOGLAM"][::-1], np.float64)
                red = arms["red"].isel(spectrum=row)
                np.testing.assert_allclose(red.wavelength, wavelength, rtol=1e-15)
                good = table["IVAR"][::-1] > 0
                assert np.array_equal(red.flux.values[good], table["FLUX"][::-1][good]), name
                date = hdus[name].header.get("DATE-OBS")  # the middle, where DR6 has it
                if date:
                    seconds = (np.datetime64(date) - np.datetime64("1858-11-17")) / np.timedelta64(
                        1, "s"
                    )
                    # given to the minute
                    assert red.mjd.item() == pytest.approx(seconds / 86400, abs=1.1 / 1440)
                row += 1
    assert row == arms[""].sizes["spectrum"] == 43
    assert len(set(arms[""].obsid.values.tolist())) == 43


def test_real_stars_are_the_first_row_of_apstar_and_visits_the_rest(shared):
    files = _files(shared, "apogee/apStar*.fits.gz")
    stars = check_spectra(read_survey(files[0].parent, "apogee"))
    visits = check_spectra(read_survey(files[0].parent, "apogee_visits"))
    assert (stars.sizes["spectrum"], visits.sizes["spectrum"]) == (2, 4)
    assert stars.attrs["fallbacks"] == visits.attrs["fallbacks"] == 0
    for i, path in enumerate(files):
        with fits.open(path) as hdus:
            header, flux, error = hdus[0].header, np.array(hdus[1].data), np.array(hdus[2].data)
        good = stars.ivar.values[i] > 0
        np.testing.assert_array_equal(stars.flux.values[i][good], flux[0, good].astype("f4"))
        # float32 of 1/error²
        np.testing.assert_allclose(stars.ivar.values[i][good], error[0, good] ** -2, rtol=1e-7)
        assert stars.rv.values[i] == pytest.approx(header["VHELIO"], rel=1e-6)
        # our median is over good pixels, theirs over all: they agree to some percent
        assert stars.snr.values[i] == pytest.approx(header["SNR"], rel=0.03)
    # repeat visits of one star: velocities within what the header calls their scatter, times 5
    assert np.ptp(visits.rv.values[:3]) < 5 * 0.184
    assert np.array_equal(visits.snr.values.round() > 60, [True] * 4)


def test_lines_of_a_real_star_are_at_rest_in_vacuum(shared):
    files = _files(shared, "apogee/apStar*.fits.gz")
    star = read_survey(files[1], "apogee").isel(spectrum=0)
    # strong Mg I lines of the H band, vacuum Å (NIST: air 15740.71, 15748.99, 15765.84)
    for line in (15745.02, 15753.29, 15770.15):
        near = np.abs(star.wavelength.values - line) < 1.0
        deepest = star.wavelength.values[near][np.argmin(star.flux.values[near])]
        assert deepest == pytest.approx(line, abs=0.25)  # a pixel is 0.22 Å


def test_real_chips_are_barycentric(shared):
    files = _files(shared, "apogee/apVisit*.fits.gz")
    arms = read_arms(files[0].parent, "apogee_chips")
    assert arms[""].attrs["fallbacks"] == 0
    for i, path in enumerate(files):
        with fits.open(path) as hdus:
            header, wavelength = hdus[0].header, np.array(hdus[4].data)
        # the pipeline's own sum of the observed velocity and the correction
        assert arms[""].rv.values[i] == pytest.approx(header["VRAD"] + header["BC"], abs=2e-3)
        for arm, row in (("blue", 2), ("green", 1), ("red", 0)):
            check_spectra(arms[arm])
            ratio = arms[arm].wavelength.values[i] / wavelength[row, ::-1]
            np.testing.assert_allclose((ratio - 1) * 299792.458, header["BC"], rtol=1e-6)
            power = arms[arm].lsf_node / arms[arm].lsf_sigma[i] / 2.3548
            assert 16_000 < power.min() < power.max() < 27_000  # 22,500 on average


def test_real_xp_rows_are_the_tables(shared):
    (path,) = _files(shared, "gaia_xp_apogee/*.fits.gz")
    survey = open_survey("gaia_xp")
    data = path.read_bytes()
    (piece,) = survey.pieces([(path.name, data)])
    assert piece.n == 15_000
    groups, index = survey.read_block([piece._replace(first=14_000, n=1000)])
    with fits.open(io.BytesIO(gzip.decompress(data))) as hdus:
        table = hdus[1].data[14_000:]
        flux, error = np.array(table["flux"]), np.array(table["flux_error"])
        names, ids = table["apogee_id"], np.array(table["gaiaedr3_source_id"])
    spectra = check_spectra(groups[""])
    good = np.isfinite(flux) & (error > 0)
    np.testing.assert_array_equal(spectra.flux.values[good], flux[good])
    np.testing.assert_allclose(spectra.ivar.values[good], error[good] ** -2.0, rtol=1e-6)
    assert spectra.source_id.values.tolist() == ids.tolist()
    assert index.designation.tolist() == [name.strip() for name in names]
    assert spectra.attrs["fallbacks"] == 0


def test_real_miles_stars_are_in_vacuum(shared, tmp_path):
    (path,) = _files(shared, "miles/miles_v9.1.tar.xz")
    originals = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith("V.fits") and len(originals) < 40:
                data = archive.extractfile(member).read()
                name = Path(member.name).name
                (tmp_path / name).write_bytes(data)
                with fits.open(io.BytesIO(data)) as hdus:
                    originals[name] = np.array(hdus[0].data)
    spectra = check_spectra(read_survey(tmp_path, "table", description=MILES))
    assert sorted(originals) == [f"{name}.fits" for name in spectra.designation.values]
    for i, name in enumerate(sorted(originals)):
        np.testing.assert_array_equal(spectra.flux.values[i], originals[name].astype("f4"))
    # Hβ at 4862.69 Å in vacuum: the deepest point of the mean of all stars near it
    near = np.abs(spectra.wavelength.values - 4862.69) < 8
    mean = spectra.flux.values[:, near] / spectra.flux.values[:, near].max(axis=1, keepdims=True)
    found = spectra.wavelength.values[near][np.argmin(mean.mean(axis=0))]
    assert found == pytest.approx(4862.69, abs=0.9)  # a pixel


def test_real_solar_atlas_has_its_own_errors(shared):
    (path,) = _files(shared, "benchmark/ATLAS.Sun*.fits.gz")
    description = {
        **{k: v for k, v in MILES.items() if k != "assumed_snr"},
        "name": "sun",
        "wavelength": {"start": 4800.0, "step": 0.01, "n": 200_000},
        "resolution": {"resolving_power": 47_000},
        "error": "SIGMA",
    }
    sun = read_survey(path, "table", description=description)
    # Na D lines in vacuum (NIST: 5891.583, 5897.558)
    for line in (5891.583, 5897.558):
        near = np.abs(sun.wavelength.values - line) < 0.5
        deepest = sun.wavelength.values[near][np.argmin(sun.flux.values[0, near])]
        # the atlas's lines lie 1.6 km/s, 0.031 Å, to the blue of the laboratory; air is 1.63 Å off
        assert deepest == pytest.approx(line, abs=0.05)


def test_real_npz_of_models_has_its_own_grid(shared):
    (path,) = _files(shared, "moog_atlas9_computed/*.npz")
    description = {**MILES, "flux": "train_flux", "assumed_snr": 1000, "medium": "vacuum"}
    description |= {
        "wavelength": {"column": "wave_vac", "n": 1177},
        "resolution": {"resolving_power": 1800},
    }
    spectra = check_spectra(read_survey(path, "table", description=description))
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(spectra.flux, file["train_flux"].astype("f4"))
        np.testing.assert_array_equal(spectra.wavelength.values[5], file["wave_vac"])
