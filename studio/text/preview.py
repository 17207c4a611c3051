"""The text preview: base, every source alone and the merge, written side by side by one batch over one base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from studio.core.adapter import Adapter, Finding
from studio.core.errors import LoomError
from studio.core.late import torch
from studio.text.bases import TextBase
from studio.text.decoding import Chooser, Decoding
from studio.text.reading import Reader, total_loss
from studio.text.rows import Block, Stack, stack_factors, view_with_rows

Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Perplexity:
    """exp of the mean negative log-likelihood a token, by column, over `tokens` predicted tokens.

    `left_out` tokens at the end did not fit the base's context and were not read.
    """

    values: tuple[float, ...]
    tokens: int
    left_out: int


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """The columns of one set of sources over a base: the base, each source alone at 1.0, and a merge where given.

    The sources' factors are stacked once, by `open_preview`; a merge is one more row, made anew for each call. Nothing
    here changes after it is made, so several threads may call it and share the base.
    """

    base: TextBase
    names: tuple[str, ...]
    stack: Stack
    findings: tuple[Finding, ...] = ()

    def columns(self, merge: Adapter | None = None) -> tuple[str, ...]:
        """The names of the columns, in the order of every result."""
        return ("base", *self.names) if merge is None else ("base", *self.names, "merge")

    def generate(
        self, prompt: str, merge: Adapter | None = None, decoding: Decoding | None = None, *, stop: Stop | None = None
    ) -> Iterator[tuple[str, ...]]:
        """The continuations so far, one a column, after the first token and then every few.

        `stop` is asked before each token; when it says so, the stream ends with what is written. Raises at once, before
        the first text: `WrongBase` where the merge does not fit the base, `LoomError` for a prompt that is empty or
        leaves no room.
        """
        ids = self.base.encode(prompt)
        if len(ids) >= self.base.context:
            raise LoomError(f"The prompt has {len(ids)} tokens", f"the base reads {self.base.context}", "shorten it")
        view, columns = self._view(merge), self.columns(merge)
        return _stream(self.base, view, columns, ids, decoding or Decoding(), stop or _never)

    def perplexity(self, text: str, merge: Adapter | None = None) -> Perplexity:
        """How well each column predicts the text, by one batch; lower is better. The first token is given.

        A text longer than the context is cut there, and `left_out` says by how much. Raises `LoomError` for less than
        two tokens, `WrongBase` as `generate` does.
        """
        ids = self.base.encode(text)
        kept = ids[: self.base.context]
        if len(kept) < 2:
            raise LoomError("The text is too short to measure", f"it has {len(kept)} token", "give at least two")
        mean = total_loss(self._view(merge), kept, len(self.columns(merge))) / (len(kept) - 1)
        return Perplexity(tuple(mean.exp().tolist()), len(kept) - 1, len(ids) - len(kept))

    def _view(self, merge: Adapter | None) -> Any:
        """The base with one row a column; row 0, the base's own, belongs to no block and stays the stock model."""
        blocks = [Block(1, self.stack)]
        if merge is not None:
            blocks.append(Block(1 + len(self.names), stack_factors(self.base.model, [merge])))
        return view_with_rows(self.base.model, len(self.columns(merge)), blocks)


def open_preview(base: TextBase, sources: Sequence[Adapter]) -> Preview:
    """Stack the factors of the sources, once for a set; raises `WrongBase` where one does not fit the base."""
    findings = tuple(
        Finding("warn", f"{source.name}: its {len(source.extras)} full tensors are left out, only its LoRA is shown")
        for source in sources
        if source.extras
    )
    return Preview(base, tuple(source.name for source in sources), stack_factors(base.model, sources), findings)


def _stream(
    base: TextBase, view: Any, columns: tuple[str, ...], prompt: list[int], decoding: Decoding, stop: Stop
) -> Iterator[tuple[str, ...]]:
    """Write all columns a token at a time, until each has ended, the length is reached, or `stop` says so."""
    reader, chooser, draft = Reader(view), Chooser(decoding), _Draft(base, prompt, len(columns))
    given = torch.tensor([prompt] * len(columns))
    length = min(decoding.max_tokens, base.context - len(prompt))
    for step in range(length):
        if stop():
            break
        logits = reader.read(given, last_only=True)[:, 0]
        if step == 0:
            _check_finite(logits, columns)
        given = chooser.choose(logits)[:, None]
        draft.add(given[:, 0].tolist())
        if draft.is_done:
            break
        if step % decoding.every == 0 and step + 1 < length:
            yield draft.texts(is_partial=True)
    yield draft.texts(is_partial=False)


class _Draft:
    """What the columns have written so far; a row that reached an end token gets no more."""

    def __init__(self, base: TextBase, prompt: list[int], rows: int) -> None:
        self._base, self._prompt = base, prompt
        self._head = len(base.decode(prompt))
        self._rows: list[list[int]] = [[] for _ in range(rows)]
        self._open = set(range(rows))

    @property
    def is_done(self) -> bool:
        """Whether every row has ended."""
        return not self._open

    def add(self, tokens: list[int]) -> None:
        """One more token a row."""
        for row in sorted(self._open):
            self._rows[row].append(tokens[row])
            if tokens[row] in self._base.end_tokens:
                self._open.remove(row)

    def texts(self, *, is_partial: bool) -> tuple[str, ...]:
        """What each row adds to the prompt; decoded with it, since some tokenizers drop a text's first blank."""
        texts = (self._base.decode(self._prompt + row)[self._head :] for row in self._rows)
        # a character may be cut in the middle of its bytes: it shows when the rest arrives
        return tuple(text.rstrip("\N{REPLACEMENT CHARACTER}") if is_partial else text for text in texts)


def _never() -> bool:
    """The `stop` of callers that gave none."""
    return False


def _check_finite(logits: torch.Tensor, columns: Sequence[str]) -> None:
    broken = [name for name, row in zip(columns, logits, strict=True) if bool(row.isnan().any())]
    if broken:
        raise LoomError(f"{', '.join(broken)} gives no numbers", "its update is far too large", "lower the weight")
