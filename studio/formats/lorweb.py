"""Recognise LoRWeB bases, which hold many adapters and what mixes them: the analogy room reads them, a merge cannot.

Asked before every other dialect, because such a file looks like a diffusers one and would do nothing as such
(visual-analogy.md 3.2).
"""

from __future__ import annotations

from typing import NoReturn

from studio.errors import Refused
from studio.formats.bundle import Bundle
from studio.vision.lorweb import is_lorweb


def sniff(bundle: Bundle) -> str | None:
    """Evidence of a basis, or None."""
    if not is_lorweb(bundle.keys):
        return None
    return f"LoRWeB keys such as {next(key for key in bundle.keys if key.endswith('.lora_keys'))}"


def read(bundle: Bundle) -> NoReturn:
    """Always raises `Refused`: a basis becomes a LoRA only for one pair of pictures."""
    count = sum(key.endswith(".lora_keys") for key in bundle.keys)
    raise Refused(
        "this is a LoRWeB basis, not one LoRA",
        f"{count} layers hold adapters that a pair of pictures mixes ({sniff(bundle)})",
        "open it in the analogy room; an analogy made there can be merged",
    )
