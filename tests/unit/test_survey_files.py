"""What writers of single surveys promise beyond what the surveys' readers check."""

import gzip
import io

import numpy as np
import pytest
from astropy.io import fits

from scalespec.kernels.observation_surveys import INSTRUMENTS
from scalespec.surveys import apogee_files, csst, csst_files, desi_files, gaia_xp_files
from scalespec.surveys.lamost_mrs_files import Part, mrs_path, write_mrs

RNG = np.random.default_rng(3)
PLACE = {"ra": 24.376852, "dec": -5.427147, "mjd": 58396.68}
LAMOST = PLACE | {
    "obsid": 7,
    "planid": "TD01",
    "spid": 3,
    "fiberid": 31,
    "helio_rv": -9.4,
    "g": 12.3,
}


def opened(data: bytes) -> fits.HDUList:
    hdus = fits.open(io.BytesIO(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data))
    hdus.verify("exception")
    return hdus


def part(arm: str, lmjm: int = 0, n: int = 50) -> Part:
    flux, ivar = RNG.random((2, n)).astype(np.float32)
    wavelength = np.linspace(4900.0, 4990.0, n)
    return Part(arm, lmjm, wavelength, flux, ivar, np.zeros(n, np.int16), np.ones(n, np.int16))


@pytest.mark.parametrize("era", ["loglam", "wavelength"])
def test_mrs_parts_come_back_in_either_era(era):
    parts = [part("B"), part("R"), part("B", 84454650), part("R", 84454650)]
    with opened(write_mrs(LAMOST | {"bp_rp": 0.8}, parts, era=era)) as hdus:
        names = [hdu.name for hdu in hdus]
        assert names == ["Information", "COADD_B", "COADD_R", "B-84454650", "R-84454650"]
        assert hdus["COADD_B"].header["LMJMLIS0"] == "84454650"
        assert hdus["B-84454650"].header["LMJM"] == "84454650"
        for given, hdu in zip(parts, hdus[1:], strict=True):
            data = hdu.data if era == "loglam" else {n: hdu.data[n][0] for n in hdu.data.names}
            assert np.array_equal(data["FLUX"], given.flux)
            assert np.array_equal(data["IVAR"], given.ivar)
            wavelength = (
                10 ** data["LOGLAM"].astype(float) if era == "loglam" else data["WAVELENGTH"]
            )
            assert wavelength == pytest.approx(given.wavelength, rel=6e-7)  # float32 logarithms
            assert np.array_equal(data["PIXMASK" if given.lmjm else "ORMASK"], given.ormask)


def test_a_failed_exposure_has_an_snr_of_zero():
    dark = part("B")
    dark.flux[:] = -1
    with opened(write_mrs(LAMOST | {"bp_rp": 0.8}, [dark], era="loglam")) as hdus:
        assert hdus["COADD_B"].header["SNR"] == 0  # as the survey's: never below


def test_many_exposures_are_listed_over_several_cards():
    parts = [part("B"), *(part("B", 84454650 + i) for i in range(5))]
    with opened(write_mrs(LAMOST | {"bp_rp": 0.8}, parts, era="loglam")) as hdus:
        listed = [hdus["COADD_B"].header[f"LMJMLIS{i}"] for i in range(2)]
        assert "-".join(listed).split("-") == [str(84454650 + i) for i in range(5)]


def test_mrs_eras_and_paths():
    assert mrs_path(LAMOST) == "20181005/TD01/med-58397-TD01_sp03-031.fits.gz"
    with pytest.raises(ValueError, match="era must be"):
        write_mrs(LAMOST | {"bp_rp": 0.8}, [part("B")], era="golden")


def test_resolution_matrices_blur_as_their_sigma_says():
    """As desispec unpacks them: diagonals from the highest offset down, applied to a line."""
    n = 60
    sigma = np.linspace(0.8, 1.4, n)
    bands = desi_files.resolution_data(sigma[None])[0].astype(float)
    matrix = np.zeros((n, n))
    for k, offset in enumerate(range(5, -6, -1)):
        for j in range(n):
            if 0 <= j - offset < n:
                matrix[j - offset, j] = bands[k, j]
    for center in (12, 30, 45):
        blurred = matrix[:, center]
        x = np.arange(n) - center
        assert blurred.sum() == pytest.approx(1, abs=1e-6)
        assert np.sqrt(np.sum(blurred * x**2)) == pytest.approx(sigma[center], rel=0.01)  # 5 pixels


