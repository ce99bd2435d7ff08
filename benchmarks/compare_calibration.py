"""Calibration on real labels: ASPCAP against seismic log g, MILES against JINAbase.

Run: ``python benchmarks/compare_calibration.py DATA [--out FOLDER]``, where DATA holds ``labels/``
(APOKASC_Catalog.v7.1, JINAbase-yelland25) and ``miles/paramsMILES_v9.1.txt.gz``. Prints bias and
scatter of stars held out of the fit, before and after; draws each trend with its data.
"""

import argparse
import gzip
import re
from pathlib import Path

import numpy as np
import pandas as pd

from scalespec.config import CalibrateTable
from scalespec.figures import calibration as figures_calibration
from scalespec.figures import to_png
from scalespec.stages.columns import label_facts, label_title
from scalespec.stages.correction import Correction, LabelData, Referred
from scalespec.stages.label_catalog import star_hash
from scalespec.stages.trends import fit_correction
from scalespec.store.tables import read_table

LABELS = ("teff", "logg", "fe_h")
JINA = {"teff": "Teff", "logg": "logg", "fe_h": "M/H"}
ERRORS = {"teff": 100.0, "logg": 0.2, "fe_h": 0.1}
"""Of one measurement, by MILES or JINAbase, which state none."""
GIANTS = {"logg_edges": (), "teff_range": (4200.0, 5200.0), "knots": 4, "smoothness": 1.0}
STARS = {"logg_edges": (3.5,), "teff_range": (4200.0, 6600.0), "knots": 1, "smoothness": 30.0}


def apokasc(data: Path) -> Referred:
    """Giants' log g as ASPCAP fits it, beside the seismic one (scale 1) of APOKASC."""
    names = {
        "teff": "FIT_ASPCAP TEFF", "logg": "FIT_ASPCAP LOGG", "err": "CORR_ASPCAP LOGG ERR",
        "snr": "ASPCAP_SNR", "seismic": "KASC_RG_LOGG_SCALE_1",
        "plus": "KASC_RG_LOGG_SCALE_1 PERR", "minus": "KASC_RG_LOGG_SCALE_1 MERR",
    }  # fmt: skip
    found = read_table(str(data / "labels" / "APOKASC_Catalog.v7.1.fits.gz"), list(names.values()))
    columns = {ours: found[theirs].astype(float) for ours, theirs in names.items()}
    columns = {n: np.where(np.abs(v) > 9000, np.nan, v) for n, v in columns.items() if n != "snr"}
    star = np.arange(1, len(columns["teff"]) + 1)
    seismic_err = (np.abs(columns["plus"]) + np.abs(columns["minus"])) / 2
    return Referred(
        teff=np.where(np.abs(found[names["teff"]]) > 9000, np.nan, found[names["teff"]]),
        logg=columns["logg"], snr=found[names["snr"]].astype(float), value=columns["logg"],
        err=np.where(columns["err"] > 0, columns["err"], 0.11), reference=columns["seismic"],
        reference_err=np.nan_to_num(seismic_err), star=star_hash(star),
    )  # fmt: skip


def plain_name(name: str) -> str:
    """Return a star's name in one spelling: ``HD122563`` of "HD 122563", ``BD+23375`` of others.

    A BD number loses its inner zeros and signs, which MILES and JINAbase write in two ways each.
    """
    text = re.sub(r"[\s_*]+", " ", str(name)).strip().upper()
    found = re.fullmatch(r"(BD|CD) ?([+-])(\d\d?)[ D]?[-+]? ?0*(\d+)", text)
    if found:
        zone, number = found[3], found[4]
        if " " not in text[3:] and "D" not in text[3:] and len(zone + number) > 4:
            zone, number = text[3:5], text[5:].lstrip("0 ")
        return f"{found[1]}{found[2]}{int(zone)} {number}"
    return re.sub(r"^(HD|HE|HIP|HR|LP|G|LTT|CS) ?0*(?=\d)", r"\1", text).replace(" ", "")


