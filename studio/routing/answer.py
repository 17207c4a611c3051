"""A router writing: a prompt continued by the adapters that it chooses, and which ones answered each token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from studio.core.adapter import Adapter
from studio.core.errors import BadRecipe, LoomError
from studio.core.late import torch
from studio.learning.fit import Stop
from studio.routing.mixing import mix_adapters
from studio.routing.router import BASE, Router
from studio.text.bases import TextBase
from studio.text.decoding import Chooser, Decoding
from studio.text.reading import Reader, accepts, cache_name

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A piece of a text and the share (n,) that each of the router's choices had in it."""

    text: str
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Writing:
    """A text so far: its pieces, token by token."""

    names: tuple[str, ...]
    pieces: tuple[Piece, ...]
    k: int

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(piece.text for piece in self.pieces)

    def labels(self) -> tuple[str, ...]:
        """Who answered each piece: the k heaviest choices, by name in their order, the bare base only if alone."""
        return tuple(answered_by(piece.shares, self.names, self.k) for piece in self.pieces)


def answered_by(shares: Sequence[float], names: Sequence[str], k: int) -> str:
    """The names of the k heaviest choices that take part at all."""
    heaviest = sorted(range(len(names)), key=lambda i: -shares[i])[:k]
    told = [names[i] for i in sorted(heaviest) if shares[i] > 1e-6 and names[i] != BASE]
    return " + ".join(told) or BASE


@dataclass(eq=False)
class _Deciding:
    """A router's decisions while a text is written: one a prompt, held; or one a token.

    `shares` are those of the last token read, the mean over the groups.
    """

    router: Router
    held: dict[int, Tensor] = field(default_factory=dict)
    last: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, group: int, x: Tensor) -> Tensor:
        """Weights (rows, 1 or T, n) for the features (rows, T, D) of the tokens read next."""
        if self.router.granularity == "token":
            weights = self.router.route(x, group)
        else:
            weights = self.held.setdefault(group, self.router.route(x.float().mean(1), group)[:, None])
        self.last[group] = weights[0, -1]
        return weights

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the last decision."""
        mean = torch.stack([weights.abs() / weights.abs().sum().clamp_min(1e-12) for weights in self.last.values()])
        return tuple(mean.mean(0).tolist())


class _Features:
    """What a shared router reads, of the tokens as they come; the bare base keeps its own cache for that."""

    def __init__(self, base: TextBase, router: Router) -> None:
        self._model, self._reads, self._cache = base.model, router.reads, None
        self._cache_name = cache_name(base.model)
        self._seen: Tensor | None = None
        self._options = {"logits_to_keep": 1} if accepts(base.model, "logits_to_keep") else {}

    def read(self, ids: Tensor) -> Tensor:
        """Features (rows, T, D) of the next tokens (rows, T)."""
        with torch.no_grad():
            if self._reads == "embedding":
                return cast("Tensor", self._model.get_input_embeddings()(ids).float())
            self._seen = ids if self._seen is None else torch.cat([self._seen, ids], 1)
            given = self._seen if self._cache is None else ids
            found = self._model(
                input_ids=given,
                use_cache=self._cache_name is not None,
                output_hidden_states=True,
                return_dict=True,
                **self._options,
                **({self._cache_name: self._cache} if self._cache_name else {}),
            )
            self._cache = found.get(self._cache_name) if self._cache_name else None
            return cast("Tensor", found.hidden_states[-1][:, -ids.shape[1] :].float())


def check_fits(router: Router, adapters: Sequence[Adapter]) -> tuple[Adapter, ...]:
    """The adapters in the router's order; raises `BadRecipe` where it was trained over others."""
    known = {adapter.name: adapter for adapter in adapters}
    wanted = [name for name in router.names if name != BASE]
    missing = [name for name in wanted if name not in known]
    if missing or router.reads not in ("embedding", "hidden", "layer"):
        why = f"it also needs {', '.join(missing)}" if missing else f"it reads {router.reads}, which is not text"
        raise BadRecipe("The router does not fit these adapters", why, "open the adapters it was trained over")
    return tuple(known[name] for name in wanted)


def write(
    base: TextBase,
    adapters: Sequence[Adapter],
    router: Router,
    prompt: str,
    decoding: Decoding | None = None,
    *,
    stop: Stop | None = None,
) -> Iterator[Writing]:
    """The continuation so far, each few tokens, as the router's inference writes it.

    Raises `WrongBase` or `BadRecipe` where adapters, router and base do not belong together, `LoomError` for a prompt
    that is empty or leaves no room, all before the first text.
    """
    chosen = check_fits(router, adapters)
    ids = base.encode(prompt)
    if len(ids) >= base.context:
        raise LoomError(f"The prompt has {len(ids)} tokens", f"the base reads {base.context}", "shorten it")
    mixture = mix_adapters(base.model, chosen, by_layer=router.reads == "layer")
    if router.groups != mixture.groups or router.width != base.model.get_input_embeddings().weight.shape[1]:
        raise BadRecipe("The router does not fit this base", f"it was trained on {router.base or 'another'}")
    return _write(base, mixture, router.to(base.model.device), ids, decoding or Decoding(), stop)


def _write(
    base: TextBase, mixture: Any, router: Router, ids: list[int], decoding: Decoding, stop: Stop | None
) -> Iterator[Writing]:
    deciding, features = _Deciding(router), _Features(base, router)
    reader, chooser = Reader(mixture.view), Chooser(decoding)
    if router.reads == "layer":
        mixture.mixing.ask = deciding
    draft: list[int] = []
    pieces: list[Piece] = []
    given = torch.tensor([ids])
    head = len(base.decode(ids))
    for step in range(min(decoding.max_tokens, base.context - len(ids))):
        if stop and stop():
            break
        if router.reads != "layer":
            mixture.mixing.weights[0] = deciding(0, features.read(given.to(base.model.device)))
        given = chooser.choose(reader.read(given, last_only=True)[:, 0])[:, None]
        if int(given) in base.end_tokens:
            break
        draft.append(int(given))
        text = base.decode(ids + draft)[head + sum(len(piece.text) for piece in pieces) :]
        # a character may be cut in the middle of its bytes: it comes with the token that completes it
        pieces.append(Piece("" if text.endswith("\N{REPLACEMENT CHARACTER}") else text, deciding.shares))
        if step % decoding.every == 0:
            yield Writing(router.names, tuple(pieces), router.k)
    yield Writing(router.names, tuple(pieces), router.k)
