"""What is known of one star agrees with store, catalog and model, and says what is not known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from scalespec.errors import StoreError
from scalespec.optimize.result import FitStatus
from scalespec.schema import MaskBit, SpectrumStatus
from scalespec.stages import folders, star
from scalespec.stages.evidence import read_evidence
from scalespec.stages.publish import publish
from scalespec.stages.samples import Rows
from scalespec.stages.star import Star
from scalespec.store.catalog import open_catalog
from scalespec.store.ledger import Ledger

LABELS = ("teff", "logg")


@pytest.fixture(scope="module")
def run(tiny, _one_tiny_run, tmp_path_factory):
    """A published run, and what the pages share of it."""
    config = _one_tiny_run.config
    tiny.run_stage(publish(config))
    return SimpleNamespace(config=config, evidence=read_evidence(config))


@pytest.fixture
def read(run):
    """A function that reads the star of a row."""
    return lambda row: star.read_star(run.config, row, run.evidence.models)


def made(columns, *, status=0, mask=(0, 0), labels=LABELS):
    """A star of the catalog row that these columns are."""
    known = {"row": 0, "fit_status": 0, "at_bound": 0, "prior_dominated": 0} | columns
    rows = Rows({name: np.array([value]) for name, value in known.items()}, labels)
    mask = np.array([mask], np.uint32)
    pixels = {"mask": mask, "ivar": (mask == 0).astype(np.float32)}
    spectrum = xr.Dataset(
        {name: (("spectrum", "wavelength"), values) for name, values in pixels.items()}
        | {"status": ("spectrum", np.array([status], np.uint32))}
    )
    return Star(0, spectrum, known, rows, None)


def stars(**columns):
    """A catalog's good rows, with errors that are zero where they are not given."""
    n = len(columns["teff"])
    common = {"row": np.arange(1, n + 1), "fit_status": np.zeros(n, np.uint32)}
    errors = {f"{name}_err": np.zeros(n) for name in LABELS}
    return Rows({k: np.asarray(v) for k, v in (common | errors | columns).items()}, LABELS)


def test_a_star_is_found_by_its_obsid_wherever_it_is(run, monkeypatch):
    monkeypatch.setattr(star, "SEARCH_ROWS", 7)  # 20 rows: three parts, the last of six
    store = folders.spectra_store(run.config)
    assert [star.find_row(store, 2**55 + row) for row in (0, 6, 7, 19)] == [0, 6, 7, 19]
    with pytest.raises(StoreError, match="none of its 20 spectra has obsid 12"):
        star.find_row(store, 12)


def test_a_star_is_what_store_catalog_and_model_say(tiny, run, read):
    found = read(9)
    table = open_catalog(folders.catalog_url(run.config)).to_table().to_pandas().iloc[9]
    assert found.obsid == 2**55 + 9 == table["obsid"]
    assert found.known["file"] == "spec-9.fits"
    assert found.known["apogee_teff"] == pytest.approx(table["apogee_teff"])
    block = next(b for b in folders.planned_blocks(run.config) if b.start <= 9 < b.stop)
    expected = tiny.spectra_block(block, tiny.true_labels())["flux"].to_numpy()[9 - block.start]
    np.testing.assert_array_equal(found.pixels("flux"), expected)
    with torch.inference_mode():
        model = tiny.tiny_model()(torch.tensor([[table[name] for name in found.labels]])).numpy()
    # the fit multiplies the model by a smooth curve within a percent of one, at these S/N
    np.testing.assert_allclose(found.fit, model[0], rtol=0.02)


def test_a_broken_file_has_a_page_without_fit_or_labels(read):
    found = read(3)
    assert found.fit is None
    assert star.is_broken(found)
    assert [star.trust(found, label) for label in found.labels] == ["no value"] * 3
    flags = {(kind, name) for kind, name, _ in star.flags(found)}
    assert flags == {("spectrum", "CORRUPT"), ("fit", "BAD_SPECTRUM")}
    assert np.isnan(found.known["teff"])
    assert found.known["reason"] == "corrupt: bad CRC"


