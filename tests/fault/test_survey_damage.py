"""Broken files of every survey: each planned spectrum stays a row, which says why it is empty."""

import gzip
import time
import tracemalloc

import numpy as np
import pytest
from survey_files import SURVEY_FILES, description_of, table_npz, table_parquet, xp_csv

from scalespec.schema import UNREADABLE, MaskBit, SpectrumStatus, check_spectra
from scalespec.surveys import open_survey
from scalespec.surveys.rows import Piece

OTHERS = {"table npz": table_npz, "table parquet": table_parquet, "gaia_xp csv": xp_csv}
"""Further layouts, by "survey layout"."""
KINDS = [*SURVEY_FILES, *OTHERS]
UNREAD = int(UNREADABLE & ~SpectrumStatus.NO_PIXELS)


def _survey(kind):
    name = kind.split()[0]
    return open_survey(name, description_of(name))


def _made(kind):
    return OTHERS[kind]() if kind in OTHERS else SURVEY_FILES[kind][0]()


def _check(groups, index, n):
    """What holds for any block, whatever its files hold."""
    for group in groups.values():
        check_spectra(group)
        assert group.sizes["spectrum"] == n
        for name in ("flux", "ivar", "wavelength", "snr", "lsf_sigma"):
            if name in group:
                assert np.isfinite(group[name].values).all(), name
        if "ivar" in group:
            assert (group.ivar.values >= 0).all()
            unread = group.status.values & UNREAD > 0
            assert not group.ivar.values[unread].any()
            assert (group.mask.values[unread] == MaskBit.OUTSIDE).all()
    failed = groups[""].status.values & int(UNREADABLE) > 0
    assert np.array_equal(index.reason.values != "", failed)


@pytest.mark.parametrize("survey", SURVEY_FILES)
def test_each_kind_of_damage_has_its_reason_in_every_survey(survey):
    whole = _made(survey)
    gz, half = gzip.compress(whole, 1), len(whole) // 2
    status = SpectrumStatus
    cases = {
        "empty": (b"", status.NOT_FITS),
        "an HTML page": (b"<!DOCTYPE html><h1>404</h1>", status.NOT_FITS),
        "an HTML page, gzipped": (gzip.compress(b"<!DOCTYPE html>"), status.NOT_FITS),
        "gzip cut": (gz[: len(gz) // 2], status.TRUNCATED),
        "FITS cut, gzip whole": (gzip.compress(whole[:half], 1), status.TRUNCATED),
        "plain FITS cut": (whole[:1000], status.TRUNCATED),
        "checksum": (gz[:-6] + bytes([gz[-6] ^ 1]) + gz[-5:], status.CORRUPT),
        "length in the trailer": (gz[:-1] + bytes([gz[-1] ^ 1]), status.CORRUPT),
        "a primary header alone": (whole[:2880], None),
        "no such file": (FileNotFoundError(2, "No such file"), status.MISSING),
    }
    reader = _survey(survey)
    pieces = [Piece(name, content, 0, 2) for name, (content, _) in cases.items()]
    groups, index = reader.read_block(pieces)
    _check(groups, index, 2 * len(cases))
    for i, (name, (_, wanted)) in enumerate(cases.items()):
        found = groups[""].status.values[2 * i : 2 * i + 2]
        if wanted is not None:
            assert found.tolist() == [wanted] * 2, name
            assert index.reason[2 * i].startswith(wanted.name.lower()), name
        else:
            assert (found & UNREAD > 0).all(), name


@pytest.mark.parametrize("survey", SURVEY_FILES)
def test_gzip_in_all_its_shapes_gives_the_rows_of_the_plain_file(survey):
    whole = _made(survey)
    half = len(whole) // 2
    shapes = {
        "plain, named .gz": whole,
        "one member": gzip.compress(whole, 1),
        "two members": gzip.compress(whole[:half], 1) + gzip.compress(whole[half:], 1),
        "junk after the stream": gzip.compress(whole, 1) + b"<html>gateway timeout</html>",
    }
    reader = _survey(survey)
    n = reader.pieces([("x.fits.gz", whole)])[0].n
    assert [p.n for p in reader.pieces([("x", data) for data in shapes.values()])] == [n] * 4
    groups, index = reader.read_block([Piece("x.fits.gz", d, 0, n) for d in shapes.values()])
    _check(groups, index, 4 * n)
    assert (groups[""].status.values & UNREAD == 0).all()
    for group in groups.values():
        for name, variable in group.data_vars.items():
            if variable.dims[:1] == ("spectrum",):
                rows = variable.values.reshape(4, n, *variable.shape[1:])
                for other in rows[1:]:
                    np.testing.assert_array_equal(other, rows[0], f"{survey} {name}")


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip, cut or insert bytes at a few places, half of the places in the first headers."""
    for _ in range(rng.integers(1, 4)):
        span = len(data) if rng.random() < 0.5 else min(14_400, len(data))
        at = int(rng.integers(span)) if span else 0
        what = rng.integers(4)
        if what == 0 and data:
            data = data[:at] + bytes([data[at] ^ int(rng.integers(1, 256))]) + data[at + 1 :]
        elif what == 1:
            data = data[:at] + data[at + int(rng.integers(1, 200)) :]
        elif what == 2:
            data = data[:at] + rng.bytes(int(rng.integers(1, 90))) + data[at:]
        elif data:  # another digit in a card: sizes, counts and offsets that lie
            at = at // 80 * 80 + int(rng.integers(10, 80))
            data = data[:at] + b"%d" % rng.integers(10) + data[at + 1 :]
    return data


def _fuzz(kind: str, n: int, seed: int, *, slowest: float) -> None:
    """Read `n` mutants of a file, each in a block of its own, and check every row."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    original = _made(kind)
    reader = _survey(kind)
    packed = gzip.compress(original, 1)
    for i in range(n):
        data = mutate(packed if i % 3 == 0 else original, rng)
        start = time.process_time()
        (piece,) = reader.pieces([("x", data)])
        assert 1 <= piece.n <= 10_000
        groups, index = reader.read_block([piece])
        assert time.process_time() - start < slowest, (kind, seed, i)
        _check(groups, index, piece.n)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(120)
def test_no_mutant_raises_hangs_or_is_lost(kind):
    _fuzz(kind, 18, seed=0, slowest=10)  # 15 kinds: 270 mutants; thousands each night


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(3600)
def test_no_mutant_of_ten_thousand_raises_hangs_or_is_lost(kind):
    _fuzz(kind, 700, seed=1, slowest=10)  # 15 kinds: 10,500 mutants


def test_mutants_do_not_ask_for_memory():
    tracemalloc.start()
    try:
        for kind in KINDS:
            _fuzz(kind, 2, seed=2, slowest=60)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300 * 2**20  # the largest file is 2 MB, and a block of it a few times that


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("NAXIS1", 2**30), ("NAXIS2", 2**30), ("NAXIS", 999)],
)
@pytest.mark.parametrize("survey", ["desi", "gaia_xp", "lamost_mrs", "apogee"])
def test_headers_that_lie_about_sizes_are_rows(survey, keyword, value):
    data = _made(survey)
    at = data.index(keyword.ljust(8).encode() + b"=", 2880)
    data = data[: at + 10] + str(value).rjust(20).encode() + data[at + 30 :]
    reader = _survey(survey)
    start = time.process_time()
    groups, index = reader.read_block(reader.pieces([("x", data)]))
    assert time.process_time() - start < 10
    _check(groups, index, 1)
    assert groups[""].status.item() & UNREAD
