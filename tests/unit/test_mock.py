"""A made-up survey holds what its truth says, whoever makes its blocks."""

import gzip
import hashlib
import io
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits

from scalespec.config import parse_config
from scalespec.engines.local import LocalEngine
from scalespec.errors import StageError
from scalespec.kernels.sky import propagate, separation_arcsec, unit_vectors
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.models.synthesis import LineSynthesis
from scalespec.plan import Block, BlockReport
from scalespec.schema import SpectrumStatus, check_spectra
from scalespec.stages.mock import (
    LABELS,
    MockBlock,
    MockSurvey,
    grid_block,
    load_lines,
    make_mock,
    mock_block,
    mock_stage,
    run_file,
    synthesis_model,
)
from scalespec.stages.mock_records import BROKEN, file_rows, source_ids
from scalespec.store.model import load_model
from scalespec.store.tables import read_table
from scalespec.surveys.lamost import WAVELENGTH, read_block

SURVEY = MockSurvey("unused", n_spectra=1000, seed=5, spectra_per_block=64)


class Lines(Emulator):
    """Three lines that answer to their labels, on LAMOST's own pixels; no two stars look alike."""

    def __init__(self, wavelength: np.ndarray = WAVELENGTH) -> None:
        low, high = [4500.0, 1.0, -1.0], [5500.0, 4.0, 0.0]
        super().__init__(EmulatorSpec("lines", ("teff", "logg", "fe_h"), low, high, wavelength))
        ratio = torch.tensor(wavelength) / torch.tensor([[4300.0], [5180.0], [6564.6]])
        self.profile = torch.exp(-0.5 * ((ratio - 1) * 2.3548 * 1800) ** 2).float()

    def forward_scaled(self, x: torch.Tensor) -> torch.Tensor:
        return 1 - (0.4 + 0.5 * x.float()) @ self.profile


@pytest.fixture(scope="module")
def block() -> MockBlock:
    return mock_block(1, synthesis_model(), SURVEY)


@pytest.fixture(scope="module")
def many() -> list[MockBlock]:
    survey = MockSurvey("unused", n_spectra=2000, seed=2, spectra_per_block=500)
    return [mock_block(i, Lines(), survey) for i in range(4)]


def joined(blocks: list[MockBlock], table: str, column: str) -> np.ndarray:
    return np.concatenate([getattr(b, table)[column] for b in blocks])


def test_astropy_reads_every_healthy_file_as_planned(block):
    assert len(block.files) == 64
    layouts = set()
    for row, (name, content) in enumerate(block.files):
        if block.truth["broken"][row]:
            continue
        first = block.spectra.first_pixel[row]
        planned = file_rows(block.spectra, row)[:, first : first + block.spectra.n_pixel[row]]
        with fits.open(io.BytesIO(gzip.decompress(content))) as hdus:
            hdus.verify("exception")
            header = hdus[0].header
            assert header["OBSID"] == block.truth["obsid"][row]
            assert header["FILENAME"] == Path(name).name.removesuffix(".gz")
            old = len(hdus) == 1
            names = [] if old else hdus["COADD"].columns.names
            found = hdus[0].data if old else np.stack([hdus[1].data[c][0] for c in names])
            assert np.array_equal(found, planned[: len(found)])
            wave = 10 ** (header["COEFF0"] + header["COEFF1"] * np.arange(len(planned[2])))
            assert np.allclose(planned[2], wave, rtol=1e-7)  # float32
            layouts.add(old)
    assert layouts == {True, False}


def test_our_reader_says_what_is_broken(many):
    statuses = {
        "": SpectrumStatus(0),
        "truncated": SpectrumStatus.TRUNCATED,
        "empty": SpectrumStatus.NOT_FITS,
        "html": SpectrumStatus.NOT_FITS,
        "bit_flip": SpectrumStatus.CORRUPT,
        "no_ivar": SpectrumStatus.NO_PIXELS,
    }
    for made in many:
        spectra, index = read_block(made.files)
        bad = spectra.status.to_numpy() & np.uint32(0x7F)
        expected = [int(statuses[kind]) for kind in made.truth["broken"]]
        assert bad.tolist() == expected
        assert (index.reason != "").tolist() == [kind != "" for kind in made.truth["broken"]]
        assert spectra.attrs["fallbacks"] == 0


