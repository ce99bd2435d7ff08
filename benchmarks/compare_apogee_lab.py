"""The Cannon on generated APOGEE giants beside the lab's figures: labels, lines, a posterior.

    scalespec mock demo/apogee ...; scalespec run deploy/runs/apogee-cannon.toml
    python benchmarks/compare_apogee_lab.py deploy/runs/apogee-cannon.toml [--json F]

Labels are of stars that the model never learned from. An rms is of fit - table, outliers and all;
what the lab report has, of 927 such stars, is in the column "recipe".
"""

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scalespec.config import RunConfig, load_config
from scalespec.kernels.linenames import known_lines
from scalespec.models.synthesis import LineSynthesis
from scalespec.stages import folders
from scalespec.stages.fit import symmetric
from scalespec.stages.mock_spectra import load_lines
from scalespec.stages.model_spectra import line_offsets, unblended
from scalespec.stages.training_pages import derivatives, reference_stars
from scalespec.store import paths
from scalespec.store.catalog import read_parts
from scalespec.store.model import load_model

LAB = {"teff": 78.9, "logg": 0.15, "fe_h": 0.056, "mg_fe": 0.062, "si_fe": 0.059}
TEST = 2
"""Number of the split that no training sees."""
LINES = 8
"""Lines per element that are looked at."""
CLEAN = 0.5
"""So many pixels the physics' own peak may stand off a line that nothing else blends with."""
Row = dict[str, object]


def label_errors(config: RunConfig) -> list[Row]:
    """Return rms of fit - table, and robust scatter about the truth, of test stars."""
    best = read_parts(folders.best_url(config)).to_pandas()
    url = paths.join(folders.matches_url(config, "allstar"), "matches.parquet")
    matches = pq.read_table(url).to_pandas().set_index("row").add_prefix("allstar_")
    truth = pq.read_table(config.report.truth, columns=["obsid", *LAB]).to_pandas()
    truth = truth.drop_duplicates("obsid").set_index("obsid").add_prefix("true_")
    stars = best.set_index("row").join(matches).join(truth, on="obsid")
    test = stars[(stars.allstar_split == TEST) & np.isfinite(stars.teff)]
    rows: list[Row] = []
    for name, lab in LAB.items():
        away = (test[name] - test[f"allstar_{name}"]).dropna()
        clear = test[test.fit_status == 0]
        true = clear[name] - clear[f"true_{name}"]
        rms = np.sqrt(np.square(clear[name] - clear[f"allstar_{name}"]).mean())
        said = (
            f"{len(away)} test stars; {len(clear)} without any flag: rms {rms:.4g}, "
            f"about the truth, robust: {1.4826 * np.median(np.abs(true - true.median())):.4g}"
        )
        value = float(np.sqrt(np.square(away).mean()))
        rows.append(_row(f"rms of {name}", value, "K" if name == "teff" else "dex", lab, said))
    return rows


def line_places(config: RunConfig) -> list[Row]:
    """Return how far peaks of derivatives stand off vacuum wavelengths of known lines.

    Where the spectra that the stars were made of have their own peak further than `CLEAN` pixels
    from a line, something else absorbs there, too: such a line is named, and does not count.
    """
    model, lines = load_model(folders.model_url(config)), load_lines()
    spec = model.spec
    physics = LineSynthesis(
        lines, spec.wavelength, labels=spec.labels, resolving_power=spec.resolving_power
    )
    stars = reference_stars(spec)
    star = {"star": stars.get("giant", next(iter(stars.values())))}
    learned, true = derivatives(model, star)["star"], derivatives(physics.eval(), star)["star"]
    table = (lines.wavelength, lines.element, lines.ion_stage, lines.excitation, lines.log_gf)
    rows: list[Row] = []
    for name in ("fe_h", "mg_fe", "si_fe"):
        k = spec.labels.index(name)
        known = known_lines(name, *table, within=(spec.wavelength[0], spec.wavelength[-1]))
        known = unblended(known, lines, spec.resolving_power)
        places = {}
        for curve, n in ((learned[k], LINES), (true[k], len(known.names))):
            found = line_offsets(spec.wavelength, curve, known, spec.resolving_power, n)
            places[n] = {(kind, line): peak for line, peak, kind in found}
        rows.append(_peaks(name, spec.wavelength, places[LINES], places[len(known.names)]))
    return rows


Places = dict[tuple[str, float], float]


def _peaks(name: str, wavelength: npt.NDArray[np.float64], learned: Places, true: Places) -> Row:
    """Return the largest offset of a model's peaks from lines that are not blended."""
    clean, said = [], []
    for kind, line in learned:
        pixel = float(np.interp(line, wavelength, np.gradient(wavelength)))
        off = (learned[kind, line] - line) / pixel
        own = (true.get((kind, line), np.nan) - line) / pixel
        blended = not abs(own) <= CLEAN
        said.append(f"{kind} {line:.2f}: {off:+.2f} (physics {own:+.2f})" + " blended" * blended)
        clean += [] if blended else [abs(off)]
    close = sum(off <= 1 for off in clean)
    said.insert(0, f"{close} of {len(clean)} unblended lines within a pixel")
    return _row(f"peaks of {name} off lines, largest", max(clean), "pixel", 1.0, ", ".join(said))


def posterior_widths(config: RunConfig) -> list[Row]:
    """Return draws beside the fit's covariance, of each chosen star."""
    rows: list[Row] = []
    best, labels = read_parts(folders.best_url(config)), config.train.labels
    for star in read_parts(folders.posterior_url(config)).to_pylist():
        fit = best.filter(pc.equal(best["row"], star["row"])).to_pylist()[0]
        draws = np.array([star[name] for name in labels], np.float64)
        cov = symmetric(np.array(fit["label_cov"]), len(labels))
        sigma = np.sqrt(np.diag(cov))
        ratio = draws.std(axis=1) / sigma
        off = (draws.mean(axis=1) - [fit[name] for name in labels]) / sigma
        twist = np.abs(np.corrcoef(draws) - cov / np.outer(sigma, sigma)).max()
        said = (
            f"{star['designation']}: sigma of draws over the fit's {np.round(ratio, 3).tolist()}, "
            f"mean less best in sigma {np.round(off, 3).tolist()}, R-hat {star['r_hat']:.3f}"
        )
        rows += [
            _row(
                "sigma of draws over the fit's, worst",
                float(ratio[np.argmax(np.abs(ratio - 1))]),
                "",
                1.0,
                said,
            ),
            _row("correlation of draws less the fit's, worst", float(twist), "", 0.0, said),
        ]
    return rows


def _row(name: str, value: float, unit: str, recipe: float, note: str) -> Row:
    ratio = value / recipe if recipe else None
    return {
        "name": name, "value": value, "unit": unit, "limit": None, "recipe": recipe,
        "ratio_to_recipe": ratio, "fraction_of_limit": None, "note": note,
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_file")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    config = load_config(asked.run_file)
    rows = [*label_errors(config), *line_places(config), *posterior_widths(config)]
    for row in rows:
        numbers = f"{row['value']:>10.4g} {row['unit']:<6}{row['recipe']:>8.4g}"
        print(f"{row['name']:<45}{numbers}  {row['note']}")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
