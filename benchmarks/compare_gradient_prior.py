"""What derivatives at reference stars buy an emulator: tables on other people's physics, a figure.

Run: ``python benchmarks/compare_gradient_prior.py [--tables a b] [--models payne phdlspec
transformer] [--teachers 4000-5000 ...] [--sizes ...] [--json F] [--figure F]``.
It wants ``../shared/data``.

(a) MOOG spectra of ATLAS9 models, 17 labels: trained on 50, 100 and 235 of 320 random stars, with
and without the derivatives at 9 of 12 reference stars; 60 stars and 3 reference stars are held out.
(b) Emulators of giants, 22 labels, as teachers: 500, 1,000 and 5,000 spectra of labels drawn from
their box, without noise and at S/N 50; derivatives at 30 reference stars, none of the 200 test
stars. ``--teachers`` names them by their Teff.

Derivatives are central differences, over 100 K and 0.1 dex to either side in (b), as given in (a).
Each error is that of one label, squares pooled over stars and pixels, relative to the derivative's
own; the tables give median and worst over labels. Rows that the JSON holds already are not made
again.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scalespec.figures import to_png
from scalespec.figures.gradients import Gradients, gradient_spectra
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.models.distill import central_gradients, draw_labels, emulated
from scalespec.models.payne import Payne
from scalespec.models.phdlspec import LabelTransformer
from scalespec.models.prior import GradientPrior, prior_of
from scalespec.models.training import TrainOptions, train_emulator
from scalespec.models.transformer import SpectrumTransformer
from scalespec.store.model import load_model

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MOOG = SHARED / "moog_atlas9_computed" / "moog_atlas9_gradients.npz"
TEACHERS = ("4000-5000", "3500-4200", "4900-6000")
SIZES = {"a": (50, 100, 235), "b": (500, 1000, 5000)}
HELD_REFERENCES = (4, 6, 11)  # of MOOG's 12: a metal-poor giant, a subgiant, a metal-rich giant
KELVIN, DEX = 100.0, 0.1
REFERENCES, TEST_STARS, FLUX_STARS = 30, 200, 1000
STRENGTH = 1e-3
"""The prior's: the best of 1e-5 to 3 here, and as good as 3e-3, ``[train] gradient_strength``."""
ROUNDS = (0.05, 0.15, 0.3, 0.5)
"""Shares of the evaluations, by rounds of variable projection."""
STEPS = {"payne": 200, "phdlspec": 200, "transformer": 8000}
"""At most: evaluations of variable projection; the transformer's steps of Adam."""
PROBE = {"payne": 10, "phdlspec": 10, "transformer": 32}
"""Steps, and twice as many, that tell what one costs."""
VALIDATED = 50
"""Spectra that the transformer, whose cost goes by the pixel, is validated with at most."""
NOISE_STARS, NOISE_DRAWS, WEAKER = 60, 8, 0.03
"""An element is weak if its derivatives are less than this share of the strongest label's."""
WEAK = {"a": ("Ba", "Sr", "Mn", "Ni", "Si"), "b": ("ba_m", "nd_m", "sc_m", "al_m", "na_m")}
SOLAR = {"a": ("mh", 0.0), "b": ("m_h", 0.3)}
"""Label and value of the metallicity near which the figure's star is."""


@dataclass
class Problem:
    """Spectra to learn from, and what is right."""

    name: str
    spec: EmulatorSpec
    training: tuple[np.ndarray, ...]
    validation: tuple[np.ndarray, ...]
    prior: GradientPrior
    test_flux: tuple[torch.Tensor, torch.Tensor]
    test_gradients: dict[str, tuple[torch.Tensor, torch.Tensor]]
    step: torch.Tensor

    def chunks(self, epoch: int, _rank: int, _world_size: int) -> Iterator[Any]:
        """Yield all spectra, rows mixed: a `training.Reader`."""
        order = np.random.default_rng([3, epoch]).permutation(len(self.training[0]))
        yield tuple(array[order] for array in self.training)


