"""Where a training stands, kept so that a killed worker or driver goes on from it.

``<url>/000042.npz`` holds the arrays; ``<url>/000042.json``, written after them, their checksum. A
state without its JSON, or that does not match it, was torn by a kill and is passed over.
"""

import logging
from dataclasses import dataclass
from typing import Any

from scalespec.errors import ScalespecError
from scalespec.store import paths
from scalespec.store.ledger import read_json, write_json
from scalespec.store.model import Arrays, pack, unpack

log = logging.getLogger(__name__)

KEPT = 2
"""Complete states kept; older ones, and what kills left of others, are removed."""


@dataclass(frozen=True)
class CheckpointFolder:
    """The states of one training.

    Attributes
    ----------
    url : str
        Folder, local or ``s3://``.
    """

    url: str

    def save(self, step: int, arrays: Arrays, meta: dict[str, Any]) -> None:
        """Keep the state after `step` steps, and sweep what is older than the last ones."""
        data = pack(arrays)
        paths.write_bytes(self._at(step, "npz"), data)
        record = {"step": step, "sha256": paths.sha256(data), "meta": meta}
        write_json(self._at(step, "json"), record)
        # A later state is one that was passed over: it must not crowd out the good ones.
        complete = [known for known in self._steps() if known <= step][-KEPT:]
        for key in paths.list_keys(self.url):
            if int(key.partition(".")[0]) not in complete:
                paths.delete(paths.join(self.url, key))

    def latest(self) -> tuple[int, Arrays, dict[str, Any]] | None:
        """Return the newest complete state, or None."""
        for step in reversed(self._steps()):
            try:
                record = read_json(self._at(step, "json"))
                data = paths.read_bytes(self._at(step, "npz"))
                if paths.sha256(data) == record["sha256"]:
                    return step, unpack(data, self._at(step, "npz")), record["meta"]
                log.warning("%s: arrays and checksum differ: passed over", self._at(step, "json"))
            except (ScalespecError, KeyError) as error:
                log.warning("%s: passed over: %r", self._at(step, "json"), error)
        return None

    def _at(self, step: int, kind: str) -> str:
        return paths.join(self.url, f"{step:06d}.{kind}")

    def _steps(self) -> list[int]:
        keys = paths.list_keys(self.url)
        return sorted(int(key.removesuffix(".json")) for key in keys if key.endswith(".json"))
