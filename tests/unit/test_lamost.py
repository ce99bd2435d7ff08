"""LAMOST LRS files of every layout, made with astropy, against what was put into them."""

import io
from datetime import UTC, datetime

import numpy as np
import pytest
from astropy.io import fits
from survey_files import LRS_CARDS

from scalespec.errors import SurveyFileError
from scalespec.schema import PER_SPECTRUM, MaskBit, SpectrumStatus, check_spectra
from scalespec.surveys import SURVEYS, lamost, read_survey
from scalespec.surveys.lamost import WAVELENGTH, catalog_path, read_block, read_lrs
from scalespec.surveys.rows import INDEX_COLUMNS

CARDS = LRS_CARDS | {
    "CLASS": "STAR",
    "SUBCLASS": "G7",
    "Z": -0.0001387,
    "Z_ERR": 0.00002408,
    "SNRG": 12.22,
    "COEFF0": 3.5682,
    "COEFF1": 0.0001,
}


def _pixels(n=3909, start=0, seed=0):
    """Rows flux, ivar, wavelength, andmask, ormask as a file holds them."""
    rng = np.random.default_rng(seed)
    wavelength = 10 ** (3.5682 + 1e-4 * (start + np.arange(n)))
    flux = rng.normal(100, 5, n)
    ivar = np.where(rng.random(n) < 0.05, 0, rng.uniform(0.01, 0.1, n))
    andmask = np.where(rng.random(n) < 0.01, 2 ** rng.integers(0, 6, n), 0)
    return np.array([flux, ivar, wavelength, andmask, andmask | 8], np.float32)


def _image(rows, *, dtype=np.float32, rows_named="Flux Inverse Wavelength Andmask Ormask", **cards):
    header = fits.Header({**CARDS, "EXTEN0": rows_named, **cards})
    file = io.BytesIO()
    fits.PrimaryHDU(rows.astype(dtype), header).writeto(file)
    return file.getvalue()


def _coadd(rows, *, letter="E", name="COADD", **cards):
    names = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK", "NORMALIZATION")
    columns = [
        fits.Column(name, f"{len(row)}{letter if 'MASK' in name else 'E'}", array=row[np.newaxis])
        for name, row in zip(names, [*rows, rows[0]], strict=True)
    ]
    file = io.BytesIO()
    table = fits.BinTableHDU.from_columns(columns, name=name)
    fits.HDUList([fits.PrimaryHDU(header=fits.Header({**CARDS, **cards})), table]).writeto(file)
    return file.getvalue()


def _status(data: bytes) -> SpectrumStatus:
    spectra, _ = read_block([("spec-55859-F5902_sp01-013.fits.gz", data)])
    return SpectrumStatus(spectra.status.item())


@pytest.mark.parametrize("n", [3906, 3907, 3908, 3909])
@pytest.mark.parametrize("start", [0, 3])
def test_both_layouts_give_identical_rows(n, start):
    rows = _pixels(n, start)
    cards = {"Z": -9999, "Z_ERR": -9999, "COEFF0": 3.5682 + 1e-4 * start}
    files = {
        "image": _image(rows, **cards),
        "image of float64": _image(rows, dtype=np.float64, **cards),
        "table": _coadd(rows, **cards),
        "table of integer masks": _coadd(rows, letter="J", **cards),
    }
    spectra, _ = read_block([("x", data) for data in files.values()])
    for name, variable in spectra.data_vars.items():
        for row in variable.values[1:]:
            np.testing.assert_array_equal(row, variable.values[0], str(name))
    assert spectra.status.values[0] == SpectrumStatus.NO_REDSHIFT


def test_pixels_lie_where_their_wavelength_says_and_the_rest_is_outside():
    rows = _pixels(3900, 5)
    row = read_lrs(_image(rows, COEFF0=3.5687), "x")
    np.testing.assert_array_equal(row.flux[5:3905], rows[0])
    np.testing.assert_array_equal(row.ivar[5:3905], rows[1])
    outside = np.r_[0:5, 3905:3909]
    assert (row.mask[outside] == MaskBit.OUTSIDE).all()
    assert (row.flux[outside] == 0).all()
    assert (row.ivar[outside] == 0).all()
    assert not (row.mask[5:3905] & MaskBit.OUTSIDE).any()


