"""Fetch an adapter from a Hugging Face Hub: its config, weights and card, at one commit, and nothing else.

`HF_ENDPOINT` is honoured, so any server of that shape will do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoSibling

from studio.core.errors import LoomError, MissingFile, NotAtHand, Refused
from studio.core.hub_ids import looks_like_id
from studio.formats.containers.bundle import CONFIG, NESTED, choose_weights

MAX_BYTES = 8 << 30
_REVISION = re.compile(r"[\w][\w.\-/]{0,199}")
_CARD = "README.md"
_TIMEOUT_SECONDS = 20.0
_T = TypeVar("_T")


def pinned_revision(hub_id: str, revision: str | None = None) -> str:
    """The commit (40 hexadecimal digits) that a revision means now; without one, the default branch's."""
    return _commit(_info(hub_id, revision))


def fetch(hub_id: str, revision: str | None = None, into: Path | None = None) -> Path:
    """Download an adapter and return its folder; `into` chooses the cache, whose folder is named by the commit.

    `owner/name#vision` is the adapter in the repository's folder `vision-lora`, where there is one.
    Raises `Refused` for a malformed id or a repository without one clear adapter or beyond the size cap, `MissingFile`
    where the repository or revision is not there, `NotAtHand` where the Hub cannot be reached.
    """
    hub_id, _, selected = hub_id.partition("#")
    info = _info(hub_id, revision)
    commit = _commit(info)
    names = wanted_files(hub_id, info.siblings or [], selected)
    download = partial(hf_hub_download, hub_id, revision=commit, cache_dir=into, endpoint=_endpoint())
    paths = [Path(_asked(hub_id, partial(download, name))) for name in names]
    return paths[0].parent


def wanted_files(hub_id: str, siblings: Sequence[RepoSibling], selected: str = "") -> list[str]:
    """The weights first, then config and card, from a repository's listing, or from its folder of a selected adapter.

    Raises `Refused` where it is unclear which weights are meant, and beyond the size cap.
    """
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in siblings}
    nested = f"{selected}{NESTED}/"
    inside = nested if selected and any(name.startswith(nested) for name in sizes) else ""
    top = [name for path in sizes if path.startswith(inside) and "/" not in (name := path.removeprefix(inside))]
    weights = choose_weights(top)
    if len(weights) != 1:
        found = f"{len(weights)} weights files at its top" if weights else "no weights file at its top"
        raise Refused(
            f"{hub_id} holds no single adapter", f"there is {found}", "download the file that you mean, and open it"
        )
    names = [inside + name for name in (*weights, *(name for name in (CONFIG, _CARD) if name in top))]
    total = sum(sizes[name] for name in names)
    if total > MAX_BYTES:
        raise Refused(
            f"{hub_id} is {total / 1e9:.1f} GB", f"the limit is {MAX_BYTES / 1e9:.1f} GB", "download it yourself"
        )
    return names


def _info(hub_id: str, revision: str | None) -> ModelInfo:
    if not looks_like_id(hub_id):
        raise Refused(f"{hub_id[:100]!r} is not a Hub id", next="write owner/name")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise Refused(f"{revision[:100]!r} is not a revision", next="give a branch, a tag or a commit")

    api = HfApi(endpoint=_endpoint())
    ask = partial(api.model_info, hub_id, revision=revision, files_metadata=True, timeout=_TIMEOUT_SECONDS)
    return _asked(hub_id, ask)


def _endpoint() -> str | None:
    """The Hub to ask; read at each call, as the library itself reads it only once, when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None


def _asked(hub_id: str, ask: Callable[[], _T]) -> _T:
    """Ask the Hub, turning its errors into ours."""
    try:
        return ask()
    except RevisionNotFoundError as error:
        raise MissingFile(f"{hub_id} has no such revision", next="give a branch, a tag or a commit") from error
    except RepositoryNotFoundError as error:
        why = "there is no such repository, or it is private"
        raise MissingFile(f"{hub_id} was not found", why, "check the id, or log in with `hf auth login`") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx2.TransportError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NotAtHand("The Hub cannot be reached", why, "check the network, or open a folder instead") from error
    except EntryNotFoundError as error:
        raise MissingFile(f"{hub_id} lost a file while it was fetched", next="try again") from error
    except HfHubHTTPError as error:
        raise LoomError(f"The Hub refused {hub_id}", str(error).splitlines()[0], "try again later") from error
    except (OSError, ValueError) as error:
        raise LoomError(f"{hub_id} could not be fetched", str(error), "check the disk and the network") from error


def _commit(info: ModelInfo) -> str:
    sha = info.sha or ""
    if not re.fullmatch(r"[0-9a-f]{40}", sha):
        raise LoomError("The Hub named no commit", f"it answered {sha[:60]!r}", "try again later")
    return sha
