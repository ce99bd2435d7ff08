"""Regressors in a model's folder: the arrays and JSON of `scalespec.store.model`."""

from scalespec.errors import ModelError
from scalespec.models.base import Emulator
from scalespec.models.networks import Regressor
from scalespec.models.regressor import RegressorSpec
from scalespec.store.model import REGRESSOR, load_model, load_state, model_record, read_weights


def is_regressor(url: str) -> bool:
    """Return whether the model at `url` goes from flux to labels.

    Raises
    ------
    StoreError
        If there is no model.
    """
    return not url.endswith(".npz") and model_record(url)["model"] == REGRESSOR


def load_regressor(url: str) -> Regressor:
    """Load a regressor.

    Parameters
    ----------
    url : str
        Folder, local or ``s3://``.

    Returns
    -------
    Regressor
        Ready to predict, in evaluation mode.

    Raises
    ------
    StoreError
        If it is not there.
    ModelError
        If it is damaged, of another format, or an emulator.
    """
    if not is_regressor(url):
        raise ModelError(f"{url}: an emulator, labels to flux: load it by load_model")
    record = model_record(url)
    arrays = read_weights(url, record)
    try:
        model = Regressor(RegressorSpec.from_dict(record["spec"]), **record["options"])
        load_state(model, arrays, url)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{url}: {error}") from error
    return model


def open_model(url: str) -> Emulator | Regressor:
    """Load any model: see `load_regressor` and `scalespec.store.model.load_model`."""
    return load_regressor(url) if is_regressor(url) else load_model(url)
