"""Every error scalespec raises on purpose.

ScalespecError
├── ConfigError      the run file is wrong            (also a ValueError)
├── SchemaError      a dataset breaks the schema      (also a ValueError)
├── SurveyFileError  a survey file cannot be read     (also an OSError)
├── StoreError       a store is missing or not ours   (also an OSError)
├── ModelError       a checkpoint does not fit        (also a ValueError)
└── StageError       blocks failed after all retries  (also a RuntimeError)
"""


class ScalespecError(Exception):
    """Base of every error raised on purpose; catch it to catch them all."""


class ConfigError(ScalespecError, ValueError):
    """The run file is wrong."""


class SchemaError(ScalespecError, ValueError):
    """A dataset breaks the schema."""


class SurveyFileError(ScalespecError, OSError):
    """A survey file cannot be read; ``reason`` is the short word stored with the row."""

    def __init__(self, message: str, reason: str = "missing") -> None:
        super().__init__(message)
        self.reason = reason


class StoreError(ScalespecError, OSError):
    """A store is missing, not ours, or cannot be written."""


class ModelError(ScalespecError, ValueError):
    """A model does not fit the data or its checkpoint is damaged."""


class StageError(ScalespecError, RuntimeError):
    """Blocks failed after all retries."""
