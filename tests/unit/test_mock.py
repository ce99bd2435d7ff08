"""A made-up survey holds what its truth says, whoever makes its blocks."""

import hashlib
import pickle
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from scalespec.config import parse_config
from scalespec.engines.local import LocalEngine
from scalespec.errors import StageError
from scalespec.kernels.families import Recipe
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.plan import Block, BlockReport
from scalespec.schema import SpectrumStatus
from scalespec.stages.mock import TABLES, MockBlock, MockSurvey, make_mock, mock_block, mock_stage
from scalespec.stages.mock_files import MOCK_SURVEYS, survey_grid
from scalespec.stages.mock_records import BROKEN
from scalespec.stages.mock_runfile import run_file
from scalespec.stages.mock_spectra import LABELS
from scalespec.store.model import load_model
from scalespec.store.tables import read_table
from scalespec.surveys import read_survey
from scalespec.surveys.lamost import WAVELENGTH

SURVEY = MockSurvey("unused", n_spectra=1000, seed=5, spectra_per_block=64)
UNREADABLE = {
    "": SpectrumStatus(0),
    "truncated": SpectrumStatus.TRUNCATED,
    "empty": SpectrumStatus.NOT_FITS,
    "html": SpectrumStatus.NOT_FITS,
    "bit_flip": SpectrumStatus.CORRUPT,
    "no_ivar": SpectrumStatus.NO_PIXELS,
}


class Lines(Emulator):
    """Three lines that answer to their labels, on a log grid; no two stars look alike."""

    def __init__(self, wavelength: np.ndarray = WAVELENGTH) -> None:
        low, high = [4500.0, 1.0, -1.0], [5500.0, 5.0, 0.3]
        super().__init__(EmulatorSpec("lines", ("teff", "logg", "fe_h"), low, high, wavelength))
        ratio = torch.tensor(wavelength) / torch.tensor([[4300.0], [5180.0], [6564.6]])
        self.profile = torch.exp(-0.5 * ((ratio - 1) * 2.3548 * 1800) ** 2).float()

    def forward_scaled(self, x: torch.Tensor) -> torch.Tensor:
        return 1 - (0.4 + 0.5 * x.float()) @ self.profile


