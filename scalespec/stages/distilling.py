"""A teacher -> a student: one emulator learns another's spectra, and says where not to trust it."""

import json
from dataclasses import replace

from scalespec.config import TrainTable
from scalespec.errors import ModelError
from scalespec.models.base import Emulator
from scalespec.models.distill import TeacherSpectra, distrusted, measure_trust
from scalespec.models.training import train_emulator
from scalespec.plan import TrainContext
from scalespec.stages.untrained import make_model, train_options
from scalespec.store import paths
from scalespec.store.checkpoints import CheckpointFolder, meaning_of
from scalespec.store.model import load_model, save_model

VALIDATION_SPECTRA = 512
TRUST_NAME = "trust.json"
"""Beside a student: how far it is from its teacher, as `measure_trust` says."""


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
        _store(url, student.cpu().eval(), teacher, table, history)


def _store(
    url: str,
    student: Emulator,
    teacher: Emulator,
    table: TrainTable,
    history: list[dict[str, float]],
) -> None:
    """Store report and student, the student last: where it is, its report is."""
    trust = measure_trust(teacher, student)
    trust["distrusted"] = distrusted(trust)
    paths.write_bytes(paths.join(url, TRUST_NAME), json.dumps(trust, indent=1).encode())
    metadata = {
        "source": table.teacher.rpartition("/")[2],
        "n_training": table.teacher_spectra,
        "n_validation": VALIDATION_SPECTRA,
        "distrusted": trust["distrusted"],
        "history": history,
    }
    save_model(url, student, metadata)
