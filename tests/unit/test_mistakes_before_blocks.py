"""Names in [fit] and [infer] that are wrong are found once, before any block is read."""

import pytest

from scalespec.config import FitTable
from scalespec.errors import ConfigError
from scalespec.stages.fit import fit
from scalespec.stages.infer import infer


def first_stage(config, condition):
    table = config.infer.model_copy(update={"where": condition})
    return next(infer(config.model_copy(update={"infer": table})))


@pytest.mark.parametrize(
    "changes",
    [
        {"fixed": {"tef": 1.0}},
        {"fixed": {"teff": 1.0}},
        {"tied": {"teff": "tef"}},
        {"tied": {"teff": "logg", "logg": "fe_h"}},
        {"kinds": ({"where": "first_tef > 1", "fixed": {"teff": 5000.0}},)},
    ],
)
def test_constraints_that_cannot_be_are_refused(tiny_run, changes):
    table = FitTable(**changes)
    with pytest.raises(ConfigError, match=r"\[fit\]: "):
        next(fit(tiny_run.config.model_copy(update={"fit": table})))


def test_constraints_that_can_be_are_not(tiny_run):
    kinds = ({"where": "first_teff > 1", "fixed": {"logg": 2.0}},)
    table = FitTable(fixed={"teff": 5000.0}, kinds=kinds)
    assert next(fit(tiny_run.config.model_copy(update={"fit": table}))).name == "fit"


def test_a_condition_on_no_column_is_refused(tiny_run):
    with pytest.raises(ConfigError, match=r"infer\.where: "):
        first_stage(tiny_run.config, "apogee_tef > 1")
    assert first_stage(tiny_run.config, "apogee_teff > 1").name == "infer"
