"""compose(recipe) -> Adapter + Report: the one function that the page, the command line, the API and the tests call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from studio.composing import preflight
from studio.composing.advice import advise
from studio.composing.report import ModuleReport, Report, SourceReport
from studio.core.adapter import Adapter, LoraModule
from studio.core.errors import BadRecipe, Cancelled, CannotMerge
from studio.core.late import torch
from studio.core.linalg import Pair, inner
from studio.core.spill import Spill
from studio.merging.registry import Draw, Method, Value
from studio.merging.stacks import Stack, parts
from studio.recipes.recipe import Recipe, UnitEdits, parse
from studio.recipes.sources import Sources, open_sources

if TYPE_CHECKING:
    from torch import Tensor

OnStep = Callable[[int, int, str], None]


class Composition(NamedTuple):
    """What compose gives: the merged adapter and what was done."""

    adapter: Adapter
    report: Report


def compose(
    recipe: Recipe,
    sources: Sources | None = None,
    *,
    on_step: OnStep | None = None,
    stop: Callable[[], bool] | None = None,
) -> Composition:
    """Do what the recipe says. Pure: the same recipe on the same files gives the same bytes.

    `sources` are the recipe's adapters if they are open already. `on_step(done, total, module)` tells the progress;
    `stop()` true raises `Cancelled`. Raises `CannotMerge` for what cannot be right, `Changed` where a source's file is
    no longer what was opened.
    """
    if sources is None:
        sources = open_sources(recipe)
    for source in sources.adapters:
        source.require_unchanged()
    started = time.perf_counter()
    warnings = preflight.check(_active(recipe, sources.adapters), recipe.chosen, other_bases=recipe.other_bases)
    preflight.check_signs(recipe.chosen, recipe.sources, recipe.weights, sources.adapters)
    warnings += preflight.unmatched(recipe.sources, sources.adapters)
    work = _Work(recipe, sources, on_step, stop)
    for batch in sources.stacks(dense=recipe.chosen.space == "delta"):
        work.take(batch)
    if not work.modules:
        raise CannotMerge("Nothing is left to merge", "every weight is zero or every unit is muted", "raise a weight")
    adapter = _result(recipe, sources.adapters, work.modules)
    report = _report(recipe, sources, work, adapter, warnings, time.perf_counter() - started)
    return Composition(adapter, replace(report, advice=advise(report)))


def merge(
    adapters: Sequence[Adapter],
    method: str = "cat",
    weights: Sequence[float] | None = None,
    *,
    scale: float = 1.0,
    seed: int = 0,
    extras: str | None = None,
    other_bases: bool = False,
    name: str = "merge",
    **knobs: Value,
) -> Adapter:
    """Merge opened adapters; the Python face of `compose`. Weights default to the method's own (1/N or 1)."""
    recipe = recipe_for(
        adapters, method, weights, knobs, scale=scale, seed=seed, extras=extras, other_bases=other_bases, name=name
    )
    return compose(recipe, Sources(tuple(adapters))).adapter


def recipe_for(
    adapters: Sequence[Adapter], method: str, weights: Sequence[float] | None, knobs: Mapping[str, Any], **fields: Any
) -> Recipe:
    """The recipe that merges these adapters. Raises `BadRecipe` for a wrong number of weights or a bad knob."""
    if weights is not None and len(weights) != len(adapters):
        raise BadRecipe(f"{len(weights)} weights for {len(adapters)} adapters", next="give one weight for each")
    given = weights if weights is not None else [None] * len(adapters)
    sources = [
        {
            "path": str(adapter.path or adapter.name),
            "name": adapter.name,
            "weight": None if weight is None else _number(weight),
        }
        for adapter, weight in zip(adapters, given, strict=True)
    ]
    return parse({"sources": sources, "method": method, "knobs": dict(knobs), **fields})


def _number(weight: object) -> float:
    """A weight as Python's own number, whatever library it comes from."""
    try:
        return float(weight)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise BadRecipe(f"{weight!r} is not a weight", next="give a number") from error


def _active(recipe: Recipe, adapters: Sequence[Adapter]) -> list[Adapter]:
    """The adapters with some weight other than zero; the others cannot spoil anything."""
    return [
        adapter
        for source, weight, adapter in zip(recipe.sources, recipe.weights, adapters, strict=True)
        if weight or any(source.modules.values())
    ]


