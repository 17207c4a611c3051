"""Export: the composed adapter with its recipe and card, read back and compared before anyone is told."""

from __future__ import annotations

from pathlib import Path

from studio.composing.compose import Composition
from studio.composing.report import Report
from studio.core.hub_ids import hub_id_or_none
from studio.core.version import VERSION
from studio.formats import save_adapter
from studio.formats.containers.safetensors_file import SaveDtype
from studio.recipes.recipe import Recipe, placed
from studio.text.folders import folder_at_hand


def export(
    composition: Composition,
    recipe: Recipe,
    out: Path,
    *,
    format: str = "peft",
    dtype: SaveDtype = "float32",
    base_config: Path | None = None,
) -> Path:
    """Write the adapter to a folder or a .zip, with the recipe as one who unpacks it there must read it.

    `base_config` is the base model's config.json, which GGUF needs; where the base is at hand, its own is taken.
    Raises `LoomError` if what was read back differs from what was composed.
    """
    adapter, report = composition
    carried = placed(recipe, out.with_suffix("") if out.suffix.lower() == ".zip" else out, for_others=True)
    return save_adapter(
        adapter,
        out,
        format,
        dtype=dtype,
        recipe=carried.to_yaml(),
        card=card(adapter.base, recipe, report),
        base_config=base_config or _config_at_hand(adapter.base),
    )


def _config_at_hand(base: str | None) -> Path | None:
    folder = folder_at_hand(base, None) if base else None
    return folder / "config.json" if folder else None


def card(base: str | None, recipe: Recipe, report: Report) -> str:
    """The model card: what was merged, how, with which numbers, and what to think of before publishing it."""
    rows = [
        f"| {_cell(source.name)} | {source.weight:g} | {source.norm:.4g} | {', '.join(map(str, source.ranks))} | "
        f"`{source.sha256[:16] if source.sha256 else 'not from a file'}` |"
        for source in report.sources
    ]
    front = [
        "---",
        "library_name: peft",
        "tags: [lora, merge, lora-loom]",
        *([f"base_model: {known}"] if (known := hub_id_or_none(base)) else []),
        "---",
    ]
    to_sum = "-" if report.cosine_to_sum is None else f"{report.cosine_to_sum:.4f}"
    return "\n".join(
        [
            *front,
            "",
            f"# {_cell(recipe.name) or 'A merged adapter'}",
            "",
            recipe.note
            or f"Merged by LoRA Loom {VERSION} with the method `{recipe.method}`; `recipe.yaml` repeats it.",
            "",
            "| source | weight | norm | ranks | SHA-256 of its weights |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
            f"Kept energy {report.kept_energy:.4%}, cosine to the exact weighted sum {to_sum}, "
            f"norm {report.norm_after:.4g}, rank {report.rank}, {len(report.modules)} modules. "
            f"Other tensors (heads, biases): {report.extras}.",
            "",
            "Licence: a merge carries the terms of every source and of the base model. Check them before you publish.",
            "",
        ]
    )


def _cell(name: str) -> str:
    """A name from outside, on one line and without what ends a table's cell."""
    return " ".join(name.split()).replace("|", "\\|")
