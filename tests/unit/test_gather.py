"""The dense training store: labels stay beside their spectra, whatever was left out."""

import pickle

import numpy as np
import pandas as pd
import pytest

from scalespec.config import TrainTable
from scalespec.plan import plan_blocks
from scalespec.stages import folders
from scalespec.stages.gather import gather, label_columns, read_matches, training_block
from scalespec.store import paths
from scalespec.store.ledger import Ledger, read_json, write_json
from scalespec.store.spectra import read_spectra


def matches_of(rows, **columns):
    rows = np.asarray(rows)
    own = {"row": rows, "obsid": 2**55 + rows, "star": rows + 7, "split": (rows % 3).astype("u1")}
    own |= {"rank": np.zeros(len(rows), np.int32), "n_candidates": np.ones(len(rows), np.int32)}
    own |= {"separation_arcsec": np.ones(len(rows), np.float32), "by_id": np.zeros(len(rows), bool)}
    return pd.DataFrame(own | columns)


@pytest.fixture
def matched():
    rows = np.array([5, 2, 7])
    return matches_of(
        rows,
        teff=5000.0 + rows,
        teff_err=np.array([10.0, np.nan, 30.0]),
        apogee_id=["a", "b", "c"],
        logg=rows / 2,
    )


@pytest.fixture
def spectra(tiny):
    block = plan_blocks(tiny.N, tiny.ROWS)[0]
    return tiny.spectra_block(block, tiny.true_labels())


def test_labels_are_the_numbers_of_the_catalog_and_nothing_of_ours(matched):
    assert label_columns(matched) == ["teff", "logg"]


def test_labels_and_errors_keep_the_order_of_rows(matched, spectra):
    made = training_block(spectra.isel(spectrum=[5, 2, 7]), matched)
    np.testing.assert_array_equal(made["labels"], [[5005, 2.5], [5002, 1.0], [5007, 3.5]])
    np.testing.assert_array_equal(made["label_err"][:, 0], [10, np.nan, 30])
    np.testing.assert_array_equal(made["row"], [5, 2, 7])
    np.testing.assert_array_equal(made["star"], [12, 9, 14])
    np.testing.assert_array_equal(made["split"], [2, 2, 1])
    np.testing.assert_array_equal(made["obsid"], spectra["obsid"][[5, 2, 7]])


def test_a_label_without_errors_has_unknown_ones(matched, spectra):
    made = training_block(spectra.isel(spectrum=[5, 2, 7]), matched)
    assert np.isnan(made["label_err"][:, 1]).all()
    assert made["label_err"].dtype == made["labels"].dtype == np.float32


def test_no_rows_still_say_which_labels(matched, spectra):
    made = training_block(spectra.isel(spectrum=[]), matched.iloc[:0])
    assert made["labels"].shape == made["label_err"].shape == (0, 2)
    assert made.attrs["label_names"] == ["teff", "logg"]


def write_matches(config, matches):
    url = folders.matches_url(config, "apogee")
    paths.write_bytes(f"{url}/matches.parquet", matches.to_parquet(index=False))


def gathered(tiny, config):
    tiny.run_stage(gather(config, "apogee"))
    return read_spectra(f"{folders.training_url(config, 'apogee')}/train.zarr", 0, 10**6)


def test_the_store_holds_the_matched_spectra_and_their_labels(tiny, tiny_run):
    made = gathered(tiny, tiny_run.config)
    matches = read_matches(folders.matches_url(tiny_run.config, "apogee"))
    rows = matches["row"].to_numpy()
    whole = read_spectra(f"{folders.spectra_url(tiny_run.config)}/spectra.zarr", 0, tiny.N)
    np.testing.assert_array_equal(made["flux"], whole["flux"].to_numpy()[rows])
    np.testing.assert_array_equal(made["ivar"], whole["ivar"].to_numpy()[rows])
    np.testing.assert_array_equal(made["labels"], matches[["teff", "fe_h"]].astype("f4"))
    assert made["label"].to_numpy().tolist() == ["teff", "fe_h"]
    assert made.attrs["normalization"] == whole.attrs["normalization"]


