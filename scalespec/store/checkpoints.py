"""Where a training stands, kept so that a killed worker or driver goes on from it.

``<url>/000042.npz`` holds the arrays; ``<url>/000042.json``, written after them, their checksum. A
state without its JSON, or that does not match it, was torn by a kill and is passed over.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scalespec.errors import ModelError, ScalespecError
from scalespec.models.base import EmulatorSpec
from scalespec.store import paths
from scalespec.store.ledger import read_json, write_json
from scalespec.store.model import Arrays, pack, unpack

log = logging.getLogger(__name__)

KEPT = 3
"""Complete states kept; older ones, and what kills left of others, are removed."""


def meaning_of(spec: EmulatorSpec) -> dict[str, Any]:
    """Return what a model's numbers mean, as a state says it; plain JSON types."""
    first, last = float(spec.wavelength[0]), float(spec.wavelength[-1])
    return {
        "labels": [
            [name, float(low), float(high)]
            for name, low, high in zip(spec.labels, spec.minimum, spec.maximum, strict=True)
        ],
        "grid": [spec.n_pixel, first, last],
        "resolving_power": spec.resolving_power,
        "normalization": dict(spec.normalization),
    }


@dataclass(frozen=True)
class CheckpointFolder:
    """The states of one training.

    Attributes
    ----------
    url : str
        Folder, local or ``s3://``.
    meaning : mapping
        What the states' numbers mean: ``labels``, ``grid``, ``resolving_power``, ... A state that
        was kept with another meaning is refused; one that says none is not asked.
    """

    url: str
    meaning: Mapping[str, Any] = field(default_factory=dict)

    def save(self, step: int, arrays: Arrays, meta: dict[str, Any]) -> None:
        """Keep the state after `step` steps, and sweep what is older than the last ones."""
        data = pack(arrays)
        paths.write_bytes(self._at(step, "npz"), data)
        record = {"step": step, "sha256": paths.sha256(data), "meta": meta}
        record["meaning"] = dict(self.meaning)
        write_json(self._at(step, "json"), record)
        # A later state is one that was passed over: it must not crowd out the good ones.
        complete = [known for known in self._steps() if known <= step][-KEPT:]
        for key in paths.list_keys(self.url):
            if int(key.partition(".")[0]) not in complete:
                paths.delete(paths.join(self.url, key))

    def latest(self) -> tuple[int, Arrays, dict[str, Any]] | None:
        """Return the newest complete state, or None.

        Raises
        ------
        ModelError
            If it was kept for another grid, line spread, labels or normalization.
        """
        for step in reversed(self._steps()):
            try:
                record = read_json(self._at(step, "json"))
                data = paths.read_bytes(self._at(step, "npz"))
                if paths.sha256(data) != record["sha256"]:
                    log.warning("%s: checksum differs: passed over", self._at(step, "json"))
                    continue
                state = step, unpack(data, self._at(step, "npz")), record["meta"]
            except (ScalespecError, KeyError) as error:
                log.warning("%s: passed over: %r", self._at(step, "json"), error)
                continue
            self._check(self._at(step, "json"), record.get("meaning", {}))
            return state
        return None

    def _check(self, where: str, kept: Mapping[str, Any]) -> None:
        for name, wanted in self.meaning.items():
            if name in kept and kept[name] != wanted:
                raise ModelError(
                    f"{where}: a checkpoint of another {name}, {kept[name]}; this training has "
                    f"{wanted}: remove {self.url}, or train in another workspace"
                )

    def _at(self, step: int, kind: str) -> str:
        return paths.join(self.url, f"{step:06d}.{kind}")

    def _steps(self) -> list[int]:
        keys = paths.list_keys(self.url)
        return sorted(int(key.removesuffix(".json")) for key in keys if key.endswith(".json"))
