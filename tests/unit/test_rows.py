"""Blocks of files as rows: pieces, arms, status and strings, with readers made up here."""

import math

import numpy as np
import pytest

from scalespec.errors import StoreError, SurveyFileError
from scalespec.kernels.wavelength import log_grid
from scalespec.schema import MaskBit, SpectrumStatus, check_spectra
from scalespec.surveys.cards import made_id, number, position, survey_bits, velocity
from scalespec.surveys.lattice import Lattice, check_increasing, clean, inverse_variance
from scalespec.surveys.rows import INDEX_COLUMNS, Arm, Piece, Pixels, Rows, Survey, file_column
from scalespec.surveys.tables import LOST, check_range, ids, numbers, places, texts

ATTRS = {
    "wavelength_medium": "vacuum",
    "frame": "observed, barycentric",
    "flux_unit": "counts",
    "resolving_power": 1000.0,
}
GRID = np.array([4000.0, 4001.0, 4002.0])
KNOWN = {"ra": 10.0, "dec": 20.0, "rv": 3.0}


def _pixels(n, ivar=1.0, **more):
    one = np.full((n, 3), 1, np.float32)
    return Pixels(2 * one, np.float32(ivar) * one, np.zeros((n, 3), np.uint32), **more)


def _survey(read, *, arms=("",), **more):
    made = tuple(Arm(name, GRID, 3, {}) for name in arms)
    return Survey("made_up", "*", made, ATTRS, read=read, **more)


def _refuse(data, name, first, count):
    raise SurveyFileError("no such layout", "bad_layout")


def test_a_piece_gives_as_many_rows_as_were_planned_and_they_stay_in_order():
    def read(data, name, first, count):
        return Rows({"": _pixels(count)}, {**KNOWN, "obsid": np.arange(first, first + count)}, {})

    groups, index = _survey(read).read_block(
        [Piece("a", b"", 5, 3), Piece("b", FileNotFoundError("gone"), 0, 2), Piece("c", b"", 0, 1)]
    )
    spectra = check_spectra(groups[""])
    assert spectra.obsid.values.tolist() == [5, 6, 7, -1, -1, 0]
    assert index.file.tolist() == ["a", "a", "a", "b", "b", "c"]
    assert spectra.status.values.tolist() == [0, 0, 0, 1, 1, 0]
    assert index.reason.tolist()[3:5] == ["missing: FileNotFoundError: gone"] * 2
    assert list(index.columns) == list(INDEX_COLUMNS)


def _by(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        OSError(116, "Stale file handle"),
        StoreError("s3://b/x: 503 Slow Down"),
        _by(StoreError("x: Too many open files"), OSError(24, "Too many open files")),
        RuntimeError("none that a file gives"),
    ],
)
def test_an_error_that_may_pass_is_no_row(error):
    def read(data, name, first, count):
        return Rows({"": _pixels(count)}, KNOWN, {})

    with pytest.raises(type(error)) as raised:
        _survey(read).read_block([("a", b""), ("b", error)])
    assert raised.value is error


def test_a_store_that_has_no_such_file_gives_a_row():
    error = _by(StoreError("s3://b/x: not found"), FileNotFoundError("404"))
    groups, index = _survey(_refuse).read_block([("x", error)])
    assert groups[""].status.item() == SpectrumStatus.MISSING
    assert index.reason.tolist() == ["missing: StoreError: s3://b/x: not found"]


def test_whole_files_are_counted_and_what_cannot_be_is_one_row():
    def count(data):
        if not data:
            raise SurveyFileError("empty", "truncated")
        return len(data)

    survey = _survey(_refuse, count_spectra=count)
    pieces = survey.pieces([("a", b"123"), ("b", b""), ("c", OSError("gone"))])
    assert [(piece.first, piece.n) for piece in pieces] == [(0, 3), (0, 1), (0, 1)]
    assert [piece.n for piece in _survey(_refuse).pieces([("a", b"123")])] == [1]
    assert _survey(_refuse, count_spectra=lambda data: 0).pieces([("a", b"1")])[0].n == 1


