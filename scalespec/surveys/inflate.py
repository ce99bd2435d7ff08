"""Gzip streams as survey archives have them: many members, trailing junk, lies about their size."""

from isal import isal_zlib

from scalespec.errors import SurveyFileError

LIMIT_BYTES = 64 * 2**20
"""Most that a file of one spectrum is allowed to inflate to."""
_MAGIC = b"\x1f\x8b"
_MAX_MEMBERS = 1024  # each costs a copy of what follows it


def gunzip(data: bytes, *, limit_bytes: int = LIMIT_BYTES) -> bytes:
    """Return the FITS bytes in `data`, gzipped or not, whatever the file's name says.

    All members of a multi-member stream are read. Bytes after the last member that are not gzip are
    ignored, as gzip(1) does: each member's checksum, and the sizes in the FITS headers, vouch for
    what was read.

    Parameters
    ----------
    data : bytes
        A file's content.
    limit_bytes : int
        Most bytes to make of it; no more than that is ever allocated.

    Raises
    ------
    SurveyFileError
        With reason ``truncated``, ``corrupt``, ``not_fits`` (neither gzip nor FITS), or
        ``bad_layout`` (larger than the limit).

    References
    ----------
    RFC 1952, section 2.2: a gzip file is a series of members.

    Examples
    --------
    >>> import gzip
    >>> gunzip(gzip.compress(b"SIMPLE  = ") + gzip.compress(b"T"))
    b'SIMPLE  = T'
    """
    if data.startswith(b"SIMPLE"):
        return data
    if not data:
        raise SurveyFileError("empty file", "not_fits")
    if not data.startswith(_MAGIC):
        raise SurveyFileError(f"neither gzip nor FITS: begins with {data[:20]!r}", "not_fits")
    members: list[bytes] = []
    size, rest = 0, data
    while rest.startswith(_MAGIC) and len(members) < _MAX_MEMBERS:
        stream = isal_zlib.decompressobj(wbits=31)  # 31: a gzip header and checksum are wanted
        try:
            members.append(stream.decompress(rest, limit_bytes - size + 1))
        except isal_zlib.error as error:  # type: ignore[misc]  # its stub says instance, not class
            raise SurveyFileError(f"broken gzip stream: {error}", "corrupt") from error
        size += len(members[-1])
        if size > limit_bytes:
            raise SurveyFileError(f"gunzips to more than {limit_bytes} bytes", "bad_layout")
        if not stream.eof:
            raise SurveyFileError(f"gzip stream ends early, after {len(data)} bytes", "truncated")
        rest = stream.unused_data
    return members[0] if len(members) == 1 else b"".join(members)