def miles_jinabase(data: Path) -> dict[str, Referred]:
    """MILES labels beside the median of what high-resolution work in JINAbase says, by name."""
    rows = []
    text = gzip.decompress((data / "miles" / "paramsMILES_v9.1.txt.gz").read_bytes()).decode()
    for line in text.splitlines()[3:]:
        numbers = [_number(line[a:b]) for a, b in ((46, 56), (56, 64), (64, 73))]
        rows.append((plain_name(line[:22]), *numbers))
    miles = pd.DataFrame(rows, columns=["name", *LABELS]).drop_duplicates("name")
    jina = pd.read_csv(data / "labels" / "JINAbase-yelland25.csv.gz", low_memory=False)
    values = {ours: pd.to_numeric(jina[theirs], errors="coerce") for ours, theirs in JINA.items()}
    parts = [
        pd.DataFrame({"name": jina[column].fillna("").map(plain_name), **values})
        for column in ("Name", "Simbad_Identifier")
    ]
    found = pd.concat(parts).query("name != ''").groupby("name")[list(LABELS)]
    both = miles.merge(found.median(), on="name", suffixes=("", "_high"))
    both = both.merge(found.count(), on="name", suffixes=("", "_n"))
    return {label: _referred(both, label) for label in LABELS}


def _referred(both: pd.DataFrame, label: str) -> Referred:
    n = len(both)
    err = np.full(n, ERRORS[label])
    return Referred(
        teff=both["teff"].to_numpy(), logg=both["logg"].to_numpy(), snr=np.full(n, 100.0),
        value=both[label].to_numpy(), err=err, reference=both[f"{label}_high"].to_numpy(),
        reference_err=err / np.sqrt(np.maximum(both[f"{label}_n"].to_numpy(), 1)),
        star=star_hash(both["name"].to_numpy()),
    )  # fmt: skip


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def calibrated(data: Path) -> dict[str, Correction]:
    """Return the corrections of both comparisons."""
    giants = CalibrateTable(references={"seismic": {}}, **GIANTS)
    made = {
        "apokasc": fit_correction("logg", LabelData(references={"seismic": apokasc(data)}), giants)
    }
    stars = CalibrateTable(references={"jinabase": {}}, **STARS)
    for label, referred in miles_jinabase(data).items():
        known = LabelData(references={"jinabase": referred})
        made[f"miles {label}"] = fit_correction(label, known, stars)
    return made


def draw(made: Correction) -> bytes:
    """Draw a correction with its data."""
    (step,) = made.steps
    names = ("dwarfs", "giants")[-(len(made.logg_edges) + 1) :]
    curves = {}
    for one, name in enumerate(names):
        trend = np.full(len(made.teff), np.nan)
        if one in step.classes:
            trend = step.at(made.teff, np.full(len(made.teff), one))
        curves[name] = (made.teff, trend, made.error[one])
    points = {name: np.array(values) for name, values in made.record["drawn"][step.source].items()}
    title, unit = f"{label_title(made.label)} by {step.source}", label_facts(made.label)[0]
    figure = figures_calibration.trend_with_data(
        points, curves, title=title, unit=unit, what="difference"
    )
    return to_png(figure)


def main() -> None:
    """Print checks, draw trends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    heads = ("fitted", "held", "bias", "after", "scatter", "after")
    print(f"{'':14s}", *(f"{head:>8s}" for head in heads))
    for name, made in calibrated(args.data).items():
        for check in made.record["checks"]:
            numbers = [check[f"{w}_{t}"] for w in ("bias", "scatter") for t in ("before", "after")]
            print(
                f"{name:14s} {made.steps[0].n:8d} {check['n']:8d}", *(f"{x:8.3f}" for x in numbers)
            )
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / f"{name.replace(' ', '-')}.png").write_bytes(draw(made))


if __name__ == "__main__":
    main()
