"""Any spectra with a description: Parquet, npz, FITS tables and images."""

import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from survey_files import (
    DESCRIPTION,
    table_arrays,
    table_fits,
    table_npz,
    table_parquet,
    to_bytes,
)

from scalespec.errors import SurveyFileError
from scalespec.schema import SpectrumStatus, check_spectra
from scalespec.surveys import open_survey, read_survey
from scalespec.surveys.table import open_table

MAKERS = {"npz": table_npz, "parquet": table_parquet, "fits": table_fits}


def _described(**changes):
    return {k: v for k, v in {**DESCRIPTION, **changes}.items() if v is not None}


def _read(data, **changes):
    survey = open_table(_described(**changes))
    groups, index = survey.read_block(survey.pieces([("a/lib.fits", data)]))
    return check_spectra(groups[""]), index


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_of_file_gives_the_same_rows(kind):
    arrays = table_arrays()
    spectra, index = _read(MAKERS[kind]())
    np.testing.assert_array_equal(spectra.flux, arrays["flux"].astype("f4"))
    np.testing.assert_allclose(spectra.ivar, 1e4, rtol=1e-6)  # errors of 0.01
    assert spectra.obsid.values.tolist() == arrays["id"].tolist()
    assert index.designation.tolist() == arrays["star"].tolist()
    assert (spectra.status == SpectrumStatus.NO_POSITION).all()


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.decimal128(20, 0)])
def test_a_null_among_parquet_ids_leaves_the_others_as_they_are(kind):
    table = pq.read_table(io.BytesIO(table_parquet(n=3)))
    gaia = [2**62 + 1, None, 2**62 + 3]  # float64 would round them
    for name, values in {"id": [11, None, 13], "gaia": gaia, "day": [58000, None, 58002]}.items():
        table = table.drop_columns(name) if name in table.column_names else table
        table = table.append_column(name, pa.array(values, kind))
    file = io.BytesIO()
    pq.write_table(table, file)
    columns = {"obsid": "id", "source_id": "gaia", "mjd": "day"}
    spectra, _ = _read(file.getvalue(), columns=columns)
    assert spectra.source_id.values.tolist() == [2**62 + 1, -1, 2**62 + 3]
    assert spectra.obsid.values[[0, 2]].tolist() == [11, 13]
    assert spectra.obsid.values[1] >= 2**61  # made of file and row
    np.testing.assert_array_equal(spectra.mjd, [58000, np.nan, 58002])


def test_air_is_converted_on_entry():
    spectra, _ = _read(table_npz())
    # Å of the same lines, from NIST's tables of Hβ and Na D2: the difference at 4000 and 4300 Å
    shift = spectra.wavelength.values - (4000 + 0.5 * np.arange(600))
    assert 1.12 < shift[0] < 1.14
    assert (np.diff(shift) > 0).all()
    assert spectra.attrs["wavelength_medium"] == "vacuum"
    vacuum, _ = _read(table_npz(), medium="vacuum")
    np.testing.assert_array_equal(vacuum.wavelength, 4000 + 0.5 * np.arange(600))


def test_ivar_comes_from_ivar_error_or_a_stated_policy():
    arrays = table_arrays()
    by_ivar, _ = _read(table_npz(), error=None, ivar="flux")
    np.testing.assert_allclose(by_ivar.ivar, arrays["flux"], rtol=1e-6)
    assumed, _ = _read(table_npz(), error=None, assumed_snr=50)
    np.testing.assert_allclose(assumed.snr, 50, rtol=1e-5)
    assert assumed.attrs["ivar_policy"] == "none in the files: every pixel has S/N 50 of the median"
    assert by_ivar.attrs["ivar_policy"] == "ivar of the files"


def test_resolution_is_a_power_or_a_width():
    width, _ = _read(table_npz())
    np.testing.assert_allclose(width.lsf_sigma * 2.3548, 2.5, rtol=1e-4)
    middle = float(np.median(width.wavelength))
    assert width.attrs["resolving_power"] == pytest.approx(middle / 2.5)
    power, _ = _read(table_npz(), resolution={"resolving_power": 5000})
    assert power.attrs["resolving_power"] == 5000
    assert "lsf_sigma" not in power


def test_log_grids_say_so_where_they_are_log_in_vacuum():
    grid = {"start": 3.6, "step": 1e-4, "n": 600, "log10": True}
    width = {"resolving_power": 5000}
    spectra, _ = _read(table_npz(), wavelength=grid, medium="vacuum", resolution=width)
    assert spectra.attrs["log10_wavelength_step"] == 1e-4
    np.testing.assert_allclose(np.log10(spectra.wavelength), 3.6 + 1e-4 * np.arange(600))
    in_air, _ = _read(table_npz(), wavelength=grid, resolution=width)
    assert "log10_wavelength_step" not in in_air.attrs


