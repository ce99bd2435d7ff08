"""The table of labels that comes with made-up apStar files, with allStar's columns.

Its labels are those of a pipeline that worked on the same spectra: every file has a row, and where
the pipeline failed the labels are -9999.99 and ASPCAPFLAG says STAR_BAD.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scalespec.stages.mock_records import Catalog, measured
from scalespec.stages.mock_stars import Columns
from scalespec.surveys.apogee_files import MISSING

NAME = "allStar"
STAR_BAD = 1 << 23
"""Of ASPCAPFLAG: https://www.sdss4.org/dr17/irspec/apogee-bitmasks."""
BAD_FRACTION = 0.03
PIPELINE = Catalog(
    NAME,
    (0.0, 1.0),
    2000.0,
    errors=0.3,  # as repeats of bright giants scatter: 20 K, 0.025, 0.015, and 0.02 in [X/Fe]
    outliers=0.005,
    sentinels=0.0,
    missing=0.0,
)
_ALLSTAR = 8  # last word of a seed; `stages.mock` and its kin have 1 to 7


def allstar(
    truth: Columns, labels: Sequence[str], *, seed: int, block: int
) -> dict[str, npt.NDArray[np.generic]]:
    """Return a row for every file of a block.

    Parameters
    ----------
    truth : dict of str to (n,) array
        A row per spectrum, as `stages.mock` writes it: file, ra, dec, snr, h-band's K, source_id
        and the true labels.
    labels : sequence of str
        Which of its columns are labels.
    seed, block : int
        Of what the pipeline got wrong.

    Returns
    -------
    dict of str to (n_file,) array
        FILE, APOGEE_ID, TELESCOPE, FIELD, RA, DEC [deg], SNR, GAIAEDR3_SOURCE_ID, ASPCAPFLAG; and
        for every label, in capitals, value and _ERR.

    Examples
    --------
    >>> one = {"file": np.array(["files/stars/apo25m/M67/apStar-dr17-2M08510017+1154321.fits.gz"])}
    >>> one |= {n: np.array([x]) for n, x in dict(ra=1.0, dec=2.0, snr=99.0, teff=4800.0).items()}
    >>> made = allstar(one | {"source_id": np.array([7])}, ("teff",), seed=1, block=0)
    >>> str(made["APOGEE_ID"][0]), bool(abs(made["TEFF"][0] - 4800) < 200)
    ('2M08510017+1154321', True)
    """
    rng = np.random.default_rng([seed, block, _ALLSTAR])
    _, first = np.unique(truth["file"], return_index=True)
    first.sort()
    parts = [str(name).split("/")[-3:] for name in truth["file"][first].tolist()]
    names = [name.removesuffix(".gz").removesuffix(".fits") for *_, name in parts]
    bad = rng.random(len(first)) < BAD_FRACTION
    table: dict[str, npt.NDArray[np.generic]] = {
        "FILE": np.array([name for *_, name in parts], np.str_),
        "APOGEE_ID": np.array([name.split("-", 2)[2] for name in names], np.str_),
        "TELESCOPE": np.array([telescope for telescope, *_ in parts], np.str_),
        "FIELD": np.array([field for _, field, _ in parts], np.str_),
        "RA": truth["ra"][first],
        "DEC": truth["dec"][first],
        "SNR": truth["snr"][first].astype(np.float32),
        "GAIAEDR3_SOURCE_ID": truth["source_id"][first],
        "ASPCAPFLAG": np.where(bad, STAR_BAD, 0),
    }
    for label in labels:
        for name, values in measured(PIPELINE, label, truth[label][first], rng).items():
            table[name.upper()] = np.where(bad, np.float32(MISSING), values)
    return table
