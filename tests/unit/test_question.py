"""Which spectra a model is asked for: a condition is tried once, before every block tries it."""

import pytest

from scalespec.config import InferTable
from scalespec.errors import ConfigError
from scalespec.stages import folders
from scalespec.stages.question import check_where, read_question


def places(run):
    """The first block, and where its columns lie."""
    store = f"{folders.spectra_url(run)}/spectra.zarr"
    matches = {"apogee": folders.matches_url(run, "apogee")}
    return folders.planned_blocks(run)[:1], store, folders.raw_url(run), matches


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("apogee_tef > 4000", "infer.where: .*apogee_tef is no column; did you mean"),
        ("snr >", "infer.where: .*is no condition"),
        ("class_ > 3", "infer.where: .*compares text with"),  # a column of the index
    ],
)
def test_a_condition_that_cannot_be_meant_is_refused_once(tiny_run, condition, said):
    with pytest.raises(ConfigError, match=said):
        check_where(*places(tiny_run.config), InferTable(where=condition))


def test_what_is_let_pass_is_what_a_block_can_ask(tiny_run):
    blocks, *rest = places(tiny_run.config)
    table = InferTable(where="apogee_teff > 3000 and class_ == 'STAR' and snr > 0")
    check_where(blocks, *rest, table)
    assert (read_question(blocks[0], *rest, table).excluded == 0).sum() == 2  # of rows 0, 3, 6
    check_where([], *rest, InferTable(where="none"))  # nothing to ask
    check_where(blocks, "", "", {}, InferTable())  # nothing is asked: nothing is read
