"""From files to rows: what one file gives, and a block of files as Datasets and an index."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from scalespec.errors import SurveyFileError
from scalespec.schema import NOISE_CORRELATION, PER_SPECTRUM, UNREADABLE, MaskBit, SpectrumStatus
from scalespec.surveys.lattice import median_snr
from scalespec.surveys.tables import LOST

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
MaskArray: TypeAlias = npt.NDArray[np.uint32]
Groups: TypeAlias = dict[str, xr.Dataset]
"""What a block of files holds: "" the root, and the arms by name, if the survey has arms."""

INDEX_COLUMNS = ("file", "designation", "class_", "subclass", "release", "snr_g", "reason")
_STATUS = dict(SpectrumStatus.__members__)
_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


class Piece(NamedTuple):
    """Spectra ``[first, first + n)`` of one file, and the file.

    Attributes
    ----------
    name : str
        Its path or URL.
    content : bytes, Exception or callable
        What it holds, or the exception that fetching it ended in, raised again if it may pass; or,
        of a file too large to hold many at once, what returns the piece with its content.
    first, n : int
        Which of its spectra; a file of one has (0, 1).
    status : int
        `schema.SpectrumStatus` known before it is read.
    source_id : int
        What a release catalog calls the star; -1 unknown. The file's own word counts more.
    """

    name: str
    content: "bytes | Exception | Callable[[], Piece]"
    first: int = 0
    n: int = 1
    status: int = 0
    source_id: int = -1


class Pixels(NamedTuple):
    """One arm of n spectra of a file: arrays ``(n, n_pixel)``, or ``(n_pixel,)`` of one.

    Attributes
    ----------
    flux, ivar : float32
        As in the file, bit for bit, where both are finite; flux is kept where ivar is 0.
    mask : uint32
        `schema.MaskBit`.
    wavelength : float64 [Å, vacuum], optional
        Where the arm has no grid of its own.
    lsf_sigma : (n, n_node) float [Å], optional
        Where the file says it.
    status : int or (n,) uint32
        `schema.SpectrumStatus` of this arm beyond that of the whole.
    first : int
        Where in the arm's rows these pixels begin; the rest of the rows is OUTSIDE.
    noise_correlation : float or (2,) float
        As of the schema, where they were rebinned on reading.
    """

    flux: npt.NDArray[np.float32]
    ivar: npt.NDArray[np.float32]
    mask: MaskArray
    wavelength: FloatArray | None = None
    lsf_sigma: FloatArray | None = None
    status: Any = 0
    first: int = 0
    noise_correlation: Any = 1.0


class Rows(NamedTuple):
    """What a piece of a file holds: n spectra.

    Attributes
    ----------
    arms : dict of str to Pixels
        By name, "" of the only one. An arm that the file lacks is left out.
    scalars : dict
        Values of the per-spectrum variables of `schema`, one or n, as far as the file has them.
    strings : dict
        designation, class_, subclass, release; and snr_g, the header's own S/N (NaN if unknown).
    status : int or (n,) uint32
        What is worth knowing of all arms.
    fallback : bool
        Whether astropy had to read the file.
    """

    arms: dict[str, Pixels]
    scalars: Mapping[str, Any]
    strings: Mapping[str, Any]
    status: Any = 0
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class Arm:
    """What all spectra of a survey have in common in one arm.

    Attributes
    ----------
    name : str
        "" of a survey that has one.
    wavelength : (n_pixel,) float64 [Å, vacuum] or None
        The grid they are put on; None where each has its own.
    n_pixel : int
        Pixels of a row; a spectrum that has fewer is padded.
    attrs : mapping
        Of the arm's Dataset.
    lsf_node : (n_node,) float64 [Å, vacuum], optional
        Where ``lsf_sigma`` is given.
    lsf_sigma : (n_node,) float64 [Å], optional
        If it is the same for all spectra; else every spectrum has its own.
    """

    name: str
    wavelength: FloatArray | None
    n_pixel: int
    attrs: Mapping[str, Any]
    lsf_node: FloatArray | None = None
    lsf_sigma: FloatArray | None = None


def file_column(row: Mapping[str, Any]) -> str:
    """Return a catalog row's path, of surveys without a rule: its column ``file``."""
    return str(row["file"]).strip()


