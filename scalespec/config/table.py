"""What every table of the run file is."""

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A table of the run file: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
