"""HotPayne: The Payne for stars of spectral types O, B and A, which learns log Teff.

From 7,000 to 50,000 K a degree means less and less; the lines of H and He change with log Teff at
an even pace. Labels stay physical outside. Rotation is a label like others (``vsini`` [km/s], of a
library that has it), or is left to the fit's exact rotational kernel, ``[fit] vsini_kms``.

Xiang et al. 2022, A&A 662, A66.
"""

from collections.abc import Sequence

from torch import Tensor

from scalespec.models.base import EmulatorSpec, Multiply
from scalespec.models.logarithmic import Logarithmic
from scalespec.models.payne import Payne

LABELS = ("teff", "logg", "fe_h", "vmic", "vsini", "he_h", "c_h", "n_h", "o_h", "si_h", "s_h")
"""Labels of Xiang et al. 2022; any subset with ``teff``, in any order, makes a model."""


class HotPayne(Payne):
    """Labels, Teff by its logarithm -> hidden layers -> flux of all pixels.

    Parameters
    ----------
    spec : EmulatorSpec
        Labels, ``teff`` among them, ranges, grid.
    hidden, activation, slope, seed, leeway
        As of `scalespec.models.payne.Payne`.

    Raises
    ------
    ValueError
        If there is no label ``teff``, or as `Payne`.

    Examples
    --------
    >>> import torch
    >>> spec = EmulatorSpec("hot", ("teff", "logg"), [7e3, 2], [2e4, 5], [5000.0, 5001.0, 5002.0])
    >>> model = HotPayne(spec, hidden=(16, 16))
    >>> model(torch.tensor([[9500.0, 4.0]])).shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        spec: EmulatorSpec,
        *,
        hidden: Sequence[int] = (300, 300),
        activation: str = "silu",
        slope: float = 0.01,
        seed: int = 0,
        leeway: int = 0,
    ) -> None:
        bent = Logarithmic.of(spec, ("teff",))
        super().__init__(
            spec, hidden=hidden, activation=activation, slope=slope, seed=seed, leeway=leeway
        )
        self._bent = bent

    def features(self, x: Tensor) -> Tensor:
        """Return the last hidden layer, (n, width), for scaled labels."""
        return super().features(self._bent(x))

    def features_and_jacobian(
        self, x: Tensor, multiply: Multiply | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the last hidden layer (n, width) and its derivatives (n, n_label, width)."""
        given = () if multiply is None else (multiply,)
        values, slopes = super().features_and_jacobian(self._bent(x), *given)
        return values, slopes * self._bent.slopes(x)[:, :, None]