@dataclass(frozen=True)
class Survey:
    """What the stages know of a survey.

    Attributes
    ----------
    name : str
        Its name in run files, and in ``attrs["survey"]``.
    pattern : str
        Glob of its files below a folder.
    arms : tuple of Arm
        One, named "", or several.
    attrs : mapping
        Of all its Datasets, beside the arm's own.
    read : callable
        (content, name, first, count) -> `Rows`; raises SurveyFileError.
    count_spectra : callable, optional
        A file's content -> how many spectra it holds; None: every file holds one.
    one_star : bool
        Whether all spectra of a file are of one star, as its visits: what a release catalog calls
        the star holds for each.
    catalog_path : callable
        A row of the survey's release catalog -> path of its file below the release's root.
    catalog_columns : tuple of str
        What `catalog_path` asks for.
    """

    name: str
    pattern: str
    arms: tuple[Arm, ...]
    attrs: Mapping[str, Any]
    read: Callable[[bytes, str, int, int], Rows]
    count_spectra: Callable[[bytes], int] | None = None
    one_star: bool = False
    catalog_path: Callable[[Mapping[str, Any]], str] = file_column
    catalog_columns: tuple[str, ...] = ("file",)

    @property
    def n_pixel(self) -> int:
        """Pixels of a spectrum, over all arms."""
        return sum(arm.n_pixel for arm in self.arms)

    def pieces(self, files: Sequence[tuple[str, bytes | Exception]]) -> list[Piece]:
        """Return whole files as pieces; a file that cannot be read is a piece of one spectrum."""
        return [Piece(name, content, 0, self._count(content)) for name, content in files]

    def _count(self, content: bytes | Exception) -> int:
        if self.count_spectra is None or isinstance(content, Exception):
            return 1
        try:
            return max(1, self.count_spectra(content))
        except SurveyFileError:
            return 1

    def read_block(
        self, files: Sequence[Piece | tuple[str, bytes | Exception]]
    ) -> tuple[Groups, pd.DataFrame]:
        """Read a block of pieces: `read_rows`, which says what comes back."""
        return read_rows([Piece(*file) for file in files], self)


def read_rows(pieces: Sequence[Piece], survey: Survey) -> tuple[Groups, pd.DataFrame]:
    """Read a block of pieces of files: as many rows as were planned, whatever the files hold.

    Parameters
    ----------
    pieces : sequence of Piece
    survey : Survey

    Returns
    -------
    groups : dict of str to xr.Dataset
        In the schema: "" the root, and an arm each; ``groups[""].attrs["fallbacks"]`` counts
        pieces that astropy had to read.
    index : pd.DataFrame
        Columns `INDEX_COLUMNS`, one row per spectrum; ``reason`` says why it holds none.

    Examples
    --------
    >>> arm = Arm("", np.array([4000.0, 4001.0]), 2, {})
    >>> survey = Survey("made_up", "*.fits", (arm,), {}, read=lambda data, name, first, count: None)
    >>> groups, index = read_rows([Piece("a.fits", FileNotFoundError("no a.fits"))], survey)
    >>> SpectrumStatus(int(groups[""].status[0])).name, index.reason[0]
    ('MISSING', 'missing: FileNotFoundError: no a.fits')
    """
    table = _Block(sum(piece.n for piece in pieces), survey)
    stop = 0
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # files hold NaN
        for piece in pieces:
            rows = slice(stop, stop := stop + piece.n)
            table.read(piece, rows)
    table.finish()
    return table.groups(), table.index()