class Alone:
    """One process."""

    rank, world_size, device = 0, 1, "cpu"

    def wrap(self, model: Any) -> Any:
        """Leave the model as it is."""
        return model

    def report(self, metrics: Any) -> None:
        """Say nothing."""


def batch(labels: np.ndarray, flux: np.ndarray, snr: float, seed: int) -> tuple[np.ndarray, ...]:
    """Return spectra as training wants them, with noise if `snr` is finite."""
    noisy = flux.astype(np.float32)
    if np.isfinite(snr):
        noise = np.random.default_rng([11, seed]).normal(0, 1 / snr, flux.shape)
        noisy = noisy + noise.astype(np.float32)
    ivar = np.full(flux.shape, snr**2, np.float32)
    return labels.astype(np.float32), noisy, ivar, np.zeros(len(flux), np.float32)


def moog(n: int, strength: float) -> Problem:
    """Return table (a)'s problem with `n` stars to learn from."""
    data = np.load(MOOG)
    names = tuple(str(name) for name in data["grad_names"])
    base = np.zeros((len(data["base_labels"]), len(names)))
    base[:, :4] = data["base_labels"]
    labels, flux = data["train_labels"], data["train_flux"]
    low, high = np.minimum(labels.min(0), base.min(0)), np.maximum(labels.max(0), base.max(0))
    low, high = np.where(high > low, low, -0.1), np.where(high > low, high, 0.1)  # Fe follows M
    spec = EmulatorSpec("moog", names, low, high, data["wave_vac"], 1800.0)
    order = np.random.default_rng(0).permutation(len(labels))
    test, held, rows = order[:60], order[60:85], order[85 : 85 + n]
    x = torch.from_numpy(((base - low) / (high - low) - 0.5).astype(np.float32))
    slopes = torch.from_numpy((data["grad"] * (high - low)[None, :, None]).astype(np.float32))
    away = list(HELD_REFERENCES)
    known = [i for i in range(len(base)) if i not in away]
    scaled = ((labels - low) / (high - low) - 0.5).astype(np.float32)
    return Problem(
        "a",
        spec,
        batch(labels[rows], flux[rows], np.inf, 0),
        batch(labels[held], flux[held], np.inf, 1),
        prior_of(x[known], slopes[known], strength=strength),
        (torch.from_numpy(scaled[test]), torch.from_numpy(flux[test])),
        {"held-out": (x[away], slopes[away]), "reference": (x[known], slopes[known])},
        torch.full((len(names),), 0.01),
    )


