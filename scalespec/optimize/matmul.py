"""Matrix products for batches of stars: whichever of torch's libraries is fastest here.

A star's labels must not depend on the batch in which it is fitted, to the last bit. In both
libraries a row of a product does not depend on those beside it, as long as they come in groups.

On processors that MKL does not favor, oneDNN multiplies float32 matrices 2.5 times faster (217
against 84 GFLOP/s on one core of an AMD EPYC of family 26); on the others they are alike.
"""

import torch
from torch import Tensor

_ONE_DNN = torch.backends.mkldnn.is_available() and hasattr(  # type: ignore[no-untyped-call]
    torch.ops.mkldnn, "_linear_pointwise"
)
_SMALL = 600  # multiplications per row under which a call costs more than its product
ROWS = 32
"""Rows come in multiples of it: every new shape is compiled, for some milliseconds."""
GROUP = 8
"""Rows that libraries treat alike, wherever they stand among others: 4 are summed otherwise than
thousands, and the last elements of an array have their exponentials from another function."""


def whole(rows: Tensor) -> Tensor:
    """Repeat some of the `rows` (n,), so that they are a multiple of `GROUP`.

    Examples
    --------
    >>> whole(torch.tensor([5, 7, 2]))
    tensor([5, 7, 2, 5, 7, 2, 5, 7])
    """
    n = len(rows)
    spare = -n % GROUP
    return rows[torch.arange(n + spare, device=rows.device) % n] if spare else rows


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
    if not on_cpu or wanted or not len(x):
        return torch.nn.functional.linear(x, weight, bias)
    n = len(x)
    spare = -n % ROWS if n > ROWS else -n % GROUP
    rows = torch.nn.functional.pad(x, (0, 0, 0, spare)) if spare else x
    if x.shape[1] * len(weight) > _SMALL:
        multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - torch has no public name for it
        result: Tensor = multiply(rows, weight, bias, "none", [], "")
        return result[:n]
    return torch.nn.functional.linear(rows, weight, bias)[:n]
