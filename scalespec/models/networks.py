"""Regressors made of networks: inputs scaled, members run, results in physical units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalespec.models.bayesian import BayesianCNN, MonteCarloDropout
from scalespec.models.calibrated import ErrorScale
from scalespec.models.degrade import spectrum_snr
from scalespec.models.domain import Domain
from scalespec.models.folded import FoldedCNN
from scalespec.models.heads import Shape
from scalespec.models.regressor import FloatArray, Prediction, RegressorSpec
from scalespec.models.residual import PlainMLP, ResidualMLP
from scalespec.models.starnet import StarNet

NETWORKS: dict[str, type[torch.nn.Module]] = {
    "residual": ResidualMLP,
    "mlp": PlainMLP,
    "starnet": StarNet,
    "folded": FoldedCNN,
    "bayesian": BayesianCNN,
}
"""Networks by name."""
CLIP = 20.0
"""Scaled flux beyond this many standard deviations of the training sample stands still."""


@dataclass(frozen=True)
class Seen:
    """Spectra as networks see them.

    Attributes
    ----------
    x : (n, n_channel, n_pixel) tensor
        Scaled flux, 0 where masked; its weight.
    extra : (n, 2 n_input) tensor
        Scaled inputs beside the spectrum, 0 where missing; whether they are there.
    variance : (n, n_pixel) tensor
        Of the scaled flux; infinite where masked.
    """

    x: Tensor
    extra: Tensor
    variance: Tensor


class Regressor(torch.nn.Module):
    """Spectra -> labels, by one network or several, each with its own uncertainty.

    Parameters
    ----------
    spec : RegressorSpec
    network : str
        Which network: a key of `NETWORKS`.
    members : int
        Networks that learn from different starts; their spread is the epistemic uncertainty.
    use_ivar : bool
        Networks see each pixel's weight ``1 / (1 + noise variance / training variance)`` beside
        its flux; it is 0 where masked.
    seed : int
        Of the weights.
    options : mapping
        Of the network, see its class.

    Raises
    ------
    ValueError
        If there is no such network, or it does not take these options.

    References
    ----------
    Deep ensembles: Lakshminarayanan, Pritzel & Blundell 2017, NeurIPS, arXiv:1612.01474.
    """

    def __init__(
        self,
        spec: RegressorSpec,
        *,
        network: str,
        members: int = 1,
        use_ivar: bool = True,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if network not in NETWORKS:
            raise ValueError(f"no network '{network}'; there are {sorted(NETWORKS)}")
        if members < 1:
            raise ValueError(f"members must be at least 1, got {members}")
        self.spec = spec
        self.network, self.use_ivar = network, use_ivar
        self.network_options = dict(options or {})
        shape = Shape(spec.wavelength, spec.labels, 1 + use_ivar, 2 * len(spec.inputs))
        self.members = torch.nn.ModuleList(
            _drawn(network, shape, self.network_options, 1000 * seed + i) for i in range(members)
        )
        self.errors = ErrorScale(spec.n_label)
        self.domain = Domain(spec.n_pixel)
        inputs = spec.extra.get("inputs", {"mean": [], "std": []})
        for name, numbers in (
            ("label_mean", spec.label_mean),
            ("label_std", spec.label_std),
            ("flux_mean", spec.flux_mean),
            ("flux_std", spec.flux_std),
            ("input_mean", inputs["mean"]),
            ("input_std", inputs["std"]),
        ):  # not saved: the spec has them
            values = torch.tensor(np.asarray(numbers, np.float32))
            self.register_buffer(name, values, persistent=False)

    label_mean: Tensor
    label_std: Tensor
    flux_mean: Tensor
    flux_std: Tensor
    input_mean: Tensor
    input_std: Tensor

    @property
    def options(self) -> dict[str, Any]:
        """What else the class needs to build this model anew; plain JSON types."""
        return {
            "network": self.network,
            "members": len(self.members),
            "use_ivar": self.use_ivar,
            "options": self.network_options,
        }

    @property
    def passes(self) -> list[tuple[int, int | None]]:
        """Member and draw of dropout, if it has any, that make up a prediction."""
        return [
            (i, draw)
            for i, member in enumerate(self.members)
            for draw in (range(member.samples) if isinstance(member, BayesianCNN) else [None])
        ]

    def see(self, flux: Tensor, ivar: Tensor, extra: Tensor | None = None) -> Seen:
        """Scale inputs: flux and ivar (n, n_pixel), extra (n, n_input) with NaN where missing."""
        bad = ~((ivar > 0) & torch.isfinite(flux))
        # In place: of a small network these passes over memory are a quarter of the time.
        x = flux.new_empty(len(flux), 1 + self.use_ivar, flux.shape[1])
        torch.sub(flux, self.flux_mean, out=x[:, 0])
        x[:, 0].div_(self.flux_std).masked_fill_(bad, 0.0).clamp_(-CLIP, CLIP)
        variance = (ivar * self.flux_std.square()).reciprocal_().masked_fill_(bad, torch.inf)
        if self.use_ivar:
            torch.add(variance, 1, out=x[:, 1]).reciprocal_()
        if extra is None:
            extra = flux.new_full((len(flux), len(self.input_mean)), torch.nan)
        there = torch.isfinite(extra)
        beside = torch.where(there, (extra - self.input_mean) / self.input_std, 0.0)
        return Seen(x, torch.cat([beside.clamp_(-CLIP, CLIP), there.to(flux)], dim=1), variance)

    def forward(self, flux: Tensor, ivar: Tensor, extra: Tensor | None = None) -> Tensor:
        """Return means and log variances (n_member, n, 2, n_label) of scaled labels."""
        seen = self.see(flux, ivar, extra)
        return torch.stack([member(seen.x, seen.extra) for member in self.members])

    def combined(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, aleatoric and epistemic variance (n, n_label) of scaled labels, raw."""
        total = square = noise = torch.zeros((), device=seen.x.device)
        for i, draw in self.passes:
            for layer in self.members[i].modules():
                if isinstance(layer, MonteCarloDropout):
                    layer.sample = draw
            mean, log_variance = self.members[i](seen.x, seen.extra).float().unbind(1)
            total, square = total + mean, square + mean.square()
            noise = noise + log_variance.exp()
        n = len(self.passes)
        spread = (square / n - (total / n).square()).clamp(min=0) * n / max(n - 1, 1)
        return total / n, noise / n, spread if n > 1 else torch.zeros_like(total)

    @torch.inference_mode()
    def answer(
        self, flux: Tensor, ivar: Tensor, extra: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what `Prediction` holds, as tensors; the model must be in evaluation mode."""
        seen = self.see(flux, ivar, extra)
        mean, noise, spread = self.combined(seen)
        factor = self.errors(noise + spread, spectrum_snr(flux, ivar)) * self.label_std
        score = self.domain(seen.x[:, 0], seen.variance)
        empty = torch.isinf(score)[:, None]
        made = (
            mean * self.label_std + self.label_mean,
            noise.sqrt() * factor,
            spread.sqrt() * factor,
        )
        labels, aleatoric, epistemic = (torch.where(empty, torch.nan, part) for part in made)
        return labels, aleatoric, epistemic, score

    def predict(
        self,
        flux: FloatArray,
        ivar: FloatArray,
        extra: FloatArray | None = None,
        *,
        batch_size: int = 256,
    ) -> Prediction:
        """Estimate labels of n spectra, `batch_size` at a time.

        Parameters
        ----------
        flux, ivar : (n, n_pixel) float32
            On the pixels of ``spec.wavelength``, normalized as ``spec.normalization`` says.
        extra : (n, n_input) float32, optional
            As ``spec.inputs`` names them; NaN, or no `extra`, where missing.
        batch_size : int

        Raises
        ------
        ValueError
            If sizes are not those of the specification.
        """
        _check_inputs(self.spec, flux, ivar, extra)
        self.eval()
        device = self.label_mean.device
        given = [flux, ivar] if extra is None else [flux, ivar, extra]
        parts: list[Sequence[Tensor]] = []
        for start in range(0, len(flux), batch_size):
            rows = slice(start, start + batch_size)
            batch = [torch.from_numpy(np.ascontiguousarray(a[rows], np.float32)) for a in given]
            parts.append(self.answer(*(tensor.to(device) for tensor in batch)))
        if not parts:
            none = np.zeros((0, self.spec.n_label), np.float32)
            return Prediction(none, none, none, none[:, 0])
        return Prediction(*(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)))


def _drawn(network: str, shape: Shape, options: Mapping[str, Any], seed: int) -> torch.nn.Module:
    """Return a network whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return NETWORKS[network](shape, **options)
        except TypeError as error:
            raise ValueError(f"{network}: {error}") from error


def _check_inputs(
    spec: RegressorSpec, flux: FloatArray, ivar: FloatArray, extra: FloatArray | None
) -> None:
    if flux.ndim != 2 or flux.shape[1] != spec.n_pixel or ivar.shape != flux.shape:
        raise ValueError(
            f"flux {flux.shape} and ivar {ivar.shape} must be (n, {spec.n_pixel}), the pixels of "
            f"{spec.name}: bring the spectra onto its grid"
        )
    if extra is not None and extra.shape != (len(flux), len(spec.inputs)):
        raise ValueError(f"extra {extra.shape} must be ({len(flux)}, {len(spec.inputs)})")
