"""What derivatives at reference stars buy an emulator: tables on other people's physics, a figure.

Run: ``python benchmarks/compare_gradient_prior.py [--tables a b] [--models payne phdlspec
transformer] [--sizes ...] [--json F] [--figure F]``. It wants ``../shared/data``.

(a) MOOG spectra of ATLAS9 models, 17 labels: trained on 50, 100 and 235 of 320 random stars, with
and without the derivatives at 9 of 12 reference stars; 60 stars and 3 reference stars are held out.
(b) An emulator of giants, 22 labels, as teacher: 500, 1,000 and 5,000 spectra of labels drawn from
its box, without noise and at S/N 50; derivatives at 30 reference stars, none of the 200 test stars.

Derivatives are central differences, over 100 K and 0.1 dex to either side in (b), as given in (a).
Each error is that of one label, squares pooled over stars and pixels, relative to the derivative's
own; the tables give median and worst over labels. Rows that the JSON holds already are not made
again.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
TEACHER = SHARED / "emulators" / "giants_4000-5000_lamost.npz"
SIZES = {"a": (50, 100, 235), "b": (500, 1000, 5000)}
HELD_REFERENCES = (4, 6, 11)  # of MOOG's 12: a metal-poor giant, a subgiant, a metal-rich giant
KELVIN, DEX = 100.0, 0.1
REFERENCES, TEST_STARS, FLUX_STARS = 30, 200, 1000
STRENGTH_SPECTRA = 50.0
"""The prior's strength is this over the number of spectra: the more there are, the less it says."""
WEAK = ("ba_m", "nd_m", "sc_m", "al_m", "na_m")


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


def moog(n: int, _snr: float) -> Problem:
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
        prior_of(x[known], slopes[known], strength=STRENGTH_SPECTRA / n),
        (torch.from_numpy(scaled[test]), torch.from_numpy(flux[test])),
        {"held-out": (x[away], slopes[away]), "reference": (x[known], slopes[known])},
        torch.full((len(names),), 0.01),
    )


def taught(n: int, snr: float) -> Problem:
    """Return table (b)'s problem with `n` spectra of the teacher to learn from."""
    teacher = load_model(str(TEACHER))
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
        "b",
        spec,
        spectra(n, 1000 + n),
        spectra(max(n // 10, 50), 2000 + n),
        prior_of(*stars(REFERENCES, 4), strength=STRENGTH_SPECTRA / n),
        (x, emulated(teacher, x)),
        {"test": stars(TEST_STARS, 2)},
        step,
    )


def made(name: str, problem: Problem, steps: int) -> tuple[Emulator, TrainOptions]:
    """Return an untrained model of a kind, and how it is trained here."""
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
    options = TrainOptions(rounds=(0, 10, 30, 60, 100))
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


def table_rows(
    table: str, name: str, n: int, snr: float, steps: int
) -> tuple[list[dict[str, Any]], dict[str, Emulator], Problem]:
    """Train a model with and without the prior; return what is written down of it."""
    problem = (moog if table == "a" else taught)(n, snr)
    models, found = {}, {}
    for prior in (False, True):
        model, seconds = trained(name, problem, prior=prior, steps=steps)
        found[prior] = measured(model, problem) | {"training [s CPU]": seconds}
        models["with" if prior else "without"] = model
        line = "  ".join(f"{key} {value:.4g}" for key, value in found[prior].items())
        print(
            f"({table}) {name} {n} S/N {snr:g} {'with' if prior else 'without'}: {line}", flush=True
        )
    sigma = "inf" if np.isinf(snr) else f"{snr:g}"
    rows = [
        {
            "name": f"({table}) {name}, {n} spectra, S/N {sigma}: {key}",
            "value": value,
            "unit": "%" if "[%]" in key else "s" if "[s" in key else "",
            "limit": None,
            "recipe": found[False][key],
            "ratio_to_recipe": value / found[False][key] if found[False][key] else None,
            "fraction_of_limit": None,
            "note": "with the gradient prior; recipe: the same without",
        }
        for key, value in found[True].items()
    ]
    return rows, models, problem


def draw(path: Path, models: dict[str, Emulator], problem: Problem) -> None:
    """Draw one test star's derivatives by weak elements, with and without the prior."""
    x, truth = next(iter(problem.test_gradients.values()))
    spec = problem.spec
    star = int(x[:, spec.labels.index("m_h")].sub(0.3).abs().argmin())
    window = (spec.wavelength > 4200) & (spec.wavelength < 5300)
    rows = []
    for name in WEAK:
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
    parser.add_argument("--sizes", nargs="+", type=int, help="of those the table has")
    parser.add_argument("--snr", nargs="+", type=float, default=[np.inf, 50.0])
    parser.add_argument("--steps", type=int, default=1500, help="of Adam, for the transformer")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else []
    for table in asked.tables:
        for n in [n for n in SIZES[table] if not asked.sizes or n in asked.sizes]:
            for snr in asked.snr if table == "b" else [np.inf]:
                for name in asked.models:
                    sigma = "inf" if np.isinf(snr) else f"{snr:g}"
                    key = f"({table}) {name}, {n} spectra, S/N {sigma}: "
                    if any(row["name"].startswith(key) for row in rows):
                        continue
                    made_rows, models, problem = table_rows(table, name, n, snr, asked.steps)
                    rows += made_rows
                    if asked.json:
                        asked.json.write_text(json.dumps(rows, indent=1) + "\n")
                    if asked.figure and table == "b":
                        draw(asked.figure, models, problem)


if __name__ == "__main__":
    main()
