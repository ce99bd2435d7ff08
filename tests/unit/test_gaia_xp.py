"""Gaia XP sampled spectra: FITS tables and the archive's CSV."""

import gzip
import io

import numpy as np
import pytest
from astropy.io import fits
from survey_files import XP_WAVELENGTH, to_bytes, xp, xp_arrays, xp_csv

from scalespec.errors import SurveyFileError
from scalespec.schema import SpectrumStatus, check_spectra
from scalespec.surveys import SURVEYS
from scalespec.surveys.gaia_xp import LSF_NODES, LSF_R, WAVELENGTH, count_spectra, read_xp


def test_grid_is_343_samples_of_2_nm():
    np.testing.assert_array_equal(WAVELENGTH, 10.0 * XP_WAVELENGTH)


@pytest.mark.parametrize("make", [xp, xp_csv, lambda: xp(normalized=True)])
def test_rows_are_divided_by_their_median_in_every_layout(make):
    flux, error, ids = xp_arrays()
    data = make()
    assert count_spectra(data) == len(ids)
    made = read_xp(data, "x", 1, 3)
    middle = np.median(flux, axis=1, keepdims=True)
    # float32 in the file, float32 here
    np.testing.assert_allclose(made.arms[""].flux, (flux / middle)[1:4], rtol=3e-7)
    np.testing.assert_allclose(made.arms[""].ivar, ((middle / error) ** 2)[1:4], rtol=1e-6)
    assert made.scalars["source_id"].tolist() == ids[1:4].tolist()
    assert made.scalars["obsid"].tolist() == ids[1:4].tolist()
    np.testing.assert_allclose(made.scalars["ra"], [11, 12, 13])
    assert not made.fallback


def test_faint_sources_keep_their_errors():
    groups, _ = SURVEYS["gaia_xp"].read_block([("a", xp(), 0, 5)])
    spectra = check_spectra(groups[""])
    # 1e-18 W/m2/nm would have an ivar of 1e36; S/N 100 is what the file says
    np.testing.assert_allclose(spectra.snr, 100, rtol=1e-5)


def test_sources_without_id_get_one_of_their_own():
    data = xp().replace(b"'source_id'", b"'source_no'")
    ids = read_xp(data, "x", 0, 5).scalars
    assert (ids["source_id"] == -1).all()
    assert len(set(ids["obsid"])) == 5


def test_lsf_is_shared_by_all():
    groups, _ = SURVEYS["gaia_xp"].read_block([])
    sigma = groups[""].lsf_sigma
    assert sigma.dims == ("lsf_node",)
    np.testing.assert_allclose(LSF_NODES / sigma / 2.3548, LSF_R, rtol=1e-4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (xp().replace(b"'flux_error'", b"'flux_eiror'"), "bad_layout"),
        (xp()[:3000], "truncated"),
        (b"source_id,flux\n1,2\n", "bad_layout"),
        (b'source_id,flux,flux_error\n1,"[1,2]","[1,2]"\n', "corrupt"),
        (b"source_id,flux,flux_error\n1,x,y\n", "corrupt"),
        (gzip.compress(b"<html>no</html>", mtime=0), "not_fits"),
        (xp_csv()[:-30], "truncated"),
    ],
)
def test_damage_has_a_reason(data, reason):
    with pytest.raises(SurveyFileError) as caught:
        read_xp(data, "x")
    assert caught.value.reason == reason


def _lines():
    return gzip.decompress(xp_csv()).decode().split("\n")


def _changed(i, change):
    """The archive's CSV with one record changed: three lines of head lie before them."""
    lines = _lines()
    lines[3 + i] = change(lines[3 + i])
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_changed(4, lambda line: line[:15]), "truncated"),  # in the id
        (_changed(4, lambda line: line[:2000]), "truncated"),  # in the flux
        (_changed(4, lambda line: line[:-30]), "truncated"),  # in the error
        (_changed(4, lambda line: line[:-5]), "truncated"),  # in its last number
        (_changed(4, lambda line: line[:15] + "\n\n"), "truncated"),  # before blank lines
        (_changed(4, lambda line: line + ",7"), "corrupt"),  # too long is not cut
        (_changed(1, lambda line: line + ",7"), "corrupt"),
        (_changed(1, lambda line: line[:15]), "corrupt"),
        (_changed(1, lambda line: ",,,,,"), "corrupt"),
    ],
)
def test_a_record_of_another_length_spoils_the_file_and_moves_no_other_source(data, reason):
    survey = SURVEYS["gaia_xp"]
    groups, index = survey.read_block(survey.pieces([("a", data), ("b", xp_csv())]))
    assert index.reason[0].startswith(reason)
    assert groups[""].status.values[0] & SpectrumStatus[reason.upper()]
    assert groups[""].source_id.values.tolist() == [-1, *xp_arrays()[2]]
    with pytest.raises(SurveyFileError):
        count_spectra(data)


def test_blank_lines_are_no_records():
    data = ("\n \n".join(_lines()[2:]) + "\n\n").encode()
    assert count_spectra(data) == 5


def test_numbers_that_are_none_are_masked():
    text = gzip.decompress(xp_csv(n=2)).decode()
    first = text.index("[") + 1
    text = text[:first] + "nan" + text[text.index(",", first) :]
    groups, _ = SURVEYS["gaia_xp"].read_block([("a", text.encode(), 0, 2)])
    assert groups[""].ivar.values[0, 0] == 0
    assert groups[""].mask.values[0, 0] != 0
    assert np.isfinite(groups[""].flux).all()
    assert groups[""].status.values[0] == SpectrumStatus.NO_REDSHIFT


def test_null_ids_are_no_ids():
    ids = xp_arrays()[2]
    data = xp().replace(ids[1:2].astype(">i8").tobytes(), np.array([999999], ">i8").tobytes())
    scalars = read_xp(data, "x", 0, 5).scalars
    assert scalars["source_id"].tolist() == [ids[0], -1, *ids[2:]]
    assert scalars["obsid"][1] >= 2**61


def test_a_source_whose_id_is_a_float_has_none():
    with fits.open(io.BytesIO(xp())) as hdus:
        table = hdus[1]
        forms = {c.name: "D" if "source_id" in c.name.lower() else c.format for c in table.columns}
        columns = [fits.Column(n, f, array=table.data[n]) for n, f in forms.items()]
        data = to_bytes(fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns))
    spectra = SURVEYS["gaia_xp"].read_block([("a", data, 0, 5)])[0][""]
    assert (spectra.source_id == -1).all()
    assert (spectra.status & SpectrumStatus.INEXACT_ID > 0).all()
    assert len(set(spectra.obsid.values.tolist())) == 5  # of file and row
