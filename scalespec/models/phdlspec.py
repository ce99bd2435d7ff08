"""PhDLspec's kind of emulator: one token per label, encoder blocks, fully connected to all pixels.

Each label's token attends to all others, so that 30 labels and more act on each other in as many
ways as there is need for; what comes out of the blocks makes all pixels by a linear layer, which
variable projection solves exactly and fits are fast with.

After Wu, Xiang et al. 2026 (arXiv 2604.02730), whose sizes are not published.
"""

from typing import Any, cast

import torch
from torch import Tensor

from scalespec.models.attention import Block, LabelTokens, check_sizes, rms_normalized
from scalespec.models.base import EmulatorSpec
from scalespec.models.linear_emulator import LinearEmulator


class LabelTransformer(LinearEmulator):
    """Labels -> one token each -> encoder blocks -> features -> flux of all pixels.

    Parameters
    ----------
    spec : EmulatorSpec
        Labels, ranges, grid.
    width : int
        Of the tokens.
    layers, heads : int
        Blocks of attention between tokens; heads divide the width.
    features : int
        What the output layer is applied to.
    seed : int
        Of the first weights; the output layer starts at the continuum, flux 1.

    Raises
    ------
    ValueError
        If a size is not positive or the heads do not divide the width.

    Examples
    --------
    >>> spec = EmulatorSpec("toy", ("teff", "logg"), [4000, 0], [6000, 5], [5000.0, 5001.0, 5002.0])
    >>> model = LabelTransformer(spec, width=8, layers=1, heads=2, features=12)
    >>> [tensor.shape for tensor in model.flux_and_jacobian(torch.zeros(4, 2))]
    [torch.Size([4, 3]), torch.Size([4, 2, 3])]
    """

    output: torch.nn.Linear

    def __init__(
        self,
        spec: EmulatorSpec,
        *,
        width: int = 32,
        layers: int = 2,
        heads: int = 4,
        features: int = 300,
        seed: int = 0,
    ) -> None:
        super().__init__(spec)
        check_sizes(width=width, heads=heads, layers=layers, features=features)
        self.heads = heads
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.manual_seed(seed)
            self.embed_labels = LabelTokens(spec.n_label, width)
            self.blocks = torch.nn.ModuleList(Block(width, heads, layers) for _ in range(layers))
            self.gather = torch.nn.Linear(spec.n_label * width, features)
            self.output = torch.nn.Linear(features, spec.n_pixel)
        with torch.no_grad():
            self.output.bias.fill_(1.0)

    @property
    def options(self) -> dict[str, Any]:
        """Options of the constructor that matter once there are weights."""
        return {
            "width": self.embed_labels.value.shape[1],
            "layers": len(self.blocks),
            "heads": self.heads,
            "features": self.gather.out_features,
        }

    def features(self, x: Tensor) -> Tensor:
        """Return what the tokens gather to, (n, n_feature), for scaled labels."""
        tokens = self.embed_labels(x)
        for block in self.blocks:
            tokens = block(tokens)
        gathered = self.gather(rms_normalized(tokens).flatten(1))
        return torch.nn.functional.silu(gathered)

    def forward_scaled(self, x: Tensor) -> Tensor:
        """Return flux (n, n_pixel) for scaled labels `x` (n, n_label)."""
        return cast("Tensor", self.output(self.features(x)))

    def label_weight(self) -> tuple[Tensor, int]:
        """Return what tokens are a label's value times; labels are its rows."""
        return self.embed_labels.value, 0