def test_a_file_longer_than_the_grid_is_cut_to_it():
    rows = _pixels(3920, -4)
    row = read_lrs(_image(rows, COEFF0=3.5682 - 4e-4), "x")
    np.testing.assert_array_equal(row.flux, rows[0, 4:3913])
    assert not (row.mask & MaskBit.OUTSIDE).any()


def test_dr1_third_row_is_not_taken_for_wavelength():
    rows = _pixels(3904)
    rows[2] = np.linspace(0.5, 1.5, 3904)  # rising all the way, as no real continuum would
    row = read_lrs(_image(rows, rows_named="Flux Inverse Subcontinuum Andmask Ormask"), "x")
    np.testing.assert_array_equal(row.flux[:3904], rows[0])
    rows[2] = np.random.default_rng(1).normal(1, 0.1, 3904)
    row = read_lrs(_image(rows, rows_named="no word of it"), "x")
    np.testing.assert_array_equal(row.flux[:3904], rows[0])


def test_wavelength_row_alone_gives_the_grid():
    rows = _pixels(3900, 7)
    data = _image(rows, COEFF0="none", COEFF1=0)
    np.testing.assert_array_equal(read_lrs(data, "x").flux[7:3907], rows[0])


def test_wavelengths_a_fiftieth_of_a_pixel_off_are_on_the_lattice():
    for shift, status in ((0.018, 0), (-0.018, 0), (0.03, SpectrumStatus.RESAMPLED)):
        rows = _pixels()
        rows[2] *= 10 ** (1e-4 * shift)
        assert _status(_image(rows)) == status


@pytest.mark.parametrize(("shift", "shared"), [(0.0, 1.0), (0.1, 1.18), (0.5, 1.8)])
def test_a_rebinned_file_says_what_noise_its_pixels_share(shift, shared):
    rows = _pixels()
    rows[2] *= 10 ** (1e-4 * shift)
    image = _image(rows, COEFF0=3.5682 + 1e-4 * shift)
    spectra, _ = read_block([("a", image), ("b", b"")])
    check_spectra(spectra)
    assert spectra["noise_correlation"].values == pytest.approx([shared, 1], abs=0.01)
    assert 1 <= spectra["noise_correlation_rv"].values[0] <= shared


def test_a_file_is_placed_by_its_own_wavelengths_whatever_came_before():
    images = {start: _image(_pixels(3900, start), COEFF0=3.5682 + 1e-4 * start) for start in (3, 9)}
    alone = {start: read_lrs(data, "x") for start, data in images.items()}
    for start in (3, 9, 9, 3, 3):
        row = read_lrs(images[start], "x")
        np.testing.assert_array_equal(row.flux, alone[start].flux)
        np.testing.assert_array_equal(row.mask, alone[start].mask)
        assert row.flux[start] != 0
        assert row.mask[start - 1] == MaskBit.OUTSIDE
    lies = _image(_pixels(3900, 3), COEFF0=3.5682 + 9e-4)  # wavelengths that are known, and a lie
    assert _status(lies) == SpectrumStatus.BAD_GRID
    assert _status(images[3]) == 0


def test_grids_that_are_remembered_take_no_more_than_so_much():
    for n in range(3000, 3000 + 2 * lamost._MAX_GRIDS):
        read_lrs(_image(_pixels(n)), "x")
        assert len(lamost._GRIDS) <= lamost._MAX_GRIDS


