"""Typed errors: each says what happened, why, and what to do next.

The engine raises these; the page turns them into messages and the command line into one line of stderr.
"""

from __future__ import annotations


class LoomError(Exception):
    """Expected trouble that a person can act on.

    `what` happened, `why` it did, and the `next` step; the text of the exception joins them.
    """

    def __init__(self, what: str, why: str = "", next: str = "") -> None:
        self.what, self.why, self.next = (_sentence(part) for part in (what, why, next))
        super().__init__(" ".join(part + "." for part in (self.what, self.why, self.next) if part))


class Refused(LoomError):
    """A file that is not a LoRA adapter, or one that cannot be read rightly."""


class CannotMerge(LoomError):
    """A merge that cannot be right, refused before it is done."""


class BadRecipe(LoomError):
    """A recipe that cannot be understood: unknown method or knob, wrong type, number out of bounds."""


class MissingFile(LoomError):
    """A path or a Hub id that leads to no file."""


class Changed(LoomError):
    """A file that is no longer what was opened: deleted, cut, replaced or written to since."""


class NotAtHand(LoomError):
    """Something optional (a base model, a GPU, the network) is not there; everything else still works."""


class Cancelled(LoomError):
    """The person stopped the work; nothing was written."""


def _sentence(text: str) -> str:
    """The text without its full stop, its first letter a capital unless the first word is a name (`a.b`, `k_proj`)."""
    text = text.rstrip(".")
    first = text.partition(" ")[0]
    return text[:1].upper() + text[1:] if first.isalpha() and first.islower() else text
