"""The survey run file: one frozen model per table, checked once, here.

Below this a value is taken as good. Every field says under itself what it means.
"""

from scalespec.config.crossmatch import (
    KEY_KINDS,
    MATCH_NAMES,
    RESERVED_NAMES,
    CrossmatchTable,
    MagnitudeTable,
    TrainingSetTable,
)
from scalespec.config.inputs import BUCKET_OPTIONS, IngestTable, RunTable, StoreTable
from scalespec.config.models import FitKind, FitTable, InferTable, TrainTable
from scalespec.config.outputs import (
    DaskTable,
    EngineTable,
    PublishTable,
    RayTable,
    ReportTable,
)
from scalespec.config.preprocess import (
    STEPS,
    SURVEY_BITS,
    ContinuumTable,
    GridTable,
    PreprocessTable,
    SimulateTable,
    StepName,
    VelocityTable,
)
from scalespec.config.run_file import STAGES, RunConfig, digest, load_config, parse_config
from scalespec.config.table import Table

__all__ = [
    "BUCKET_OPTIONS",
    "KEY_KINDS",
    "MATCH_NAMES",
    "RESERVED_NAMES",
    "STAGES",
    "STEPS",
    "SURVEY_BITS",
    "ContinuumTable",
    "CrossmatchTable",
    "DaskTable",
    "EngineTable",
    "FitKind",
    "FitTable",
    "GridTable",
    "InferTable",
    "IngestTable",
    "MagnitudeTable",
    "PreprocessTable",
    "PublishTable",
    "RayTable",
    "ReportTable",
    "RunConfig",
    "RunTable",
    "SimulateTable",
    "StepName",
    "StoreTable",
    "Table",
    "TrainTable",
    "TrainingSetTable",
    "VelocityTable",
    "digest",
    "load_config",
    "parse_config",
]
