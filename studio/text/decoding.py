"""Choosing the next token of every column at once, with the same randomness for all."""

from __future__ import annotations

from dataclasses import dataclass

from studio.core.errors import BadRecipe
from studio.core.late import torch


@dataclass(frozen=True, slots=True)
class Decoding:
    """How columns are written: temperature 0 is greedy; `every` tokens the texts so far are given out.

    Raises `BadRecipe` for numbers out of bounds.
    """

    max_tokens: int = 120
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    every: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.max_tokens <= 1 << 16:
            raise BadRecipe(f"max_tokens is {self.max_tokens}", "it lies between 1 and 65536")
        if not 0.0 <= self.temperature <= 10.0:
            raise BadRecipe(f"temperature is {self.temperature}", "it lies between 0 (greedy) and 10")
        if not 0.0 < self.top_p <= 1.0:
            raise BadRecipe(f"top_p is {self.top_p}", "it lies above 0 and up to 1")
        if not 0 <= self.seed < 1 << 63:
            raise BadRecipe(f"seed is {self.seed}", "it is a whole number from 0 up")
        if self.every < 1:
            raise BadRecipe(f"every is {self.every}", "it counts tokens from 1")


class Chooser:
    """The next tokens, one a row, for one generation.

    Sampling is by the Gumbel-max trick with one draw of noise a step shared by all rows: equal logits give equal
    tokens, and columns differ because their adapters do, not because their dice did.
    """

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._generator = torch.Generator().manual_seed(decoding.seed)

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Token ids (rows,) from logits (rows, vocabulary)."""
        logits = logits.to("cpu", torch.float32)
        if self._decoding.temperature == 0.0:
            return logits.argmax(-1)
        gumbel = torch.empty(logits.shape[-1]).exponential_(generator=self._generator).log().neg()
        kept = _nucleus(logits / self._decoding.temperature, self._decoding.top_p)
        return (kept + gumbel).argmax(-1)


def _nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """The logits with all but the smallest set of tokens of mass top_p at -inf (Holtzman et al., arXiv:1904.09751)."""
    if top_p >= 1.0:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    mass = ordered.softmax(-1)
    outside = mass.cumsum(-1) - mass >= top_p  # the mass before a token; the first one always stays
    return logits.masked_fill(outside.scatter(-1, order, outside), float("-inf"))