def test_off_lattice_file_is_resampled_and_keeps_its_flux():
    n, pixel = 3800, np.arange(3800)
    wavelength = 10 ** (3.5702 + 1.02e-4 * pixel)
    smooth = 100 + 20 * np.sin(wavelength / 300)
    rows = np.array([smooth, np.full(n, 0.04), wavelength, np.zeros(n), np.zeros(n)], np.float32)
    rows[1, 1000:1010], rows[3, 2000], rows[0, 3000] = 0, 4, np.nan
    row = read_lrs(_coadd(rows, COEFF0=3.5702, COEFF1=1.02e-4), "x")
    assert row.status == SpectrumStatus.RESAMPLED
    grid, good = WAVELENGTH, row.ivar > 0
    # the mean of a sine over one pixel (2 Å of a period of 1,885 Å) is its value to 1e-6;
    # where a neighbor is missing the mean sits up to half a pixel aside: 20 * 1 Å / 300
    np.testing.assert_allclose(row.flux[good], (100 + 20 * np.sin(grid / 300))[good], atol=0.1)
    inner = good & (grid > wavelength[1]) & (grid < wavelength[-2])
    assert np.median(row.ivar[inner]) > 0.04  # means over parts of two pixels vary less than one
    gap = (grid > wavelength[1001]) & (grid < wavelength[1008])
    assert not good[gap].any()
    assert (row.mask[gap] == MaskBit.NO_IVAR | MaskBit.RESAMPLED_GAP).all()
    flagged = np.flatnonzero(row.mask & MaskBit.NO_SKY)
    assert len(flagged) in (2, 3)  # the output pixels that share the flagged one
    assert abs(grid[flagged].mean() - wavelength[2000]) < 2.5
    assert (row.mask[grid < wavelength[0] * 0.9997] == MaskBit.OUTSIDE).all()
    assert not (row.mask[good] & (MaskBit.NOT_FINITE | MaskBit.NO_IVAR)).any()


def _bad_grids():
    for name, row in {
        "decreasing": lambda w: w[::-1],
        "repeated": lambda w: np.repeat(w[::2], 2)[: len(w)],
        "NaN in it": lambda w: np.where(np.arange(len(w)) == 9, np.nan, w),
        "NaN first": lambda w: np.where(np.arange(len(w)) == 0, np.nan, w),
        "infinite": lambda w: np.where(np.arange(len(w)) == len(w) - 1, np.inf, w),
        "zeros": np.zeros_like,
        "log10": np.log10,
        "nanometers": lambda w: w / 10,
        "other range": lambda w: w * 3,
        "not the header's": lambda w: w * 10**1e-4,
        "fine pixels": lambda w: np.linspace(4950, 5350, len(w)),
    }.items():
        rows = _pixels()
        rows[2] = row(rows[2])
        cards = {"COEFF1": "none"} if name in ("other range", "fine pixels") else {}
        yield pytest.param(_coadd(rows, **cards), id=name)
    yield pytest.param(_image(_pixels(), VACUUM=False), id="in air")
    yield pytest.param(_image(_pixels(), HELIO=False), id="not heliocentric")
    dr1 = {"rows_named": "Subcontinuum"}
    yield pytest.param(_image(_pixels(), COEFF0=-9999, **dr1), id="no grid at all")
    yield pytest.param(_image(_pixels(), COEFF1=0.0, **dr1), id="no step")
    yield pytest.param(_image(_pixels(), COEFF0=4.5, **dr1), id="far infrared")


@pytest.mark.parametrize("data", list(_bad_grids()))
def test_wavelengths_that_fit_no_grid_are_bad_grid(data):
    assert _status(data) == SpectrumStatus.BAD_GRID


def _bad_layouts():
    empty = fits.PrimaryHDU(header=fits.Header(CARDS))
    rows = _pixels()
    short = fits.BinTableHDU.from_columns(
        [
            fits.Column(name, f"{100 - i}E", array=np.ones((1, 100 - i)))
            for i, name in enumerate(("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK"))
        ]
    )
    text = fits.BinTableHDU.from_columns(
        [
            fits.Column(name, "5A", array=["a", "b"])
            for name in ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK")
        ]
    )
    two = [fits.BinTableHDU.from_columns(text.columns, name=f"COADD_{arm}") for arm in "BR"]
    other = fits.BinTableHDU.from_columns([fits.Column("LOGLAM", "E", array=[1.0])])
    hdus = {
        "no pixels anywhere": [empty],
        "columns of other names": [empty, other],
        "columns of other lengths": [empty, short],
        "columns of text": [empty, text],
        "two arms": [empty, *two],
        "an image of four rows": [fits.PrimaryHDU(rows[:4])],
        "an image of one row": [fits.PrimaryHDU(rows[0])],
        "a cube": [fits.PrimaryHDU(rows.reshape(5, 3909, 1))],
    }
    for name, parts in hdus.items():
        file = io.BytesIO()
        fits.HDUList(parts).writeto(file)
        yield pytest.param(file.getvalue(), id=name)


