"""Make what the run files miles-*.toml read of the MILES library: spectra, labels, a description.

    python deploy/runs/prepare_miles.py ../shared/data/miles demo/miles-library [JINAbase.csv.gz]

takes the folder that holds miles_v9.1.tar.xz and paramsMILES_v9.1.txt.gz (the library's own files,
http://miles.iac.es), unpacks the spectra, and writes labels.csv and miles.json beside them. With a
table of JINAbase (Abohalima & Frebel 2018, ApJS 238, 36) stars that are in it by name get its
[C/Fe], [Ba/Fe] and [Eu/Fe], too.
"""

import csv
import gzip
import io
import json
import re
import sys
import tarfile
from collections import defaultdict
from pathlib import Path

DESCRIPTION = {
    "name": "miles",
    "pattern": "*V.fits",
    "medium": "air",
    "frame": "rest",
    "flux_unit": "relative",
    "wavelength": {"start": 3540.5, "step": 0.9, "n": 4300},
    "resolution": {"fwhm_angstrom": 2.5},
    "flux": "HDU0",
    "assumed_snr": 100,
}
COLUMNS = {"teff": slice(46, 56), "logg": slice(56, 64), "fe_h": slice(64, 73)}
"""Of the library's fixed-width table; '--' is what is not known."""
HEADER_LINES = 3
ABUNDANCES = {"c_fe": ("C-H", 8.43), "ba_fe": ("Ba II", 2.18), "eu_fe": ("Eu II", 0.52)}
"""JINAbase's column of log eps, and the Sun's (Asplund et al. 2009, ARA&A 47, 481)."""
IRON = ("Fe I", 7.50)


def labels(text: str) -> list[dict[str, str]]:
    """Return designation, spectral type and labels of each star; "" where one is not known."""
    rows = []
    for line in text.splitlines()[HEADER_LINES:]:
        if not line.strip():
            continue
        row = {
            "designation": f"MILES_res2.50_star_m{line[23:27]}V",
            "name": common_name(line[:22]),
            "type": line[33:46].strip(),
        }
        for name, part in COLUMNS.items():
            value = line[part].split()[-1]  # long types run into the temperatures
            row[name] = "" if value == "--" else value
        rows.append(row)
    return rows


def common_name(name: str) -> str:
    """Return a star's name as every catalog would write it: "HD 2796", "BD+37 1458", "G 156-31"."""
    plain = re.sub(r"[\s:_°]+", " ", name.strip().upper())
    if found := re.match(r"([A-Z]+) ?([+-])(\d{1,2}) (\d+[A-Z]?)$", plain):
        return _zoned(*found.groups())
    if found := re.match(r"([A-Z]+) ?([+-])(\d{2})(\d{2,}[A-Z]?)$", plain):
        return _zoned(*found.groups())
    if found := re.match(r"([A-Z]+) ?0*(\d+)(-\d+)?", plain):
        return f"{found[1]} {found[2]}" + (f"-{int(found[3][1:])}" if found[3] else "")
    return plain


def _zoned(catalog: str, sign: str, zone: str, number: str) -> str:
    """Return the name of a star of a catalog by zones of declination."""
    return f"{catalog}{sign}{int(zone):02d} {number.lstrip('0')}"


def abundances(text: str) -> dict[str, dict[str, float]]:
    """Return name -> [X/Fe] of JINAbase's stars, the mean of their references; no upper limits."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in csv.DictReader(io.StringIO(text)):
        iron = _number(row[IRON[0]])
        for label, (column, sun) in ABUNDANCES.items():
            value = _number(row[column])
            if iron is not None and value is not None:
                ratio = (value - sun) - (iron - IRON[1])
                for name in {common_name(row["Name"]), common_name(row["Simbad_Identifier"])}:
                    found[name][label].append(ratio)
    return {
        name: {label: sum(ratios) / len(ratios) for label, ratios in star.items()}
        for name, star in found.items()
    }


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # nothing, or an upper limit
        return None


def main(source: Path, target: Path, jinabase: Path | None = None) -> None:
    """Unpack spectra and write labels and description."""
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(source / "miles_v9.1.tar.xz") as archive:
        for member in archive:
            if member.name.endswith("V.fits"):
                member.name = Path(member.name).name
                archive.extract(member, target, filter="data")
    rows = labels(gzip.decompress((source / "paramsMILES_v9.1.txt.gz").read_bytes()).decode())
    if jinabase is not None:
        known = abundances(gzip.decompress(jinabase.read_bytes()).decode())
        for row in rows:
            star = known.get(row["name"], {})
            row |= {label: f"{star[label]:.3f}" if label in star else "" for label in ABUNDANCES}
    with (target / "labels.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    (target / "miles.json").write_text(json.dumps(DESCRIPTION, indent=1) + "\n")
    print(f"{target}: {len(rows)} stars")  # noqa: T201 - its only word


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
