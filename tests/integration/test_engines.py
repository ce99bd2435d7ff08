"""One suite that every engine passes: local, Dask on processes, Ray actors."""

import os
import signal
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from distributed import LocalCluster

from scalespec.config import DaskTable, EngineTable, RayTable
from scalespec.engines import open_engine
from scalespec.engines.dask import DaskEngine
from scalespec.engines.local import LocalEngine
from scalespec.engines.ray import RayEngine
from scalespec.errors import StageError
from scalespec.plan import BlockReport, BlockResult, Stage, Training, plan_blocks
from scalespec.store.ledger import Ledger, new_attempt

ENGINES = [
    "local",
    pytest.param("dask", marks=pytest.mark.dask),
    pytest.param("ray", marks=pytest.mark.ray),
]
CLUSTERS = ENGINES[1:]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
    """Two workers of each kind, started once."""
    engine = open_engine(request.param, EngineTable())
    yield engine
    engine.close()


def scripted_stage(folder, n, script=None, **fields):
    """A stage that follows a script and commits its blocks.

    ``script[block]`` lists what its tries do: an error to raise, "stubborn", "kill" or "ok"; every
    try leaves a file. The functions are nested so that they travel to workers by value: a worker
    cannot import a test.
    """
    script = script or {}
    (folder / "calls").mkdir(parents=True, exist_ok=True)

    def setup():
        (folder / f"setup.{os.getpid()}.{uuid.uuid4().hex}").touch()
        return os.getpid()

    def read(block):
        return block.index

    def compute(value, index):
        tried = len(list((folder / "calls").glob(f"{index}.*")))
        (folder / "calls" / f"{index}.{uuid.uuid4().hex}").touch()
        steps = script.get(index, ["ok"])
        step = steps[min(tried, len(steps) - 1)]
        if step == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == "stubborn":
            error = RuntimeError("cannot be pickled")
            error.lock = threading.Lock()
            raise error
        if step != "ok":
            raise step
        return value

    def write(block, value):
        ledger = Ledger(str(folder))
        if standing := ledger.committed(block):
            return standing
        return ledger.commit(block, BlockResult(block.size, {}, {"pid": value}, new_attempt()))

    name = f"stage-{uuid.uuid4().hex}"
    return Stage(
        name, str(folder), plan_blocks(n, 1), read, compute, write, "dask", setup, **fields
    )


@dataclass
class Played:
    """What became of a stage."""

    folder: Path
    workers: int
    reports: list[BlockReport]
    drawn: list[int]  # blocks drawn from the plan when each report came

    def errors(self):
        return {r.block.index: r.error for r in self.reports if not r.ok}

    def calls(self):
        return Counter(int(path.name.split(".")[0]) for path in (self.folder / "calls").iterdir())

    def committed(self):
        return Ledger(str(self.folder)).commits()


def play(engine, stage):
    drawn, reports, when = [], [], []
    for report in engine.map(stage, (drawn.append(b) or b for b in stage.blocks)):
        reports.append(report)
        when.append(len(drawn))
    return Played(Path(stage.url), engine.workers, reports, when)


@pytest.fixture(scope="module")
def played(engine, tmp_path_factory):
    """Twenty blocks, some of which fail."""
    script = {
        1: [OSError("reset"), OSError("reset"), "ok"],
        2: [ValueError("flux is negative"), "ok"],
        4: [OSError("gone"), OSError("gone"), OSError("gone for good"), "ok"],
        5: ["stubborn", "ok"],
    }
    return play(engine, scripted_stage(tmp_path_factory.mktemp("played"), 20, script))


def test_every_block_is_reported_once(played):
    assert sorted(r.block.index for r in played.reports) == list(range(20))


def test_what_is_reported_is_what_was_committed(played):
    assert played.committed() == {r.block.index: r.result for r in played.reports if r.ok}
    assert len(played.committed()) == 17


def test_a_failing_block_is_reported_with_its_error(played):
    assert played.errors() == {
        2: "ValueError: flux is negative",
        4: "OSError: gone for good",
        5: "RuntimeError: cannot be pickled",  # and so could not travel as an object
    }


def test_the_machines_errors_are_tried_again_and_the_datas_are_not(played):
    assert played.calls() == Counter(dict.fromkeys(range(20), 1) | {1: 3, 4: 3})


def test_setup_runs_once_in_every_process(played):
    worked = {result.counts["pid"] for result in played.committed().values()}
    made = Counter(int(path.name.split(".")[1]) for path in played.folder.glob("setup.*"))
    assert worked <= set(made)
    assert set(made.values()) == {1}
    assert len(made) <= played.workers


def test_blocks_are_drawn_as_they_are_worked_off(played):
    in_flight = 2 * max(played.workers, 2)  # two calls a worker; four in this process
    assert all(drawn <= n + in_flight for n, drawn in enumerate(played.drawn))


def test_an_engine_left_in_the_middle_works_on(engine, tmp_path):
    stage = scripted_stage(tmp_path / "a", 20)
    reports = engine.map(stage, stage.blocks)
    next(reports)
    reports.close()
    again = play(engine, scripted_stage(tmp_path / "b", 1))  # fewer blocks than workers
    assert [r.block.index for r in again.reports] == [0]
    assert not again.errors()