@pytest.mark.parametrize("data", list(_bad_layouts()))
def test_other_files_are_bad_layout(data):
    assert _status(data) == SpectrumStatus.BAD_LAYOUT


def test_coadd_is_taken_where_single_exposures_lie_beside_it():
    rows = _pixels()
    with fits.open(io.BytesIO(_coadd(rows))) as hdus:
        single = fits.BinTableHDU(hdus[1].data, name="B-83555758")
        file = io.BytesIO()
        fits.HDUList([hdus[0], single, hdus[1]]).writeto(file)
    np.testing.assert_array_equal(read_lrs(file.getvalue(), "x").flux, rows[0])


def test_table_with_a_row_per_pixel_is_read_too():
    rows = _pixels()
    names = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK")
    table = fits.BinTableHDU.from_columns(
        [fits.Column(name, "E", array=row) for name, row in zip(names, rows, strict=True)]
    )
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(header=fits.Header(CARDS)), table]).writeto(file)
    np.testing.assert_array_equal(read_lrs(file.getvalue(), "x").flux, rows[0])


def test_pixels_without_information_say_why_and_keep_no_nan():
    rows = _pixels()
    rows[0, :4], rows[1, :8] = (np.nan, np.inf, 7, -7), (1, 1, np.nan, np.inf, 0, -1, 1, 1e-30)
    row = read_lrs(_coadd(rows), "x")
    low = row.mask[:8] & 0xFF
    assert (low[:4] == MaskBit.NOT_FINITE).all()
    assert (low[4:6] == MaskBit.NO_IVAR).all()
    assert (low[6:] == 0).all()
    assert (row.flux[:4] == 0).all()
    np.testing.assert_array_equal(row.flux[4:], rows[0, 4:])  # kept under ivar 0 too
    np.testing.assert_array_equal(row.ivar[:8], np.float32([0, 0, 0, 0, 0, 0, 1, 1e-30]))
    wide = read_lrs(_image(np.where(rows == 7, 1e300, rows.astype("f8")), dtype=np.float64), "x")
    assert wide.mask[2] & MaskBit.NOT_FINITE  # beyond float32


def test_survey_masks_become_bits_whatever_number_they_are_kept_in():
    rows = _pixels()
    rows[3:] = 0
    rows[3, :7] = 1, 2, 4, 8, 16, 32, 33
    rows[4, :4] = 64, np.nan, -1, 1e9  # real files hold 64; the others name no bit
    rows[4, 10] = 8
    mask = read_lrs(_coadd(rows), "x").mask & ~np.uint32(0xFF)
    flags = [MaskBit.BAD_PIXEL, MaskBit.BAD_TRACE, MaskBit.NO_SKY, MaskBit.BRIGHT_SKY]
    flags += [MaskBit.OFF_CCD, MaskBit.NO_DATA, MaskBit.BAD_PIXEL | MaskBit.NO_DATA]
    expected = np.array([int(flag) for flag in flags], np.uint32)
    expected[0] |= MaskBit.SUSPECT << 8
    np.testing.assert_array_equal(mask[:7], expected)
    assert mask[10] == 8 << 16
    assert not mask[11:].any()


def test_spectrum_without_one_good_pixel_is_a_row_that_says_so():
    rows = _pixels()
    rows[1] = 0
    spectra, index = read_block([("x", _coadd(rows))])
    assert spectra.status.item() == SpectrumStatus.NO_PIXELS
    assert index.reason.item().startswith("no_pixels")
    assert spectra.snr.item() == 0
    assert spectra.obsid.item() == CARDS["OBSID"]


