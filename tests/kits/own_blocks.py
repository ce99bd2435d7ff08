"""Stages whose blocks may read their own only: nothing that is longer in a longer survey."""

import inspect
import pickle
from dataclasses import replace

from scalespec.stages import folders
from scalespec.store import paths
from scalespec.store.ledger import Ledger

LISTINGS = ("done", "commits", "failures")


def run_blocks_of_their_own(steps, monkeypatch):
    """Run a verb's steps block by block as they travel to workers; return the stages' names.

    A block that asks for a folder's name, which is made of whole tables upstream, that lists what
    is done, or that reads a table of matches from end to end, fails the test.
    """
    names = []
    for stage in steps:
        value = stage.setup() if stage.setup else None
        sent = pickle.loads(pickle.dumps(replace(stage, blocks=())))
        with monkeypatch.context() as patch:
            _forbid(patch)
            for block in stage.blocks:
                sent.write(block, sent.compute(value, sent.read(block)))
        names += [stage.name] if stage.blocks else []
    return names


def _forbid(patch):
    for name, call in vars(folders).items():
        if inspect.isfunction(call) and call.__module__ == folders.__name__:
            patch.setattr(folders, name, _refusing(f"folders.{name}"))
    for name in LISTINGS:
        patch.setattr(Ledger, name, _refusing(f"Ledger.{name}"))
    read = paths.read_bytes

    def read_bytes(url, *args, **kwargs):
        assert not url.endswith("matches.parquet"), f"a block reads all of {url}"
        return read(url, *args, **kwargs)

    patch.setattr(paths, "read_bytes", read_bytes)


def _refusing(name):
    def refuse(*_args, **_kwargs):
        raise AssertionError(f"a block calls {name}")

    return refuse


def count_listings(steps, monkeypatch, blocks):
    """Return how often a verb lists what is done to make its first stage of so many blocks."""
    planned, done, calls = folders.planned_blocks, Ledger.done, []

    def more(config):
        last = planned(config)
        return [*last, *(replace(last[-1], index=i) for i in range(len(last), blocks))]

    def counted(ledger):
        calls.append(ledger.url)
        return done(ledger)

    with monkeypatch.context() as patch:
        patch.setattr(folders, "planned_blocks", more)
        patch.setattr(Ledger, "done", counted)
        next(steps)
    return len(calls)
