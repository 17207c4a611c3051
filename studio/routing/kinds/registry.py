"""Router kinds: one pure function in one file each, which turns a policy over adapters into mixing weights.

Command line, page, comparison, docs table and contract tests are all made from these declarations. Listing the kinds
imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from studio.core.registry import label

if TYPE_CHECKING:
    from torch import Tensor

TrainedBy = Literal["draws", "gradient", "nothing"]


@dataclass(frozen=True, slots=True)
class RouterKind:
    """A registered kind of router.

    `weights(log_q, k)` turns log q (..., n) into the mixing weights (..., n) of inference in units of omega. None is
    negative and their sum is k, so that routers differ only in how they share one total; with a `sparse` kind at most
    k are not zero. `trained_by` says what makes the policy better. "draws": the losses of selections that were drawn
    from it, whose k adapters have weight 1 each, as at inference; "gradient": the ordinary gradient through `weights`;
    "nothing": the weights do not depend on it. Below `least_k` they do not either, so that nothing can be learned.
    `formula` is for the docs' table; `why` tells what to expect of the curves of a run.
    """

    id: str
    title: str
    summary: str
    source: str
    formula: str
    why: str
    weights: Callable[[Tensor, int], Tensor]
    trained_by: TrainedBy
    sparse: bool = False
    least_k: int = 1

    @property
    def label(self) -> str:
        """The kind as a choice of a list."""
        return label(self.title, self.summary)

    def learns(self, k: int) -> bool:
        """Whether a router of this kind can get better by training."""
        return self.trained_by != "nothing" and k >= self.least_k


def router_kind(
    *, title: str, source: str, formula: str, why: str, trained_by: TrainedBy, **about: Any
) -> Callable[[Callable[[Tensor, int], Tensor]], RouterKind]:
    """Declare the decorated function a router kind: its name is the id, its docstring begins with the summary."""
    return partial(_declare, title=title, source=source, formula=formula, why=why, trained_by=trained_by, **about)


def _declare(weights: Callable[[Tensor, int], Tensor], **about: Any) -> RouterKind:
    summary = (inspect.getdoc(weights) or "").partition("\n")[0]
    return RouterKind(id=weights.__name__, summary=summary, weights=weights, **about)