def test_arms_are_datasets_of_the_same_rows_below_a_root():
    def read(data, name, first, count):
        arms = {"blue": _pixels(count, 4.0)} | ({"red": _pixels(count, 9.0)} if data else {})
        return Rows(arms, {**KNOWN, "obsid": 1}, {})

    groups, _ = _survey(read, arms=("blue", "red")).read_block([("a", b"x"), ("b", b"")])
    assert list(groups) == ["", "blue", "red"]
    for group in groups.values():
        check_spectra(group)
        assert group.obsid.values.tolist() == [1, 1]
    assert "flux" not in groups[""]
    assert groups[""].attrs["arms"] == ["blue", "red"]
    # S/N of the best arm in the root: 2 * 3; the arm's own in each
    np.testing.assert_allclose(groups[""].snr, [6, 4])
    np.testing.assert_allclose(groups["red"].snr, [6, 0])
    assert groups["red"].status.values.tolist() == [0, SpectrumStatus.NO_PIXELS]
    assert groups[""].status.values.tolist() == [0, 0]  # one arm is enough
    assert (groups["red"].mask.values[1] == MaskBit.OUTSIDE).all()


def test_a_spectrum_whose_arms_are_all_empty_has_no_pixels():
    def read(data, name, first, count):
        return Rows({"blue": _pixels(count, 0.0)}, KNOWN, {})

    groups, index = _survey(read, arms=("blue", "red")).read_block([("a", b"")])
    for group in groups.values():
        assert group.status.item() == SpectrumStatus.NO_PIXELS
    assert index.reason.item().startswith("no_pixels")


def test_what_an_arm_is_warned_of_is_in_the_root_too():
    def read(data, name, first, count):
        failed = _pixels(count, status=SpectrumStatus.NO_SIGNAL)
        return Rows({"blue": failed, "red": _pixels(count)}, KNOWN, {})

    groups, _ = _survey(read, arms=("blue", "red")).read_block([("a", b"")])
    assert [group.status.item() for group in groups.values()] == [1 << 13, 1 << 13, 1 << 13]


def test_an_error_marks_every_arm():
    groups, index = _survey(_refuse, arms=("blue", "red")).read_block([("a", b"")])
    for group in groups.values():
        assert group.status.item() == SpectrumStatus.BAD_LAYOUT
    assert index.reason.item() == "bad_layout: no such layout"


@pytest.mark.parametrize("n", [1, 2, 7, 40])
@pytest.mark.parametrize("bad", [0.0, 0.5, 0.95, 1.0])
def test_signal_to_noise_is_the_median_over_pixels_that_say_something(n, bad):
    rng = np.random.default_rng(int(100 * bad) + n)
    flux = rng.normal(0, 9, (5, n)).astype(np.float32)
    ivar = np.where(rng.random((5, n)) < bad, 0, rng.gamma(1, 1, (5, n))).astype(np.float32)

    def read(data, name, first, count):
        return Rows({"": Pixels(flux, ivar, np.zeros((5, n), np.uint32))}, KNOWN, {})

    arm = Arm("", GRID[0] + np.arange(n), n, {})
    groups, _ = Survey("made_up", "*", (arm,), ATTRS, read=read).read_block([Piece("a", b"", 0, 5)])
    for row, found in enumerate(groups[""]["snr"].to_numpy()):
        good = ivar[row] > 0
        wanted = np.median((flux[row] * np.sqrt(ivar[row]))[good]) if good.any() else 0.0
        assert found == pytest.approx(wanted, rel=1e-6)  # a mean of two in float32 or float64
        empty = bool(groups[""]["status"].to_numpy()[row] & SpectrumStatus.NO_PIXELS)
        assert empty == (not good.any())


def test_own_grids_are_padded():
    def read(data, name, first, count):
        one = np.ones((count, 2), np.float32)
        pixels = Pixels(one, one, np.zeros((count, 2), np.uint32), np.tile([5e3, 6e3], (count, 1)))
        return Rows({"": pixels}, KNOWN, {})

    survey = Survey("made_up", "*", (Arm("", None, 3, {}),), ATTRS, read=read)
    groups, _ = survey.read_block([("a", b""), ("b", FileNotFoundError())])
    spectra = check_spectra(groups[""])
    assert spectra.flux.dims == ("spectrum", "pixel")
    assert spectra.wavelength.values.tolist() == [[5000, 6000, 0], [0, 0, 0]]
    assert spectra.mask.values.tolist() == [[0, 0, 1], [1, 1, 1]]


