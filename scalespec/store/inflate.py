"""Catalogs inside gzip, as far as they are catalogs: a few bytes cannot ask for all memory."""

import io

from isal import igzip

LARGEST_RATIO = 100
"""Catalogs gzip to a third or a tenth; gzip's own limit, met by zeros, is a thousandth."""
ALWAYS_BYTES = 2**26
"""So much is let through of the smallest file."""


def inflated(data: bytes) -> bytes:
    """Return what is in a gzip file, all members of it.

    Raises
    ------
    ValueError
        If it is more than a catalog can be made of so few bytes. No more than that is allocated.

    Examples
    --------
    >>> import gzip
    >>> inflated(gzip.compress(b"teff,logg"))
    b'teff,logg'
    """
    most = ALWAYS_BYTES + LARGEST_RATIO * len(data)
    with igzip.open(io.BytesIO(data)) as stream:
        found: bytes = stream.read(most + 1)
    if len(found) > most:
        raise ValueError(f"{len(data)} bytes of gzip inflate to more than {most}")
    return found
