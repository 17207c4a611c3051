"""Reading tokens with a causal model, piece by piece, keys and values kept; and how surprising they were."""

from __future__ import annotations

import inspect
from typing import Any

from studio.core.late import torch

_MAX_LOGITS = 1 << 26  # float32 logits held at once while a text is measured: 256 MiB


def accepts(model: Any, option: str) -> bool:
    """Whether the model's forward pass has this option."""
    return option in inspect.signature(model.forward).parameters


def cache_name(model: Any) -> str | None:
    """What the model calls the keys and values it keeps (`cache` from transformers 5.24 on); None where there are none.

    A recurrent state is not used: it goes on by one token at a time, and reading goes by pieces.
    """
    if getattr(model, "_is_stateful", False):
        return None
    return "cache" if accepts(model, "cache") else "past_key_values"


class Reader:
    """A model that reads from left to right and remembers what it has read."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None
        self._seen: torch.Tensor | None = None
        self._can_keep_last = accepts(model, "logits_to_keep")
        self._cache_name = cache_name(model)

    def read(self, ids: torch.Tensor, *, last_only: bool = False) -> torch.Tensor:
        """Logits (rows, T, vocabulary) after each of the next T tokens (rows, T); with `last_only`, T is 1."""
        self._seen = ids if self._seen is None else torch.cat([self._seen, ids], 1)
        given = self._seen if self._cache is None else ids  # a model that cannot go on reads it all again
        options: dict[str, Any] = {"logits_to_keep": 1} if last_only and self._can_keep_last else {}
        if self._cache_name:
            options[self._cache_name] = self._cache
        with torch.inference_mode():
            result = self._model(
                input_ids=given.to(self._model.device),
                use_cache=self._cache_name is not None,
                return_dict=True,
                **options,
            )
        self._cache = result.get(self._cache_name) if self._cache_name else None
        logits: torch.Tensor = result.logits[:, -1 if last_only else -ids.shape[1] :]
        return logits


def total_loss(model: Any, ids: list[int], rows: int) -> torch.Tensor:
    """Negative log-likelihood of ids[1:] by row, nats, float64 (rows,); in pieces, so that the logits fit in memory."""
    reader, tokens = Reader(model), torch.tensor(ids)
    piece = max(1, _MAX_LOGITS // (rows * model.config.get_text_config().vocab_size))
    total = torch.zeros(rows, dtype=torch.float64)
    for start in range(0, len(ids) - 1, piece):
        target = tokens[start + 1 : start + 1 + piece]
        logits = reader.read(tokens[start : start + len(target)].expand(rows, -1))
        index = target.to(logits.device).expand(rows, -1)[..., None]
        total -= logits.float().log_softmax(-1).gather(-1, index).sum((1, 2)).double().cpu()
    return total