@pytest.fixture(scope="module")
def block() -> MockBlock:
    return mock_block(1, Lines(), SURVEY)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A survey of 300 spectra on disk, and what was counted."""
    out = str(tmp_path_factory.mktemp("mock") / "survey")
    survey = {"spectra_per_block": 100, "truth_model": Lines(), "seed": 2}
    return Path(out), make_mock(out, n_spectra=300, engine=LocalEngine(), **survey)


@pytest.fixture(scope="module")
def truth(written):
    return read_table(f"{written[0]}/truth.parquet")


def test_our_reader_finds_what_the_truth_says(written, truth):
    spectra = read_survey(written[0] / "files")
    files = [str(Path(name).relative_to(written[0])) for name in spectra.file.to_numpy()]
    row = {name: i for i, name in enumerate(truth["file"].tolist())}
    assert sorted(row) == sorted(files)
    order = [row[name] for name in files]
    expected = [int(UNREADABLE[kind]) for kind in truth["broken"][order]]
    assert (spectra.status.to_numpy() & np.uint32(0x7F)).tolist() == expected
    healthy = np.array(expected) == 0
    for name in ("obsid", "ra", "dec"):
        found = spectra[name].to_numpy()[healthy]
        assert np.allclose(found, truth[name][order][healthy], rtol=0, atol=1e-6)
    known = healthy & np.isfinite(spectra.rv.to_numpy())
    off = spectra.rv.to_numpy()[known] - truth["rv"][order][known]
    assert np.abs(np.median(off)) < 3  # km/s: what a pipeline measures at R = 1800
    assert np.abs(off).max() < 200
    assert known.sum() > 0.9 * healthy.sum()


def test_the_same_seed_gives_the_same_bytes_in_any_order(block):
    model = Lines()
    mock_block(7, model, SURVEY)
    again = mock_block(1, model, SURVEY)
    assert again.files == block.files
    for table in TABLES:
        for name, values in block.tables[table].items():
            np.testing.assert_array_equal(again.tables[table][name], values)


def test_a_block_does_not_depend_on_the_surveys_length(block):
    longer = MockSurvey("elsewhere", n_spectra=10**6, seed=5, spectra_per_block=64)
    assert mock_block(1, Lines(), longer).files == block.files


def test_stages_write_what_blocks_hold(tmp_path):
    survey = MockSurvey(
        str(tmp_path), n_spectra=40, seed=3, spectra_per_block=16, truth_model=Lines()
    )
    stage = pickle.loads(pickle.dumps(mock_stage(survey)))  # as it travels to other processes
    reports = list(LocalEngine().map(stage, stage.blocks))
    assert [r.result.rows for r in reports] == [16, 16, 8]
    for index in range(3):
        for name, content in mock_block(index, Lines(), survey).files:
            assert (tmp_path / "files" / name).read_bytes() == content


def test_make_mock_gathers_tables_and_leaves_nothing_else(written, truth):
    out, counts = written
    tables = {f"{name}.parquet" for name in TABLES}
    assert {p.name for p in out.iterdir()} == {"files", *tables}
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*.fits.gz"))
    assert sorted(truth["file"]) == files
    assert len(set(truth["obsid"])) == 300
    assert sum(counts.get(kind, 0) for kind in ("healthy", *BROKEN)) == 300
    assert counts["labelled"] == len(read_table(f"{out}/labels.parquet")["ra"])
    assert counts["pairs"] == len(read_table(f"{out}/pairs.parquet")["star_1"])


def test_the_truth_is_whole(truth):
    assert truth["spectrum"].tolist() == list(range(300))  # in order, over all blocks
    told = {"obsid", "star", "source_id", "file", "teff", "logg", "fe_h", "rv", "snr", "broken"}
    company = {"binary", "mass_ratio", "period", "k_1", "orbit_phase", "flux_2", "rv_2", "teff_2"}
    places = {"ra", "dec", "pmra", "pmdec", "parallax", "g", "bp_rp", "j", "k", "ebv", "mjd"}
    assert told | company | places | {"population", "phase", "age", "mass", "cemp"} <= set(truth)
    assert {"vsini", "mg_fe"}.isdisjoint(truth)  # this model has no such label
    assert set(truth["population"]) >= {"thin disk", "thick disk"}
    for name in ("teff", "rv", "ra", "dec", "g", "distance", "pmra", "snr"):
        assert np.all(np.isfinite(truth[name]))
    assert np.array_equal(np.isfinite(truth["rv_2"]), truth["binary"])


def test_units_and_offsets_are_written_with_the_columns(written):
    schema = pq.read_schema(written[0] / "reference.parquet")
    facts = {k.decode(): v.decode() for k, v in schema.field("teff").metadata.items()}
    assert facts["unit"] == "K"
    assert facts["description"].startswith("truth +60,")
    truth = pq.read_schema(written[0] / "truth.parquet")
    units = {f.name: f.metadata[b"unit"].decode() for f in truth}
    assert [units[n] for n in ("rv_2", "k_1", "teff_2", "parallax", "g")] == (
        ["km/s", "km/s", "K", "mas", "mag"]
    )


def test_tables_do_not_depend_on_the_order_of_blocks(tmp_path):
    class Backwards(LocalEngine):
        def map(self, stage, blocks: Iterable[Block]) -> Iterator[BlockReport]:
            return super().map(stage, reversed(list(blocks)))

    digests = []
    for name, engine in (("a", LocalEngine()), ("b", Backwards())):
        out = tmp_path / name
        make_mock(str(out), n_spectra=60, engine=engine, truth_model=Lines(), spectra_per_block=16)
        files = sorted(p for p in out.rglob("*") if p.is_file())
        digests.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in files])
    assert digests[0] == digests[1]


def test_a_survey_that_was_stopped_goes_on(tmp_path):
    class Stopped(LocalEngine):
        def map(self, stage, blocks: Iterable[Block]) -> Iterator[BlockReport]:
            for report in super().map(stage, blocks):
                self.seen = report.block.index
                yield report
                if report.block.index == 1:
                    raise KeyboardInterrupt

    out, told = str(tmp_path / "a"), []
    options = {"n_spectra": 60, "truth_model": Lines(), "spectra_per_block": 16}
    with pytest.raises(KeyboardInterrupt):
        make_mock(out, engine=Stopped(), **options)
    counts = make_mock(out, engine=LocalEngine(), listener=told.append, **options)
    again = [report.block.index for report in told]
    assert again in ([2, 3], [3])  # a block may be written while the one before is reported
    whole = make_mock(str(tmp_path / "b"), engine=LocalEngine(), **options)
    assert counts == whole
    for table in TABLES:
        pair = [(tmp_path / name / f"{table}.parquet").read_bytes() for name in "ab"]
        assert pair[0] == pair[1]


def test_another_survey_does_not_go_on_from_this_one(tmp_path):
    names = set()
    for change in ({}, {"seed": 9}, {"recipe": Recipe(binary=0.5)}, {"labels": ("teff", "logg")}):
        names.add(
            mock_stage(MockSurvey(str(tmp_path), **({"n_spectra": 10, "seed": 1} | change))).url
        )
    names.add(mock_stage(MockSurvey(str(tmp_path), 10, truth_model=Lines())).url)
    assert len(names) == 5
    same = [mock_stage(MockSurvey(str(tmp_path), 10, truth_model=Lines())).url for _ in range(2)]
    assert same[0] == same[1]


def test_a_block_that_fails_is_an_error_with_its_number(tmp_path):
    class Failing(Lines):
        def forward(self, labels: torch.Tensor) -> torch.Tensor:
            raise ValueError("no spectrum today")

    with pytest.raises(StageError, match="block 0: ValueError: no spectrum today"):
        make_mock(str(tmp_path), n_spectra=5, engine=LocalEngine(), truth_model=Failing())


@pytest.mark.parametrize("survey", MOCK_SURVEYS)
def test_every_survey_can_be_made(survey):
    grid, _ = survey_grid(survey)
    made = mock_block(0, Lines(grid.wavelength), MockSurvey("unused", 6, seed=3, survey=survey))
    truth = made.truth
    assert len(truth["obsid"]) == 6
    written = {f"files/{name}" for name, _ in made.files}
    assert set(truth["file"]) == written
    assert all(len(content) > 2000 for _, content in made.files if content)
    assert np.all(np.isfinite(truth["snr"]))


def test_files_of_many_spectra_are_broken_as_a_whole():
    survey = MockSurvey("unused", 40, seed=3, spectra_per_block=1, survey="csst")
    wavelength = 10 ** np.arange(3.4, 4.01, 2e-4)
    kinds = [mock_block(i, Lines(wavelength), survey).truth["broken"][0] for i in range(40)]
    assert set(kinds) <= {"", *BROKEN}
    both = mock_block(0, Lines(wavelength), MockSurvey("unused", 2000, 3, 2000, survey="csst"))
    whole = set(both.truth["broken"]) - {"no_ivar"}
    assert len(whole) == 1  # all of the one file
    assert 0 < np.sum(both.truth["broken"] == "no_ivar") < 20  # but that is of a spectrum: 0.3 %


def test_an_emulator_of_others_makes_a_survey_of_its_stars(shared):
    emulator = load_model(str(shared / "data/emulators/giants_4000-5000_lamost.npz"))
    truth = mock_block(0, emulator, SURVEY).truth
    labels = np.stack([truth[name] for name in emulator.spec.labels], 1)
    assert np.all((labels >= emulator.spec.minimum) & (labels <= emulator.spec.maximum))
    assert np.corrcoef(truth["teff"], truth["logg"])[0, 1] > 0.5  # giants, not a filled box
    assert np.corrcoef(truth["m_h"], truth["mg_m"])[0, 1] < -0.3
    assert np.all(truth["snr"] > 0)


@pytest.mark.parametrize("survey", ["lamost_lrs", "desi"])
def test_run_file_is_a_run_file(survey):
    text = run_file(LABELS, seed=3, spectra_per_block=64, survey=survey, source="catalog")
    config = parse_config(text)
    assert config.train is not None
    assert config.train.labels == LABELS
    assert config.run.seed == 3
    assert config.ingest.survey == survey
    assert set(config.stages()) >= {"ingest", "crossmatch", "train", "fit", "report"}


def test_the_run_file_asks_for_every_form_that_can_be_written_here():
    config = parse_config(run_file(LABELS))
    known = [name for name in ("fits", "votable", "hats") if name != "hats" or find_spec("hats")]
    assert list(config.publish.formats) == known


def test_a_run_file_of_a_bucket_names_it():
    text = run_file(LABELS, folder="s3://bucket/mock?endpoint=http://127.0.0.1:8333")
    config = parse_config(text)
    assert config.run.workspace == "s3://bucket/mock/work?endpoint=http://127.0.0.1:8333"
    assert config.ingest.files.startswith("s3://bucket/mock/files/**/*.fits*?endpoint=")
    assert config.report.truth == "s3://bucket/mock/truth.parquet?endpoint=http://127.0.0.1:8333"