def test_desi_files_hold_their_targets():
    n, n_pixel = 4, 30
    facts = {
        "targetid": np.arange(n) + 39627788,
        "ra": RNG.uniform(0, 360, n),
        "dec": RNG.uniform(-20, 60, n),
        "mjd": np.full(n, 59000.2),
        "g": np.array([15.0, 16.0, 17.0, 22.5]),
        "source_id": np.arange(n) + 10**17,
        "fiber": np.array([0, 499, 500, 4999]),
        "tileid": np.full(n, 80605),
        "night": np.full(n, 20200530),
        "z": np.array([1e-4, -9999.0, 0.0, -2e-4]),
        "z_err": np.full(n, 1e-5),
    }
    arm = {
        "wavelength": np.linspace(3600, 3623.2, n_pixel),
        "flux": RNG.random((n, n_pixel)).astype(np.float32),
        "ivar": RNG.random((n, n_pixel)).astype(np.float32),
        "mask": np.zeros((n, n_pixel), np.int32),
        "sigma": np.ones((n, n_pixel), np.float32),
    }
    data = desi_files.write_coadd(facts, {"B": arm}, healpix=24001, survey="mock000001")
    with opened(data) as hdus:
        assert hdus["B_WAVELENGTH"].data.dtype == ">f8"
        assert hdus["B_RESOLUTION"].data.shape == (n, 11, n_pixel)
        assert np.array_equal(hdus["B_FLUX"].data, arm["flux"])
        assert np.array_equal(hdus["FIBERMAP"].data["TARGETID"], facts["targetid"])
        assert hdus["FIBERMAP"].data["FLUX_G"][3] == pytest.approx(1.0)  # a nanomaggy is 22.5 mag
        assert hdus["EXP_FIBERMAP"].data["PETAL_LOC"].tolist() == [0, 0, 1, 9]
        assert hdus["REDSHIFTS"].data["ZWARN"].tolist() == [0, 4, 0, 0]
        assert hdus["B_FLUX"].header["BUNIT"] == "10**-17 erg/(s cm2 Angstrom)"
        assert hdus[0].header["HPXPIXEL"] == 24001


def test_apstars_of_one_visit_name_it():
    shape = (2, 8575)
    zeros = np.zeros(shape)
    planes = apogee_files.Visits(zeros, zeros, zeros.astype(int), *np.zeros((4, *shape)))
    star = {"apogee_id": "2M00000000+0000000", "field": "M67", "h": 10.5, "snr": 100.0}
    star |= PLACE | {"vhelio": 12.5, "verr": 0.05, "teff": 4800.0, "logg": 2.5, "fe_h": -0.1}
    night = {"plate": 7496, "mjd": 56804.43, "fiber": 171, "bc": 10.5, "vhelio": 12.5}
    data = apogee_files.write_apstar(star, planes, [night | {"verr": 0.05, "snr": 100.0}])
    with opened(data) as hdus:
        header = hdus[0].header
        assert header["SFILE1"] == "apVisit-dr17-7496-56804-171.fits"
        assert header["JD1"] == pytest.approx(2456804.93)
        assert header["VRAD1"] == pytest.approx(2.0)
        assert hdus[9].data["vhelio"][0] == 12.5
        ccf, speed = hdus[9].data["ccf"][0], hdus[9].data["x_ccf"][0]
        assert speed[np.argmax(ccf)] == pytest.approx(12.5, abs=2.1)  # half of a step
        assert hdus[3].data.dtype == ">i8"


def test_xp_files_scale_by_the_median_and_say_what_is_unknown():
    flux = np.full((2, 343), 200.0, np.float32)
    ivar = np.full((2, 343), 1e-2, np.float32)
    ivar[1] = 0
    facts = {name: np.array([1.0, 2.0]) for name in ("g", "bp_rp", "ra", "dec", "source_id")}
    with opened(
        gaia_xp_files.write_xp(facts | {"name": np.array([b"a", b"b"])}, flux, ivar)
    ) as hdus:
        row = hdus[1].data
        assert np.all(row["flux"] == 1)
        assert row["flux_error"][0] == pytest.approx(np.full(343, 0.05))
        assert np.all(np.isinf(row["flux_error"][1]))
        # 1e-17 erg/s/cm²/Å = 1e-20 W/m² per Å = 1e-19 ... per nm
        assert row["medflux"][0] == pytest.approx(200 * 1e-17 * 1e-7 * 1e4 * 10, rel=1e-6, abs=0)
        assert np.isnan(row["teff"]).all()


def test_csst_grids_are_the_readers():
    for arm in INSTRUMENTS["csst"].arms:
        assert arm.wavelength == pytest.approx(csst.grid(arm.name.lower()), rel=1e-12)
    assert {
        csst_files.BAD_PIXEL,
        csst_files.COSMIC_RAY,
        csst_files.CONTAMINATED,
        csst_files.NO_DATA,
    } == {1 << bit for bit in csst.BITS}