def test_scalars_are_the_headers():
    row = read_lrs(_image(_pixels()), "x").scalars
    assert (row["obsid"], row["ra"], row["dec"]) == (101001, 332.202274, -2.056767)
    when = datetime(2011, 10, 24, 12, 30, tzinfo=UTC)
    # MJD 40587 is 1970-01-01, where timestamps begin
    assert row["mjd"] == pytest.approx(40587 + when.timestamp() / 86400, abs=1e-9)
    assert row["rv"] == pytest.approx(-0.0001387 * 299792.458)
    assert row["rv_err"] == pytest.approx(0.00002408 * 299792.458)


def test_snr_is_the_median_per_good_pixel():
    rows = _pixels()
    ratios = sorted(f * v**0.5 for f, v in zip(rows[0], rows[1], strict=True) if v > 0)
    middle = (ratios[len(ratios) // 2] + ratios[(len(ratios) - 1) // 2]) / 2
    # float32 products
    spectra, _ = read_block([("x", _image(rows))])
    assert spectra.snr.item() == pytest.approx(middle, rel=1e-6)


@pytest.mark.parametrize(
    ("cards", "name", "unknown", "status"),
    [
        ({"Z": -9999}, "rv", True, SpectrumStatus.NO_REDSHIFT),
        ({"Z": 1.8}, "rv", True, SpectrumStatus.NO_REDSHIFT),  # a QSO
        ({"Z": "NULL"}, "rv", True, SpectrumStatus.NO_REDSHIFT),
        ({"Z": 0}, "rv", False, 0),
        ({"Z_ERR": -9999}, "rv_err", True, 0),
        ({"RA": -9999.0}, "ra", True, SpectrumStatus.NO_POSITION),
        ({"DEC": 91.0}, "dec", True, SpectrumStatus.NO_POSITION),
        ({"DEC": "none"}, "ra", True, SpectrumStatus.NO_POSITION),
        ({"RA": 360.0}, "ra", False, 0),
        ({"DATE-OBS": "0000-00-00", "MJD": "none"}, "mjd", True, 0),
    ],
)
def test_sentinels_become_nan_and_status(cards, name, unknown, status):
    spectra, _ = read_block([("x", _coadd(_pixels(), **cards))])
    assert np.isnan(spectra[name].item()) == unknown
    assert spectra.status.item() == status
    assert np.isnan(spectra.ra.item()) or 0 <= spectra.ra.item() < 360


def test_damaged_date_leaves_the_day():
    assert read_lrs(_coadd(_pixels(), **{"DATE-OBS": "2011-13-45"}), "x").scalars["mjd"] == 55858


def test_obsid_is_made_of_the_plate_where_the_header_has_none():
    name = "20111024/F5902/spec-55859-F5902_sp01-013_dr1.fits.gz"
    cut = {"OBSID": None}
    by_header = read_lrs(_image(_pixels(), **cut), "x").scalars["obsid"]
    by_name = read_lrs(_image(_pixels(), PLANID=None, **cut), name).scalars["obsid"]
    other = read_lrs(_image(_pixels(), FIBERID=14, **cut), "x").scalars["obsid"]
    hashed = read_lrs(_image(_pixels(), PLANID=None, **cut), "a/b.fits").scalars["obsid"]
    # printf 55859-F5902-1-13 | sha256sum
    assert by_header == by_name == 0xFA8D19A4389A27CC >> 2 | 1 << 61
    assert len({by_header, other, hashed}) == 3
    assert all(2**61 <= obsid < 2**62 for obsid in (by_header, other, hashed))


def test_strings_are_the_headers():
    strings = read_lrs(_image(_pixels()), "x").strings
    assert strings == {
        "designation": "LAMOST J220848.54-020324.3",
        "class_": "STAR",
        "subclass": "G7",
        "release": "LAMOST DR7",
        "snr_g": 12.22,
    }
    old = read_lrs(_image(_pixels(), SNRG=None, SN_G=71.41), "x").strings  # DR1, DR2
    assert old["snr_g"] == 71.41
    assert np.isnan(read_lrs(_image(_pixels(), SNRG=-9999), "x").strings["snr_g"])


def test_what_only_astropy_reads_gives_the_same_row_and_is_counted():
    rows = _pixels()
    plain, long = _coadd(rows), _coadd(rows, **{"HIERARCH LONG NAME": 1})
    spectra, _ = read_block([("x", plain), ("x", long)])
    assert spectra.attrs["fallbacks"] == 1
    for name, variable in spectra.data_vars.items():
        np.testing.assert_array_equal(variable.values[1], variable.values[0], str(name))


def test_unreadable_card_costs_its_value_not_the_spectrum():
    data = _coadd(_pixels())
    at = data.index(b"SNRG    =")
    data = data[: at + 10] + b"12 34 56".ljust(70) + data[at + 80 :]
    row = read_lrs(data, "x")
    assert row.fallback
    assert np.isnan(row.strings["snr_g"])


def test_block_keeps_the_schema_with_rows_and_without():
    for files in ([("a", _image(_pixels())), ("b", b"")], []):
        spectra, index = read_block(files)
        check_spectra(spectra)
        assert dict(spectra.sizes) == {"spectrum": len(files), "wavelength": 3909}
        assert spectra.wavelength.dtype == np.float64
        assert tuple(index.columns) == INDEX_COLUMNS
        assert index.snr_g.dtype == np.float64
        assert index.designation.dtype == read_block([("a", b"")])[1].designation.dtype
        assert set(PER_SPECTRUM) <= set(spectra.data_vars)
    assert spectra.attrs["survey"] == "lamost_lrs"
    assert spectra.attrs["resolving_power"] == 1800.0
    np.testing.assert_allclose(WAVELENGTH, 10 ** (3.5682 + 1e-4 * np.arange(3909)), rtol=1e-14)


def test_rows_keep_the_order_of_their_files():
    files = [(f"{i}", _coadd(_pixels(seed=i), OBSID=i + 1)) for i in range(3)]
    files.insert(1, ("gone", FileNotFoundError("gone")))
    spectra, index = read_block(files)
    assert spectra.obsid.values.tolist() == [1, -1, 2, 3]
    assert index.file.tolist() == ["0", "gone", "1", "2"]
    np.testing.assert_array_equal(spectra.flux.values[3], _pixels(seed=2)[0])


def test_read_survey_takes_a_file_a_folder_or_a_glob(tmp_path):
    folder = tmp_path / "20111024" / "F59[02]"  # a folder whose name looks like a glob
    folder.mkdir(parents=True)
    for fiber in (14, 13):
        path = folder / f"spec-55859-F5902_sp01-{fiber:03d}.fits.gz"
        path.write_bytes(_coadd(_pixels(seed=fiber), OBSID=fiber))
    assert read_survey(tmp_path).obsid.values.tolist() == [13, 14]
    assert read_survey(folder).obsid.values.tolist() == [13, 14]
    assert read_survey(str(tmp_path / "*" / "*" / "*-014*")).obsid.values.tolist() == [14]
    one = read_survey(path)
    assert one.file.values.tolist() == [str(path)]
    assert one.designation.item() == CARDS["DESIG"]
    with pytest.raises(SurveyFileError, match=r"no file matches .*nothing"):
        read_survey(tmp_path / "nothing*")
    with pytest.raises(ValueError, match="no survey 'lamost'"):
        read_survey(tmp_path, survey="lamost")


def test_catalog_path_follows_the_release_rule():
    row = {"obsdate": "2011-10-24", "planid": "F5902 ", "lmjd": "55859", "spid": 1, "fiberid": 13}
    path = "20111024/F5902/spec-55859-F5902_sp01-013.fits.gz"
    assert catalog_path(row) == SURVEYS["lamost_lrs"].catalog_path(row) == path
    assert catalog_path({**row, "obsdate": "20111024", "spid": np.int16(1)}) == path
    # http://dr5.lamost.org/v3/sas/fits/20131111/GAC116N20B1/spec-56608-GAC116N20B1_sp15-092.fits.gz
    dr5 = {"obsdate": "2013-11-11", "planid": "GAC116N20B1", "lmjd": 56608, "spid": 15}
    wanted = "20131111/GAC116N20B1/spec-56608-GAC116N20B1_sp15-092.fits.gz"
    assert catalog_path({**dr5, "fiberid": 92}) == wanted
