"""Stateless blocks on a Dask cluster: a local one of real processes, or one by address."""

import logging
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from typing import Any

import dask
from distributed import Client, LocalCluster, as_completed

from scalespec.config import DaskTable
from scalespec.engines.worker import (
    THREAD_LIMITS,
    Call,
    Ended,
    await_workers,
    light,
    run_blocks,
    run_calls,
)
from scalespec.errors import StageError
from scalespec.plan import Block, BlockReport, Stage

log = logging.getLogger(__name__)

CALLS_PER_WORKER = 2
"""Calls in flight per worker: one at work, one waiting. A scheduler never sees the whole run."""
ANSWER_S = 10
"""How long a scheduler may take to answer."""
GONE = "the Dask scheduler is gone: start it, and run again"


def _call(stage: Stage, blocks: Call) -> list[BlockReport]:
    return list(run_blocks(stage, blocks))


class DaskEngine:
    """Runs blocks on Dask workers."""

    def __init__(self, table: DaskTable) -> None:
        logging.getLogger("distributed").setLevel(logging.ERROR)
        self._cluster: LocalCluster | None = None
        if not table.address:
            environ = {**dask.config.get("distributed.nanny.pre-spawn-environ"), **THREAD_LIMITS}
            with dask.config.set({"distributed.nanny.pre-spawn-environ": environ}), _deaf():
                self._cluster = LocalCluster(
                    n_workers=table.workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=None,
                    # Its HTTP server comes without a dashboard, too, by default on port 8787.
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                    silence_logs=logging.ERROR,
                )
                # A nanny whose worker dies at its start gives up, and with the last one a run would
                # wait for ever: lost workers are replaced.
                self._cluster.adapt(minimum=table.workers, maximum=table.workers)
        self._client = _connect(self._cluster, table)
        if table.address and table.wait_seconds:
            await_workers(table, self._threads, "the Dask scheduler")
        if not self._threads():
            log.warning(
                "the Dask scheduler at %s has no workers yet: blocks wait until one joins "
                "(dask worker %s)",
                *(self._client.scheduler.address,) * 2,
            )

    @property
    def workers(self) -> int:
        """Worker threads the scheduler has now; at least one."""
        return max(1, self._threads())

    def _threads(self) -> int:
        infos = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return sum(int(info["nthreads"]) for info in infos)

    def map(self, stage: Stage, blocks: Iterable[Block]) -> Iterator[BlockReport]:
        """Yield one report per block, as they finish."""
        run = partial(self._run, light(stage))
        return run_calls(stage, blocks, run, CALLS_PER_WORKER * self.workers)

    def _run(self, stage: Stage, calls: Iterator[Call], in_flight: int) -> Iterator[Ended]:
        pending: dict[Any, Call] = {}
        done = as_completed()

        def submit(call: Call) -> None:
            if self._client.status != "running":  # it would wait for ever
                raise StageError(GONE)
            future = self._client.submit(_call, stage, call, pure=False)
            pending[future] = call
            done.add(future)

        for call in islice(calls, in_flight):
            submit(call)
        for future in done:
            call = pending.pop(future)
            yield call, _ended(future)
            for following in islice(calls, 1):
                submit(following)

    def train(self, training: Any) -> None:
        """Refuse: training runs on Ray or here."""
        raise StageError(f"{training.name}: Dask does not train; use --engine ray or local")

    def close(self) -> None:
        """Leave the scheduler; a cluster that was started here ends."""
        if self._client.status != "running":  # a client that ends while it looks for one says pages
            logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


@contextmanager
def _deaf() -> Iterator[None]:
    """Keep Ctrl-C, which a terminal sends to all, from processes and threads started meanwhile.

    A Dask worker that hears it leaves for good, and its blocks wait forever for another.
    """
    resource_tracker.ensure_running()  # started later, it would unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _connect(cluster: LocalCluster | None, table: DaskTable) -> Client:
    if cluster is not None:
        return Client(cluster)
    address = table.address
    if address == "auto":
        address = dask.config.get("scheduler-address", "")
        if not address:
            raise StageError("engine.dask.address = 'auto' wants DASK_SCHEDULER_ADDRESS to be set")
    try:
        if address.startswith("file://"):
            return Client(scheduler_file=address.removeprefix("file://"), timeout=ANSWER_S)
        return Client(address, timeout=ANSWER_S)
    except OSError as error:
        raise StageError(
            f"no Dask scheduler answers at {address} ({error}); "
            "start one with: dask scheduler, and workers with: dask worker ADDRESS"
        ) from error


def _ended(future: Any) -> list[BlockReport] | Exception:
    """Return a call's reports, or what lost it.

    Raises
    ------
    StageError
        If the scheduler is gone, and every call with it: no block has failed then.
    """
    if future.cancelled() and future.client.status != "running":
        raise StageError(GONE)
    try:
        reports: list[BlockReport] = future.result()
    except Exception as error:  # noqa: BLE001 - a lost worker is a report, never the end of a run
        return error
    return reports