class _Filled:
    """One arm of a block, being filled."""

    def __init__(self, arm: Arm, n: int) -> None:
        shape = (n, arm.n_pixel)
        self.arm = arm
        self.flux, self.ivar = np.zeros((2, *shape), np.float32)
        self.mask = np.full(shape, MaskBit.OUTSIDE, np.uint32)
        self.wavelength = None if arm.wavelength is not None else np.zeros(shape)
        own_lsf = arm.lsf_node is not None and arm.lsf_sigma is None
        self.lsf_sigma = np.zeros((n, len(arm.lsf_node)), np.float32) if own_lsf else None  # type: ignore[arg-type]
        self.snr, self.status = np.zeros(n, np.float32), np.zeros(n, np.uint32)
        self.noise_correlation = np.ones((2, n), np.float32)

    def fill(self, pixels: Pixels | None, rows: slice) -> None:
        """Take the pixels of some rows, and say how good they are."""
        if pixels is not None:
            n = pixels.flux.shape[-1]  # a spectrum on a grid of its own may be shorter than the row
            place = rows, slice(pixels.first, pixels.first + n)
            self.flux[place], self.ivar[place] = pixels.flux, pixels.ivar
            self.mask[place] = pixels.mask
            self.status[rows] = pixels.status
            self.noise_correlation.T[rows] = pixels.noise_correlation
            if self.wavelength is not None:
                self.wavelength[place] = pixels.wavelength
            if self.lsf_sigma is not None and pixels.lsf_sigma is not None:
                self.lsf_sigma[rows] = pixels.lsf_sigma
        for row in range(rows.start, rows.stop):
            snr = median_snr(self.flux[row], self.ivar[row])
            if snr is None:
                self.status[row] |= SpectrumStatus.NO_PIXELS
            else:
                self.snr[row] = snr

    def dataset(
        self, columns: Mapping[str, npt.NDArray[Any]], attrs: Mapping[str, Any]
    ) -> xr.Dataset:
        """Return the arm as a Dataset in the schema."""
        dims = ("spectrum", "pixel" if self.wavelength is not None else "wavelength")
        unit = str({**attrs, **self.arm.attrs}.get("flux_unit", ""))
        variables: dict[str, Any] = {
            "flux": (dims, self.flux, {"units": unit}),
            "ivar": (dims, self.ivar, {"units": f"({unit})^-2"}),
            "mask": (dims, self.mask, {"units": ""}),
        }
        for name, column in zip(NOISE_CORRELATION, self.noise_correlation, strict=True):
            variables[name] = ("spectrum", column, {"units": ""})
        coords: dict[str, Any] = {}
        if self.wavelength is None:
            coords["wavelength"] = ("wavelength", self.arm.wavelength, {"units": "Angstrom"})
        else:
            variables["wavelength"] = (dims, self.wavelength, {"units": "Angstrom"})
        if self.arm.lsf_node is not None:
            coords["lsf_node"] = ("lsf_node", self.arm.lsf_node, {"units": "Angstrom"})
            own = self.lsf_sigma is not None
            lsf_dims = ("spectrum", "lsf_node") if own else ("lsf_node",)
            sigma = self.lsf_sigma if own else self.arm.lsf_sigma
            variables["lsf_sigma"] = (lsf_dims, sigma, {"units": "Angstrom"})
        return xr.Dataset(
            {**variables, **_per_spectrum(columns)}, coords, {**attrs, **self.arm.attrs}
        )


