"""Survey files in, a catalog of stellar labels out. Names are imported when first used."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from scalespec.errors import (
    ConfigError,
    ModelError,
    ScalespecError,
    SchemaError,
    StageError,
    StoreError,
    SurveyFileError,
)

if TYPE_CHECKING:
    from scalespec.config import load_config as load_config
    from scalespec.models.cannon import Cannon as Cannon
    from scalespec.models.payne import Payne as Payne
    from scalespec.optimize.fit import fit_labels as fit_labels
    from scalespec.optimize.information import information as information
    from scalespec.run import run as run
    from scalespec.stages.inference import infer_labels as infer_labels
    from scalespec.stages.label import label_files as label_files
    from scalespec.stages.label import prepare as prepare
    from scalespec.store.catalog import open_catalog as open_catalog
    from scalespec.store.model import load_model as load_model
    from scalespec.store.regressor import load_regressor as load_regressor
    from scalespec.store.spectra import open_spectra as open_spectra
    from scalespec.surveys import read_survey as read_survey

__version__ = "0.1.0"

_HOMES = {
    "Cannon": "scalespec.models.cannon",
    "Payne": "scalespec.models.payne",
    "fit_labels": "scalespec.optimize.fit",
    "infer_labels": "scalespec.stages.inference",
    "information": "scalespec.optimize.information",
    "label_files": "scalespec.stages.label",
    "load_config": "scalespec.config",
    "load_model": "scalespec.store.model",
    "load_regressor": "scalespec.store.regressor",
    "open_catalog": "scalespec.store.catalog",
    "open_spectra": "scalespec.store.spectra",
    "prepare": "scalespec.stages.label",
    "read_survey": "scalespec.surveys",
    "run": "scalespec.run",
}

__all__ = [  # noqa: PLE0604 - the lazy names are the keys above
    *_HOMES,
    "ConfigError",
    "ModelError",
    "ScalespecError",
    "SchemaError",
    "StageError",
    "StoreError",
    "SurveyFileError",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home: torch, Dask and Ray cost seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'scalespec' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


class _Package(ModuleType):
    """Keeps `run` the public function: importing the module ``scalespec.run`` would rebind it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
