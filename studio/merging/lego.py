"""LoRA-LEGO: cluster the minimal semantic units of all sources, and build the merge from the clusters' centres."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from studio.core.late import torch
from studio.core.linalg import Pair, Pairs, stack
from studio.merging.registry import Draw, Help, Laws, Merged, Range, method
from studio.units.cluster import kmeans

if TYPE_CHECKING:
    from torch import Tensor

Norm = Literal["inf", "2"]
Feature = Literal["joint", "half_normalised"]
Form = Literal["raw", "canonical", "balanced", "aligned"]
_IS_GAUGE_FIXED = frozenset({"balanced", "aligned"})
_ORTHOGONAL = 1e-5  # cosine below which two units have no common direction: what is left is rounding of float32


class Pool(NamedTuple):
    """All units of a module: A (..., n, d_in) and B (..., d_out, n); unit t is row t of A with column t of B.

    With them the inner products of all a, and of all b, (..., n, n) in float64: those of the sources' own units, which
    a new weight or k only scales.
    """

    A: Tensor
    B: Tensor
    gram_a: Tensor
    gram_b: Tensor


@method(
    title="LoRA-LEGO: cluster the units",
    source="arXiv 2409.16167 (ICLR 2025)",
    laws=Laws(order=False, gauge=False, homogeneous=True),
    default_weight="one",
    tier="experimental",
)
def lego(
    pairs: Sequence[Pair],
    weights: Tensor,
    *,
    draw: Draw,
    k: Annotated[
        int,
        Range(1, 256, 1, auto=0),
        Help("Number of clusters, which is the rank of the result; 0 takes the largest source rank.", "Clusters k"),
    ] = 0,
    parameter_reweighting: Annotated[
        bool, Help("Give each centroid the mean norm of its members, which averaging shrinks.", advanced=True)
    ] = True,
    q: Annotated[
        Norm, Help("The norm used for that: inf as in the public implementations, or 2.", "Norm q", advanced=True)
    ] = "inf",
    output_reweighting: Annotated[
        bool,
        Help("Scale the result by sqrt(r_ref / k), so that its output varies as much as a source's.", advanced=True),
    ] = True,
    r_ref: Annotated[
        float,
        Range(1, 512, 1, auto=0),
        Help("The reference rank for that; 0 takes the mean of the source ranks.", "Reference rank", advanced=True),
    ] = 0,
    feature: Annotated[
        Feature, Help("What is clustered: the whole unit, or its two halves each scaled to length 1.", advanced=True)
    ] = "joint",
    form: Annotated[
        Form,
        Help(
            "raw: the rows as trained, as published. canonical: singular directions, free of training luck. balanced "
            "and aligned: those rows or directions, clustered by what they do, and averaged with matching signs."
        ),
    ] = "raw",
    restarts: Annotated[
        int, Range(1, 50, 1), Help("Runs of k-means; the one with the lowest inertia is kept.", advanced=True)
    ] = 10,
) -> Merged:
    """Clusters the rank-one units of all sources and builds the merge from the centres; prunes a single adapter too."""
    pool = pool_of(pairs, weights, form)
    count = pool.A.shape[-2]
    k = min(k or max(pair.rank for pair in pairs), count)
    gauge_fixed = form in _IS_GAUGE_FIXED
    labels = cluster(pool, k, feature=feature, restarts=restarts, seed=draw.seed, gauge_fixed=gauge_fixed)
    if gauge_fixed:
        pool = sign_aligned(pool, labels, k)
    reference = r_ref or sum(pair.rank for pair in pairs) / len(pairs)
    pair = centroids(pool, labels, k, q=q if parameter_reweighting else None)
    return Merged(pair.scaled((reference / k) ** 0.5 if output_reweighting else 1.0).single())


def pool_of(pairs: Sequence[Pair], weights: Tensor, form: Form) -> Pool:
    """The units of all sources, weights inside: the root of |w| in both halves and its sign in b."""
    chosen = Pairs.of(pairs)
    if form in {"canonical", "aligned"}:
        chosen = chosen.canonical
    elif form == "balanced":
        chosen = Pairs(balanced(pair) for pair in chosen)
    root, sign = chosen.per_unit(weights.abs().sqrt()), chosen.per_unit(weights.sign())
    size = root[..., :, None] * root[..., None, :]
    of_a, of_b = chosen.unit_grams
    gram_b = of_b * size * sign[..., :, None] * sign[..., None, :]
    units = stack([pair.scaled(weights[..., i]) for i, pair in enumerate(chosen)])
    return Pool(units.A, units.B, of_a * size, gram_b)


def balanced(pair: Pair) -> Pair:
    """The same units with |a| = |b|; one that does nothing becomes zero. Undoes (c a, b / c)."""
    of_a, of_b = torch.linalg.vector_norm(pair.A, dim=-1), torch.linalg.vector_norm(pair.B, dim=-2)
    size = (of_a * of_b).sqrt()
    to_a, to_b = (torch.where(norm > 0, size / torch.where(norm > 0, norm, 1.0), 0.0) for norm in (of_a, of_b))
    return Pair(pair.A * to_a[..., None], pair.B * to_b[..., None, :])


def unit_gram(pool: Pool, feature: Feature, *, gauge_fixed: bool = False) -> Tensor:
    """Inner products of the clustered features, (..., n, n) in float64.

    They are those of the joint vectors [a; b], or if `gauge_fixed` of the rank-one matrices b a^T, on which the sign of
    (a, b) has no influence.
    """
    of_a, of_b = pool.gram_a, pool.gram_b
    if feature == "half_normalised":
        of_a, of_b = _unit_diagonal(of_a), _unit_diagonal(of_b)
    return of_a * of_b if gauge_fixed else of_a + of_b


def cluster(pool: Pool, k: int, *, feature: Feature, restarts: int, seed: int, gauge_fixed: bool = False) -> Tensor:
    """The cluster of each unit, (..., n).

    By inner products rounded to float32: their last bits hang on how modules are batched, and must not decide a tie.
    """
    count = pool.A.shape[-2]
    if k >= count:
        return torch.arange(count, device=pool.A.device).expand(pool.A.shape[:-1])
    gram = unit_gram(pool, feature, gauge_fixed=gauge_fixed).float().double()
    return kmeans(gram, k, n_init=restarts, seed=seed).labels


def sign_aligned(pool: Pool, labels: Tensor, k: int) -> Pool:
    """The same units, each with the sign that brings it nearest to the medoid of its cluster.

    (a, b) and (-a, -b) are one unit and would cancel in a mean. The medoid is the member most like the others as a
    matrix b a^T. The sign is that of a.a' + b.b'; the product (a.a')(b.b') cannot tell, because
    flipping a unit leaves it as it is. Where that is zero but for rounding, as between an adapter's own directions, the
    unit keeps its sign.
    """
    of_a, of_b = pool.gram_a, pool.gram_b
    member = torch.nn.functional.one_hot(labels, k).to(of_a)
    likeness = ((of_a * of_b) @ member).masked_fill(member == 0, -torch.inf)
    medoid = likeness.argmax(-2).gather(-1, labels)
    joint = of_a + of_b
    length = joint.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    likeness = joint.gather(-1, medoid[..., None])[..., 0]
    opposed = likeness < -_ORTHOGONAL * length * length.gather(-1, medoid)
    sign = torch.where(opposed, -1.0, 1.0).to(pool.A)
    return pool._replace(A=pool.A * sign[..., None], B=pool.B * sign[..., None, :])


def centroids(pool: Pool, labels: Tensor, k: int, *, q: Norm | None) -> Pair:
    """Mean of each cluster's units; with `q`, brought to the mean q-norm of its members (parameter reweighting)."""
    units = Pair(pool.A.double(), pool.B.double())
    members = torch.nn.functional.one_hot(labels, k).to(units.A).mT
    means = members / members.sum(-1, keepdim=True).clamp_min(1)
    centre = Pair(means @ units.A, units.B @ means.mT)
    if q is None:
        return centre
    wanted = (means @ _norms(units, q)[..., None])[..., 0]
    factor = wanted / _norms(centre, q).clamp_min(1e-12)
    return Pair(centre.A * factor[..., None], centre.B * factor[..., None, :])


def _norms(units: Pair, q: Norm) -> Tensor:
    """The q-norm of each joint vector [a; b], (..., n)."""
    order = float("inf") if q == "inf" else 2
    of_a, of_b = torch.linalg.vector_norm(units.A, order, -1), torch.linalg.vector_norm(units.B, order, -2)
    return torch.maximum(of_a, of_b) if q == "inf" else torch.hypot(of_a, of_b)


def _unit_diagonal(gram: Tensor) -> Tensor:
    root = gram.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).sqrt()
    return gram / (root[..., :, None] * root[..., None, :])
