"""The catalog at a glance: where its stars are, and their abundances against metallicity."""

import numpy as np

from scalespec.figures import catalog as figures_catalog
from scalespec.stages.columns import label_facts, label_title
from scalespec.stages.evidence import Evidence
from scalespec.stages.page import paragraph, picture

RATIO = "abundance ratio ["
PLANES = (
    "Each panel holds the stars whose metallicity and this ratio are to be trusted. One should see "
    "sequences, not clouds; a straight edge is where the model ends."
)


def sky(evidence: Evidence) -> str:
    """Draw where the stars with labels are."""
    stars = evidence.stars
    if not {"ra", "dec"} <= set(stars.columns):
        return paragraph("The catalog has no positions.", kind="quiet")
    ra, dec = (stars.columns[name][stars.fitted] for name in ("ra", "dec"))
    n = int((np.isfinite(ra) & np.isfinite(dec)).sum())
    figure = figures_catalog.sky_map(ra, dec)
    caption = f"{n:,} stars with labels, equatorial coordinates. {evidence.drawn_from(stars)}"
    return picture(figure, caption.strip())


def abundances(evidence: Evidence) -> str:
    """Draw every abundance ratio against metallicity; "" where the model has none."""
    stars = evidence.stars
    metal = next((name for name in ("fe_h", "m_h") if name in stars.labels), "")
    names = [n for n in stars.labels if n != metal and label_facts(n)[1].startswith(RATIO)]
    if not metal or not names:
        return ""
    ratios = {
        label_title(name): np.where(stars.trusted(metal, name), stars.columns[name], np.nan)
        for name in names
    }
    figure = figures_catalog.abundance_planes(stars.columns[metal], ratios, name=label_title(metal))
    return picture(figure, f"{evidence.drawn_from(stars)}{PLANES}", wide=len(names) > 2)
