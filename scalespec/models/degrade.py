"""Spectra made noisier: what a star would look like at a lower signal-to-noise ratio."""

import torch
from torch import Tensor

SNR_PIXELS = 256
"""Pixels, evenly spread, that the median of a spectrum's S/N is taken over."""


def spectrum_snr(flux: Tensor, ivar: Tensor) -> Tensor:
    """Return the median S/N per good pixel (n,), of `SNR_PIXELS` of them; 0 where there is none.

    Examples
    --------
    >>> spectrum_snr(torch.ones(1, 3), torch.tensor([[100.0, 400.0, 0.0]]))
    tensor([10.])
    """
    every = max(flux.shape[1] // SNR_PIXELS, 1)
    flux, ivar = flux[:, ::every], ivar[:, ::every]
    snr = torch.where(ivar > 0, flux.abs() * ivar.sqrt(), torch.nan)
    return torch.nan_to_num(snr.nanmedian(dim=1).values, nan=0.0, posinf=torch.inf)


def degrade(
    flux: Tensor, ivar: Tensor, snr: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Add noise to bring spectra down to an S/N; those that are below it stay as they are.

    Parameters
    ----------
    flux, ivar : (n, n_pixel) tensor
        An infinite ivar is a pixel without noise, which gets the same noise as all others.
    snr : (n,) tensor
        Median per pixel that is wanted.
    generator : torch.Generator
        On the tensors' device.

    Returns
    -------
    flux, ivar : (n, n_pixel) tensors
        The noise that is there and the one that is added are independent: variances add.

    Examples
    --------
    >>> flux, ivar = torch.ones(1, 2), torch.tensor([[1e4, 0.0]])
    >>> degrade(flux, ivar, torch.tensor([10.0]), torch.Generator())[1]
    tensor([[100.,   0.]])
    """
    own = spectrum_snr(flux, ivar)
    good = ivar > 0
    variance = torch.where(good, 1 / ivar, 0.0)
    level = torch.where(good, flux, torch.nan)[:, :: max(flux.shape[1] // SNR_PIXELS, 1)]
    even = (torch.nan_to_num(level.abs().nanmedian(dim=1).values) / snr).square()
    wanted = torch.where(
        torch.isinf(own)[:, None], even[:, None], variance * (own / snr).square()[:, None]
    )
    wanted = torch.where(good & (own > snr)[:, None], wanted, variance).maximum(variance)
    noise = torch.randn(flux.shape, generator=generator, device=flux.device, dtype=flux.dtype)
    noisy = flux + noise * (wanted - variance).sqrt()
    return noisy, torch.where(good, 1 / wanted, 0.0)


def jittered(flux: Tensor, ivar: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Return flux with `amount` times its own noise once more; masked pixels stay as they are.

    Examples
    --------
    >>> flux, ivar = torch.ones(1, 2), torch.tensor([[0.0, torch.inf]])
    >>> jittered(flux, ivar, 0.3, torch.Generator())
    tensor([[1., 1.]])
    """
    noise = torch.randn(flux.shape, generator=generator, device=flux.device, dtype=flux.dtype)
    return flux + amount * noise * torch.where(ivar > 0, ivar.rsqrt(), 0.0)
