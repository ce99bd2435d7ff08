"""What a person sees in a terminal: progress, tables, messages; and how Ctrl-C is heard."""

import signal
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

out = Console()
err = Console(stderr=True)


def say(text: object, *, to: Console = out, style: str | None = None) -> None:
    """Print text as it is: nothing in it is markup, and no path in it is broken by a line's end."""
    to.print(str(text), style=style, markup=False, highlight=False, soft_wrap=True)


class Stopping:
    """Ctrl-C or SIGTERM: the blocks in flight are finished, no new one is begun.

    Training, which may take an hour, stops at once: its checkpoints are there.
    """

    def __init__(self) -> None:
        self._asked = self._training = False
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, self._ask)

    def _ask(self, number: int, frame: Any) -> None:  # noqa: ARG002 - the signal's signature
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        if self._training:
            say("training stops now; it goes on from its last checkpoint", to=err)
            raise KeyboardInterrupt
        say("finishing the blocks in flight; once more to leave at once", to=err)

    def hear(self, progress: Any) -> None:
        """Learn whether what runs now is a training: a `scalespec.run.Progress` says so."""
        self._training = progress.training and progress.report is None

    def __call__(self) -> bool:
        """Whether it was asked for."""
        return self._asked


class drawn:  # noqa: N801 - used as a `with` statement's verb
    """Draws progress, rate and time left per stage while a run goes on."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<11}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("blocks"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=err,
        )
        self._task: TaskID | None = None
        self._rows = 0

    def __enter__(self) -> Callable[[Any], None]:
        self._bars.__enter__()
        return self._listen

    def __exit__(self, *exc: Any) -> None:
        self._bars.__exit__(*exc)

    def _listen(self, progress: Any) -> None:
        if progress.report is None:
            self._rows = 0
            self._task = self._bars.add_task(progress.stage, total=progress.planned, rate="")
            # Said after the bar began: one that was done before stops its clock at once.
            self._bars.update(self._task, completed=progress.done_before)
            return
        if self._task is None:
            return
        self._rows += progress.report.rows
        elapsed = self._bars.tasks[self._task].elapsed or 1e-9
        rate = f"{self._rows / elapsed:,.0f} rows/s" if self._rows else ""
        self._bars.update(self._task, advance=1, rate=rate)


def status_table(states: list[dict[str, Any]]) -> Table:
    """Return what `status` shows: a row per stage."""
    table = Table("stage", "blocks", "done", "failed", "left", "rows", "by status")
    for state in states:
        counts = ", ".join(f"{k} {v:,}" for k, v in state["counts"].items() if v)
        numbers = (state["blocks"], state["done"], state["failed"], state["left"], state["rows"])
        table.add_row(
            state["stage"], *(f"{n:,}" if n is not None else "?" for n in numbers), counts
        )
    return table


def say_failures(states: list[dict[str, Any]]) -> None:
    """Say below the table of `status` why blocks failed, and what to do."""
    for state in states:
        for index, why in state["why"].items():
            say(f"{state['stage']}: block {index} failed: {why}", style="red")
        if more := state["failed"] - len(state["why"]):
            say(f"{state['stage']}: {more:,} more failed", style="red")
    if any(state["failed"] for state in states):
        say("run again with --retry-failed to take failed blocks again")


def say_cleaned(old: list[str], young: list[str], hours: float, *, removed: bool) -> None:
    """Say what `clean` removed, or would, and how many it left for their age."""
    for url in old:
        say(url)
    say(f"{len(old)} {'removed' if removed else 'to remove: say --yes'}")
    if young:
        say(
            f"{len(young)} left, written in the last {hours:g} h: a run at work may be about to "
            "commit them (where nothing runs, --older-than 0 takes them)"
        )


def plan_table(facts: list[dict[str, Any]]) -> Table:
    """Return what `plan` shows: a row per stage, and below what is made anew."""
    anew = "\n".join(f"{fact['stage']}: {fact['anew']}" for fact in facts if fact["anew"])
    columns = ("stage", "engine", "blocks", "spectra", "bytes to store", "memory per worker")
    table = Table(*columns, caption=Text(anew) if anew else None, caption_justify="left")
    for fact in facts:
        table.add_row(
            fact["stage"],
            fact["engine"],
            f"{fact['blocks']:,}",
            f"{fact['spectra']:,}",
            f"{fact['bytes'] / 1e6:,.0f} MB",
            f"{fact['memory_bytes'] / 2**20:,.0f} MiB" + _on_gpu(fact["gpu_bytes"]),
        )
    return table


def _on_gpu(size: int) -> str:
    return f" + {size / 2**20:,.0f} MiB of its GPU" if size else ""


def probe_table(found: list[dict[str, Any]]) -> Table:
    """Return what `plan --probe` shows: a row per stage, and their sum."""
    table = Table(
        "stage", "blocks", "time (start)", "bytes", "memory/worker", "writes", "reads", "cost"
    )
    names = ("start_seconds", "seconds", "bytes", "puts", "gets", "cost")
    total = {name: sum(one[name] for one in found) for name in names}
    whole = {"stage": "all", "blocks": "", "memory_bytes": max(f["memory_bytes"] for f in found)}
    for one in [*found, whole | total]:
        table.add_row(
            one["stage"],
            str(one["blocks"]),
            f"{one['seconds']:,.1f} s ({one['start_seconds']:,.1f})",
            f"{one['bytes'] / 1e6:,.0f} MB",
            f"{one['memory_bytes'] / 2**20:,.0f} MiB",
            f"{one['puts']:,}",
            f"{one['gets']:,}",
            f"{one['cost']:.4g}",
        )
    return table
