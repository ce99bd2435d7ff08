"""``[train.search]``: which settings of ``[train]`` are tried by ``scalespec train --search``."""

from typing import Any

from pydantic import Field, model_validator

from scalespec.config.table import Table


class SearchTable(Table):
    """``[train.search]``: settings drawn at random, each trained, the best on unseen stars kept."""

    trials: int = Field(default=8, ge=1)
    """How many draws; the first is the ``[train]`` table as it stands."""
    choices: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Settings and the values that one is drawn of, ``{ hidden = [64, 300] }``."""
    ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Settings drawn evenly in their logarithm, ``{ learning_rate = [1e-5, 1e-3] }``."""

    @model_validator(mode="after")
    def _something_to_draw(self) -> "SearchTable":
        if not (self.choices or self.ranges):
            raise ValueError("search wants choices or ranges: there is nothing to draw")
        if twice := sorted(set(self.choices) & set(self.ranges)):
            raise ValueError(f"search: {twice} are in both choices and ranges")
        for name, values in self.choices.items():
            if not values:
                raise ValueError(f"search.choices.{name} holds no value")
        for name, (low, high) in self.ranges.items():
            if not 0 < low < high:
                raise ValueError(
                    f"search.ranges.{name} = {low:g} to {high:g}: wants 0 < low < high"
                )
        return self