@dataclass(eq=False)
class _Work:
    """A composition under way: what each batch adds."""

    recipe: Recipe
    sources: Sources
    on_step: OnStep | None
    stop: Callable[[], bool] | None
    modules: dict[str, LoraModule] = field(default_factory=dict)
    rows: list[ModuleReport] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.sources.adapters)
        self.method: Method = self.recipe.chosen
        self.knobs = self.method.check(self.recipe.knobs)
        self.spill = Spill(self.sources.budget)
        self.gram = torch.zeros(count, count, dtype=torch.float64)
        self.edits: list[UnitEdits] = [source.units for source in self.recipe.sources]
        self.total = len({name for adapter in self.sources.adapters for name in adapter.modules})
        self.done = 0

    def take(self, batch: Stack) -> None:
        """Merge one batch of modules."""
        weights = self._weights(batch)
        for part, part_weights in parts(batch, weights, self.edits):
            if self.stop and self.stop():
                raise Cancelled("The merge was stopped")
            self._merge(part, part_weights)
        self.done += len(batch)
        if self.on_step:
            self.on_step(self.done, self.total, batch.names[-1])

    def _weights(self, batch: Stack) -> Tensor:
        default = self.recipe.weights
        chosen = [(self.recipe.sources[i], default[i]) for i in batch.sources]
        return torch.tensor([[s.weight_for(name, w) for s, w in chosen] for name in batch.names], dtype=torch.float64)

    def _merge(self, part: Stack, weights: Tensor) -> None:
        self._require_finite(part)
        draw = {"draw": Draw(self.recipe.seed, part.names)} if self.method.draws else {}
        weights = weights.to(self.sources.device)
        merged = self.method.run(part.pairs, weights.float(), **self.knobs, **draw)
        pair = merged.pair if self.recipe.scale == 1 else merged.pair.scaled(self.recipe.scale)
        index = torch.tensor(part.sources)
        self.gram[index[:, None], index] += part.pairs.products.sum(0).cpu()
        self._keep(part, pair)
        sizes = _sizes(part, weights * self.recipe.scale, pair, is_sum=self.method.laws.exact)
        self.rows += _module_reports(part, sizes, pair.rank, merged.kept, self._names())

    def _require_finite(self, part: Stack) -> None:
        """Asked before the method: one that trims or elects would drop a NaN in silence."""
        sizes = part.pairs.products.diagonal(dim1=-2, dim2=-1)
        broken = (~sizes.isfinite()).nonzero().tolist()
        if broken:
            module, source = part.names[broken[0][0]], self._names()[part.sources[broken[0][1]]]
            raise CannotMerge(
                f"The merge of {module} is not finite", f"{source} holds NaN or numbers too large", "remove it"
            )

    def _keep(self, part: Stack, pair: Pair) -> None:
        a, b, like = pair.A.float().cpu().numpy(), pair.B.float().cpu().numpy(), part.like
        if not (math.isfinite(float(a.sum())) and math.isfinite(float(b.sum()))):
            raise CannotMerge(
                f"The merge of {part.names[0]} is not finite", "a source holds NaN or numbers too large", "remove it"
            )
        for i, name in enumerate(part.names):
            load = self.spill.put(a[i], b[i])
            self.modules[name] = LoraModule(name, pair.rank, like.d_in, like.d_out, 1.0, load, like.kind, like.kernel)

    def _names(self) -> list[str]:
        return [adapter.name for adapter in self.sources.adapters]


class _Sizes(NamedTuple):
    """Per module: squared norm of the exact weighted sum, squared norm of the result, their inner product."""

    before: Tensor
    after: Tensor
    dot: Tensor


def _sizes(part: Stack, weights: Tensor, pair: Pair, *, is_sum: bool) -> _Sizes:
    before = (weights[:, None] @ part.pairs.products @ weights[..., None])[:, 0, 0].clamp_min(0)
    if is_sum:  # the method's law, which the contract tests hold it to
        return _Sizes(before, before, before)
    wide = pair.double()
    return _Sizes(before, inner(wide, wide).clamp_min(0), (part.pairs.inner_with(wide) * weights).sum(-1))


def _module_reports(
    part: Stack, sizes: _Sizes, rank: int, kept: Tensor | None, names: Sequence[str]
) -> list[ModuleReport]:
    before, after = sizes.before.sqrt(), sizes.after.sqrt()
    both = before * after
    cosine = torch.where(both > 0, sizes.dot / both.clamp_min(1e-300), math.nan).clamp(-1, 1)
    kept = torch.ones_like(before) if kept is None else kept.clamp_max(1.0)
    ranks = {names[i]: p.rank for i, p in zip(part.sources, part.pairs, strict=True)}
    values = (before.tolist(), after.tolist(), cosine.tolist(), kept.tolist(), _overlap(part.pairs.products))
    return [
        ModuleReport(name, *part.like.shape, ranks, rank, b, n, None if math.isnan(c) else c, k, o)
        for name, b, n, c, k, o in zip(part.names, *values, strict=True)
    ]


def _overlap(products: Tensor) -> list[float | None]:
    """Per module, the cosine between two sources that is largest in magnitude."""
    count = products.shape[-1]
    if count < 2:
        return [None] * len(products)
    cosines = cosines_of(products) - torch.eye(count, dtype=torch.float64, device=products.device)
    flat = cosines.flatten(1)
    return [float(x) for x in flat.gather(1, flat.abs().argmax(1, keepdim=True))[:, 0]]


