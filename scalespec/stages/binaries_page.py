"""What a page says of fits of two stars: what they gain, of stars and by chance."""

import numpy as np

from scalespec.config import RunConfig
from scalespec.figures.findings import gains
from scalespec.schema import status_names
from scalespec.stages import folders
from scalespec.stages.columns import BINARY_STATUS
from scalespec.stages.page import by_status, heading, paragraph, picture
from scalespec.stages.two_stars import BinaryStatus
from scalespec.store.catalog import read_parts

CAPTION = (
    "Grey: mock single stars, at labels, noise and masks of the stars, fitted as these are. "
    "Dotted: the rate that was asked for. Few stars are two: at small gains both curves should be "
    "one. Where that of the stars is above all along, it is the model, or the continuum, that "
    "errs, and many that are called two are not: [fit] polynomial, or scatter, helps."
)


def binaries(config: RunConfig) -> str:
    """Draw the gains of chosen stars beside those of mock single ones, and count the pairs."""
    table = config.binaries
    names = ["binary_gain", "binary_threshold", "binary_status"]
    rows = read_parts(folders.binaries_url(config), names)
    status, gain = (rows[name].to_numpy() for name in ("binary_status", "binary_gain"))
    singles = read_parts(folders.singles_url(config), ["binary_gain"])["binary_gain"].to_numpy()
    asked = status & BinaryStatus.NOT_ASKED == 0
    n, pairs = int(asked.sum()), int(np.sum(status & BinaryStatus.TWO_STARS != 0))
    threshold = float(np.nanmax(rows["binary_threshold"].to_numpy()))
    rate = table.false_positive_rate if table is not None else 0.0
    said = (
        f"{n:,} stars were fitted as two: {pairs:,} of them ({100 * pairs / max(n, 1):.1f} %) gain "
        f"more than {threshold:.1f} in χ², as {len(singles):,} mock single stars do at a rate of "
        f"{rate:g}; by chance {rate * n:.1f} would."
    )
    figure = gains(singles, gain[asked & np.isfinite(gain)], threshold=threshold, rate=rate)
    counts = status_names(status, BinaryStatus)
    meaning = {BinaryStatus[key.partition(" ")[2]]: text for key, text in BINARY_STATUS.items()}
    html = paragraph(said) + picture(figure, CAPTION)
    html += heading("Spectra by status of their companion")
    return html + by_status(counts, len(status), meaning)