def test_the_same_seed_gives_the_same_bytes_in_any_order(block):
    model = synthesis_model()
    mock_block(7, model, SURVEY)
    again = mock_block(1, model, SURVEY)
    assert again.files == block.files
    for table in ("truth", "catalog"):
        for name, values in getattr(block, table).items():
            np.testing.assert_array_equal(getattr(again, table)[name], values)


def test_a_block_does_not_depend_on_the_surveys_length(block):
    longer = MockSurvey("elsewhere", n_spectra=10**6, seed=5, spectra_per_block=64)
    assert mock_block(1, synthesis_model(), longer).files == block.files


def test_stages_write_what_blocks_hold(tmp_path):
    survey = MockSurvey(str(tmp_path), n_spectra=40, seed=3, spectra_per_block=16, emulator=Lines())
    stage = mock_stage(survey)
    reports = list(LocalEngine().map(stage, stage.blocks))
    assert [r.result.rows for r in reports] == [16, 16, 8]
    for index in range(3):
        for name, content in mock_block(index, Lines(), survey).files:
            assert (tmp_path / "files" / name).read_bytes() == content


def test_a_stage_travels_to_other_processes(tmp_path):
    survey = MockSurvey(str(tmp_path), n_spectra=4, seed=3, emulator=Lines())
    stage = pickle.loads(pickle.dumps(mock_stage(survey)))
    (report,) = LocalEngine().map(stage, stage.blocks)
    assert report.ok


def test_make_mock_gathers_tables_and_leaves_nothing_else(tmp_path):
    out = str(tmp_path / "survey")
    counts = make_mock(out, n_spectra=150, engine=LocalEngine(), emulator=Lines(), seed=4)
    truth = read_table(f"{out}/truth.parquet")
    assert sorted(p.name for p in Path(out).iterdir()) == [
        "files",
        "labels.parquet",
        "truth.parquet",
    ]
    written = sorted(str(p.relative_to(out)) for p in Path(out).rglob("*.fits.gz"))
    assert sorted(truth["file"]) == written
    assert len(set(truth["obsid"])) == 150
    assert sum(counts.get(kind, 0) for kind in ("healthy", *BROKEN)) == 150
    assert counts["labelled"] == len(read_table(f"{out}/labels.parquet")["ra"])
    names = {"obsid", "star", "source_id", "file", "teff", "logg", "fe_h", "rv", "snr", "broken"}
    assert names <= set(truth)


def test_tables_do_not_depend_on_the_order_of_blocks(tmp_path):
    class Backwards(LocalEngine):
        def map(self, stage, blocks: Iterable[Block]) -> Iterator[BlockReport]:
            return super().map(stage, reversed(list(blocks)))

    digests = []
    for name, engine in (("a", LocalEngine()), ("b", Backwards())):
        out = tmp_path / name
        make_mock(str(out), n_spectra=60, engine=engine, emulator=Lines(), spectra_per_block=16)
        files = sorted(p for p in out.rglob("*") if p.is_file())
        digests.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in files])
    assert digests[0] == digests[1]


def test_a_block_that_fails_is_an_error_with_its_number(tmp_path):
    class Failing(Lines):
        def forward(self, labels: torch.Tensor) -> torch.Tensor:
            raise ValueError("no spectrum today")

    with pytest.raises(StageError, match="block 0: ValueError: no spectrum today"):
        make_mock(str(tmp_path), n_spectra=5, engine=LocalEngine(), emulator=Failing())


