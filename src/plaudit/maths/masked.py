"""Statistics over the True positions of a mask. Values at False positions have no effect, even NaN."""

from jaxtyping import Bool, Float, Float64
from torch import Tensor


def float64(x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """`x` in float64; on the CPU where its device has no such numbers, as Apple's MPS."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def unflatten(x: Float[Tensor, "N"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The N values in row order at the True positions; 0 elsewhere. Inverse of x[mask]."""
    return x.new_zeros(mask.shape).masked_scatter(mask, x)


def masked_sum(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Sum of x over the True positions. Not x * mask: NaN * 0 is NaN."""
    return x.masked_fill(~mask, 0.0).sum()


def masked_mean(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of x over all True positions: each token has the same weight, whatever its row.

    Raises:
        ValueError: no position is True.
    """
    count = mask.sum()
    if count == 0:
        raise ValueError("masked_mean: the mask is False everywhere")
    return masked_sum(x, mask) / count


def masked_variance(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Population variance of x over the True positions."""
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


def whiten(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x shifted and scaled to mean 0 and variance 1 over the True positions; 0 elsewhere."""
    centred = x - masked_mean(x, mask)
    return (centred / (masked_variance(x, mask) + 1e-8).sqrt()).masked_fill(~mask, 0.0)


def explained_variance(
    values: Float[Tensor, "*shape"], returns: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """1 - Var(returns - values) / Var(returns): 1 for perfect values, 0 for values no better than a constant."""
    return 1 - masked_variance(returns - values, mask) / masked_variance(returns, mask)


def masked_correlation(
    x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """Pearson's correlation of x and y over the True positions; 0 where one of them is constant."""
    variances = masked_variance(x, mask) * masked_variance(y, mask)
    covariance = masked_mean((x - masked_mean(x, mask)) * (y - masked_mean(y, mask)), mask)
    return covariance / variances.clamp(min=1e-16).sqrt()
