"""One file per verb: the blocks to do, and what to do with one block."""

from collections.abc import Callable, Iterator

from scalespec.config import RunConfig
from scalespec.plan import Stage, Training
from scalespec.stages.crossmatch import crossmatch
from scalespec.stages.fit import fit
from scalespec.stages.infer import infer
from scalespec.stages.ingest import ingest
from scalespec.stages.preprocess import preprocess
from scalespec.stages.publish import publish
from scalespec.stages.report import report
from scalespec.stages.train import train

Verb = Callable[[RunConfig], Iterator[Stage | Training]]

VERBS: dict[str, Verb] = {
    "ingest": ingest,
    "preprocess": preprocess,
    "crossmatch": crossmatch,
    "train": train,
    "infer": infer,
    "fit": fit,
    "publish": publish,
    "report": report,
}
"""What each verb of the run file does, in the order of the data."""