def test_velocity_and_position_that_are_not_known_are_said_but_not_at_rest():
    def read(data, name, first, count):
        return Rows({"": _pixels(count)}, {}, {})

    moving, _ = _survey(read).read_block([("a", b"")])
    flags = SpectrumStatus.NO_REDSHIFT | SpectrumStatus.NO_POSITION
    assert moving[""].status.item() == flags
    arms = (Arm("", GRID, 3, {}),)
    resting = Survey("made_up", "*", arms, {**ATTRS, "frame": "rest"}, read=read)
    assert resting.read_block([("a", b"")])[0][""].status.item() == SpectrumStatus.NO_POSITION


def test_what_is_known_before_reading_is_kept():
    def read(data, name, first, count):
        return Rows({"": _pixels(count)}, {**KNOWN, "source_id": [7, -1]}, {})

    changed = int(SpectrumStatus.CHANGED)
    groups, _ = _survey(read).read_block([Piece("a", b"", 0, 2, changed, 99)])
    assert groups[""].source_id.values.tolist() == [7, 99]  # the file's own word counts more
    assert groups[""].status.values.tolist() == [changed, changed]
    groups, _ = _survey(_refuse).read_block([Piece("a", b"", 0, 1, changed)])
    assert groups[""].status.item() == changed | SpectrumStatus.BAD_LAYOUT


def test_signal_to_noise_stays_finite():
    def read(data, name, first, count):
        huge = np.full((count, 3), 3e38, np.float32)
        return Rows({"": Pixels(huge, huge, np.zeros((count, 3), np.uint32))}, KNOWN, {})

    groups, _ = _survey(read).read_block([("a", b"")])
    assert groups[""].snr.item() == pytest.approx(np.finfo(np.float32).max)


def test_lsf_is_shared_or_each_spectrums_own():
    node = np.array([4000.0, 5000.0])

    def read(data, name, first, count):
        return Rows({"": _pixels(count, lsf_sigma=np.array([[1.0, 2.0]]))}, KNOWN, {})

    shared = Survey("s", "*", (Arm("", GRID, 3, {}, node, node / 1e3),), ATTRS, read=read)
    own = Survey("s", "*", (Arm("", GRID, 3, {}, node),), ATTRS, read=read)
    files = [("a", b""), ("b", FileNotFoundError())]
    one = shared.read_block(files)[0][""]
    assert one.lsf_sigma.dims == ("lsf_node",)
    assert one.lsf_sigma.values.tolist() == [4, 5]
    two = own.read_block(files)[0][""]
    assert two.lsf_sigma.values.tolist() == [[1, 2], [0, 0]]  # 0 is unknown
    assert two.lsf_node.values.tolist() == node.tolist()


def test_no_files_give_the_schema_too():
    for arms in (("",), ("blue", "red")):
        groups, index = _survey(_refuse, arms=arms).read_block([])
        for group in groups.values():
            assert check_spectra(group).sizes["spectrum"] == 0
        assert index.empty
        assert index.snr_g.dtype == np.float64


def test_catalog_rows_without_a_rule_name_their_file():
    assert file_column({"file": "a/b.fits "}) == "a/b.fits"


# lattice -------------------------------------------------------------------------------------

LATTICE = Lattice(3.6, 1e-4, 100, tolerance=0.02)


@pytest.mark.parametrize(("start", "n"), [(0, 100), (3, 50), (-4, 60), (90, 40)])
def test_pixels_are_placed_and_no_number_changes(start, n):
    flux = np.arange(1, n + 1, dtype=np.float32)
    grid = (
        log_grid(3.6, 1e-4, 400)[: start + n][-n:]
        if start >= 0
        else 10 ** (3.6 + 1e-4 * (start + np.arange(n)))
    )
    (made, ivar, mask), resampled = LATTICE.put(flux, flux, np.zeros(n, np.uint32), grid)
    expected = np.zeros(100)
    for i in range(n):  # the slow, obvious way
        if 0 <= start + i < 100:
            expected[start + i] = flux[i]
    np.testing.assert_array_equal(made, expected)
    np.testing.assert_array_equal(mask == MaskBit.OUTSIDE, expected == 0)
    assert not resampled
    assert np.array_equal(ivar, made)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_pixels_that_begin_later_leave_the_rest_outside(first):
    one = np.ones(3 - first, np.float32)
    part = Pixels(2 * one, one, np.zeros(3 - first, np.uint32), first=first)
    groups, _ = _survey(lambda *_: Rows({"": part}, KNOWN, {})).read_block([("a", b"")])
    assert groups[""].flux[0].values.tolist() == [0] * first + [2] * (3 - first)
    assert groups[""].ivar[0].values.tolist() == [0] * first + [1] * (3 - first)
    assert groups[""].mask[0].values.tolist() == [MaskBit.OUTSIDE] * first + [0] * (3 - first)


