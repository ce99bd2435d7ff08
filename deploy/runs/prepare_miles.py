"""Make what the run files miles-*.toml read of the MILES library: spectra, labels, a description.

    python deploy/runs/prepare_miles.py ../shared/data/miles demo/miles-library

takes the folder that holds miles_v9.1.tar.xz and paramsMILES_v9.1.txt.gz (the library's own files,
http://miles.iac.es), unpacks the spectra, and writes labels.csv and miles.json beside them.
"""

import csv
import gzip
import json
import sys
import tarfile
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


def labels(text: str) -> list[dict[str, str]]:
    """Return designation, spectral type and labels of each star; "" where one is not known."""
    rows = []
    for line in text.splitlines()[HEADER_LINES:]:
        if not line.strip():
            continue
        row = {"designation": f"MILES_res2.50_star_m{line[23:27]}V", "type": line[33:46].strip()}
        for name, part in COLUMNS.items():
            value = line[part].split()[-1]  # long types run into the temperatures
            row[name] = "" if value == "--" else value
        rows.append(row)
    return rows


def main(source: Path, target: Path) -> None:
    """Unpack spectra and write labels and description."""
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(source / "miles_v9.1.tar.xz") as archive:
        for member in archive:
            if member.name.endswith("V.fits"):
                member.name = Path(member.name).name
                archive.extract(member, target, filter="data")
    rows = labels(gzip.decompress((source / "paramsMILES_v9.1.txt.gz").read_bytes()).decode())
    with (target / "labels.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    (target / "miles.json").write_text(json.dumps(DESCRIPTION, indent=1) + "\n")
    print(f"{target}: {len(rows)} stars")  # noqa: T201 - its only word


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
