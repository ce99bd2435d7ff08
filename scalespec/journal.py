"""What a run tells machines: a JSON line per block, and counts for Prometheus.

Both are files of the machine that drives the run. The lines are appended, so a run that was started
again goes on in the same file; the counts are those of this start, and the file is replaced whole,
as Prometheus' textfile collector wants it.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scalespec.run import Progress

WRITE_EVERY_S = 5.0
"""The counts are written at most so often, when a stage begins, and at the end."""
METRICS = {
    "blocks_planned": ("gauge", "Blocks of the stage."),
    "blocks_done_before": ("gauge", "Blocks that an earlier start had done."),
    "blocks_done_total": ("counter", "Blocks stored and committed."),
    "blocks_failed_total": ("counter", "Blocks that failed after all retries."),
    "rows_total": ("counter", "Rows stored."),
    "rows_by_status_total": ("counter", "Rows stored by what is said of them."),
    "block_seconds_sum": ("counter", "Time that workers spent on blocks."),
    "last_block_timestamp_seconds": ("gauge", "When the last block ended."),
}


class Journal:
    """Writes down what happens; give it to `scalespec.run.run` as a listener.

    Parameters
    ----------
    run : str
        Name of the run, in every line and as a label of every number.
    log : str or Path
        File for JSON lines; "" for none.
    metrics : str or Path
        File for Prometheus; "" for none.
    clock : callable
        Seconds since 1970, UTC.

    Examples
    --------
    >>> from scalespec.run import Progress
    >>> Journal("demo").line(Progress("fit", planned=4, done_before=1), now=0.0)["event"]
    'stage'
    """

    def __init__(
        self,
        run: str,
        *,
        log: str | Path = "",
        metrics: str | Path = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._run, self._clock = run, clock
        self._metrics = Path(metrics) if metrics else None
        self._numbers: dict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
        self._written = 0.0
        self._write_metrics(force=True)  # a place that cannot be written is told before the work
        self._log = Path(log).open("a", encoding="utf-8") if log else None  # noqa: SIM115 - kept open

    def __enter__(self) -> "Journal":
        """Return itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Write what was not written yet."""
        self._write_metrics(force=True)
        if self._log is not None:
            self._log.close()

    def __call__(self, progress: Progress) -> None:
        """Write down one thing that happened."""
        now = self._clock()
        if self._log is not None:
            self._log.write(json.dumps(self.line(progress, now=now)) + "\n")
            self._log.flush()
        if self._metrics is not None:
            self._count(progress, now)
            self._write_metrics(force=progress.report is None)

    def line(self, progress: Progress, *, now: float) -> dict[str, Any]:
        """Return what is said of one thing that happened."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e3):03d}Z"
        said: dict[str, Any] = {"time": stamp, "run": self._run, "stage": progress.stage}
        report = progress.report
        if report is None:
            facts = {"blocks": progress.planned, "done_before": progress.done_before}
            return said | {"event": "stage"} | facts
        said |= {
            "event": "block",
            "block": report.block.index,
            "start": report.block.start,
            "stop": report.block.stop,
            "seconds": round(report.seconds, 4),
            "worker": report.worker,
            "memory_bytes": report.memory_bytes,
        }
        if report.result is None:
            return said | {"ok": False, "error": report.error}
        counts = {name: n for name, n in report.result.counts.items() if n}
        return said | {"ok": True, "rows": report.result.rows, "counts": counts}

    def _count(self, progress: Progress, now: float) -> None:
        stage, numbers, report = (progress.stage,), self._numbers, progress.report
        if report is None:
            numbers["blocks_planned"][stage] = progress.planned
            numbers["blocks_done_before"][stage] = progress.done_before
            return
        numbers["block_seconds_sum"][stage] += report.seconds  # type: ignore[assignment]
        numbers["last_block_timestamp_seconds"][stage] = int(now)
        if report.result is None:
            numbers["blocks_failed_total"][stage] += 1
            return
        numbers["blocks_done_total"][stage] += 1
        numbers["rows_total"][stage] += report.result.rows
        for name, n in report.result.counts.items():
            numbers["rows_by_status_total"][*stage, name] += n

    def _write_metrics(self, *, force: bool) -> None:
        now = time.monotonic()
        if self._metrics is None or (not force and now - self._written < WRITE_EVERY_S):
            return
        self._written = now
        beside = self._metrics.with_name(self._metrics.name + ".new")
        beside.write_text(self.exposition(), encoding="utf-8")
        beside.replace(self._metrics)

    def exposition(self) -> str:
        """Return the counts in Prometheus' text format, version 0.0.4."""
        lines = []
        for name, (kind, meaning) in METRICS.items():
            lines += [f"# HELP scalespec_{name} {meaning}", f"# TYPE scalespec_{name} {kind}"]
            for (stage, *status), value in sorted(self._numbers[name].items()):
                labels = {
                    "run": self._run,
                    "stage": stage,
                    **({"status": status[0]} if status else {}),
                }
                inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
                lines.append(f"scalespec_{name}{{{inside}}} {value}")
        return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