def test_matches_of_several_blocks_fill_several_blocks(tiny, tiny_run):
    rows = np.arange(20)[::-1]  # more than one block of eight
    write_matches(tiny_run.config, matches_of(rows, teff=rows * 1.0))
    made = gathered(tiny, tiny_run.config)
    np.testing.assert_array_equal(made["labels"][:, 0], rows)
    np.testing.assert_array_equal(made["obsid"], 2**55 + rows)


def test_without_a_preprocessed_block_labels_stay_with_their_spectra(tiny, tiny_run):
    config = tiny_run.config
    paths.delete(f"{folders.spectra_url(config)}/commits/000001.json")  # rows 8 to 15
    made = gathered(tiny, config)
    assert made["row"].to_numpy().tolist() == [0, 6, 18]
    np.testing.assert_array_equal(made["obsid"], 2**55 + made["row"])
    np.testing.assert_allclose(made["labels"][:, 0], tiny_run.labels[[0, 6, 18], 0] - 50, rtol=1e-6)


def test_a_store_that_stands_is_not_chosen_again(tiny, tiny_run, monkeypatch):
    config = tiny_run.config
    made = gathered(tiny, config)
    monkeypatch.setattr("scalespec.stages.gather.read_matches", None)  # gigabytes of a survey
    (stage,) = gather(config, "apogee")
    assert sum(block.size for block in stage.blocks) == made.sizes["spectrum"]


def test_a_training_set_may_be_of_the_first_segments_only(tiny, tiny_run):
    config = tiny_run.config
    train = TrainTable(catalog="apogee", labels=("teff",), segments=1)
    pinned = config.model_copy(update={"train": train})
    rows = np.arange(20)
    write_matches(config, matches_of(rows, teff=rows * 1.0))
    assert gathered(tiny, pinned)["row"].to_numpy().tolist() == rows.tolist()
    record = f"{folders.plan_url(config)}/segments/000000.json"
    first = read_json(record)
    write_json(record, first | {"stop": 8})  # as if the rest had come later
    write_json(record.replace("000000", "000001"), first | {"start": 8})
    made = gathered(tiny, pinned)
    assert made["row"].to_numpy().tolist() == rows[:8].tolist()
    np.testing.assert_array_equal(made["labels"][:, 0], rows[:8])


def test_a_block_preprocessed_later_makes_another_store(tiny, tiny_run):
    config = tiny_run.config
    url = f"{folders.spectra_url(config)}/commits/000001.json"
    commit = paths.read_bytes(url)
    paths.delete(url)
    assert gathered(tiny, config).sizes["spectrum"] == 3
    paths.write_bytes(url, commit)
    assert gathered(tiny, config).sizes["spectrum"] == 6


@pytest.mark.parametrize(
    "matches",
    [
        matches_of(np.zeros(0, np.int64), teff=np.zeros(0)),  # nothing matched
        matches_of([1, 2], name=["a", "b"]),  # nothing to learn
    ],
)
def test_nothing_to_learn_from_is_no_stage(matches, tiny_run):
    write_matches(tiny_run.config, matches)
    assert list(gather(tiny_run.config, "apogee")) == []


def test_commits_count_stars_by_their_part(tiny, tiny_run):
    rows = np.arange(6)
    write_matches(tiny_run.config, matches_of(rows, teff=rows * 1.0))
    gathered(tiny, tiny_run.config)
    (commit,) = Ledger(folders.training_url(tiny_run.config, "apogee")).commits().values()
    assert commit.counts == {"train": 2, "validation": 2, "test": 2}


def test_the_stage_travels_and_goes_on_where_it_stopped(tiny_run):
    rows = np.arange(20)
    write_matches(tiny_run.config, matches_of(rows, teff=rows * 1.0))
    stage = pickle.loads(pickle.dumps(next(gather(tiny_run.config, "apogee"))))
    block = stage.blocks[1]
    first = stage.write(block, stage.compute(None, stage.read(block)))
    assert stage.write(block, stage.compute(None, stage.read(block))) == first
    assert Ledger(stage.url).done() == {1}
    again = next(gather(tiny_run.config, "apogee"))
    assert again.url == stage.url
    assert read_spectra(f"{stage.url}/train.zarr", 8, 16)["row"].to_numpy().tolist() == [
        *rows[8:16]
    ]