@pytest.mark.parametrize("n_good", [1, 2, 3])
def test_snr_is_the_median_over_pixels_with_information(n_good):
    flux, ivar = np.array([5.0, -1.0, 3.0], np.float32), np.array([4.0, 9.0, 16.0], np.float32)
    ivar[n_good:] = 0
    pixels = Pixels(flux, ivar, np.zeros(3, np.uint32))
    groups, _ = _survey(lambda *_: Rows({"": pixels}, KNOWN, {})).read_block([("a", b"")])
    wanted = np.median((flux * np.sqrt(ivar))[:n_good])
    assert groups[""].snr[0] == wanted  # small whole numbers: exact


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1.0, -0.0, 0.0], ids=str)
@pytest.mark.parametrize("where", ["flux", "ivar"])
def test_cleaning_by_sums_is_cleaning_pixel_by_pixel(where, bad):
    flux, ivar = np.full((2, 50), 2, np.float32)
    (flux if where == "flux" else ivar)[7] = bad  # the square of 1e30 is no float32
    found = clean(flux, ivar)
    for i in range(50):  # the slow, obvious way
        finite = math.isfinite(flux[i]) and math.isfinite(ivar[i])
        keeps = finite and ivar[i] > 0
        wanted = (
            flux[i] if finite else 0,
            ivar[i] if keeps else 0,
            0 if keeps else MaskBit.NO_IVAR if finite else MaskBit.NOT_FINITE,
        )
        assert tuple(row[i] for row in found) == wanted
    assert not np.signbit(found[1]).any()


def test_off_the_lattice_flux_is_rebinned_and_conserved():
    grid = 10 ** (3.6 + 1e-4 * (10.4 + np.arange(50)))
    one = np.ones(50, np.float32)
    (flux, ivar, mask), resampled = LATTICE.put(5 * one, one, np.zeros(50, np.uint32), grid)
    assert resampled
    np.testing.assert_allclose(flux[ivar > 0], 5, rtol=1e-6)  # float32 means
    assert (mask[ivar == 0] != 0).all()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (10 ** (3.7 + 1e-4 * np.arange(50)), "outside the survey's"),
        (10 ** (3.6 + 5e-4 * np.arange(50)), "pixels are 5 of the survey's"),
    ],
)
def test_grids_that_are_not_the_surveys_are_refused(grid, message):
    one = np.ones(50, np.float32)
    with pytest.raises(SurveyFileError, match=message) as caught:
        LATTICE.put(one, one, np.zeros(50, np.uint32), grid)
    assert caught.value.reason == "bad_grid"


def test_clean_never_lets_nan_or_negative_ivar_through():
    bad = [np.nan, np.inf, -np.inf, 1.0, 1.0, 1e300]
    flux, ivar, reason = clean(np.array(bad), np.array([1, 1, 1, np.nan, -2, 1]))
    assert np.isfinite(flux).all()
    assert (ivar == 0).all()
    bits = [MaskBit.NOT_FINITE] * 4 + [MaskBit.NO_IVAR, MaskBit.NOT_FINITE]
    assert reason.tolist() == bits


def test_inverse_variance_of_no_error_is_none():
    got = inverse_variance(np.array([2.0, 0, -1, np.nan, np.inf, 1e-200]))
    assert got.tolist()[:5] == [0.25, 0, 0, 0, 0]
    assert got[5] == np.inf  # for `clean` to say so


@pytest.mark.parametrize("grid", [[5e3, 4e3], [10.0, 20.0], [5e3, np.nan], [5e3, 2e5]])
def test_wavelengths_that_do_not_increase_within_reason_are_refused(grid):
    with pytest.raises(SurveyFileError, match="do not increase"):
        check_increasing(np.array(grid))


# cards and tables ----------------------------------------------------------------------------


def test_made_ids_are_beyond_the_surveys_own_and_distinct():
    made = {made_id("a", i) for i in range(1000)}
    assert len(made) == 1000
    assert all(2**61 <= one < 2**62 for one in made)


@pytest.mark.parametrize(("ra", "dec"), [(-1, 0), (361, 0), (0, 91), (None, 0), ("1", 2)])
def test_places_off_the_sky_are_none(ra, dec):
    assert math.isnan(position(ra, dec)["ra"])
    assert math.isnan(position(ra, dec)["dec"])


