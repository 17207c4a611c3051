"""The merge methods written a second time: dense float64 matrices, plain loops, none of the engine's shortcuts.

A source is a pair with its scaling split evenly between A and B, as spec merging 1.1 folds it. `REFERENCES[id]` takes
the sources of one module, their weights (none zero) and the stream of random numbers, and gives the dense result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.linalg import eigh

from studio.core.adapter import Adapter, LoraModule
from studio.core.linalg import Pair
from studio.merging import method_by_id, methods
from studio.merging.lego import cluster, pool_of

Dense = np.ndarray[Any, np.dtype[np.float64]]
Weights = Sequence[float]


class Source(NamedTuple):
    """One adapter in one module: A (r, d_in) and B (d_out, r), float64, dW = B A."""

    A: Dense
    B: Dense

    @property
    def delta(self) -> Dense:
        return self.B @ self.A

    @property
    def rank(self) -> int:
        return len(self.A)


class Stream(NamedTuple):
    """What random numbers depend on besides the source's position."""

    seed: int
    module: str


def source_of(module: LoraModule) -> Source:
    """The module's factors with sqrt(scaling) in both."""
    a, b = (factor.astype(np.float64) for factor in module)
    root = np.sqrt(abs(module.scaling))
    return Source(root * a, np.sign(module.scaling) * root * b)


def expected(
    adapters: Sequence[Adapter],
    method: str,
    weights: Weights,
    module: str,
    *,
    scale: float = 1.0,
    seed: int = 0,
    **knobs: Any,
) -> Dense:
    """What merging must give in one module: the method on the sources that have it and are wanted."""
    present = [
        (source_of(adapter.modules[module]), float(np.float32(weight)))
        for adapter, weight in zip(adapters, weights, strict=True)
        if module in adapter.modules and weight != 0
    ]
    sources, kept = [source for source, _ in present], [weight for _, weight in present]
    settings = method_by_id(method).check(knobs)
    return scale * reference_of(method)(sources, kept, Stream(seed, module), **settings)


def best_of_rank(delta: Dense, rank: int) -> Dense:
    """The nearest matrix of this rank (Eckart and Young): its image under the strongest left singular vectors."""
    u, _, _ = triples_of(delta, rank)
    return u @ (u.T @ delta)


def triples_of(delta: Dense, count: int) -> tuple[Dense, Dense, Dense]:
    """At most `count` singular triples U, S, V, strongest first, by eigenvectors of the smaller Gram matrix.

    A singular value below 1e-6 of the largest is taken for zero and its triple left out.
    """
    if delta.shape[0] > delta.shape[1]:
        v, s, u = triples_of(delta.T, count)
        return u, s, v
    last = len(delta) - 1
    square, u = eigh(delta @ delta.T, subset_by_index=(max(last - count + 1, 0), last))
    s, u = np.sqrt(np.maximum(square, 0))[::-1], u[:, ::-1]
    live = (s > 1e-6 * s[0]) & (s > 0)
    return u[:, live], s[live], delta.T @ (u[:, live] / s[live])


def total_rank(sources: Sequence[Source]) -> int:
    return sum(source.rank for source in sources)


def weighted_sum(deltas: Sequence[Dense], weights: Weights) -> Dense:
    return sum((w * d for w, d in zip(weights, deltas, strict=True)), np.zeros_like(deltas[0]))


def trimmed(delta: Dense, density: float) -> Dense:
    """The largest `density` share of the entries, at least one."""
    keep = max(1, int(density * delta.size))
    smallest = np.sort(np.abs(delta), axis=None)[-keep]
    return np.where(np.abs(delta) >= smallest, delta, 0)


def elected(deltas: Sequence[Dense], weights: Weights, election: str, mean: str) -> Dense:
    """Entry by entry: the mean of the weighted values whose sign is elected.

    mergekit lets the weighted values vote and divides by the sum of the weights that agree; PEFT lets the bare values
    vote and divides by how many agree. By count each weighted value has one vote.
    """
    stack, own = np.stack(deltas), np.reshape(weights, (-1, 1, 1))
    votes = stack if election == "peft" else own * stack
    heard = np.sign(votes) if election == "count" else votes
    agrees = votes * np.where(heard.sum(0) >= 0, 1.0, -1.0) > 0
    divisor = {"peft": agrees.sum(0), "mergekit": (own * agrees).sum(0), "none": np.ones(stack.shape[1:])}[mean]
    return np.where(agrees, own * stack, 0).sum(0) / np.where(divisor == 0, 1, divisor)


