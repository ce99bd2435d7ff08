"""Matrix products for batches of stars: whichever of torch's libraries is fastest here.

On processors that MKL does not favor, oneDNN multiplies float32 matrices 2.5 times faster (217
against 84 GFLOP/s on one core of an AMD EPYC of family 26); on the others they are alike.
"""

import torch
from torch import Tensor

_ONE_DNN = torch.backends.mkldnn.is_available() and hasattr(  # type: ignore[no-untyped-call]
    torch.ops.mkldnn, "_linear_pointwise"
)
_SMALL = 20_000  # multiplications under which a call costs more than its product
ROWS = 32
"""Rows come in multiples of it: every new shape is compiled, for some milliseconds."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias`` for ``x`` (n, k), ``weight`` (m, k) and ``bias`` (m,).

    The sums are in the precision of the tensors, on their device; only the order may differ.

    Examples
    --------
    >>> linear(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([0.5]))
    tensor([[11.5000]])
    """
    on_cpu = _ONE_DNN and x.device.type == "cpu" and x.dtype == torch.float32
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if on_cpu and not wanted and x.numel() * len(weight) > _SMALL:
        multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - torch has no public name for it
        n = len(x)
        spare = -n % ROWS if n > ROWS else 0
        rows = torch.nn.functional.pad(x, (0, 0, 0, spare)) if spare else x
        result: Tensor = multiply(rows, weight, bias, "none", [], "")
        return result[:n]
    return torch.nn.functional.linear(x, weight, bias)
