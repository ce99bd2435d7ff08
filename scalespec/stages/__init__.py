"""One file per verb: the blocks to do, and what to do with one block."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module

from scalespec.config import STAGES, RunConfig
from scalespec.plan import Stage, Training

Verb = Callable[[RunConfig], Iterator[Stage | Training]]


def _verb(name: str, config: RunConfig) -> Iterator[Stage | Training]:
    """Import a verb's file when it is wanted: a worker that ingests has no use for torch."""
    verb: Verb = getattr(import_module(f"scalespec.stages.{name}"), name)
    return verb(config)


VERBS: dict[str, Verb] = {name: partial(_verb, name) for name in STAGES}
"""What each verb of the run file does, in the order of the data."""
