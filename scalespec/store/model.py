"""Weights as plain arrays, and a JSON beside them that says what they mean; The Payne's npz too.

A model is a folder: ``weights.npz`` and, written last, ``model.json`` with the weights' checksum.
No pickle is ever read.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from scalespec.errors import ModelError, StoreError
from scalespec.models.base import Emulator, EmulatorSpec
from scalespec.models.cannon import Cannon
from scalespec.models.hot import HotPayne
from scalespec.models.networks import Regressor
from scalespec.models.payne import Payne
from scalespec.models.phdlspec import LabelTransformer
from scalespec.models.transformer import SpectrumTransformer
from scalespec.store import paths

FORMAT = 1
MODELS: dict[str, Callable[..., Emulator]] = {
    "payne": Payne,
    "hotpayne": HotPayne,
    "cannon": Cannon,
    "transformer": SpectrumTransformer,
    "phdlspec": LabelTransformer,
}
"""Emulators by the name their JSON gives."""
REGRESSOR = "regressor"
"""What the JSON of a regressor made of networks gives, see `scalespec.store.regressor`."""
BASELINE = "baseline"
"""What the JSON of a classical regressor gives."""
LARGEST_BYTES = 4 * 2**30
"""More than this in one weights file is no model of ours."""

UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    EOFError,
    OSError,
    KeyError,
    MemoryError,  # a header that claims more than there is
    RuntimeError,  # zipfile's word for encrypted; NotImplementedError for odd compression is one
)
"""What zipfile and numpy raise on a file that is damaged, or none of theirs."""

Arrays = dict[str, npt.NDArray[Any]]


def pack(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return arrays as an npz whose bytes depend on nothing but them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            entry = io.BytesIO()
            # Not ascontiguousarray: that gives a number without dimensions one.
            array = np.asarray(arrays[name], order="C")
            np.lib.format.write_array(entry, array, allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(info, entry.getvalue())
    return buffer.getvalue()


def unpack(data: bytes, url: str) -> Arrays:
    """Return the arrays of an npz.

    Raises
    ------
    ModelError
        If it is damaged, too large, or holds anything but plain arrays.
    """
    arrays: Arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size <= LARGEST_BYTES:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
    except UNREADABLE as error:
        raise ModelError(f"{url}: no plain arrays in it ({error})") from error
    if size > LARGEST_BYTES:
        raise ModelError(f"{url}: {size} bytes of weights unpacked, at most {LARGEST_BYTES}")
    return arrays


def save_model(
    url: str, model: Emulator | Regressor, metadata: Mapping[str, Any] | None = None
) -> str:
    """Store a model in the folder `url`; its JSON comes last, so a model there is a whole one.

    Parameters
    ----------
    url : str
        Folder, local or ``s3://``.
    model : Emulator or Regressor
    metadata : mapping, optional
        Anything JSON can hold: history, training data, versions.

    Returns
    -------
    str
        Checksum that names this model.

    Raises
    ------
    ModelError
        If the model is of a class that is not stored.
    StoreError
        If it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> spec = EmulatorSpec("toy", ("teff",), [4000.0], [6000.0], [5000.0, 5001.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     name = save_model(folder, Payne(spec, hidden=(3,)), {"stars": 120})
    ...     name == checksum(folder), model_record(folder)["metadata"]
    (True, {'stars': 120})
    """
    arrays = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    data = pack(arrays)
    record = {
        "format": FORMAT,
        "model": _name(model),
        "spec": model.spec.to_dict(),
        "options": model.options,
        "weights_sha256": paths.sha256(data),
        "metadata": dict(metadata or {}),
    }
    paths.write_bytes(paths.join(url, "weights.npz"), data)
    text = json.dumps(record, indent=1, sort_keys=True).encode()
    paths.write_bytes(paths.join(url, "model.json"), text)
    return checksum(url)


def _name(model: Emulator | Regressor) -> str:
    if isinstance(model, Regressor):
        return REGRESSOR
    for name, kind in MODELS.items():
        if type(model) is kind:
            return name
    raise ModelError(f"{type(model).__name__} is no model that can be stored; {sorted(MODELS)} are")


def checksum(url: str) -> str:
    """Return what tells one model from another: SHA-256 of its weights and of what they mean.

    Raises
    ------
    StoreError
        If there is no model at `url`.
    """
    if paths.plain(url).endswith(".npz"):
        return paths.sha256(paths.read_bytes(url))
    record = model_record(url)
    meaning = {key: record[key] for key in ("model", "spec", "options", "weights_sha256")}
    return paths.sha256(json.dumps(meaning, sort_keys=True).encode())


def standing_model(url: str) -> str:
    """Return where a model lies: `url`, or the one in use of a run whose ``model`` folder it is."""
    pointer = paths.join(url, "current.json")
    if paths.exists(paths.join(url, "model.json")) or not paths.exists(pointer):
        return url
    try:
        return paths.join(url, str(json.loads(paths.read_bytes(pointer))["digest"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{pointer}: names no model ({error})") from error


def model_record(url: str) -> dict[str, Any]:
    """Return the JSON beside a model's weights.

    Raises
    ------
    StoreError
        If there is none.
    ModelError
        If it is not one of ours, or of another format.
    """
    url = standing_model(url)
    where = paths.join(url, "model.json")
    if not paths.exists(where):
        raise StoreError(f"{url}: no model there (no model.json)")
    try:
        record = json.loads(paths.read_bytes(where))
        version = record["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{where}: not a model's description ({error})") from error
    if version != FORMAT:
        raise ModelError(f"{where}: format {version}, this version reads format {FORMAT}")
    return dict(record)


def load_model(url: str) -> Emulator:
    """Load a model: a folder of ours, or a file in The Payne's npz layout.

    Parameters
    ----------
    url : str
        Local or ``s3://``: a model's folder, or a run's ``<workspace>/model`` for the one in use; a
        name ending in ``.npz`` is The Payne's layout.

    Returns
    -------
    Emulator
        Ready to predict, in evaluation mode; the labels that it learned from, if its card describes
        them, are ``domain`` in its specification's ``extra``: fits flag stars far from them.

    Raises
    ------
    StoreError
        If it is not there.
    ModelError
        If it is damaged, of another format, or does not say what it must.

    Examples
    --------
    >>> import tempfile
    >>> spec = EmulatorSpec("toy", ("teff",), [4000.0], [6000.0], [5000.0, 5001.0])
    >>> model, sun = Payne(spec, hidden=(3,)), torch.tensor([[5777.0]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save_model(folder, model)
    ...     again = load_model(folder)
    >>> again.spec.labels, torch.equal(again(sun), model(sun))
    (('teff',), True)
    """
    if paths.plain(url).endswith(".npz"):
        return import_payne(url)
    url = standing_model(url)
    record = model_record(url)
    if record["model"] in (REGRESSOR, BASELINE):
        raise ModelError(f"{url}: a regressor, flux to labels: load it by load_regressor")
    if record["model"] not in MODELS:
        raise ModelError(f"{url}: model '{record['model']}' is not one of {sorted(MODELS)}")
    try:
        spec = EmulatorSpec.from_dict(record["spec"])
        if "reach" in (learned := record["metadata"].get("card", {}).get("domain", {})):
            spec = replace(spec, extra={**spec.extra, "domain": learned})
        model = MODELS[record["model"]](spec, **record["options"])
        load_state(model, read_weights(url, record), url)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{url}: {error}") from error
    return model


def read_weights(url: str, record: Mapping[str, Any]) -> Arrays:
    """Return the arrays that a model's JSON was written for.

    Raises
    ------
    ModelError
        If they are others, or damaged.
    """
    data = paths.read_bytes(paths.join(url, "weights.npz"))
    if paths.sha256(data) != record["weights_sha256"]:
        raise ModelError(f"{url}: weights.npz is not the one model.json was written for: damaged")
    return unpack(data, url)


def load_state(model: torch.nn.Module, arrays: Arrays, url: str) -> None:
    """Give a model its weights, and set it to evaluation mode.

    Raises
    ------
    ModelError
        If names or shapes are not those of the model.
    """
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: value.shape for name, value in arrays.items()}
    if wanted != found:
        wrong = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
        raise ModelError(
            f"{url}: weights {wrong[0]}: {found.get(wrong[0])}, wanted {wanted.get(wrong[0])}"
        )
    model.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    model.eval()


PAYNE_LABELS = {"mh": "m_h", "feh": "fe_h", "alpham": "alpha_m", "vturb": "vmic"}
"""Label names met in npz files -> ours; ``<element>m`` is [element/M], ``<element>_m`` here."""


def _our_label(name: str) -> str:
    if name in PAYNE_LABELS:
        return PAYNE_LABELS[name]
    element = name[:-1]
    known = name.endswith("m") and 1 <= len(element) <= 2 and element.isalpha()
    return f"{element}_m" if known else name


def import_payne(url: str) -> Payne:
    """Load an emulator in The Payne's npz layout.

    The file holds ``w_array_0``, ... and ``b_array_0``, ..., ``x_min``, ``x_max``, and must say
    ``labels`` and ``wavelength_vac``; ``resolving_power`` and ``leaky_relu_slope`` (0.01 if not
    given) may follow. Its flux is taken to be normalized by the true continuum.

    Raises
    ------
    ModelError
        If something is missing or does not fit together.
    """
    arrays = unpack(paths.read_bytes(url), url)
    n_layer = max(sum(name.startswith("w_array_") for name in arrays), 2)
    layers = [f"{kind}_array_{i}" for i in range(n_layer) for kind in "wb"]
    names = ("x_min", "x_max", "labels", "wavelength_vac", *layers)
    if lacking := [name for name in names if name not in arrays]:
        raise ModelError(
            f"{url}: no {', '.join(lacking)} in it; add them: an emulator must say its labels and "
            "its vacuum wavelengths [Å]"
        )
    try:
        weights = {name: arrays[name].astype(np.float32) for name in layers}
        spec = EmulatorSpec(
            url.rpartition("/")[2].removesuffix(".npz"),
            tuple(_our_label(str(name)) for name in arrays["labels"]),
            arrays["x_min"],
            arrays["x_max"],
            arrays["wavelength_vac"],
            float(arrays["resolving_power"]) if "resolving_power" in arrays else None,
        )
        model = Payne(
            spec,
            hidden=[len(weights[f"w_array_{i}"]) for i in range(n_layer - 1)],
            activation="leaky_relu",
            slope=float(arrays.get("leaky_relu_slope", 0.01)),
        )
    except (ValueError, TypeError) as error:
        raise ModelError(f"{url}: {error}") from error
    if wrong := [name for name, value in weights.items() if not np.isfinite(value).all()]:
        raise ModelError(f"{url}: {wrong[0]} holds numbers that are not finite")
    state: Arrays = {"scatter": np.zeros(spec.n_pixel, np.float32)}
    for i, layer in enumerate([f"hidden.{i}" for i in range(n_layer - 1)] + ["output"]):
        state[f"{layer}.weight"] = weights[f"w_array_{i}"]
        state[f"{layer}.bias"] = weights[f"b_array_{i}"]
    load_state(model, state, url)
    return model


def export_payne(url: str, model: Payne) -> None:
    """Write an emulator in The Payne's npz layout, readable by `import_payne` and by its own code.

    Raises
    ------
    ModelError
        If its activation is not LeakyReLU, or it has leeway: the layout knows neither.
    """
    if model.leeway:
        raise ModelError(f"{model.spec.name}: The Payne's layout knows no leeway")
    if model.activation != "leaky_relu":
        raise ModelError(
            f"{model.spec.name}: activation '{model.activation}'; The Payne's layout knows "
            "leaky_relu only"
        )
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    layers = [f"hidden.{i}" for i in range(len(model.options["hidden"]))] + ["output"]
    arrays: Arrays = {
        "x_min": model.spec.minimum,
        "x_max": model.spec.maximum,
        "labels": np.array(model.spec.labels),
        "wavelength_vac": model.spec.wavelength,
        "leaky_relu_slope": np.array(model.slope),
    }
    if model.spec.resolving_power is not None:
        arrays["resolving_power"] = np.array(model.spec.resolving_power)
    for i, layer in enumerate(layers):
        arrays[f"w_array_{i}"] = state[f"{layer}.weight"]
        arrays[f"b_array_{i}"] = state[f"{layer}.bias"]
    paths.write_bytes(url, pack(arrays))
