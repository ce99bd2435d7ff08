"""DESI coadds: three arms, many targets in a file, resolution matrices summarized."""

import io

import numpy as np
import pytest
from astropy.io import fits
from survey_files import desi

from scalespec.errors import SurveyFileError
from scalespec.schema import MaskBit, SpectrumStatus, check_spectra
from scalespec.surveys import SURVEYS
from scalespec.surveys.desi import GRIDS, LSF_NODES, count_spectra, read_desi

FILE = desi()


def _hdu(data, name):
    with fits.open(io.BytesIO(data)) as hdus:
        return np.array(hdus[name].data)


def test_rows_are_the_files_rows():
    assert count_spectra(FILE) == 4
    made = read_desi(FILE, "x", 1, 2)
    for arm in GRIDS:
        pixels, letter = made.arms[arm], arm.upper()
        np.testing.assert_array_equal(pixels.flux, _hdu(FILE, f"{letter}_FLUX")[1:3])
        np.testing.assert_array_equal(pixels.ivar, _hdu(FILE, f"{letter}_IVAR")[1:3])
        np.testing.assert_array_equal(GRIDS[arm], _hdu(FILE, f"{letter}_WAVELENGTH"))


def test_blocks_may_cut_a_file_anywhere():
    whole = read_desi(FILE, "x", 0, 4)
    for cut in (1, 2, 3):
        parts = [read_desi(FILE, "x", 0, cut), read_desi(FILE, "x", cut, 4 - cut)]
        for arm in GRIDS:
            joined = np.concatenate([part.arms[arm].flux for part in parts])
            np.testing.assert_array_equal(joined, whole.arms[arm].flux)
        ids = np.concatenate([part.scalars["obsid"] for part in parts])
        np.testing.assert_array_equal(ids, whole.scalars["obsid"])


def test_bits_of_the_specmask_are_translated():
    mask = read_desi(FILE, "x", 0, 1).arms["b"].mask[0, :13] & ~np.uint32(0xFF)
    flags = MaskBit
    expected = [flags.BAD_PIXEL << 8, flags.BAD_PIXEL, flags.COSMIC_RAY << 8, flags.BAD_PIXEL]
    expected += [flags.BAD_TRACE, flags.BRIGHT_SKY, flags.NO_SKY, 0, flags.NO_DATA]
    expected += [flags.BAD_TRACE, flags.BAD_TRACE, 0, flags.SUSPECT]
    assert mask.tolist() == [int(bit) for bit in expected]


def test_compressed_masks_are_read_and_counted():
    data = desi(compressed=True)
    plain, packed = read_desi(FILE, "x", 0, 4), read_desi(data, "x", 0, 4)
    assert packed.fallback
    assert not plain.fallback
    for arm in GRIDS:
        np.testing.assert_array_equal(plain.arms[arm].mask, packed.arms[arm].mask)


@pytest.mark.parametrize("sigma", [0.8, 1.2, 1.5])
def test_lsf_is_the_width_of_the_resolution_matrix(sigma):
    made = read_desi(desi(n=1, sigma=sigma), "x", 0, 1)
    for arm, nodes in LSF_NODES.items():
        assert made.arms[arm].lsf_sigma.shape == (1, len(nodes))
        # 11 diagonals cut off the Gaussian's wings: 1 % at 1.5 pixels, nothing at 0.8
        np.testing.assert_allclose(made.arms[arm].lsf_sigma, 0.8 * sigma, rtol=0.015)


def test_ids_are_target_ids_and_stars_are_gaias_third_release():
    scalars = read_desi(FILE, "x", 0, 4).scalars
    assert scalars["obsid"][:3].tolist() == [39627640000000000 + i for i in range(3)]
    assert scalars["obsid"][3] >= 2**61  # a fiber on no target
    gaia = 3600000000000000000
    assert scalars["source_id"].tolist() == [gaia, -1, gaia + 2, gaia + 3]


def test_time_is_the_mean_of_a_targets_exposures():
    mjd = read_desi(FILE, "x", 0, 4).scalars["mjd"]
    np.testing.assert_allclose(mjd[:3], [59000.5, 59002.5, 59004.5])
    assert np.isnan(mjd[3])


def test_arms_that_a_file_lacks_have_no_pixels():
    survey = SURVEYS["desi"]
    groups, _ = survey.read_block(survey.pieces([("a", desi(arms="BZ"))]))
    assert list(groups) == ["", "b", "r", "z"]
    for group in groups.values():
        check_spectra(group)
    assert (groups["r"].status.values & SpectrumStatus.NO_PIXELS > 0).all()
    assert (groups[""].status.values & SpectrumStatus.NO_PIXELS == 0).all()


def test_each_arm_says_its_own_resolution():
    groups, _ = SURVEYS["desi"].read_block([])
    powers = [groups[arm].attrs["resolving_power"] for arm in "brz"]
    assert powers == sorted(powers)
    assert groups["b"].lsf_sigma.dims == ("spectrum", "lsf_node")


def test_a_file_that_is_cut_is_as_many_rows_as_were_planned():
    groups, index = SURVEYS["desi"].read_block([("a", FILE[:500_000], 0, 4)])
    assert (groups[""].status == SpectrumStatus.TRUNCATED).all()
    assert index.reason.str.startswith("truncated").all()
    with pytest.raises(SurveyFileError, match="2:6 were planned, the file has 4"):
        read_desi(FILE, "x", 2, 4)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"'TARGETID'", b"'TARGETIX'", "bad_layout"),
        (b"'B_IVAR  '", b"'B_IVARS '", "bad_layout"),
        (b"'B_WAVELENGTH'", b"'B_WAVELENGTX'", "bad_grid"),
    ],
)
def test_what_is_missing_is_refused(old, new, reason):
    assert old in FILE
    with pytest.raises(SurveyFileError) as caught:
        read_desi(FILE.replace(old, new), "x")
    assert caught.value.reason == reason


def test_another_grid_is_refused():
    with fits.open(io.BytesIO(FILE)) as hdus:
        hdus["Z_WAVELENGTH"].data = hdus["Z_WAVELENGTH"].data + 0.1
        file = io.BytesIO()
        hdus.writeto(file)
    with pytest.raises(SurveyFileError, match=r"Z_WAVELENGTH lies 0.1 Å off"):
        read_desi(file.getvalue(), "x")
