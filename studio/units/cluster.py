"""k-means that only sees inner products.

Rank-one units b a^T live in d_out * d_in dimensions, but k-means needs no coordinates: with the Gram matrix G of n
points and a cluster C, the squared distance of point i to the mean of C is

    G_ii - 2 mean_{j in C} G_ij + mean_{j, l in C} G_jl.

One Gram matrix serves every k, every restart and every seed, so a new k costs milliseconds. Seeding is the greedy
k-means++ of Arthur and Vassilvitskii (2007, section 5): 2 + ln k candidates a step, the best of them kept. Lloyd's
iterations follow, and the best restart is finished by Hartigan's single moves: in thousands of dimensions a point is
close to any mean it is part of, so Lloyd's rule stops early (Telgarsky and Vattani, 2010).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from studio.core.errors import LoomError
from studio.core.late import torch


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """The best clustering found, for each problem of a batch.

    `labels` (..., n) int64 in [0, k), numbered in the order of each cluster's first point; -1 marks padding.
    `inertia` (...) is the sum of squared distances to the cluster means, in the units of the Gram matrix.
    """

    labels: torch.Tensor
    inertia: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Problems:
    """A flat batch: Gram matrices (P, n, n), their diagonals (P, n), which points are real (P, n), how many (P,)."""

    gram: torch.Tensor
    square: torch.Tensor
    real: torch.Tensor
    count: torch.Tensor

    def take(self, which: torch.Tensor) -> _Problems:
        return _Problems(self.gram[which], self.square[which], self.real[which], self.count[which])


def kmeans(
    gram: torch.Tensor,
    k: int,
    *,
    n_init: int = 10,
    max_iter: int = 300,
    seed: int = 0,
    count: torch.Tensor | None = None,
) -> Clusters:
    """Cluster the points of each Gram matrix (..., n, n) into min(k, number of points) groups, none of them empty.

    All problems and restarts run as one batch; the restart of least inertia wins. Every problem draws the same random
    numbers, so its result does not depend on what else is in the batch. Where problems differ in size, pad their
    matrices to one n and give the real sizes as `count` (...): values behind the first `count` points are ignored.

    Raises `LoomError` for a matrix that is not square or not finite, and for k, n_init or max_iter below 1.
    """
    problems = _checked(gram, count, k, n_init, max_iter)
    size, n = problems.square.shape
    k = min(k, n)
    labels = _seed(problems, k, n_init, seed)
    labels, inertia = _lloyd(problems, labels, k, max_iter)
    best = inertia.argmin(1)
    each = torch.arange(size, device=gram.device)
    labels, inertia = _hartigan(problems, labels[each, :, best], k, max_iter)
    labels = _in_order(labels, k)
    trivial = problems.count <= k  # every point its own cluster
    labels = torch.where(trivial[:, None], torch.arange(n, device=gram.device), labels)
    labels = torch.where(problems.real, labels, -1)
    inertia = torch.where(trivial, 0.0, inertia)
    return Clusters(labels.reshape(gram.shape[:-1]), inertia.reshape(gram.shape[:-2]))


def _checked(gram: torch.Tensor, count: torch.Tensor | None, k: int, n_init: int, max_iter: int) -> _Problems:
    if gram.ndim < 2 or gram.shape[-1] != gram.shape[-2] or gram.shape[-1] == 0:
        raise LoomError(
            f"A Gram matrix of shape {tuple(gram.shape)} cannot be clustered", "it must be (..., n, n) with n > 0"
        )
    if min(k, n_init, max_iter) < 1:
        raise LoomError(f"k = {k}, n_init = {n_init}, max_iter = {max_iter} cannot be used", "each must be at least 1")
    n = gram.shape[-1]
    flat = gram.reshape(-1, n, n)
    counts = torch.full((len(flat),), n, device=gram.device) if count is None else count.reshape(-1).to(gram.device)
    if len(counts) != len(flat) or (len(counts) and not 1 <= int(counts.min()) <= int(counts.max()) <= n):
        raise LoomError(
            "The point counts do not fit the Gram matrices", f"each of the {len(flat)} must lie between 1 and {n}"
        )
    real = torch.arange(n, device=gram.device) < counts[:, None]
    if count is not None:
        flat = torch.where(real[:, :, None] & real[:, None, :], flat, 0.0)
    if not bool(torch.isfinite(flat).all()):
        raise LoomError("A Gram matrix holds NaN or infinity", "some unit is not finite", "drop that adapter or module")
    return _Problems(flat, flat.diagonal(dim1=1, dim2=2).contiguous(), real, counts)


def _seed(problems: _Problems, k: int, n_init: int, seed: int) -> torch.Tensor:
    """Greedy k-means++ for all problems and restarts; labels (P, n, n_init) of the nearest seed."""
    gram, square = problems.gram, problems.square
    size, n = square.shape
    tries = 2 + int(math.log(k))
    draws = torch.rand((k, n_init, tries), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    draws = draws.to(gram)
    each = torch.arange(size, device=gram.device)[:, None]
    first = (draws[0, :, 0] * problems.count[:, None]).long()
    nearest = _to_points(gram, square, each, first)  # squared distance to the nearest seed so far, (P, n_init, n)
    nearest = torch.where(problems.real[:, None], nearest, 0.0)
    labels = torch.zeros((size, n_init, n), dtype=torch.long, device=gram.device)
    last = (problems.count - 1)[:, None, None]
    for step in range(1, k):
        mass = nearest.cumsum(-1)
        target = draws[step] * mass[..., -1:]
        candidates = torch.minimum(torch.searchsorted(mass, target, right=True), last)  # (P, n_init, tries)
        after = torch.minimum(_to_points(gram, square, each[..., None], candidates), nearest[:, :, None])
        best = after.sum(-1).argmin(-1)[..., None, None].expand(-1, -1, 1, n)
        chosen = after.gather(2, best)[:, :, 0]
        labels = torch.where(chosen < nearest, step, labels)
        nearest = chosen
    return labels.mT.contiguous()


def _to_points(gram: torch.Tensor, square: torch.Tensor, each: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Squared distances (P, ..., n) from `points` (P, ...) of each problem to all its points."""
    own = square.reshape(len(square), *[1] * (points.ndim - 1), -1)
    return (own + square[each, points][..., None] - 2 * gram[each, points]).clamp_min(0.0)


