"""The survey run file: one frozen model per table, checked once, here.

Below this a value is taken as good. Every field says under itself what it means.
"""

from scalespec.config.ages import AgesTable
from scalespec.config.binaries import BinariesTable
from scalespec.config.calibrate import (
    CalibrateTable,
    ClustersTable,
    PairsTable,
    ReferenceTable,
)
from scalespec.config.compare import (
    CandidatesTable,
    CompareModel,
    CompareTable,
    LeakageTable,
)
from scalespec.config.crossmatch import (
    KEY_KINDS,
    MATCH_NAMES,
    RESERVED_NAMES,
    CrossmatchTable,
    MagnitudeTable,
    TrainingSetTable,
)
from scalespec.config.derive import DeriveTable
from scalespec.config.inputs import BUCKET_OPTIONS, IngestTable, RunTable, StoreTable
from scalespec.config.models import FitKind, FitTable, InferTable, TrainTable
from scalespec.config.outputs import (
    DaskTable,
    EngineTable,
    RayTable,
    ReportTable,
)
from scalespec.config.posterior import PosteriorTable
from scalespec.config.preprocess import (
    STEPS,
    SURVEY_BITS,
    ContinuumTable,
    GridTable,
    LibraryTable,
    PreprocessTable,
    SimulateTable,
    StepName,
    VelocityTable,
    VisitsTable,
)
from scalespec.config.publish import ProductTable, PublishTable
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
    "AgesTable",
    "BinariesTable",
    "CalibrateTable",
    "CandidatesTable",
    "ClustersTable",
    "CompareModel",
    "CompareTable",
    "ContinuumTable",
    "CrossmatchTable",
    "DaskTable",
    "DeriveTable",
    "EngineTable",
    "FitKind",
    "FitTable",
    "GridTable",
    "InferTable",
    "IngestTable",
    "LeakageTable",
    "LibraryTable",
    "MagnitudeTable",
    "PairsTable",
    "PosteriorTable",
    "PreprocessTable",
    "ProductTable",
    "PublishTable",
    "RayTable",
    "ReferenceTable",
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
    "VisitsTable",
    "digest",
    "load_config",
    "parse_config",
]
