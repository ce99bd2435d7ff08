"""What a transformer knows, at a perceptron's cost: distilled by the stage of ``[train] teacher``.

Run: ``python benchmarks/compare_distillation.py [--teacher phdlspec] [--folder F] [--json F]
[--figure F]``. It wants ``../shared/data``.

The teacher learns 235 MOOG spectra of ATLAS9 models, 17 labels, with derivatives at 9 reference
stars (table (a) of ``compare_gradient_prior.py``); a Payne learns from it as a run file would have
it. Both are then held against MOOG's spectra and derivatives of stars that neither has seen, and
the student against its teacher, region by region, where no MOOG spectrum is needed.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from compare_gradient_prior import STRENGTH, Problem, measured, moog, trained

from scalespec.config import TrainTable
from scalespec.engines.local import LocalContext
from scalespec.figures import to_png
from scalespec.figures.trust import trust_map
from scalespec.models.base import Emulator
from scalespec.stages.distilling import TRUST_NAME, distill_loop
from scalespec.store.model import load_model, save_model

SPECTRA = 235
STARS = 1000


def seconds(model: Emulator) -> float:
    """Return the CPU time of 1,000 spectra, the best of three."""
    x = torch.rand(STARS, model.spec.n_label) - 0.5
    times = []
    with torch.inference_mode():
        for _ in range(3):
            start = time.process_time()
            for part in torch.split(x, 100):
                model.forward_scaled(part)
            times.append(time.process_time() - start)
    return min(times)


def distilled(
    problem: Problem, teacher: Emulator, folder: Path, asked: argparse.Namespace
) -> tuple[Emulator, dict[str, Any]]:
    """Distil a teacher into a Payne; return it and the report of where not to trust it."""
    source, url = str(folder / "teacher"), str(folder / "student")
    save_model(source, teacher, {})
    table = TrainTable(
        model="payne",
        labels=problem.spec.labels,
        teacher=source,
        teacher_spectra=asked.spectra,
        gradient_references=asked.references,
    )
    distill_loop(LocalContext(), table, url, 1)
    student = load_model(url)
    return student, json.loads((Path(url) / TRUST_NAME).read_text())


def rows_of(
    found: dict[str, dict[str, float]], trust: dict[str, Any], cost: dict[str, float]
) -> list[dict[str, Any]]:
    """Return what is written down: the student's figures, the teacher's beside them."""
    rows: list[dict[str, Any]] = [
        {"name": f"student against MOOG: {what}", "value": value, "recipe": found["teacher"][what]}
        for what, value in found["student"].items()
    ]
    errors = sorted(trust["gradient_error"])
    of_teacher = {
        "flux rms [%]": 100 * trust["flux_rms"],
        "gradient error median [%]": 100 * errors[len(errors) // 2],
        "gradient error worst [%]": 100 * errors[-1],
        "places of distrust": len(trust["distrusted"]),
    }
    rows += [
        {"name": f"student against teacher: {what}", "value": value, "recipe": None}
        for what, value in of_teacher.items()
    ]
    name = "forward [ms per 1,000 stars]"
    rows.append({"name": name, "value": 1e3 * cost["student"], "recipe": 1e3 * cost["teacher"]})
    for row in rows:
        row["unit"] = "%" if "[%]" in row["name"] else "ms" if "[ms" in row["name"] else ""
        ratio = row["value"] / row["recipe"] if row["recipe"] else None
        row |= {"ratio_to_recipe": ratio, "limit": None, "fraction_of_limit": None}
        row["note"] = "recipe: the teacher"
    return rows


def main() -> None:
    """Train, distil, measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", choices=("phdlspec", "transformer"), default="phdlspec")
    parser.add_argument("--steps", type=int, default=1500, help="of Adam, for the transformer")
    parser.add_argument("--spectra", type=int, default=4096, help="of the teacher")
    parser.add_argument("--references", type=int, default=200, help="stars of its derivatives")
    parser.add_argument("--folder", type=Path, help="where both models stay")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    problem = moog(SPECTRA, STRENGTH)
    teacher, _ = trained(asked.teacher, problem, prior=True, steps=asked.steps)
    student, trust = distilled(problem, teacher, asked.folder or Path(tempfile.mkdtemp()), asked)
    models = {"teacher": teacher, "student": student}
    found = {name: measured(model, problem) for name, model in models.items()}
    rows = rows_of(found, trust, {name: seconds(model) for name, model in models.items()})
    for row in rows:
        beside = "" if row["recipe"] is None else f"(teacher {row['recipe']:.4g})"
        print(f"{row['name']:<62}{row['value']:>10.4g} {beside}")
    print(*trust["distrusted"][:10], sep="\n")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")
    if asked.figure:
        asked.figure.write_bytes(to_png(trust_map(trust, title=f"{asked.teacher} and its student")))


if __name__ == "__main__":
    main()