def test_places_of_columns_agree_with_places_of_headers():
    ra, dec = np.array([0.0, 360.0, 400.0, np.nan]), np.array([-90.0, 90.0, 0.0, 0.0])
    columns = places(ra, dec)
    for i in range(4):
        one = position(float(ra[i]), float(dec[i]))
        np.testing.assert_equal([columns["ra"][i], columns["dec"][i]], [one["ra"], one["dec"]])


def test_redshifts_of_no_star_are_no_velocity():
    assert velocity(1e-4, 1e-5)["rv"] == pytest.approx(29.9792458)
    for z in (0.5, -9999, None, True):
        assert math.isnan(velocity(z, 1e-5)["rv"])
    assert math.isnan(velocity(1e-4, -9999)["rv_err"])
    assert math.isnan(number(1e301))


def test_survey_bits_agree_with_a_slow_loop():
    meaning = {0: MaskBit.BAD_PIXEL, 3: MaskBit.NO_SKY, 30: MaskBit.SUSPECT}
    values = np.random.default_rng(1).integers(0, 2**31, (5, 7)).astype(np.int32)
    expected = [
        [sum(int(ours) for bit, ours in meaning.items() if v >> bit & 1) for v in row]
        for row in values.tolist()
    ]
    assert survey_bits(values, meaning).tolist() == expected


def test_columns_are_found_by_any_of_their_names_and_sentinels_are_nan():
    table = {"b": np.array([1, -9999, 3]), "name": np.array([b"x ", b"y", b"z"])}
    rows = slice(1, 3)
    assert np.isnan(numbers(table, rows, "a", "b")).tolist() == [True, False]
    assert np.isnan(numbers(table, rows, "c")).all()
    assert ids(table, rows, "a", "b").tolist() == [-1, 3]
    assert ids(table, rows, "name").tolist() == [-1, -1]
    assert texts(table, slice(0, 2), "name").tolist() == ["x", "y"]
    assert texts(table, rows, "b").tolist() == ["", ""]


GAIA = 6917528997577384321  # 2^53 ends at 9.0e15


@pytest.mark.parametrize(
    ("column", "known"),
    [
        (np.array([GAIA, -1, 0], ">i8"), [GAIA, -1, -1]),  # FITS 'K'
        (np.array([GAIA, 2**64 - 1, 0], np.uint64), [GAIA, -1, -1]),
        (np.array([GAIA, np.nan, 5.0], ">f8"), [LOST, -1, 5]),  # FITS 'D'
        (np.array([-9999.0, 2.5, np.inf]), [-1, -1, -1]),
        (np.array([2**24 + 2, 7, -1], np.float32), [LOST, 7, -1]),
        (np.array([str(GAIA), " 12 ", "none"], "S19"), [GAIA, 12, -1]),
        (np.array(["99999999999999999999", "0", "-5"], "S20"), [-1, -1, -1]),  # beyond int64
    ],
)
def test_ids_of_any_type_are_exact_or_said_to_be_lost(column, known):
    found = ids({"source_id": column}, slice(0, 3), "source_id")
    assert found.dtype == np.int64
    assert found.tolist() == known


def test_a_star_whose_id_is_lost_is_marked_unless_a_release_catalog_knows_it(caplog):
    table = {"gaia_of_a_survey": np.array([float(GAIA), 12.0])}

    def read(data, name, first, count):
        found = ids(table, slice(first, first + count), "gaia_of_a_survey")
        return Rows({"": _pixels(count)}, {**KNOWN, "source_id": found}, {})

    pieces = [Piece("a", b"", 0, 2), Piece("b", b"", 0, 1, 0, GAIA)]
    spectra = _survey(read).read_block(pieces)[0][""]
    assert spectra.source_id.values.tolist() == [-1, 12, GAIA]
    assert spectra.status.values.tolist() == [SpectrumStatus.INEXACT_ID, 0, 0]
    (said,) = caplog.records  # once, not once a file
    assert "column 'gaia_of_a_survey' holds ids over 2^53 as floating-point" in said.getMessage()
    assert "64-bit integers (FITS 'K') or text" in said.getMessage()


def test_rows_that_a_container_does_not_have_are_refused():
    assert check_range(1, 2, 3) == slice(1, 3)
    with pytest.raises(SurveyFileError, match=r"2:4 were planned, the file has 3"):
        check_range(2, 2, 3)