def _lloyd(problems: _Problems, labels: torch.Tensor, k: int, max_iter: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lloyd's iterations until no label changes; labels (P, n, n_init) and inertia (P, n_init)."""
    inertia = torch.empty_like(labels[:, 0], dtype=problems.gram.dtype)
    active, here, now, labels = torch.arange(len(labels), device=labels.device), problems, labels, labels.clone()
    for step in range(max_iter + 1):
        now, distance = _fill_empty(here, now, k)
        closest, nearest = distance.min(-1)
        own = distance.gather(-1, now[..., None])[..., 0]
        # A point leaves only for a strictly nearer mean, or ties would let labels wander for ever.
        moved = torch.where((closest < own) & here.real[..., None], nearest, now)
        labels[active] = now
        inertia[active] = (own * here.real[..., None]).sum(1)
        changing = (moved != now).flatten(1).any(1)
        if step == max_iter or not bool(changing.any()):
            break
        active, here, now = _still(changing, active, here, moved)
    return labels, inertia


def _hartigan(problems: _Problems, labels: torch.Tensor, k: int, max_iter: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Move single points while that lowers the inertia; labels (P, n) and inertia (P,).

    Taking a point at squared distance d out of a cluster of m saves d m / (m - 1); putting it into one costs
    d m / (m + 1). Moves that share no cluster do not disturb each other, so many are made in one step.
    """
    inertia = torch.empty_like(labels[:, 0], dtype=problems.gram.dtype)
    active, here, now, labels = torch.arange(len(labels), device=labels.device), problems, labels, labels.clone()
    for step in range(max_iter + 1):
        distance, sizes = _to_means(here, now[..., None], k)
        distance, sizes = distance[:, :, 0], sizes[:, 0]
        own, members = distance.gather(-1, now[..., None])[..., 0], sizes.gather(-1, now)
        labels[active] = now
        inertia[active] = (own * here.real).sum(-1)
        saved = torch.where((members > 1) & here.real, own * members / (members - 1).clamp_min(1.0), 0.0)
        cost = (distance * (sizes / (sizes + 1))[:, None]).nan_to_num_(math.inf).scatter_(-1, now[..., None], math.inf)
        least, target = cost.min(-1)
        gain = saved - least
        worth = gain > 1e-9 * inertia[active, None]  # rounding must not keep points wandering
        changing = worth.any(1)
        if step == max_iter or not bool(changing.any()):
            break
        moved = torch.where(worth & _disjoint(gain, now, target, k), target, now)
        active, here, now = _still(changing, active, here, moved)
    return labels, inertia


def _still(
    changing: torch.Tensor, active: torch.Tensor, problems: _Problems, labels: torch.Tensor
) -> tuple[torch.Tensor, _Problems, torch.Tensor]:
    """Leave the finished problems behind, once they are so many that copying the others pays."""
    if 2 * int(changing.sum()) > len(changing):
        return active, problems, labels
    return active[changing], problems.take(changing), labels[changing]


def _disjoint(gain: torch.Tensor, source: torch.Tensor, target: torch.Tensor, k: int) -> torch.Tensor:
    """Which moves (P, n) are the best for both of the clusters they touch; ranks, unlike gains, have no ties."""
    order = gain.argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    best = torch.zeros((len(rank), k), dtype=rank.dtype, device=rank.device)
    best.scatter_reduce_(1, source, rank, "amax").scatter_reduce_(1, target, rank, "amax")
    return (rank == best.gather(1, source)) & (rank == best.gather(1, target))


def _fill_empty(problems: _Problems, labels: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each empty cluster the point farthest from its mean; labels and distances (P, n, n_init, k) to the means."""
    for _ in range(k + 1):
        distance, sizes = _to_means(problems, labels, k)
        # Problems with fewer points than clusters keep empty ones; `kmeans` answers those without us.
        lacking = (sizes == 0).any(-1) & (problems.count >= k)[:, None]
        if not bool(lacking.any()):
            break
        own = distance.gather(-1, labels[..., None])[..., 0]
        movable = problems.real[..., None] & (sizes.gather(-1, labels.mT).mT > 1)
        farthest = torch.where(movable, own, -1.0).argmax(1, keepdim=True)
        empty = (sizes == 0).to(torch.uint8).argmax(-1)[:, None]
        labels = torch.where(lacking[:, None], labels.scatter(1, farthest, empty), labels)
    return labels, distance


def _to_means(problems: _Problems, labels: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared distances (P, n, n_init, k) of points to cluster means, infinite for empty ones; sizes (P, n_init, k).

    Points stand before restarts, so that one matrix product serves all restarts.
    """
    member = torch.zeros((*labels.shape, k), dtype=problems.gram.dtype, device=labels.device)
    member.scatter_(-1, labels[..., None], problems.real[..., None, None].to(member).expand(*labels.shape, 1))
    sizes = member.sum(1)
    share = 1 / sizes.clamp_min(1.0)
    cross = (problems.gram @ member.flatten(2)).reshape(member.shape) * share[:, None]
    spread = member.mul_(cross).sum(1) * share
    distance = cross.mul_(-2).add_(problems.square[..., None, None]).add_(spread[:, None]).clamp_min_(0.0)
    return distance.masked_fill_((sizes == 0)[:, None], math.inf), sizes


def _in_order(labels: torch.Tensor, k: int) -> torch.Tensor:
    """Number the clusters of (P, n) labels by their first point."""
    n = labels.shape[-1]
    first = torch.full((len(labels), k), n, device=labels.device)
    first.scatter_reduce_(1, labels, torch.arange(n, device=labels.device).expand_as(labels), "amin")
    return first.argsort(dim=1, stable=True).argsort(dim=1, stable=True).gather(1, labels)