def test_fractions_are_as_promised(many):
    broken = joined(many, "truth", "broken") != ""
    assert 0.008 < broken.mean() < 0.025  # 1.5 %, 3.5 sigma of 2000
    lost = []
    for made in many:
        healthy = [f for f, kind in zip(made.files, made.truth["broken"], strict=True) if not kind]
        spectra, _ = read_block(healthy)
        lost.append(spectra.status.to_numpy() & SpectrumStatus.NO_REDSHIFT.value > 0)
    assert 0.01 < np.concatenate(lost).mean() < 0.032  # 2 %
    star, numbers = joined(many, "truth", "star"), np.arange(2000)
    assert 0.075 < np.mean(star != numbers) < 0.125  # 10 %
    assert 0.45 < np.mean(joined(many, "truth", "layout") == "image") < 0.55
    assert 0.28 < len(set(joined(many, "catalog", "apogee_id"))) / len(set(star)) < 0.38


def test_repeated_stars_have_the_same_truth_and_another_night(many):
    star = joined(many, "truth", "star")
    again = np.flatnonzero(star != np.arange(2000))
    for name in ("teff", "logg", "fe_h", "rv", "source_id"):
        values = joined(many, "truth", name)
        assert np.array_equal(values[again], values[star[again]])
    mjd = joined(many, "truth", "mjd")
    assert np.mean(mjd[again] != mjd[star[again]]) > 0.2  # the other plate of the field


def test_noise_is_what_ivar_says(block):
    s = block.spectra
    quiet = (s.ivar > 0) & (s.ormask == 0)
    pulls = ((s.flux - s.truth) * np.sqrt(s.ivar))[quiet]
    low, high = np.quantile(pulls, [0.1587, 0.8413])  # a tenth of the spikes carries no flag
    assert (high - low) / 2 == pytest.approx(1.0, abs=0.01)  # 5 sigma of 240,000


def test_spectra_are_shifted_by_the_stars_velocity(block):
    """Against synthesis on wavelengths of the star's own frame, not on the mock's grid."""
    labels = torch.tensor(np.stack([block.truth[name] for name in LABELS], 1))
    fastest = np.argsort(np.abs(block.truth["rv"]))[-3:]
    for row in fastest:
        beta = block.truth["rv"][row] / 299792.458
        rest = WAVELENGTH / np.sqrt((1 + beta) / (1 - beta))
        with torch.no_grad():
            direct = LineSynthesis(load_lines(), rest, labels=LABELS)(labels[row : row + 1])
        shifted = block.spectra.truth[row] / block.spectra.continuum[row]
        assert np.abs(direct[0].numpy() - shifted).max() < 1e-3


def test_catalog_positions_meet_the_observations(many):
    star = joined(many, "truth", "star")
    source = joined(many, "catalog", "source_id")
    rows = {int(s): i for i, s in enumerate(source_ids(star)) if star[i] == i}
    known = np.flatnonzero(source > 0)
    seen = np.array([rows[int(s)] for s in source[known]])
    year = 2000.0 + (joined(many, "truth", "mjd")[seen] - 51544.5) / 365.25
    columns = [joined(many, "catalog", name)[known] for name in ("ra", "dec", "pmra", "pmdec")]
    moved = unit_vectors(*propagate(*columns, 2000.0, year))
    observed = unit_vectors(*(joined(many, "truth", name)[seen] for name in ("ra", "dec")))
    still = unit_vectors(*columns[:2])
    assert separation_arcsec(moved, observed).max() < 0.1
    assert separation_arcsec(still, observed).max() > 2.5  # 15 years at up to 0.2 arcsec/yr


def test_catalog_labels_scatter_by_their_errors(many):
    star, source = joined(many, "truth", "star"), joined(many, "catalog", "source_id")
    rows = {int(s): i for i, s in enumerate(source_ids(star))}
    known = np.flatnonzero(source > 0)
    for name in ("teff", "logg", "fe_h"):
        value, error = (joined(many, "catalog", c)[known] for c in (name, f"{name}_err"))
        true = joined(many, "truth", name)[[rows[int(s)] for s in source[known]]]
        measured = np.isfinite(value) & (value > -9000)
        pulls = ((value - true) / error)[measured]
        assert pulls.std() == pytest.approx(1.0, abs=0.13)  # 4 sigma of 500
        assert np.array_equal(np.isfinite(value), np.isfinite(error))
    logg = joined(many, "catalog", "logg")
    assert 0.005 < np.mean(np.isnan(logg)) < 0.06
    assert 0.005 < np.mean(logg < -9000) < 0.05
    assert 0.05 < np.mean(source == -1) < 0.15
    ids = joined(many, "catalog", "apogee_id")
    assert len(source) > len(set(source[known])) + np.sum(source == -1)  # a few stars twice
    assert all(name.startswith("2M") and len(name) == 18 for name in ids)


