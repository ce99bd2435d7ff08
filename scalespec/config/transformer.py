"""``[train.transformer]``: sizes of the models that attend, and how they are computed."""

from typing import Literal

from pydantic import Field, model_validator

from scalespec.config.table import Table


class TransformerTable(Table):
    """``[train.transformer]``: for ``train.model`` ``transformer`` and ``phdlspec``."""

    width: int = Field(default=64, ge=1)
    """Of tokens and queries."""
    layers: int = Field(default=3, ge=1)
    """Blocks: of queries that attend to tokens, or in ``phdlspec`` of tokens to each other."""
    heads: int = Field(default=4, ge=1)
    """Of attention; they divide the width."""
    tokens: int = Field(default=0, ge=0)
    """Tokens that all labels make together, as TransformerPayne's; 0: one per label."""
    encoder: int = Field(default=0, ge=0)
    """Blocks of attention between tokens before wavelengths ask them."""
    waves: int = Field(default=512, ge=1)
    """Sinusoids that tell a wavelength."""
    pixels_per_step: int = Field(default=512, ge=0)
    """Pixels, drawn anew, that a step of Adam looks at; 0: all."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of products while training."""
    compiled: bool = False
    """Whether torch.compile is tried."""

    @model_validator(mode="after")
    def _divides(self) -> "TransformerTable":
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got {self.heads} and {self.width}")
        return self
