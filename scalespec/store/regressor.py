"""Regressors in a model's folder: the arrays and JSON of `scalespec.store.model`.

Classical ones have a file of skops in the place of the arrays.
"""

import json
from collections.abc import Mapping
from typing import Any

from scalespec.errors import ModelError
from scalespec.models.base import Emulator
from scalespec.models.baselines import Baseline
from scalespec.models.classical import dump_baseline, load_baseline
from scalespec.models.networks import Regressor
from scalespec.models.regressor import RegressorSpec
from scalespec.store import paths
from scalespec.store.model import (
    BASELINE,
    FORMAT,
    REGRESSOR,
    checksum,
    load_model,
    load_state,
    model_record,
    read_weights,
    standing_model,
)

SKOPS = "weights.skops"


def is_regressor(url: str) -> bool:
    """Return whether the model at `url` goes from flux to labels.

    Raises
    ------
    StoreError
        If there is no model.
    """
    if paths.plain(url).endswith(".npz"):  # The Payne's
        return False
    return model_record(url)["model"] in (REGRESSOR, BASELINE)


def save_baseline(url: str, model: Baseline, metadata: Mapping[str, Any]) -> str:
    """Store a classical regressor in the folder `url`, as `scalespec.store.model.save_model`.

    Raises
    ------
    ValueError
        If it has not learned.
    """
    data = dump_baseline(model)
    record = {
        "format": FORMAT,
        "model": BASELINE,
        "spec": model.spec.to_dict(),
        "options": {"estimator": model.name, **model.options},
        "weights_sha256": paths.sha256(data),
        "metadata": dict(metadata),
    }
    paths.write_bytes(paths.join(url, SKOPS), data)
    text = json.dumps(record, indent=1, sort_keys=True).encode()
    paths.write_bytes(paths.join(url, "model.json"), text)
    return checksum(url)


def load_regressor(url: str) -> Regressor | Baseline:
    """Load a regressor.

    Parameters
    ----------
    url : str
        Folder, local or ``s3://``.

    Returns
    -------
    Regressor or Baseline
        Ready to predict.

    Raises
    ------
    StoreError
        If it is not there.
    ModelError
        If it is damaged, of another format, or an emulator.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from scalespec.store.model import save_model
    >>> one = np.ones(4)
    >>> spec = RegressorSpec("toy", ("logg",), 5000 + one.cumsum(), [3.0], [0.5], one, 0.1 * one)
    >>> model = Regressor(spec, network="mlp", options={"hidden": [2]})
    >>> star = np.ones((1, 4), np.float32), np.full((1, 4), 400, np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = save_model(folder, model)
    ...     again = load_regressor(folder)
    >>> again.predict(*star).labels == model.predict(*star).labels
    array([[ True]])
    """
    if not is_regressor(url):
        raise ModelError(f"{url}: an emulator, labels to flux: load it by load_model")
    url = standing_model(url)
    record = model_record(url)
    if record["model"] == BASELINE:
        return _baseline(url, record)
    arrays = read_weights(url, record)
    try:
        model = Regressor(RegressorSpec.from_dict(record["spec"]), **record["options"])
        load_state(model, arrays, url)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{url}: {error}") from error
    return model


def _baseline(url: str, record: Mapping[str, Any]) -> Baseline:
    data = paths.read_bytes(paths.join(url, SKOPS))
    if paths.sha256(data) != record["weights_sha256"]:
        raise ModelError(f"{url}: {SKOPS} is not what model.json was written for")
    try:
        return load_baseline(data)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{url}: {error}") from error


def open_model(url: str) -> Emulator | Regressor | Baseline:
    """Load any model: see `load_regressor` and `scalespec.store.model.load_model`."""
    return load_regressor(url) if is_regressor(url) else load_model(url)
