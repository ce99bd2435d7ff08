"""The survey that a run file names, with the description of its files if it wants one."""

import json
from collections.abc import Mapping
from typing import Any

from scalespec.config import IngestTable
from scalespec.errors import ConfigError
from scalespec.store import paths
from scalespec.surveys import open_survey
from scalespec.surveys.rows import Survey

Description = Mapping[str, Any] | None
"""What the files of survey "table" hold."""


def survey_of(table: IngestTable) -> Survey:
    """Return the survey that a run file names.

    Raises
    ------
    ConfigError
        If it is not known, or its description is missing or wrong.
    """
    try:
        return open_survey(table.survey, description_of(table))
    except ValueError as error:
        raise ConfigError(f"ingest.survey = '{table.survey}': {error}") from error


def description_of(table: IngestTable) -> Description:
    """Read what the run file's ``description`` names, if it names one.

    Raises
    ------
    ConfigError
        If it is no JSON object.
    StoreError
        If it is not there.
    """
    if not table.description:
        return None
    try:
        found = json.loads(paths.read_bytes(table.description))
    except ValueError as error:
        raise ConfigError(f"ingest.description: {table.description}: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"ingest.description: {table.description} holds no JSON object")
    return found