def test_source_ids_differ_and_are_int64():
    ids = source_ids(np.arange(10**5))
    assert len(set(ids.tolist())) == 10**5
    assert ids.min() > 0


def test_library_block_is_raw_spectra_with_labels():
    library = grid_block(2, synthesis_model(), rows=8, seed=1)
    check_spectra(library)
    assert library.labels.dims == ("spectrum", "label")
    assert library.label.to_numpy().tolist() == list(LABELS)
    assert np.allclose(library.flux * np.sqrt(library.ivar), 1e5, rtol=1e-4)
    assert np.array_equal(library.wavelength, WAVELENGTH)
    assert np.all(library.rv == 0)
    again = grid_block(2, synthesis_model(), rows=8, seed=1)
    assert library.identical(again)
    other = grid_block(3, synthesis_model(), rows=8, seed=1)
    assert not set(library.obsid.to_numpy()) & set(other.obsid.to_numpy())


def test_library_flux_over_its_slope_is_the_models():
    model = synthesis_model()
    library = grid_block(0, model, rows=2, seed=1)
    with torch.no_grad():
        expected = model(torch.tensor(library.labels.to_numpy()))[:, 24 : 24 + 2 * 3909 : 2]
    slope = library.flux.to_numpy() / expected.numpy()
    steps = np.abs(np.diff(slope, axis=1)) / slope[:, 1:]
    assert steps.max() < 3e-3  # smooth: no line is left in it


def test_an_emulator_of_others_makes_a_survey_of_its_stars(shared):
    emulator = load_model(str(shared / "data/emulators/giants_4000-5000_lamost.npz"))
    made = mock_block(0, emulator, SURVEY)
    truth = made.truth
    labels = np.stack([truth[name] for name in emulator.spec.labels], 1)
    assert np.all((labels >= emulator.spec.minimum) & (labels <= emulator.spec.maximum))
    assert np.corrcoef(truth["teff"], truth["logg"])[0, 1] > 0.5  # giants, not a filled box
    assert np.corrcoef(truth["m_h"], truth["mg_m"])[0, 1] < -0.3
    spectra, _ = read_block(made.files)
    healthy = truth["broken"] == ""
    assert np.all(spectra.status.to_numpy()[healthy] & np.uint32(0x7F) == 0)


def test_pixels_beyond_an_emulator_have_no_ivar():
    survey = MockSurvey("unused", n_spectra=20, seed=1, spectra_per_block=20)
    made = mock_block(0, Lines(WAVELENGTH[500:3000]), survey)
    assert np.all(made.spectra.ivar[:, :500] == 0)
    assert np.all(made.spectra.ivar[:, 3000:] == 0)
    assert np.mean(made.spectra.ivar[:, 513:2987] > 0) > 0.98


def test_an_emulator_on_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"whole fraction.*0\.00015"):
        mock_block(0, Lines(10 ** (3.6 + 1.5e-4 * np.arange(2000))), SURVEY)


def test_run_file_is_a_run_file():
    config = parse_config(run_file(LABELS, seed=3, spectra_per_block=64))
    assert config.train is not None
    assert config.train.labels == LABELS
    assert config.run.seed == 3
    assert set(config.stages()) >= {"ingest", "crossmatch", "train", "fit", "report"}


def test_the_packages_lines_are_sorted_and_in_vacuum():
    lines = load_lines()
    assert len(lines.element) == len(lines.wavelength) > 2000
    assert np.all(np.diff(lines.wavelength) >= 0)
    sodium = [w for w, e in zip(lines.wavelength, lines.element, strict=True) if e == "Na"]
    assert min(abs(w - 5891.583) for w in sodium) < 0.02  # NIST, vacuum