def test_workers_keep_the_memory_of_a_block_for_the_next(engine, tmp_path):
    """96 MiB are filled over and over, where blocks are computed, in pages that are there already.

    Handed back each time, they are 24,576 faults of 4 KiB a time: a thread's own arena hands back
    whatever is over 64 MiB. The first times do not count: leftovers between, of which glibc keeps
    seven apart, make what is free too short.
    """
    if isinstance(engine, LocalEngine):
        pytest.skip("computes in the caller's own process, whose environment is the caller's")

    def compute(_, index):
        import resource

        import torch  # NumPy asks for huge pages, of which few make many

        faults = []
        for _ in range(16):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(24 << 20)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        (tmp_path / f"faults.{index}").write_text(str(max(faults[12:])))
        return 0

    stage = replace(scripted_stage(tmp_path, 4), compute=compute)
    assert not play(engine, stage).errors()
    found = [int(path.read_text()) for path in tmp_path.glob("faults.*")]
    assert len(found) == 4
    assert max(found) < 1000, found


def test_no_blocks_no_reports(engine, tmp_path):
    assert play(engine, scripted_stage(tmp_path, 0)).reports == []


@pytest.fixture(scope="module")
def killed(engine, tmp_path_factory):
    """Calls of three blocks; one block kills its worker once, another each time it is tried."""
    if isinstance(engine, LocalEngine):
        pytest.skip("the local engine's worker is this process")
    script = {4: ["kill", "ok"], 10: ["kill"]}
    stage = scripted_stage(tmp_path_factory.mktemp("killed"), 15, script, blocks_per_call=3)
    return play(engine, stage)


def test_workers_are_other_processes(killed):
    pids = {result.counts["pid"] for result in killed.committed().values()}
    assert os.getpid() not in pids


def test_a_killed_worker_costs_no_block_and_doubles_none(killed):
    assert sorted(r.block.index for r in killed.reports) == list(range(15))
    assert killed.committed() == {r.block.index: r.result for r in killed.reports if r.ok}
    assert killed.calls()[4] >= 2


def test_a_block_that_always_kills_its_worker_fails_alone(killed):
    assert list(killed.errors()) == [10]
    assert killed.errors()[10].startswith("lost with its worker")


@pytest.mark.dask
@pytest.mark.slow  # the client knocks for half a minute
def test_no_scheduler_at_the_address_is_said_with_what_to_do():
    table = EngineTable(dask=DaskTable(address="tcp://127.0.0.1:9"))
    with pytest.raises(StageError, match=r"tcp://127.0.0.1:9.*start one with: dask scheduler"):
        open_engine("dask", table)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", r"does not start on this machine \(timed out\); run again when it is less busy"),
        ("127.0.0.1:9", r"no Ray answers at '127.0.0.1:9'.*start one with: ray start --head"),
    ],
)
def test_a_ray_that_does_not_start_is_said_with_what_to_do(monkeypatch, address, said):
    def late(**_):
        raise Exception("the current node\ntimed out")

    monkeypatch.setattr("ray.init", late)
    with pytest.raises(StageError, match=f"(?s){said}"):
        RayEngine(RayTable(address=address))


@pytest.mark.dask
def test_a_scheduler_without_workers_is_said(caplog):
    with LocalCluster(n_workers=0, dashboard_address=":0") as cluster:
        DaskEngine(DaskTable(address=cluster.scheduler_address)).close()
    assert f"{cluster.scheduler_address} has no workers yet" in caplog.text


@pytest.mark.dask
@pytest.mark.slow  # a lost worker is given a quarter of a minute to come back
def test_workers_that_nobody_restarts_are_replaced(tmp_path):
    """As when a worker is killed at its start: its nanny gives up, and it is gone for good."""
    engine = DaskEngine(DaskTable(workers=2))
    try:
        for nanny in list(engine._cluster.workers.values()):
            engine._cluster.sync(nanny.close)
        stage = scripted_stage(tmp_path, 3)
        assert all(report.ok for report in engine.map(stage, stage.blocks))
    finally:
        engine.close()


@pytest.mark.dask
def test_dask_does_not_train(tmp_path):
    with pytest.raises(StageError, match="train: Dask does not train; use --engine ray or local"):
        DaskEngine.train(None, Training("train", str(tmp_path), print))


@pytest.fixture
def ray_engine(engine):
    if not isinstance(engine, RayEngine):
        pytest.skip("Ray Train is Ray's")
    return engine


@pytest.mark.slow  # every training worker imports torch
def test_a_training_loop_runs_on_every_rank(ray_engine, tmp_path):
    def loop(context):
        context.report({"loss": 1.0})
        (tmp_path / f"{context.rank}-of-{context.world_size}-on-{context.device}").touch()

    ray_engine.train(Training("train", str(tmp_path), loop))
    assert {p.name for p in tmp_path.iterdir()} == {"0-of-2-on-cpu", "1-of-2-on-cpu"}


@pytest.mark.slow
def test_a_training_leaves_signals_to_us(ray_engine, tmp_path):
    """Ray Train takes Ctrl-C where it can, and answers to it when training is long done."""
    before = signal.getsignal(signal.SIGINT)
    during = []

    def loop(context):
        (tmp_path / str(context.rank)).touch()

    def look():
        while not any(tmp_path.iterdir()):
            time.sleep(0.05)
        during.append(signal.getsignal(signal.SIGINT))

    watch = threading.Thread(target=look)
    watch.start()
    ray_engine.train(Training("train", str(tmp_path), loop))
    watch.join()
    assert during == [before]
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.slow
def test_a_training_loop_that_fails_is_said_after_its_restarts(ray_engine, tmp_path):
    def loop(context):
        (tmp_path / f"{context.rank}.{uuid.uuid4().hex}").touch()
        raise ValueError("loss is not finite")

    with pytest.raises(StageError, match=r"train: .*loss is not finite"):
        ray_engine.train(Training("train", str(tmp_path), loop))
    assert len(list(tmp_path.glob("0.*"))) == 1 + 3
