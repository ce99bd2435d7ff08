"""Labels that models of MILES give LAMOST's stars, against LASP's: run deploy/runs/lamost-*.toml.

python benchmarks/compare_miles.py demo/lamost-miles
"""

import sys

import numpy as np
import pandas as pd

from scalespec import open_catalog

LABELS = ("teff", "logg", "fe_h")


def table(catalog: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute difference and median difference by release and type of star."""
    rows = []
    for name, column, low in (
        ("lasp", "lasp_snrg", 20),
        ("lasp", "snr_g", 20),
        ("pylasp", "snr_g", 0),
    ):
        known = catalog[f"{name}_teff"].notna() & (catalog[column] > low)
        for kind in ("AFGK", *"AFGK"):
            here = catalog[known & catalog["subclass"].str[0].isin(list(kind))]
            if not len(here):
                continue
            difference = np.stack([here[k] - here[f"{name}_{k}"] for k in LABELS], axis=1)
            fitted = np.isfinite(difference).all(axis=1)
            row = {"labels": name, "of S/N": f"{column} > {low}", "type": kind, "n": len(here)}
            row |= {"fitted": int(fitted.sum())}
            for k, values in zip(LABELS, difference[fitted].T, strict=True):
                row |= {f"{k} MAE": np.abs(values).mean(), f"{k} median": np.median(values)}
            if name == "lasp":  # what the labels' own errors would make of a perfect model
                row["MAE of LASP's error"] = 0.8 * here["lasp_teff_err"].mean()
            rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    found = open_catalog(sys.argv[1])
    frame = found.to_table().to_pandas()
    print(table(frame).round(3).to_string(index=False))
