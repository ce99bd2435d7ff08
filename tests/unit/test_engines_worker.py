"""What a worker does with its blocks: read ahead, write behind, try again, report."""

import subprocess
import sys
import threading
import time

import pytest

from scalespec.config import EngineTable
from scalespec.engines import open_engine, worker
from scalespec.engines.local import LocalEngine
from scalespec.engines.worker import run_blocks, run_calls
from scalespec.errors import StoreError
from scalespec.plan import BlockReport, BlockResult, Stage, Training, plan_blocks


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """No pauses between tries, no values of an earlier test."""
    monkeypatch.setattr(worker, "PAUSE_S", 0.0)
    monkeypatch.setattr(worker, "_values", {})


def stage_of(n=3, *, read=None, compute=None, write=None, setup=None, name="test", **fields):
    return Stage(
        name=name,
        url="nowhere",
        blocks=plan_blocks(n, 1),
        read=read or (lambda block: block.index),
        compute=compute or (lambda value, data: (value, data)),
        write=write or (lambda block, made: BlockResult(1, {}, {}, f"{made}")),
        runs_on="dask",
        setup=setup,
        **fields,
    )


class Scripted:
    """A call that does what its script says: raises errors, gives its argument at 'ok'."""

    def __init__(self, **script):
        self.script = {int(k[1:]): list(v) for k, v in script.items()}
        self.calls = []

    def __call__(self, block):
        self.calls.append(block.index)
        step = self.script.get(block.index, ["ok"]).pop(0)
        if step != "ok":
            raise step
        return block.index


def test_every_block_is_reported_in_order_with_what_was_stored():
    stage = stage_of(4, setup=lambda: "model")
    reports = list(run_blocks(stage, stage.blocks))
    assert [r.block for r in reports] == list(stage.blocks)
    assert [r.result.attempt for r in reports] == [f"('model', {i})" for i in range(4)]
    assert all(r.ok and r.error == "" and r.seconds >= 0 for r in reports)


def test_no_blocks_no_reports():
    assert list(run_blocks(stage_of(), [])) == []


def test_an_oserror_is_tried_again_and_calls_are_counted():
    read = Scripted(b0=[OSError("a"), OSError("b"), "ok"], b1=["ok"], b2=[OSError("c"), "ok"])
    reports = list(run_blocks(stage_of(read=read), plan_blocks(3, 1)))
    assert [r.ok for r in reports] == [True, True, True]
    assert [read.calls.count(i) for i in range(3)] == [3, 1, 2]


def test_a_third_oserror_ends_the_block_and_not_the_rest():
    read = Scripted(b1=[OSError("a"), OSError("b"), StoreError("full disk"), "ok"])
    reports = list(run_blocks(stage_of(read=read), plan_blocks(3, 1)))
    assert [r.ok for r in reports] == [True, False, True]
    assert reports[1].error == "StoreError: full disk"
    assert read.calls.count(1) == 3


def test_the_datas_error_is_not_tried_again():
    read = Scripted(b1=[ValueError("negative wavelength"), "ok"])
    reports = list(run_blocks(stage_of(read=read), plan_blocks(3, 1)))
    assert [r.error for r in reports] == ["", "ValueError: negative wavelength", ""]
    assert read.calls.count(1) == 1


@pytest.mark.parametrize("part", ["read", "compute", "write"])
def test_an_error_anywhere_is_a_report(part):
    def fail(*args):
        raise ZeroDivisionError("by 0")

    stage = stage_of(2, **{part: fail})
    reports = list(run_blocks(stage, stage.blocks))
    assert [r.error for r in reports] == ["ZeroDivisionError: by 0"] * 2


def test_compute_and_write_are_tried_again_too():
    tried = {"compute": 0, "write": 0}

    def flaky(part, result):
        tried[part] += 1
        if tried[part] == 1:
            raise OSError("network")
        return result

    stage = stage_of(
        1,
        compute=lambda value, data: flaky("compute", data),
        write=lambda block, made: flaky("write", BlockResult(1, {})),
    )
    (report,) = run_blocks(stage, stage.blocks)
    assert report.ok
    assert tried == {"compute": 2, "write": 2}


def test_setup_is_called_once_per_stage_and_its_failure_fails_the_blocks():
    made = []
    stage = stage_of(3, setup=lambda: made.append("model") or "model")
    for _ in range(2):
        list(run_blocks(stage, stage.blocks))
    assert made == ["model"]

    def broken():
        raise ValueError("no such model")

    reports = list(run_blocks(stage_of(2, setup=broken, name="other"), plan_blocks(2, 1)))
    assert [r.error for r in reports] == ["ValueError: no such model"] * 2