def cosines_of(products: Tensor) -> Tensor:
    """Cosines (..., N, N) from inner products; 0 where a source is zero, 1 on the diagonal."""
    norms = products.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    sizes = norms[..., :, None] * norms[..., None, :]
    cosines = torch.where(sizes > 0, products / sizes.clamp_min(1e-300), 0.0).clamp(-1, 1)
    eye = torch.eye(products.shape[-1], dtype=torch.bool, device=products.device)
    return torch.where(eye, 1.0, cosines)


def _result(recipe: Recipe, adapters: Sequence[Adapter], modules: Mapping[str, LoraModule]) -> Adapter:
    order = {name: None for adapter in adapters for name in adapter.modules if name in modules}
    active = _active(recipe, adapters)
    carrier = next((adapter for adapter in adapters if adapter.name == recipe.extras), None)
    if recipe.extras and carrier is None:
        raise CannotMerge(
            f"Extras were to come from {recipe.extras!r}", "no source has that name", "name one of the sources"
        )
    tasks = {adapter.config.get("task_type") for adapter in active}
    config: dict[str, Any] = {"fan_in_fan_out": any(adapter.config.get("fan_in_fan_out") for adapter in active)}
    if len(tasks) == 1 and (task := tasks.pop()):
        config["task_type"] = task
    if carrier is not None:
        carried = ("modules_to_save", "bias", "trainable_token_indices")
        config |= {key: carrier.config[key] for key in carried if key in carrier.config}
    return Adapter(
        name=recipe.name or "merge",
        modules={name: modules[name] for name in order},
        evidence=f"composed by {recipe.method}",
        base=recipe.base or preflight.common_base(active),
        extras=carrier.extras if carrier is not None else {},
        config=config,
        files=tuple(dict.fromkeys(file for adapter in adapters for file in adapter.files)),
    )


def _report(
    recipe: Recipe, sources: Sources, work: _Work, adapter: Adapter, warnings: tuple[str, ...], seconds: float
) -> Report:
    norms = work.gram.diagonal().clamp_min(0).sqrt().tolist()
    names = [source.name for source in sources.adapters]
    hashes = sources.hashes or (None,) * len(names)
    about = tuple(
        SourceReport(a.name, w, n, a.ranks, len(a.modules), h)
        for a, w, n, h in zip(sources.adapters, recipe.weights, norms, hashes, strict=True)
    )
    cosines = tuple(tuple(row) for row in cosines_of(work.gram).tolist())
    rows = tuple(work.rows)
    before, after, dot = (
        math.fsum(values) for values in zip(*((r.norm_before**2, r.norm**2, _dot(r)) for r in rows), strict=True)
    )
    wanted = [(row.norm**2 / row.kept if row.kept else 0.0, row.norm**2) for row in rows]
    want, held = math.fsum(w for w, _ in wanted), math.fsum(h for _, h in wanted)
    return Report(
        method=recipe.method,
        knobs=work.knobs,
        scale=recipe.scale,
        seed=recipe.seed,
        sources=about,
        cosines=cosines,
        kept_energy=held / want if want else 1.0,
        cosine_to_sum=dot / math.sqrt(before * after) if before * after > 0 else None,
        error_to_sum=math.sqrt(max(before + after - 2 * dot, 0.0) / before) if before else 0.0,
        norm_before=math.sqrt(before),
        norm_after=math.sqrt(after),
        rank=adapter.rank,
        parameters=sum(m.rank * (m.d_in + m.d_out) for m in adapter.modules.values()),
        extras=_extras(recipe, sources.adapters),
        warnings=(*warnings, *_sizes_said(recipe, names, norms, cosines, math.sqrt(after))),
        modules=rows,
        seconds=seconds,
        recipe_digest=recipe.digest(),
    )


def _sizes_said(
    recipe: Recipe, names: Sequence[str], norms: Sequence[float], cosines: Sequence[Sequence[float]], norm: float
) -> tuple[str, ...]:
    """What the sizes and angles of the sources that take part warn of."""
    active = [i for i, weight in enumerate(recipe.weights) if weight]
    those, sizes = [names[i] for i in active], [norms[i] for i in active]
    angles = [[cosines[i][j] for j in active] for i in active]
    return (
        *preflight.loudness(those, sizes),
        *preflight.oversize(norm, those, sizes),
        *preflight.copies(those, sizes, angles),
    )


def _dot(row: ModuleReport) -> float:
    return 0.0 if row.cosine is None else row.cosine * row.norm_before * row.norm


def _extras(recipe: Recipe, adapters: Sequence[Adapter]) -> str:
    """One sentence on heads, biases and other full tensors."""
    having = [adapter for adapter in adapters if adapter.extras]
    if not having:
        return "none"
    dropped = [f"{adapter.name} ({len(adapter.extras)})" for adapter in having if adapter.name != recipe.extras]
    carried = [f"{adapter.name} ({len(adapter.extras)})" for adapter in having if adapter.name == recipe.extras]
    said = [f"carried from {carried[0]}"] if carried else []
    return "; ".join(said + ([f"dropped from {', '.join(dropped)}"] if dropped else []))
