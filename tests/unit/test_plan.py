"""Blocks and reports: what a plan promises, apart from the properties in tests/property."""

import dataclasses
import pickle

import pytest

from scalespec.plan import Block, BlockReport, BlockResult, Stage, plan_blocks


@pytest.mark.parametrize(
    ("n", "size"),
    [
        (-1, 4),  # fewer than no spectra
        (4, 0),  # blocks of nothing
        (4, -2),
    ],
)
def test_an_impossible_plan_is_refused_with_its_values(n, size):
    with pytest.raises(ValueError, match=f"n = {n}, size = {size}"):
        plan_blocks(n, size)


def test_blocks_of_an_axis_say_so_and_cannot_be_changed():
    (block,) = plan_blocks(3, 8, axis="healpix")
    assert block == Block("healpix", 0, 0, 3)
    assert block.size == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        block.stop = 8


def test_only_a_report_with_a_result_is_ok():
    block = Block("spectrum", 0, 0, 8)
    assert BlockReport(block, BlockResult(8, {})).ok
    assert not BlockReport(block, None, "OSError: gone").ok


def test_a_stage_of_module_functions_pickles():
    stage = Stage("a", "b", plan_blocks(3, 1), abs, divmod, divmod, "dask")
    assert pickle.loads(pickle.dumps(stage)) == stage
