"""Ages of a hundred thousand made-up subgiants: seconds on a core, and how right they are.

Run: ``python benchmarks/bench_ages.py DARTMOUTH.h5 [--stars N] [--json F]``. Stars are drawn from
the prior on the isochrones, cut otherwise than the stage's grid, with the errors of Xiang & Rix
2022 (25 K, 0.05 mag, 0.04 dex). CPU time of this process: one core.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from scalespec.config import AgesTable
from scalespec.kernels.isochrone import is_subgiant, model_stars, refine
from scalespec.stages.ages import date_stars, load_models
from scalespec.store.isochrones import read_isochrones

ERRORS = {"m_k": 0.05, "teff": 25.0, "fe_h": 0.04}
LIMIT_S = 60.0


def draw(url: str, n: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return true ages and what is measured."""
    made = model_stars(refine(read_isochrones(url), fe_h=5, age=4, eep=2), tuple(ERRORS))
    age = made.age[made.age_index]
    m_k, teff, fe_h = made.values.T
    good = is_subgiant(teff, m_k, fe_h) & (age > 1.5) & (age < 13.8)
    rng = np.random.default_rng(1)
    weight = made.weight * good
    picked = rng.choice(len(age), n, p=weight / weight.sum())
    seen = {"row": np.arange(n), "obsid": np.arange(n)}
    for name, values in zip(ERRORS, (m_k, teff, fe_h), strict=True):
        seen[name] = values[picked] + ERRORS[name] * rng.normal(size=n)
        seen[f"{name}_err"] = np.full(n, ERRORS[name])
    return age[picked], seen


def main() -> None:
    """Date the stars, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("isochrones")
    parser.add_argument("--stars", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    table = AgesTable(isochrones=args.isochrones, magnitude="gaia.k", parallax="gaia.parallax")
    true, seen = draw(args.isochrones, args.stars)
    begun = time.process_time()
    models = load_models(table)
    ready = time.process_time()
    date_stars(models, {name: values[:10] for name, values in seen.items()}, table)  # compiled now
    compiled = time.process_time()
    parts = []
    for start in range(0, args.stars, 4096):
        block = {name: values[start : start + 4096] for name, values in seen.items()}
        parts.append(date_stars(models, block, table).to_pandas())
    seconds = time.process_time() - compiled
    made = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    good = made["age_status"] == 0
    error = np.abs(made["age"] / true - 1)[good]
    pull = ((made["age"] - true) / made["age_err"])[good]
    inside = ((made["age_p16"] < true) & (true < made["age_p84"]))[good]
    rows = [
        ("ages of stars", seconds * 1e5 / args.stars, "s per 100,000 on a core", LIMIT_S),
        ("model stars ready", ready - begun, "s", None),
        ("median error of age", float(np.median(error)), "", 0.10),
        ("stated error, median", float(np.median((made["age_err"] / made["age"])[good])), "", None),
        ("width of pulls (MAD)", float(1.4826 * np.median(np.abs(pull))), "", 1.0),
        ("inside the 68 % interval", float(inside.mean()), "", 0.68),
        ("dated", float(good.mean()), "of the stars", None),
    ]
    for name, value, unit, limit in rows:
        print(f"{name:26s} {value:9.3f} {unit:24s} {'' if limit is None else f'wanted {limit:g}'}")
    if args.json:
        empty = dict.fromkeys(("recipe", "ratio_to_recipe", "fraction_of_limit", "note"))
        keys = ("name", "value", "unit", "limit")
        made_rows = [dict(zip(keys, row, strict=True)) | empty for row in rows]
        args.json.write_text(json.dumps(made_rows, indent=1))


if __name__ == "__main__":
    main()
