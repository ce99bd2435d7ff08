"""A teacher -> a student: one emulator learns another's spectra, and says where not to trust it."""

import json
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from scalespec.config import TrainTable
from scalespec.errors import ModelError
from scalespec.models.base import Emulator
from scalespec.models.distill import TeacherSpectra, distrusted, measure_trust
from scalespec.models.training import Batch, train_emulator
from scalespec.plan import TrainContext
from scalespec.stages.card import make_card
from scalespec.stages.untrained import make_model, train_options
from scalespec.store import paths
from scalespec.store.checkpoints import CheckpointFolder, meaning_of
from scalespec.store.model import load_model, save_model

FloatArray = npt.NDArray[np.float32]

VALIDATION_SPECTRA = 512
TRUST_NAME = "trust.json"
"""Beside a student: how far it is from its teacher, as `measure_trust` says."""

SAID = 5
"""Places of distrust that a card names."""


@dataclass(frozen=True)
class Drawn:
    """A teacher's spectra in memory, as a card reads those of a store; fields as of a `Batch`."""

    labels: FloatArray
    flux: FloatArray
    ivar: FloatArray
    shift: FloatArray

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Their places."""
        return np.arange(len(self.labels))

    def read(self, which: npt.NDArray[np.int64]) -> Batch:
        """Return some of them."""
        return self.labels[which], self.flux[which], self.ivar[which], self.shift[which]


def distill_loop(context: TrainContext, table: TrainTable, url: str, seed: int) -> None:
    """Train a student; every training worker runs this, rank 0 stores it and its report.

    Parameters
    ----------
    context : TrainContext
        Where it runs.
    table : TrainTable
        With a ``teacher``.
    url : str
        Where the student is to be; checkpoints lie below it.
    seed : int

    Raises
    ------
    ModelError
        If the labels are not the teacher's.
    """
    teacher = load_model(table.teacher)
    if teacher.spec.labels != table.labels:
        raise ModelError(
            f"{table.teacher}: the teacher has labels {list(teacher.spec.labels)}, train.labels "
            f"are {list(table.labels)}: name the teacher's, in its order"
        )
    student = make_model(table, replace(teacher.spec, name=table.model), seed)
    lessons = TeacherSpectra(teacher, table.teacher_spectra, seed)
    strength = table.gradient_strength
    prior = lessons.references(table.gradient_references, strength) if strength > 0 else None
    history = train_emulator(
        student,
        lessons,
        lessons.held(VALIDATION_SPECTRA),
        options=train_options(table),
        context=context,
        checkpoints=CheckpointFolder(paths.join(url, "checkpoints"), meaning_of(student.spec)),
        prior=prior,
    )
    if context.rank == 0:
        _store(url, student.cpu().eval(), lessons, table, history)


def _store(
    url: str,
    student: Emulator,
    lessons: TeacherSpectra,
    table: TrainTable,
    history: list[dict[str, float]],
) -> None:
    """Store report and student, the student last: where it is, its report is."""
    trust = measure_trust(lessons.teacher, student)
    trust["distrusted"] = distrusted(trust)
    paths.write_bytes(paths.join(url, TRUST_NAME), json.dumps(trust, indent=1).encode())
    name = table.teacher.rpartition("/")[2]
    held = Drawn(*lessons.held(VALIDATION_SPECTRA))
    # Of what is learned from, a card wants the labels alone.
    learned = Drawn(lessons.labels(0), *(part[:0] for part in (held.flux, held.ivar, held.shift)))
    card = make_card(student, learned, held, name)
    far = trust["distrusted"]
    card["known_faults"] += [f"far from its teacher at {one}" for one in far[:SAID]]
    if len(far) > SAID:
        card["known_faults"].append(f"and in {len(far) - SAID} places more: see {TRUST_NAME}")
    metadata = {
        "source": name,
        "n_training": table.teacher_spectra,
        "n_validation": VALIDATION_SPECTRA,
        "distrusted": trust["distrusted"],
        "history": history,
        "card": card,
    }
    save_model(url, student, metadata)