def taught(n: int, snr: float, strength: float, kind: str) -> Problem:
    """Return table (b)'s problem with `n` spectra of the teacher `kind` to learn from."""
    teacher = load_model(str(SHARED / "emulators" / f"giants_{kind}_lamost.npz"))
    spec = teacher.spec
    span = spec.maximum - spec.minimum
    width = np.where([name == "teff" for name in spec.labels], KELVIN, DEX) / span
    step = torch.from_numpy(width.astype(np.float32))
    inner = 0.5 - step

    def spectra(count: int, which: int) -> tuple[np.ndarray, ...]:
        x = draw_labels(spec.n_label, count, (5, which))
        labels = teacher.unscale(x.double()).numpy()
        return batch(labels, emulated(teacher, x).numpy(), snr, which)

    def stars(count: int, which: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = draw_labels(spec.n_label, count, (5, which)).clamp(-inner, inner)
        parts = [central_gradients(teacher, part, step) for part in torch.split(x, 10)]
        return x, torch.cat(parts)

    x = draw_labels(spec.n_label, FLUX_STARS, (5, 3))
    return Problem(
        f"b {kind} K",
        spec,
        spectra(n, 1000 + n),
        spectra(max(n // 10, 50), 2000 + n),
        prior_of(*stars(REFERENCES, 4), strength=strength),
        (x, emulated(teacher, x)),
        {"test": stars(TEST_STARS, 2)},
        step,
    )


def teachers_noise(kind: str) -> list[dict[str, Any]]:
    """Return how far a teacher's derivatives are off their mean over elements of weak lines.

    A weak line of barium does not know how much neodymium there is; a network's derivative by
    barium does. What changes with such elements is the teacher's own error, and no student's to
    learn from 5,000 spectra.
    """
    teacher = load_model(str(SHARED / "emulators" / f"giants_{kind}_lamost.npz"))
    spec = teacher.spec
    width = np.where([name == "teff" for name in spec.labels], KELVIN, DEX)
    step = torch.from_numpy((width / (spec.maximum - spec.minimum)).astype(np.float32))
    inner = 0.5 - step
    x = draw_labels(spec.n_label, NOISE_STARS, (5, 2)).clamp(-inner, inner)
    truth = central_gradients(teacher, x, step)
    size = truth.square().mean((0, 2)).sqrt()
    weak = size < WEAKER * size.max()
    mean = torch.zeros_like(truth)
    for draw in range(NOISE_DRAWS):
        other = draw_labels(spec.n_label, NOISE_STARS, (5, 6, draw)).clamp(-inner, inner)
        mean += central_gradients(teacher, torch.where(weak, other, x), step) / NOISE_DRAWS
    error = 100 * ((mean - truth).square().sum((0, 2)) / truth.square().sum((0, 2))).sqrt()
    of_weak, name = error[weak], f"(b {kind} K) teacher: derivatives off their mean over weak "
    return [
        {"name": name + f"elements, {what} [%]", "value": float(value), "unit": "%", "note": note}
        | dict.fromkeys(("limit", "recipe", "ratio_to_recipe", "fraction_of_limit"))
        for what, value, note in (
            ("median of all labels", error.median(), f"{NOISE_STARS} stars, {NOISE_DRAWS} draws"),
            ("median of the weak", of_weak.median(), f"{int(weak.sum())} labels"),
            ("worst", of_weak.max(), spec.labels[int(error.argmax())]),
        )
    ]


def made(name: str, problem: Problem, steps: int) -> tuple[Emulator, TrainOptions]:
    """Return an untrained model of a kind, and how it is trained here.

    `steps` are the transformer's steps of Adam, or other models' evaluations of all spectra.
    """
    spec, n = problem.spec, len(problem.training[0])
    if name == "transformer":
        rows = min(32, max(n // 4, 1))
        epochs = max(round(steps * rows / n), 1)
        model = SpectrumTransformer(spec, width=32, layers=3, heads=4, waves=384, seed=1)
        options = TrainOptions(
            rounds=(),
            epochs=epochs,
            batch_size=rows,
            learning_rate=4e-3,
            weight_decay=0.05,
            patience=0,
            validate_every=max(epochs // 4, 1),
            pixels_per_step=256,
            gradients_per_step=24,
            gradient_ramp=0.2,
        )
        return model, options
    rounds = (0, *(round(share * steps) for share in ROUNDS))
    options = TrainOptions(rounds=rounds)
    if name == "phdlspec":
        return LabelTransformer(spec, width=16, layers=2, heads=4, seed=1), options
    width = 100 if n < 400 else 300
    return Payne(spec, hidden=(width, width), seed=1), options


def pooled(model: Emulator, x: torch.Tensor, truth: torch.Tensor, step: torch.Tensor) -> np.ndarray:
    """Return relative error and correlation of derivatives, (2, n_label)."""
    error, size, sums = 0.0, 0.0, []
    for some, wanted in zip(torch.split(x, 10), torch.split(truth, 10), strict=True):
        found = central_gradients(model, some, step)
        error = error + (found - wanted).square().sum((0, 2)).double()
        size = size + wanted.square().sum((0, 2)).double()
        a, b = (t.double() - t.double().mean(2, keepdim=True) for t in (found, wanted))
        sums.append(
            torch.stack([(a * b).sum((0, 2)), a.square().sum((0, 2)), b.square().sum((0, 2))])
        )
    both, ours, theirs = torch.stack(sums).sum(0)
    correlation = both / (ours * theirs).clamp(min=1e-300).sqrt()
    return torch.stack([(error / size).sqrt(), correlation]).numpy()


def measured(model: Emulator, problem: Problem) -> dict[str, float]:
    """Return flux and derivative errors on what was held out."""
    x, flux = problem.test_flux
    found = {"flux rms [%]": 100 * float((emulated(model, x) - flux).square().mean().sqrt())}
    for where, (at, truth) in problem.test_gradients.items():
        error, correlation = pooled(model, at, truth, problem.step)
        varied = np.isfinite(error)
        found[f"{where} gradient error median [%]"] = 100 * float(np.median(error[varied]))
        found[f"{where} gradient error worst [%]"] = 100 * float(error[varied].max())
        found[f"{where} gradient correlation median"] = float(np.median(correlation[varied]))
        found[f"{where} gradient correlation least"] = float(correlation[varied].min())
    return found


def trained(name: str, problem: Problem, *, prior: bool, steps: int) -> tuple[Emulator, float]:
    """Train a model; return it and the process time it took."""
    model, options = made(name, problem, steps)
    start = time.process_time()
    train_emulator(
        model,
        problem,
        problem.validation,
        options=options,
        context=Alone(),
        prior=problem.prior if prior else None,
    )
    return model, time.process_time() - start


def affordable(name: str, problem: Problem, minutes: float | None) -> int:
    """Return how many steps with the prior a model can take in so much process time, by a probe."""
    if minutes is None:
        return STEPS[name]
    few, part = PROBE[name], problem
    if name == "transformer":  # a step costs the same whatever the number of spectra
        rows, prior = slice(128), problem.prior
        part = replace(
            problem,
            training=tuple(array[rows] for array in problem.training),
            validation=tuple(array[:2] for array in problem.validation),
            prior=replace(
                prior, x=prior.x[rows], label=prior.label[rows], gradient=prior.gradient[rows]
            ),
        )
    spent = [trained(name, part, prior=True, steps=steps)[1] for steps in (few, 2 * few)]
    each = max(spent[1] - spent[0], 1e-3) / few
    return int(np.clip(60 * minutes / each, few, STEPS[name]))


def key_of(problem: Problem, name: str, snr: float) -> str:
    """Return what a training's rows begin with."""
    sigma = "inf" if np.isinf(snr) else f"{snr:g}"
    return f"({problem.name}) {name}, {len(problem.training[0])} spectra, S/N {sigma}: "


def table_rows(
    problem: Problem, name: str, key: str, minutes: float | None
) -> tuple[list[dict[str, Any]], dict[str, Emulator]]:
    """Train a model with and without the prior; return what is written down of it."""
    models, found = {}, {}
    if name == "transformer":
        few = tuple(array[:VALIDATED] for array in problem.validation)
        problem = replace(problem, validation=few)
    steps = affordable(name, problem, minutes)
    for prior in (False, True):
        model, seconds = trained(name, problem, prior=prior, steps=steps)
        found[prior] = measured(model, problem) | {"training [s CPU]": seconds}
        models["with" if prior else "without"] = model
        line = "  ".join(f"{what} {value:.4g}" for what, value in found[prior].items())
        print(f"{key}{'with' if prior else 'without'}: {line}", flush=True)
    rows = [
        {
            "name": key + what,
            "value": value,
            "unit": "%" if "[%]" in what else "s" if "[s" in what else "",
            "limit": None,
            "recipe": found[False][what],
            "ratio_to_recipe": value / found[False][what] if found[False][what] else None,
            "fraction_of_limit": None,
            "note": f"with the gradient prior; recipe: the same without; {steps} steps",
        }
        for what, value in found[True].items()
    ]
    return rows, models


def draw(path: Path, models: dict[str, Emulator], problem: Problem) -> None:
    """Draw one test star's derivatives by weak elements, with and without the prior."""
    x, truth = next(iter(problem.test_gradients.values()))
    spec, table = problem.spec, problem.name[0]
    name, value = SOLAR[table]
    k = spec.labels.index(name)
    scaled = (value - spec.minimum[k]) / (spec.maximum[k] - spec.minimum[k]) - 0.5
    star = int(x[:, k].sub(scaled).abs().argmin())
    window = (spec.wavelength > 4200) & (spec.wavelength < 5300)
    rows = []
    for name in WEAK[table]:
        k = spec.labels.index(name)
        span = spec.maximum[k] - spec.minimum[k]
        found = {
            f"{kind} prior": (
                central_gradients(model, x[star : star + 1], problem.step)[0, k].numpy() / span
            )[window]
            for kind, model in models.items()
        }
        true = (truth[star, k].numpy() / span)[window]
        label = f"{name.removesuffix('_m').capitalize()}/M"
        rows.append(Gradients(label, spec.wavelength[window], true, found))
    where = ", ".join(
        f"{name} {value:.4g}"
        for name, value in zip(
            spec.labels[:3],
            (x[star].numpy()[:3] + 0.5) * (spec.maximum - spec.minimum)[:3] + spec.minimum[:3],
            strict=True,
        )
    )
    n = len(problem.training[0])
    figure = gradient_spectra(rows, title=f"{n} training spectra, a test star: {where}")
    path.write_bytes(to_png(figure))


def main() -> None:
    """Make the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tables", nargs="+", choices=("a", "b"), default=["a", "b"])
    kinds = ("payne", "phdlspec", "transformer")
    parser.add_argument("--models", nargs="+", choices=kinds, default=list(kinds))
    parser.add_argument("--teachers", nargs="+", choices=TEACHERS, default=[TEACHERS[0]])
    parser.add_argument("--sizes", nargs="+", type=int, help="of those the table has")
    parser.add_argument("--snr", nargs="+", type=float, default=[np.inf, 50.0])
    parser.add_argument("--noise", action="store_true", help="of the teachers' own derivatives")
    parser.add_argument("--strength", type=float, default=STRENGTH, help="of the prior")
    parser.add_argument("--minutes", type=float, help="of the CPU that a training may take")
    parser.add_argument("--again", action="store_true", help="make rows anew that the JSON holds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for kind in asked.teachers if asked.noise else ():
        for row in keep(asked.json, teachers_noise(kind)):
            print(f"{row['name']}: {row['value']:.1f} ({row['note']})", flush=True)
    for problem, snr in problems(asked):
        for name in asked.models:
            key = key_of(problem, name, snr)
            if not asked.again and any(row["name"].startswith(key) for row in kept(asked.json)):
                continue
            rows, models = table_rows(problem, name, key, asked.minutes)
            keep(asked.json, rows)
            if asked.figure:
                draw(asked.figure, models, problem)


def kept(path: Path | None) -> list[dict[str, Any]]:
    """Return the rows that there are."""
    return json.loads(path.read_text()) if path and path.exists() else []


def keep(path: Path | None, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put rows into the JSON, in the place of those of the same names; return them."""
    names = {row["name"] for row in rows}
    others = [row for row in kept(path) if row["name"] not in names]
    if path:
        path.write_text(json.dumps(others + rows, indent=1) + "\n")
    return rows


def problems(asked: argparse.Namespace) -> Iterator[tuple[Problem, float]]:
    """Yield what is asked for, and its S/N."""
    for table in asked.tables:
        for n in [n for n in SIZES[table] if not asked.sizes or n in asked.sizes]:
            if table == "a":
                yield moog(n, asked.strength), np.inf
                continue
            for snr in asked.snr:
                for kind in asked.teachers:
                    yield taught(n, snr, asked.strength, kind), snr


if __name__ == "__main__":
    main()
