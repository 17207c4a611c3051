"""Which dialect a file is in: the one list of readers, in the order in which they are asked."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

from studio.adapter import Adapter
from studio.errors import Refused
from studio.formats import cloneofsimo, diffusers, kohya, lycoris, mlx, peft, sam
from studio.formats.bundle import Bundle

# formats.md section 7: the first that recognises a file reads it. Each has sniff(bundle) and read(bundle).
DIALECTS: tuple[ModuleType, ...] = (sam, cloneofsimo, lycoris, kohya, mlx, diffusers, peft)


def detect(bundle: Bundle) -> tuple[ModuleType, str]:
    """The dialect of a bundle and the evidence for it; raises `Refused` where none fits."""
    for dialect in DIALECTS:
        evidence = dialect.sniff(bundle)
        if evidence:
            return dialect, evidence
    some = ", ".join(bundle.keys[:3]) or "none"
    raise Refused(f"{bundle.name} is no adapter that is known here", f"its {len(bundle.keys)} tensors are named {some}")


def read_bundle(bundle: Bundle) -> Adapter:
    """Read an opened bundle by the first dialect that recognises it."""
    dialect, evidence = detect(bundle)
    adapter: Adapter = dialect.read(bundle)
    return replace(adapter, evidence=evidence)
