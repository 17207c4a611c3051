"""The verdict on a file: what it is, whether it can be used, and everything a person should know before a merge.

The header alone decides the dialect and most findings; then the values are read, one module at a time, for the norm,
NaN and untrained pairs. Bad files get the verdict "refused", never an exception.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from studio.core.account import Account
from studio.core.adapter import Adapter, Finding, LoraModule
from studio.core.errors import LoomError, MissingFile
from studio.formats.containers.bundle import locate, open_bundle, split_selection
from studio.formats.detection import detect, read_bundle

Verdict = Literal["ok", "warn", "refused"]
# Files beyond this are judged by their header; reading them would keep a person waiting for seconds.
_MAX_BYTES_READ = 1 << 30


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` found.

    `alpha` and `scaling` are numbers where uniform, else sorted tuples; `norm` and `untrained` are None if not read.
    `account` says what became of every tensor, and who says each scaling; None where nothing was opened.
    """

    path: str
    verdict: Verdict
    dialect: str | None = None
    evidence: str | None = None
    base: str | None = None
    ranks: tuple[int, ...] = ()
    alpha: float | tuple[float, ...] | None = None
    scaling: float | tuple[float, ...] | None = None
    modules: tuple[str, ...] = ()
    dtype: str | None = None
    bytes: int | None = None
    findings: tuple[Finding, ...] = ()
    norm: float | None = None
    untrained: bool | None = None
    account: Account | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `inspect --json` prints; whether it is untrained stands among the findings."""
        return {
            "path": self.path,
            "verdict": self.verdict,
            "dialect": self.dialect,
            "evidence": self.evidence,
            "base": self.base,
            "ranks": list(self.ranks),
            "alpha": _listed(self.alpha),
            "scaling": _listed(self.scaling),
            "modules": list(self.modules),
            "dtype": self.dtype,
            "bytes": self.bytes,
            "findings": [{"level": f.level, "module": f.module, "text": f.text} for f in self.findings],
            "account": None if self.account is None else self.account.to_json(),
        }

    def to_text(self) -> str:
        """A few lines for a terminal."""
        lines = [f"{self.path}: {self.verdict}"]
        if self.modules:
            ranks = ", ".join(map(str, self.ranks))
            norm = "" if self.norm is None else f", norm {self.norm:.4g}"
            lines[0] += f" - {self.dialect}, {len(self.modules)} modules of rank {ranks}{norm}"
            lines[0] += f", base {self.base or 'unknown'}"
        return "\n".join([*lines, *(f"  {finding.level}: {finding.text}" for finding in self.findings)])


def inspect(path: str | Path) -> Inspection:
    """Judge what is at a path, in under a second for ordinary files. Never raises for what is there or is not."""
    dialect = evidence = None
    try:
        where, selected = split_selection(path)
        bundle = open_bundle(where.expanduser(), selected)
        found, evidence = detect(bundle)
        dialect = found.id
        adapter, size = read_bundle(bundle), bundle.size
    except (LoomError, OSError) as error:
        return _refused(error, path, _size(Path(path).expanduser()), dialect, evidence)
    return judge(adapter, path, size)


def judge(adapter: Adapter, path: str | Path, size: int) -> Inspection:
    """The verdict on an adapter that is open already, from `path`, whose weights are `size` bytes; never raises."""
    try:
        values = _read_values(adapter) if size <= _MAX_BYTES_READ else _Values(note="too large to read its values")
    except (LoomError, OSError) as error:
        return _refused(error, path, size, adapter.dialect, adapter.evidence)
    modules = adapter.modules.values()
    findings = (*adapter.findings, *_value_findings(values, len(adapter.modules)))
    return Inspection(
        path=str(path),
        verdict=_verdict(findings),
        dialect=adapter.dialect,
        evidence=adapter.evidence,
        base=adapter.base,
        ranks=adapter.ranks,
        alpha=_uniform(module.alpha for module in modules),
        scaling=_uniform(module.scaling for module in modules),
        modules=tuple(adapter.modules),
        dtype=", ".join(sorted({module.dtype for module in modules})),
        bytes=size,
        findings=findings,
        norm=values.norm,
        untrained=None if values.note else len(values.zero) == len(adapter.modules),
        account=adapter.account(),
    )


def _refused(
    error: LoomError | OSError, path: str | Path, size: int | None, dialect: str | None, evidence: str | None
) -> Inspection:
    trouble = error if isinstance(error, LoomError) else MissingFile(f"{path} cannot be read", str(error))
    return Inspection(str(path), "refused", dialect, evidence, findings=(Finding("stop", str(trouble)),), bytes=size)


@dataclass(frozen=True, slots=True)
class _Values:
    """What the values of all modules say."""

    norm: float | None = None
    broken: tuple[str, ...] = ()
    zero: tuple[str, ...] = ()
    unscaled: bool = False
    note: str | None = None


def _read_values(adapter: Adapter) -> _Values:
    norms = {name: _norm(module) for name, module in adapter.modules.items()}
    return _Values(
        norm=math.hypot(*norms.values()),
        broken=tuple(name for name, norm in norms.items() if not math.isfinite(norm)),
        zero=tuple(name for name, norm in norms.items() if norm == 0),
        unscaled=all(module.scaling == 0 for module in adapter.modules.values()),
    )


def _norm(module: LoraModule) -> float:
    try:
        return module.norm()
    except (MemoryError, ValueError) as error:
        raise LoomError(f"{module.name} cannot be read", str(error), "save the adapter again") from error


def _value_findings(values: _Values, count: int) -> list[Finding]:
    findings = []
    if values.note:
        findings.append(Finding("note", values.note))
    if values.broken:
        text = f"broken: {len(values.broken)} of {count} modules hold NaN or infinite numbers, and so would every merge"
        findings.append(Finding("stop", text, values.broken[0]))
    if values.zero and len(values.zero) == count:
        why = "its scaling is zero" if values.unscaled else "untrained: every B is zero"
        findings.append(Finding("warn", f"{why}, so the adapter changes nothing"))
    elif values.zero:
        text = f"{len(values.zero)} of {count} modules are zero and change nothing"
        findings.append(Finding("note", text, values.zero[0]))
    return findings


def _verdict(findings: Sequence[Finding]) -> Verdict:
    levels = {finding.level for finding in findings}
    return "refused" if "stop" in levels else "warn" if "warn" in levels else "ok"


def _uniform(numbers: Iterable[float]) -> float | tuple[float, ...]:
    distinct = tuple(sorted(set(numbers)))
    return distinct[0] if len(distinct) == 1 else distinct


def _listed(value: float | tuple[float, ...] | None) -> float | list[float] | None:
    return list(value) if isinstance(value, tuple) else value


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else locate(path).weights.stat().st_size
    except (LoomError, OSError):
        return None
