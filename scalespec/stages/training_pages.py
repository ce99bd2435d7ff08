"""What a page says of the run's models: how they learned, what was tried, what they look at."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from scalespec.config import RunConfig
from scalespec.figures.learning import learning_curve, search_outcomes
from scalespec.figures.lines import Panel, line_gradients
from scalespec.kernels.linenames import (
    PEAKS,
    elements_of,
    known_lines,
    share_at_lines,
    strongest_known,
)
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.stages import folders
from scalespec.stages.columns import label_facts, label_title
from scalespec.stages.mock_spectra import load_lines
from scalespec.stages.page import Cell, heading, paragraph, picture, table
from scalespec.store.model import load_model, model_record
from scalespec.store.regressor import is_regressor

FloatArray = npt.NDArray[np.float64]

LEARNED = (
    "Validation, of stars that training has none of, should follow training down; a gap that opens "
    "is over-fitting. A dashed line ends the rounds of variable projection; epochs follow."
)
SEARCHED = (
    "Trial 0 is the run file as it stands. The one of the least validation error is the run's "
    "model; differences below the scatter of trials with like settings mean nothing."
)
LOOKS = (
    "Change of the normalized flux with each label, of the model alone. Ticks below: the strongest "
    "known lines of the element (R. L. Kurucz); named are those where the derivative peaks. A "
    "label whose derivative lies at its own element's lines is measured by "
    "physics; one that lies elsewhere, by blends, by the continuum that was taken out, or by what "
    "came together in the stars that the model learned from."
)
SHARE = "% of its square at the element's lines"
PER = {"teff": ("100 K", 100.0), "vmic": ("km/s", 1.0), "vsini": ("10 km/s", 10.0)}
"""Of what change a derivative is given, where not of a dex."""
STARS = {"dwarf": {"teff": 5777.0, "logg": 4.44}, "giant": {"teff": 4600.0, "logg": 2.0}}
"""Where derivatives are taken, other labels at 0, all within the model's range."""
KINDS_DEX = 1.0
"""Least difference of log g where a model is said to know both kinds."""
INNER = 0.1
"""Part of a range at its ends that is kept off: what a model does there is less sure."""


def learning(config: RunConfig) -> str:
    """Draw how the trained model learned."""
    if config.train is None or folders.model_url(config) not in folders.model_urls(config):
        return paragraph("The run's models were trained elsewhere.", kind="quiet")
    metadata = model_record(folders.model_url(config))["metadata"]
    history = metadata.get("history", [])
    wide = any(key in point for point in history for key in ("gradient_error", "validation_error"))
    return picture(learning_curve(history), LEARNED, wide=wide)


def search(config: RunConfig) -> str:
    """Show what a search of hyper-parameters tried; "" if there was none."""
    if config.train is None:
        return ""
    trials = model_record(folders.model_url(config))["metadata"].get("search", [])
    if not trials:
        return ""
    names = sorted({name for one in trials for name in one["settings"]})
    rows: list[tuple[Cell, ...]] = [
        (
            int(one["trial"]),
            float("nan") if one["validation_rms"] is None else float(one["validation_rms"]),
            *(_said(one["settings"], name) for name in names),
            str(one["error"]),
        )
        for one in trials
    ]
    html = table(["trial", "validation rms", *names, "error"], rows)
    html += paragraph(SEARCHED, kind="quiet")
    return html + picture(search_outcomes(trials), "Circled: the best trial.", wide=len(names) > 1)


def _said(settings: Mapping[str, Any], name: str) -> Cell:
    """Return a setting of a trial; those of the run file are not repeated."""
    value = settings.get(name, "as the run file")
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def gradients(config: RunConfig) -> str:
    """Draw what the run's emulators make of each label, over known lines; "" for regressors."""
    urls = folders.model_urls(config) if config.infer or config.train else ()
    emulators = [url for url in urls if not is_regressor(url)]
    html = ""
    for number, url in enumerate(emulators):
        html += heading(f"Model {number}") if len(emulators) > 1 else ""
        html += _one(load_model(url))
    return paragraph(LOOKS, kind="quiet") + html if html else ""


def _one(model: Emulator) -> str:
    spec = model.spec
    found = derivatives(model, reference_stars(spec))
    panels, rows = [], []
    atoms = load_lines()
    table_of = (atoms.wavelength, atoms.element, atoms.ion_stage, atoms.excitation, atoms.log_gf)
    resolving = spec.resolving_power or 1 / float(np.median(np.diff(np.log(spec.wavelength))))
    for k, name in enumerate(spec.labels):
        per, factor = PER.get(name, ("dex", 1.0))
        curves = {star: factor * flux[k] for star, flux in found.items()}
        lines = known_lines(name, *table_of, within=(spec.wavelength[0], spec.wavelength[-1]))
        strength = np.max([np.abs(c) for c in curves.values()], axis=0)
        named = strongest_known(spec.wavelength, strength, lines, resolving_power=resolving)
        title = label_title(name) if label_facts(name)[1] != name else name
        panels.append(Panel(title, per, curves, lines.wavelength, named))
        share = (float("nan"), float("nan"))
        if elements_of(name):
            share = share_at_lines(spec.wavelength, strength, lines, resolving_power=resolving)
        first = max(named, key=lambda one: _at(spec.wavelength, strength, one[0]), default=None)
        rows.append((
            title, "" if first is None else f"{first[1]} {first[0]:.1f}",
            float("nan") if first is None else _at(spec.wavelength, strength, first[0]), per,
            100 * share[0], 100 * share[1],
        ))  # fmt: skip
    heads = ["label", "strongest known feature [Å]", "change of flux", "per", SHARE, "% of pixels"]
    figure = line_gradients(spec.wavelength, panels)
    where = " and ".join(f"a {star}" if len(found) > 1 else star for star in found)
    caption = f"Derivatives at {where}; at most {PEAKS} features are named in each."
    return picture(figure, caption, wide=True) + table(heads, rows)


def _at(wavelength: FloatArray, values: FloatArray, place: float) -> float:
    return float(values[int(np.argmin(np.abs(wavelength - place)))])


def reference_stars(spec: EmulatorSpec) -> dict[str, FloatArray]:
    """Return labels of a dwarf and a giant within a model's range; of its middle where both fall.

    Parameters
    ----------
    spec : EmulatorSpec

    Returns
    -------
    dict of str to (n_label,) float64
    """
    width = spec.maximum - spec.minimum
    low, high = spec.minimum + INNER * width, spec.maximum - INNER * width
    made = {}
    for star, known in STARS.items():
        usual = [
            known.get(name, 0.0 if label_facts(name)[0] == "dex" else middle)
            for name, middle in zip(spec.labels, (low + high) / 2, strict=True)
        ]
        made[star] = np.clip(np.array(usual, np.float64), low, high)
    gravity = spec.labels.index("logg") if "logg" in spec.labels else None
    if gravity is not None and made["dwarf"][gravity] - made["giant"][gravity] > KINDS_DEX:
        return made
    return {"the middle of its range": (low + high) / 2}


def derivatives(model: Emulator, stars: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Return (n_label, n_pixel) derivatives of flux by labels, in their units, of each star."""
    spec = model.spec
    labels = torch.from_numpy(np.stack(list(stars.values())))
    with torch.no_grad():
        _, jacobian = model.flux_and_jacobian(model.scale(labels).float())
    per_label = jacobian.double().numpy() / (spec.maximum - spec.minimum)[:, np.newaxis]
    return dict(zip(stars, per_label, strict=True))