def test_own_wavelengths_come_from_a_column_for_all_or_for_each():
    arrays = table_arrays(n=3)
    common = 5000 + np.arange(600.0)
    each = common + np.arange(3)[:, None]
    for wavelength in (common, each):
        file = io.BytesIO()
        np.savez(file, **arrays, wave=wavelength)
        spectra, _ = _read(
            file.getvalue(), wavelength={"column": "wave", "n": 700}, medium="vacuum"
        )
        assert spectra.flux.dims == ("spectrum", "pixel")
        expected = np.broadcast_to(wavelength, (3, 600))
        np.testing.assert_array_equal(spectra.wavelength.values[:, :600], expected)
        assert not spectra.wavelength.values[:, 600:].any()  # padded to n
        assert (spectra.mask.values[:, 600:] != 0).all()


def test_many_small_images_are_one_spectrum_each(tmp_path):
    for i in range(3):
        image = fits.PrimaryHDU(np.full(600, 1.0 + i))
        (tmp_path / f"m{i:04d}V.fits").write_bytes(to_bytes(image))
    description = _described(flux="HDU0", error=None, assumed_snr=100, columns=None, name="miles")
    spectra = read_survey(tmp_path, "table", description=description)
    assert spectra.flux.values[:, 0].tolist() == [1, 2, 3]
    assert spectra.designation.values.tolist() == ["m0000V", "m0001V", "m0002V"]
    assert len(set(spectra.obsid.values.tolist())) == 3


def test_images_may_hold_spectra_as_columns():
    flux = np.arange(1200.0).reshape(600, 2)
    data = to_bytes(fits.PrimaryHDU(flux))
    spectra, _ = _read(data, flux="HDU0", error=None, assumed_snr=10, transposed=True)
    np.testing.assert_array_equal(spectra.flux, flux.T)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"medium": None}, "no 'medium'.*medium = None"),
        ({"medium": "water"}, "medium = 'water'"),
        ({"fluxx": 1}, "unknown 'fluxx'"),
        ({"ivar": "x"}, r"one of ivar, error, assumed_snr must be there, got \['ivar', 'error'\]"),
        ({"error": None}, "got none"),
        ({"error": None, "assumed_snr": -1}, "assumed_snr = -1"),
        ({"wavelength": {"start": 1}}, "wanted start, step and n, or column"),
        ({"wavelength": {"start": 4000, "step": -1, "n": 5}}, "step -1"),
        ({"resolution": {"fwhm": 2}}, "wanted resolving_power or fwhm_angstrom"),
        ({"columns": {"teff": "t"}}, "columns: unknown 'teff'"),
    ],
)
def test_a_description_that_is_wrong_says_what(changes, message):
    with pytest.raises(ValueError, match=message):
        open_table(_described(**changes))


def test_a_table_without_a_description_is_refused_and_other_surveys_want_none():
    with pytest.raises(ValueError, match="wants a description"):
        open_survey("table")
    with pytest.raises(ValueError, match="wants no description"):
        open_survey("desi", {})
    with pytest.raises(ValueError, match="no survey 'hubble'"):
        open_survey("hubble")


@pytest.mark.parametrize(
    ("data", "changes", "reason"),
    [
        (table_npz(), {"flux": "fluxes"}, "bad_layout"),
        (table_npz(), {"flux": "star"}, "bad_layout"),
        (table_npz(), {"wavelength": {"start": 4000, "step": 1, "n": 601}}, "bad_grid"),
        (table_npz(), {"wavelength": {"start": 4000, "step": 1, "n": 500}}, "bad_grid"),
        (table_npz(), {"error": "id"}, "bad_layout"),
        (table_npz()[:-200], {}, "corrupt"),
        (table_parquet()[:-9], {}, "corrupt"),
        (table_fits()[:9000], {}, "truncated"),
        (b"<html>", {}, "not_fits"),
        (table_npz(), {"wavelength": {"column": "wave", "n": 600}}, "bad_layout"),
        (table_npz(), {"wavelength": {"column": "flux", "n": 600}}, "bad_grid"),
    ],
)
def test_damage_has_a_reason(data, changes, reason):
    survey = open_table(_described(**changes))
    groups, index = survey.read_block([("x", data)])
    assert re.match(reason, index.reason.item())
    assert not groups[""].ivar.values.any()


def test_an_npz_that_would_inflate_beyond_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr("scalespec.surveys.table.LIMIT_BYTES", 1000)
    with pytest.raises(SurveyFileError, match="inflates to") as caught:
        open_table(DESCRIPTION).read(table_npz(), "x", 0, 1)
    assert caught.value.reason == "bad_layout"


def test_pickled_objects_in_an_npz_are_never_loaded():
    file = io.BytesIO()
    np.savez(file, **table_arrays(), evil=np.array([{"a": 1}], object))
    spectra, _ = _read(file.getvalue())
    assert spectra.sizes["spectrum"] == 4
