"""What became of every tensor of a file, and who says each number that scales an update: the account of an adapter."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Fate = Literal["module", "extra", "left out"]


@dataclass(frozen=True, slots=True)
class ScalingSource:
    """Who says a module's scaling, in words; `is_default` where nothing in the file does."""

    text: str
    is_default: bool = False


MADE_HERE = ScalingSource("made here")


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One stored tensor: part of `modules`, an extra that is carried, or left out, and then `why`.

    `is_harmless` where leaving it out changes nothing: the base's own weights, another adapter of the file.
    """

    key: str
    fate: Fate
    modules: tuple[str, ...] = ()
    why: str = ""
    is_harmless: bool = False


@dataclass(frozen=True, slots=True)
class ScalingRow:
    """The factor of one module and its source."""

    module: str
    scaling: float
    source: ScalingSource


@dataclass(frozen=True, slots=True)
class Account:
    """Every tensor of the opened file and every module; the first is empty for an adapter made in memory."""

    tensors: tuple[TensorRow, ...]
    scalings: tuple[ScalingRow, ...]

    @property
    def left_out(self) -> tuple[TensorRow, ...]:
        """The tensors that neither a merge nor an export takes."""
        return tuple(row for row in self.tensors if row.fate == "left out")

    def to_json(self) -> dict[str, Any]:
        """Two lists of objects, `tensors` and `scalings`."""
        rows = (
            {"module": row.module, "scaling": row.scaling, "source": row.source.text, "default": row.source.is_default}
            for row in self.scalings
        )
        return {"tensors": [asdict(row) for row in self.tensors], "scalings": list(rows)}

    def tensors_in_words(self) -> str:
        """How many tensors went where."""
        words = {"module": "in modules", "extra": "beside them", "left out": "left out"}
        counts = {fate: sum(row.fate == fate for row in self.tensors) for fate in words}
        return ", ".join(f"{count} {words[fate]}" for fate, count in counts.items() if count)

    def scaling_in_words(self) -> str:
        """Who says the scaling: the first source, and how many others there are."""
        sources = list(dict.fromkeys(row.source.text for row in self.scalings))
        more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
        return sources[0] + more if sources else ""