def uniform(stream: Stream, position: int, shape: tuple[int, ...]) -> Dense:
    """The engine's random numbers: the masks must be the same ones to compare results."""
    digest = blake2b(f"{stream.seed}/{position}/{stream.module}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return torch.rand(*shape, generator=generator).double().numpy()


def joined(deltas: Sequence[Dense], weights: Weights, combine: str, election: str, mean: str) -> Dense:
    return elected(deltas, weights, election, mean) if combine == "ties" else weighted_sum(deltas, weights)


def rescaled(delta: Dense, stays: Any, chance: Any, rescale: str) -> Dense:
    """What stays, divided by its chance, or as in mergekit all alike so that the sum of magnitudes is the old one."""
    kept = np.where(stays, delta, 0)
    return kept / chance if rescale == "paper" else kept * (np.abs(delta).sum() / np.abs(kept).sum())


def cat(sources: Sequence[Source], weights: Weights, stream: Stream) -> Dense:
    return weighted_sum([source.delta for source in sources], weights)


def svd(sources: Sequence[Source], weights: Weights, stream: Stream, *, rank: int) -> Dense:
    return best_of_rank(cat(sources, weights, stream), rank or max(source.rank for source in sources))


def ties(
    sources: Sequence[Source],
    weights: Weights,
    stream: Stream,
    *,
    density: float,
    rank: int,
    election: str,
    mean: str,
) -> Dense:
    if len(sources) == 1:
        return cat(sources, weights, stream)
    merged = elected([trimmed(source.delta, density) for source in sources], weights, election, mean)
    return best_of_rank(merged, rank or total_rank(sources))


def dare(
    sources: Sequence[Source],
    weights: Weights,
    stream: Stream,
    *,
    density: float,
    combine: str,
    rank: int,
    rescale: str,
    election: str,
    mean: str,
) -> Dense:
    if len(sources) == 1:
        return cat(sources, weights, stream)
    thinned = []
    for i, source in enumerate(sources):
        stays = uniform(stream, i, source.delta.shape) < np.float32(density)
        thinned.append(rescaled(source.delta, stays, density, rescale))
    return best_of_rank(joined(thinned, weights, combine, election, mean), rank or total_rank(sources))


def della(
    sources: Sequence[Source],
    weights: Weights,
    stream: Stream,
    *,
    density: float,
    epsilon: float,
    combine: str,
    rank: int,
    rescale: str,
    election: str,
    mean: str,
) -> Dense:
    if len(sources) == 1:
        return cat(sources, weights, stream)
    spread = min(epsilon, 0.9 * density, 1 - density)
    low, high = density - spread, density + spread
    thinned = []
    for i, source in enumerate(sources):
        delta = source.delta
        chance = np.empty_like(delta)
        for row, values in enumerate(delta):
            places = np.argsort(np.abs(values), kind="stable")
            chance[row, places] = low + (high - low) * np.arange(len(values)) / max(len(values) - 1, 1)
        thinned.append(rescaled(delta, uniform(stream, i, delta.shape) < chance, chance, rescale))
    return best_of_rank(joined(thinned, weights, combine, election, mean), rank or total_rank(sources))


def prune(sources: Sequence[Source], weights: Weights, stream: Stream, *, density: float, rank: int) -> Dense:
    kept = [trimmed(source.delta, density) for source in sources]
    return best_of_rank(weighted_sum(kept, weights), rank or total_rank(sources))


def breadcrumbs(
    sources: Sequence[Source], weights: Weights, stream: Stream, *, density: float, gamma: float, rank: int
) -> Dense:
    kept = []
    for source in sources:
        size = source.delta.size
        stay = int(density * size)
        outliers = min(int(gamma * size), size - stay)
        by_magnitude = np.argsort(-np.abs(source.delta), axis=None, kind="stable")
        middle = np.zeros(size)
        inside = by_magnitude[outliers : outliers + max(stay, 1)]
        middle[inside] = source.delta.flat[inside]
        kept.append(middle.reshape(source.delta.shape))
    return best_of_rank(weighted_sum(kept, weights), rank or total_rank(sources))


def slerp(sources: Sequence[Source], weights: Weights, stream: Stream) -> Dense:
    if len(sources) == 1:
        return cat(sources, weights, stream)
    first, second = (source.delta for source in sources)
    t = weights[1] / sum(weights)
    sizes = np.linalg.norm(first) * np.linalg.norm(second)
    cosine = np.clip(np.vdot(first, second) / sizes, -1, 1) if sizes else 1.0
    if abs(cosine) > 0.9995:
        return sum(weights) * ((1 - t) * first + t * second)
    angle = np.arccos(cosine)
    return sum(weights) * (np.sin((1 - t) * angle) * first + np.sin(t * angle) * second) / np.sin(angle)


def knots(
    sources: Sequence[Source],
    weights: Weights,
    stream: Stream,
    *,
    density: float,
    combine: str,
    election: str,
    mean: str,
) -> Dense:
    if len(sources) == 1:
        return cat(sources, weights, stream)
    left = common_basis([source.delta for source in sources], total_rank(sources))
    pieces = [left.T @ source.delta for source in sources]
    return left @ in_basis(pieces, weights, stream, density, combine, election, mean)


def core(
    sources: Sequence[Source],
    weights: Weights,
    stream: Stream,
    *,
    density: float,
    combine: str,
    basis: str,
    election: str,
    mean: str,
) -> Dense:
    if len(sources) == 1:
        return cat(sources, weights, stream)
    if basis == "factors":
        left = stacked_basis([source.B for source in sources])
        right = stacked_basis([source.A.T for source in sources])
        pieces = [left.T @ source.delta @ right for source in sources]
        return left @ in_basis(pieces, weights, stream, density, combine, election, mean) @ right.T
    left = common_basis([source.delta for source in sources], total_rank(sources))
    right = common_basis([source.delta.T for source in sources], total_rank(sources))
    pieces = [left.T @ source.delta @ right for source in sources]
    return left @ in_basis(pieces, weights, stream, density, combine, election, mean) @ right.T


def common_basis(deltas: Sequence[Dense], rank: int) -> Dense:
    """The left singular vectors of the deltas side by side, weakest first, the largest entry of each positive.

    As many columns as the ranks add up to, zero where there are fewer directions.
    """
    u, _, _ = triples_of(np.hstack(deltas), rank)
    peak = np.take_along_axis(u, np.abs(u).argmax(0)[None], 0)
    missing = min(rank, len(u)) - u.shape[1]
    return np.pad(u * np.where(peak < 0, -1.0, 1.0), ((0, 0), (0, missing)))[:, ::-1]


def stacked_basis(factors: Sequence[Dense]) -> Dense:
    """The left singular vectors of the factors side by side, strongest first, zero where there are fewer directions."""
    u, s, _ = np.linalg.svd(np.hstack(factors), full_matrices=False)
    return u * (s > 1e-6 * s[0])


def in_basis(
    pieces: Sequence[Dense], weights: Weights, stream: Stream, density: float, combine: str, election: str, mean: str
) -> Dense:
    if combine == "sum":
        return weighted_sum(pieces, weights)
    if combine == "ties":
        return elected([trimmed(piece, density) for piece in pieces], weights, election, mean)
    dropped = [
        np.where(uniform(stream, i, piece.shape) < np.float32(density), piece / density, 0)
        for i, piece in enumerate(pieces)
    ]
    return weighted_sum(dropped, weights)


def tsv(sources: Sequence[Source], weights: Weights, stream: Stream, *, triples: int) -> Dense:
    room = max(min(sources[0].delta.shape) // len(sources), 1)
    us, ss, vs = zip(*(triples_of(source.delta, min(triples or source.rank, room)) for source in sources), strict=True)
    ss = [weight * s for weight, s in zip(weights, ss, strict=True)]
    return polar(np.hstack(us)) @ np.diag(np.concatenate(ss)) @ polar(np.hstack(vs)).T


def polar(directions: Dense) -> Dense:
    """The nearest orthonormal columns; columns that are alike share one direction."""
    p, d, qh = np.linalg.svd(directions, full_matrices=False)
    return p[:, d > 1e-5] @ qh[d > 1e-5]


def iso(sources: Sequence[Source], weights: Weights, stream: Stream) -> Dense:
    """Weak directions matter as much as strong ones, so no Gram matrix: an SVD inside the span of the columns."""
    q = np.linalg.qr(np.hstack([source.B for source in sources]))[0]
    u, s, vh = np.linalg.svd(q.T @ cat(sources, weights, stream), full_matrices=False)
    live = s > 1e-6 * s[0]
    return s[live].sum() / max(live.sum(), 1) * q @ u[:, live] @ vh[live]


def linear(sources: Sequence[Source], weights: Weights, stream: Stream) -> Dense:
    """PEFT's factor space: sum_i sqrt(|w_i|) A_i and sum_i sign(w_i) sqrt(|w_i|) B_i, smaller ranks padded."""
    rank = max(source.rank for source in sources)
    a = np.zeros((rank, sources[0].A.shape[1]))
    b = np.zeros((sources[0].B.shape[0], rank))
    for source, weight in zip(sources, weights, strict=True):
        root = np.sqrt(abs(weight))
        a[: source.rank] += root * source.A
        b[:, : source.rank] += np.sign(weight) * root * source.B
    return b @ a


def lego(
    sources: Sequence[Source],
    weights: Weights,
    stream: Stream,
    *,
    k: int,
    parameter_reweighting: bool,
    q: str,
    output_reweighting: bool,
    r_ref: float,
    feature: str,
    form: str,
    restarts: int,
) -> Dense:
    """Spec merging 1.2, given the labels: k-means has many optima, so the clusters are the engine's own."""
    ranks = [source.rank for source in sources]
    k = min(k or max(ranks), sum(ranks))
    chosen = [canonical(source) if form == "canonical" else source for source in sources]
    roots = [(np.sqrt(abs(w)), np.sign(w)) for w in weights]
    a = np.vstack([root * source.A for (root, _), source in zip(roots, chosen, strict=True)])
    b = np.hstack([sign * root * source.B for (root, sign), source in zip(roots, chosen, strict=True)])
    labels = engine_labels(sources, weights, stream, k, feature, form, restarts)
    order = np.inf if q == "inf" else 2
    merged = np.zeros((len(b), a.shape[1]))
    for j in range(k):
        members = np.hstack([a[labels == j], b[:, labels == j].T])
        centre = members.mean(0)
        if parameter_reweighting:
            norms = np.linalg.norm(members, order, axis=1)
            centre = centre * norms.mean() / max(np.linalg.norm(centre, order), 1e-12)
        merged += np.outer(centre[a.shape[1] :], centre[: a.shape[1]])
    return merged * np.sqrt((r_ref or np.mean(ranks)) / k) if output_reweighting else merged


def canonical(source: Source) -> Source:
    """Singular directions, strongest first, the largest entry of each column of B positive."""
    u, s, v = triples_of(source.delta, source.rank)
    sign = np.where(np.take_along_axis(u, np.abs(u).argmax(0)[None], 0)[0] < 0, -1.0, 1.0)
    missing = source.rank - len(s)
    a, b = (np.sqrt(s) * sign)[:, None] * v.T, u * (np.sqrt(s) * sign)
    return Source(np.pad(a, ((0, missing), (0, 0))), np.pad(b, ((0, 0), (0, missing))))


def engine_labels(
    sources: Sequence[Source], weights: Weights, stream: Stream, k: int, feature: Any, form: Any, restarts: int
) -> np.ndarray[Any, Any]:
    pairs = [Pair(torch.from_numpy(s.A.astype(np.float32)), torch.from_numpy(s.B.astype(np.float32))) for s in sources]
    pool = pool_of([Pair(p.A[None], p.B[None]) for p in pairs], torch.tensor([list(weights)]), form)
    return cluster(pool, k, feature=feature, restarts=restarts, seed=stream.seed)[0].numpy()


REFERENCES: Mapping[str, Callable[..., Dense]] = {id: globals()[id] for id in methods() if id in globals()}


def reference_of(method: str) -> Callable[..., Dense]:
    """A method's reference; raises `LookupError` that says what is missing."""
    if method not in REFERENCES:
        raise LookupError(f"tests/references.py has no function {method}: the method again, on dense float64 matrices")
    return REFERENCES[method]