def test_a_star_of_a_block_that_failed_has_a_spectrum_and_no_row(run, read, monkeypatch):
    monkeypatch.setattr(Ledger, "committed", lambda *_: None)
    found = read(9)
    assert found.known == {}
    assert found.fit is None
    assert (found.pixels("ivar") > 0).sum() == 190
    assert star.flags(found) == []
    assert star.neighbors(found, run.evidence.stars) == []


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({}, "trusted"),
        ({"teff": np.nan}, "no value"),
        ({"at_bound": 0b01, "fit_status": FitStatus.AT_BOUND.value}, "at its bound"),
        ({"at_bound": 0b10, "fit_status": FitStatus.AT_BOUND.value}, "trusted"),  # of log g
        ({"prior_dominated": 0b01}, "said by the prior"),
        ({"fit_status": FitStatus.POOR_FIT.value}, "the fit is flagged"),
    ],
)
def test_trust_is_of_one_label(columns, said):
    one = made({"teff": 5000.0, "logg": 4.0} | columns)
    assert star.trust(one, "teff").startswith(said)


def test_flags_are_told_apart_by_what_they_are_of():
    fit = FitStatus.AT_BOUND | FitStatus.POOR_FIT
    one = made({"fit_status": fit.value}, status=SpectrumStatus.NO_SIGNAL.value)
    assert [(kind, name) for kind, name, _ in star.flags(one)] == [
        ("spectrum", "NO_SIGNAL"),
        ("a label", "AT_BOUND"),
        ("fit", "POOR_FIT"),
    ]


def test_masks_count_pixels_and_those_that_were_lost():
    kept = np.uint32(1 << 16)  # bad in some exposure: informational, and the pixel has weight
    lost = np.uint32(MaskBit.SKY_LINE | MaskBit.NO_IVAR)
    one = made({}, mask=[0, kept, lost, lost | kept])
    one.spectrum["ivar"][:] = np.array([[1, 1, 0, 0]], np.float32)
    assert [row[:3] for row in star.mask_table(one)] == [
        ("NO_IVAR", 2, 2),
        ("or_BAD_PIXEL", 2, 1),
        ("SKY_LINE", 2, 2),
    ]


@pytest.mark.parametrize("bits", ["", "0", "1", "0110", "1011", "111", "0101"])
def test_runs_are_those_that_reading_one_by_one_finds(bits):
    where = np.array([bit == "1" for bit in bits], bool)
    first, last = star.runs(where)
    covered = [i for a, b in zip(first, last, strict=True) for i in range(a, b + 1)]
    assert covered == np.flatnonzero(where).tolist()
    assert all(b + 1 < a for b, a in zip(last[:-1], first[1:], strict=True))


def test_neighbors_are_those_of_an_obvious_loop():
    rng = np.random.default_rng(1)
    there = stars(
        teff=rng.normal(5000, 500, 50), logg=rng.normal(4, 0.5, 50),
        teff_err=rng.uniform(10, 100, 50), logg_err=rng.uniform(0.01, 0.3, 50),
    )  # fmt: skip
    one = made({"teff": 5200.0, "logg": 4.2, "teff_err": 30.0, "logg_err": 0.1})
    distances = []
    for i in range(50):
        total = 0.0
        for name in LABELS:
            values = there.columns[name]
            mad = np.median(np.abs(values - np.median(values)))
            err = there.columns[f"{name}_err"][i]
            variance = (1.4826 * mad) ** 2 + err**2 + one.known[f"{name}_err"] ** 2
            total += (values[i] - one.known[name]) ** 2 / variance
        distances.append((total / 2) ** 0.5)
    found = star.neighbors(one, there, n=5)
    assert [place for place, _ in found] == np.argsort(distances)[:5].tolist()
    np.testing.assert_allclose([d for _, d in found], np.sort(distances)[:5], rtol=1e-12)


def test_neighbors_are_good_and_not_the_star_itself():
    there = stars(teff=[5000.0, 5001, 5002, np.nan, 6000], logg=[4.0, 4, 4, 4, 4])
    there.columns["row"][0] = 0  # the star itself
    there.columns["fit_status"][1] = FitStatus.POOR_FIT
    one = made({"teff": 5000.0, "logg": 4.0, "teff_err": 1.0, "logg_err": 0.1})
    assert [place for place, _ in star.neighbors(one, there)] == [2, 4]