def test_the_next_block_is_read_and_the_last_written_while_one_is_computed():
    reading, writing = threading.Event(), threading.Event()
    seen = []

    def read(block):
        if block.index == 2:
            reading.set()
        return block.index

    def compute(value, data):
        if data == 1:  # block 2 is being read, and block 0 written, by other threads
            seen.append((reading.wait(5), writing.wait(5)))
        return data

    def write(block, made):
        if block.index == 0:
            writing.set()
        return BlockResult(1, {})

    stage = stage_of(3, read=read, compute=compute, write=write)
    assert all(r.ok for r in run_blocks(stage, stage.blocks))
    assert seen == [(True, True)]


def test_only_one_block_is_read_ahead():
    read, computed = [], []

    def compute(value, data):
        time.sleep(0.02)
        computed.append((data, len(read)))
        return data

    stage = stage_of(5, read=lambda b: read.append(b.index) or b.index, compute=compute)
    list(run_blocks(stage, stage.blocks))
    assert all(n_read <= data + 2 for data, n_read in computed)


class FragileWorkers:
    """Runs calls as a cluster does: a call that holds a deadly block is lost with its worker."""

    def __init__(self, stage, *deadly):
        self.stage, self.deadly, self.given = stage, set(deadly), []

    def __call__(self, calls, in_flight):
        for call in calls:
            indices = [block.index for block in call]
            self.given.append((indices, in_flight))
            if self.deadly & set(indices):
                yield call, ConnectionError("Traceback ...\n\nthe worker died\n")
            else:
                yield call, list(run_blocks(self.stage, call))


def test_blocks_lost_with_their_worker_are_tried_alone():
    stage = stage_of(7, blocks_per_call=3)
    workers = FragileWorkers(stage, 4)
    reports = {r.block.index: r for r in run_calls(stage, stage.blocks, workers, 4)}
    assert sorted(reports) == list(range(7))
    assert [i for i, r in reports.items() if not r.ok] == [4]
    assert reports[4].error == "lost with its worker: ConnectionError: the worker died"
    whole, alone = workers.given[:3], workers.given[3:]
    assert whole == [([0, 1, 2], 4), ([3, 4, 5], 4), ([6], 4)]
    assert alone == [([3], 1), ([4], 1), ([5], 1)]


class TimedWorkers:
    """Runs calls one after another; every block is said to take so many seconds."""

    def __init__(self, seconds):
        self.seconds, self.sizes = seconds, []

    def __call__(self, calls, in_flight):
        for call in calls:
            self.sizes.append(len(call))
            yield (
                call,
                [
                    BlockReport(block, BlockResult(1, {}), "", self.seconds(block.index))
                    for block in call
                ],
            )


def sizes_of(stage, seconds):
    workers = TimedWorkers(seconds)
    reports = [r.block for r in run_calls(stage, stage.blocks, workers, 4)]
    assert reports == list(stage.blocks)  # each once, whatever the sizes
    return workers.sizes


def test_calls_of_short_blocks_double_up_to_one_part_in_five_hundred_of_the_stage():
    sizes = sizes_of(stage_of(5000), lambda index: 0.001)
    assert sizes[:5] == [1, 2, 4, 8, 10]
    assert set(sizes[4:-1]) == {10}
    assert len(sizes) < 510


def test_a_call_of_short_blocks_takes_a_quarter_of_a_second():
    sizes = sizes_of(stage_of(50_000), lambda index: 0.01)
    assert max(sizes) == 25


@pytest.mark.parametrize(("n", "seconds"), [(5000, 0.3), (999, 0.001)])
def test_long_blocks_and_short_stages_go_one_by_one(n, seconds):
    assert set(sizes_of(stage_of(n), lambda index: seconds)) == {1}


def test_calls_shrink_where_blocks_get_longer_and_never_below_what_the_stage_says():
    sizes = sizes_of(stage_of(6000), lambda index: 0.001 if index < 3000 else 1.0)
    assert max(sizes) == 12
    assert sizes[-2900:] == [1] * 2900
    wide = sizes_of(stage_of(90, blocks_per_call=3), lambda index: 1.0)
    assert set(wide) == {3}


def test_the_local_engine_draws_blocks_as_it_goes():
    drawn = []
    blocks = plan_blocks(12, 1)
    reports = LocalEngine().map(stage_of(12), (drawn.append(b) or b for b in blocks))
    next(reports)
    assert len(drawn) == 4  # one call's worth: what a stop finds in flight
    assert [r.block for r in reports] == blocks[1:]


def test_the_local_engine_trains_here_alone():
    told = {}

    def loop(context):
        told.update(rank=context.rank, size=context.world_size, device=context.device)
        context.report({"loss": 1.0})
        told["model"] = context.wrap("model")

    engine = open_engine("local", EngineTable())
    engine.train(Training("train", "nowhere", loop))
    engine.close()
    assert told == {"rank": 0, "size": 1, "device": "cpu", "model": "model"}


def test_opening_the_local_engine_imports_no_cluster():
    code = (
        "import sys; from scalespec.engines import open_engine; "
        "from scalespec.config import EngineTable; open_engine('local', EngineTable()); "
        "sys.exit(int('ray' in sys.modules or 'distributed' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
