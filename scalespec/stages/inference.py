"""Regressors made fast: the faster libraries, fewer bits where they do, the best batch."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from scalespec.models.baselines import Baseline
from scalespec.models.networks import Regressor
from scalespec.models.regressor import Prediction
from scalespec.optimize.matmul import linear

FloatArray = npt.NDArray[np.float32]
Precision = Literal["float32", "bfloat16"]

BATCHES: dict[str, int] = {
    "residual": 1024,
    "mlp": 1024,
    "starnet": 64,
    "folded": 16,
    "bayesian": 64,
}
"""Spectra at a time where no probe was made."""
PROBED = (16, 32, 64, 128, 256, 512, 1024, 2048)
PROBE_S = 2.0
"""CPU time that a probe may take, about."""
LARGEST_SHIFT = 0.1
"""Of labels by fewer bits, in units of their errors: the 99th percentile over stars, at most."""
GATE_SPECTRA = 512
"""Spectra that it is measured on."""
FFT_BATCH = 16
"""NNPACK's convolutions take as many images at once, at least."""
FEW_CHANNELS = 8


class Fast(TorchFunctionMode):
    """Products and convolutions by the library that is fastest here, within a ``with`` block.

    Matrix products of float32 go to oneDNN. Convolutions of many channels and images go to NNPACK,
    which does them by Fourier transforms, the others to oneDNN with channels last. With bfloat16
    both are of numbers rounded to it, summed in float32; everything else stays float32.

    Parameters
    ----------
    precision : {"float32", "bfloat16"}
    """

    def __init__(self, precision: Precision = "float32") -> None:
        super().__init__()
        self.bits = torch.bfloat16 if precision == "bfloat16" else None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do what `func` does."""
        known = dict(kwargs or {})
        if func is torch.nn.functional.linear:
            return self._linear(*args, **known)
        if func is torch.conv2d:
            return self._convolve(func, *args, **known)
        return func(*args, **known)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.bits is not None:
            rounded = None if bias is None else bias.to(self.bits)
            made = torch.nn.functional.linear(x.to(self.bits), weight.to(self.bits), rounded)
            return made.to(x.dtype)
        return linear(x.flatten(0, -2), weight, bias).reshape(*x.shape[:-1], len(weight))

    def _convolve(self, func: Callable[..., Tensor], x: Tensor, *rest: Any, **known: Any) -> Tensor:
        last = torch.channels_last
        if x.device.type != "cpu":
            return func(x, *rest, **known)
        if self.bits is not None:
            weight, bias, *others = rest
            small = weight.to(self.bits).contiguous(memory_format=last)
            rounded = x.to(self.bits).contiguous(memory_format=last)
            return func(rounded, small, bias.to(self.bits), *others, **known).to(x.dtype)
        fft = len(x) >= FFT_BATCH and x.shape[1] > FEW_CHANNELS
        if fft and torch.backends.nnpack.is_available():  # type: ignore[no-untyped-call]
            with _without_one_dnn():
                return func(x.contiguous(), *rest, **known)
        return func(x.contiguous(memory_format=last), *rest, **known)


@contextmanager
def _without_one_dnn() -> Iterator[None]:
    """Keep oneDNN out: torch asks NNPACK only where it may not ask that."""
    # Not torch.backends.mkldnn.flags: it sets what other processors have, and warns of it.
    allowed = torch._C._get_mkldnn_enabled()  # noqa: SLF001
    torch._C._set_mkldnn_enabled(False)  # noqa: SLF001
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(allowed)  # noqa: SLF001


def infer_labels(
    model: Regressor | Baseline,
    flux: FloatArray,
    ivar: FloatArray,
    extra: FloatArray | None = None,
    *,
    batch_size: int = 0,
    precision: Precision = "float32",
) -> Prediction:
    """Estimate labels of n spectra by a regressor, as fast as this machine does it.

    Parameters
    ----------
    model : Regressor or Baseline
        As `load_regressor` gives it; of a classical one neither batch nor precision is chosen.
    flux, ivar : (n, n_pixel) float32
        On the pixels of ``model.spec.wavelength``, normalized as ``model.spec.normalization`` says;
        an ivar of 0 means no information.
    extra : (n, n_input) float32, optional
        Inputs beside the spectrum, as ``model.spec.inputs`` names them; NaN where missing.
    batch_size : int
        Spectra at a time; 0: what is usual for the network. Results depend on it by rounding only.
    precision : {"float32", "bfloat16"}
        Of products, see `Fast`.

    Returns
    -------
    Prediction
        Labels, both kinds of uncertainty, out-of-domain score; labels of a spectrum without a good
        pixel are NaN, its score is infinite.

    Raises
    ------
    ValueError
        If sizes are not those of the model.
    """
    if isinstance(model, Baseline):
        return model.predict(flux, ivar, extra)
    with Fast(precision):
        return model.predict(flux, ivar, extra, batch_size=batch_size or BATCHES[model.network])


@dataclass(frozen=True)
class Plan:
    """How a stage's spectra are inferred.

    Attributes
    ----------
    batch_size : int
    precision : {"float32", "bfloat16"}
    shift : float
        Of labels by that precision, in units of their errors: 99th percentile over the spectra it
        was measured on; 0 for float32.
    """

    batch_size: int
    precision: Precision
    shift: float


def make_plan(
    model: Regressor | Baseline,
    flux: FloatArray,
    ivar: FloatArray,
    *,
    batch_size: int = 0,
    precision: Precision = "float32",
) -> Plan:
    """Measure, on some spectra, what precision may be used and which batch is fastest.

    Parameters
    ----------
    model : Regressor
    flux, ivar : (n, n_pixel) float32
        Spectra like those to come; at least one.
    batch_size : int
        Taken as it is unless 0.
    precision : {"float32", "bfloat16"}
        What is wanted; it is float32 if labels would move by more than `LARGEST_SHIFT`.
    """
    if isinstance(model, Baseline):
        return Plan(len(flux), "float32", 0.0)
    shift = 0.0
    if precision != "float32":
        shift = precision_shift(model, flux[:GATE_SPECTRA], ivar[:GATE_SPECTRA], precision)
        if not shift <= LARGEST_SHIFT:
            precision = "float32"
    return Plan(batch_size or best_batch(model, flux, ivar, precision), precision, shift)


def precision_shift(
    model: Regressor, flux: FloatArray, ivar: FloatArray, precision: Precision
) -> float:
    """Return the 99th percentile of what a precision moves labels by, in units of their errors.

    It is infinite if no spectrum tells: not one of them has labels.
    """
    exact, rounded = (infer_labels(model, flux, ivar, precision=p) for p in ("float32", precision))
    moved = np.abs(rounded.labels - exact.labels) / exact.sigma
    told = moved[np.isfinite(moved)]
    return float(np.quantile(told, 0.99)) if told.size else np.inf


def best_batch(
    model: Regressor, flux: FloatArray, ivar: FloatArray, precision: Precision = "float32"
) -> int:
    """Return the batch size, of `PROBED`, that takes the least CPU time per spectrum."""
    spent, fastest, best = 0.0, np.inf, PROBED[0]
    for size in PROBED:
        rows = np.arange(size) % len(flux)
        chosen = flux[rows], ivar[rows]
        times = []
        for _ in range(3):  # the first one warms up
            start = time.process_time()
            infer_labels(model, *chosen, batch_size=size, precision=precision)
            times.append(time.process_time() - start)
        spent += sum(times)
        if min(times[1:]) / size < fastest:
            fastest, best = min(times[1:]) / size, size
        if spent > PROBE_S:
            break
    return best