class _Block:
    """A block, being filled: per-spectrum columns, arms, and the index's strings."""

    def __init__(self, n: int, survey: Survey) -> None:
        self.survey, self.fallbacks = survey, 0
        self.columns = {
            key: np.full(n, unknown, dtype) for key, (dtype, unknown, _) in PER_SPECTRUM.items()
        }
        self.arms = {arm.name: _Filled(arm, n) for arm in survey.arms}
        self.strings = {key: np.full(n, "", object) for key in INDEX_COLUMNS}
        self.strings["snr_g"] = np.full(n, math.nan)
        self.unread = np.ones(n, bool)

    def read(self, piece: Piece, rows: slice) -> None:
        """Take what a piece holds, or why it holds nothing."""
        self.strings["file"][rows] = piece.name
        if callable(piece.content):
            piece = piece.content()  # the large file is let go with it
        self.columns["status"][rows] = piece.status
        try:
            made = self.survey.read(_bytes(piece.content), piece.name, piece.first, piece.n)
            self.fill(made, rows)
        except SurveyFileError as error:
            self.fail(error, rows)
        if piece.source_id >= 0:
            source_id = self.columns["source_id"][rows]
            source_id[source_id < 0] = piece.source_id

    def fill(self, made: Rows, rows: slice) -> None:
        """Take what one piece holds."""
        for key, value in made.scalars.items():
            self.columns[key][rows] = value
        for key, value in made.strings.items():
            self.strings[key][rows] = value
        for name, arm in self.arms.items():
            arm.fill(made.arms.get(name), rows)
        self.columns["status"][rows] |= np.uint32(made.status)
        self.unread[rows] = False
        self.fallbacks += made.fallback

    def fail(self, error: SurveyFileError, rows: slice) -> None:
        """Remember why a piece holds nothing."""
        self.strings["reason"][rows] = f"{error.reason}: {error}"
        for arm in self.arms.values():
            arm.status[rows] = _STATUS.get(error.reason.upper(), SpectrumStatus.MISSING)

    def finish(self) -> None:
        """Say how good each spectrum is: as good as its best arm."""
        columns, bad = self.columns, np.uint32(UNREADABLE)
        states = np.array([arm.status for arm in self.arms.values()])
        every = np.bitwise_or.reduce(states)
        failed = np.all(states & bad > 0, axis=0)
        status = columns["status"] | np.where(failed, every, every & ~bad)
        if not str(self.survey.attrs.get("frame")).startswith("rest"):
            status[np.isnan(columns["rv"]) & ~self.unread] |= np.uint32(SpectrumStatus.NO_REDSHIFT)
        status[np.isnan(columns["ra"]) & ~self.unread] |= np.uint32(SpectrumStatus.NO_POSITION)
        lost = columns["source_id"] == LOST
        status[lost] |= np.uint32(SpectrumStatus.INEXACT_ID)
        columns["source_id"][lost] = -1
        columns["status"][:] = status
        for arm in self.arms.values():
            arm.status |= status & ~bad
        columns["snr"][:] = np.max([arm.snr for arm in self.arms.values()], axis=0)
        empty = status & np.uint32(SpectrumStatus.NO_PIXELS) > 0
        self.strings["reason"][empty] = "no_pixels: no pixel has finite flux and positive ivar"

    def groups(self) -> Groups:
        """Return the Datasets: the root alone, or the root and the arms."""
        attrs = {"survey": self.survey.name, **self.survey.attrs}
        counted = {"fallbacks": self.fallbacks}
        if list(self.arms) == [""]:
            return {"": self.arms[""].dataset(self.columns, attrs).assign_attrs(counted)}
        root = {**self.survey.arms[0].attrs, **attrs, "arms": list(self.arms), **counted}
        groups = {"": xr.Dataset(_per_spectrum(self.columns), attrs=root)}
        for name, arm in self.arms.items():
            own = {**self.columns, "snr": arm.snr, "status": arm.status}
            groups[name] = arm.dataset(own, {**attrs, "arm": name})
        return groups

    def index(self) -> pd.DataFrame:
        """Return the strings, with a type per column, for no rows too."""
        types = {key: "float64" if key == "snr_g" else "str" for key in INDEX_COLUMNS}
        return pd.DataFrame({k: pd.Series(self.strings[k], dtype=t) for k, t in types.items()})


def _per_spectrum(columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    return {
        key: ("spectrum", column, {"units": PER_SPECTRUM[key][2]})
        for key, column in columns.items()
    }


def _bytes(content: object) -> bytes:
    """Return a file's content; an error instead of it is a row only if there is no such file."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, Exception) and not isinstance(content.__cause__ or content, _NO_FILE):
        raise content  # damage is a row as well; all else may pass, and a row would stay
    raise SurveyFileError(f"{type(content).__name__}: {content}", "missing")
