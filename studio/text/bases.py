"""The base model under the text preview: which one the adapters name, whether it is here, and how it is opened.

A base is a folder or a Hub id that transformers reads as a causal language model. No code of a model's repository is
ever run (`trust_remote_code=False`), safetensors come first, and pickles only pass the weights-only loader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.core.adapter import Adapter
from studio.core.errors import LoomError, NotAtHand
from studio.core.late import torch, transformers
from studio.text.folders import commit_of, download, folder_at_hand

MAX_TEXT_CHARACTERS = 1_000_000

_CONTEXT_WHEN_UNSAID = 2048

OnStep = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Base:
    """Which base model: `id` as a person or an adapter names it, the commit it came from if known, a short title."""

    id: str
    revision: str | None
    title: str


@dataclass(frozen=True, slots=True, eq=False)
class TextBase:
    """A causal language model and its tokenizer, loaded once; the weights are only read, so threads may share it."""

    base: Base
    model: Any
    tokenizer: Any

    @property
    def context(self) -> int:
        """The longest sequence the model reads, in tokens."""
        stated = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        limit = stated or self.tokenizer.model_max_length
        return int(limit) if 0 < limit < 1 << 24 else _CONTEXT_WHEN_UNSAID

    @property
    def end_tokens(self) -> frozenset[int]:
        """The ids that end a text."""
        stated = getattr(self.model.generation_config, "eos_token_id", None)
        listed = stated if isinstance(stated, (list, tuple)) else [stated]
        return frozenset(token for token in (*listed, self.tokenizer.eos_token_id) if token is not None)

    def encode(self, text: str) -> list[int]:
        """The text's token ids, begun as the tokenizer begins one; an end mark that some append is taken off.

        Raises `LoomError` where the text gives no token, is absurdly long, or the tokenizer is not the model's.
        """
        if len(text) > MAX_TEXT_CHARACTERS:
            raise LoomError(
                f"The text has {len(text)} characters", f"the limit is {MAX_TEXT_CHARACTERS}", "give a part"
            )
        ids: list[int] = self.tokenizer(text.encode("utf-8", "replace").decode())["input_ids"]
        if len(ids) > 1 and ids[-1] in self.end_tokens:
            ids = ids[:-1]
        if not ids and self.tokenizer.bos_token_id is not None:
            ids = [self.tokenizer.bos_token_id]
        if not ids:
            raise LoomError("The text is empty", "this base has no token that begins a text", "type at least one word")
        rows = self.model.get_input_embeddings().weight.shape[0]
        if max(ids) >= rows:
            raise LoomError(
                f"The tokenizer of {self.base.title} gives token {max(ids)}",
                f"the model knows {rows}: they do not belong together",
                "choose another base",
            )
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, without special tokens."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def find_base(adapters: Iterable[Adapter]) -> str:
    """The base the adapters name in their own files; raises `NotAtHand` where they name none, or several."""
    named = sorted({adapter.base for adapter in adapters if adapter.base})
    if not named:
        raise NotAtHand("The adapters do not name their base model", next="choose the base by folder or Hub id")
    if len(named) > 1:
        raise NotAtHand(f"The adapters name {len(named)} bases", ", ".join(named[:4]), "choose the one to preview on")
    return named[0]


def is_at_hand(source: str, revision: str | None = None) -> bool:
    """Whether the base is here already: embedded, a folder, or in the Hub cache. Never asks the network."""
    return folder_at_hand(source, revision) is not None


def open_base(source: str, revision: str | None = None, *, on_step: OnStep | None = None) -> TextBase:
    """Load a base by folder or Hub id, downloading it only where it is not at hand; see `BaseStore` to share it.

    On a CPU the weights are float32 (half precision is orders slower there), on a GPU as stored. `on_step` gets
    (steps done, steps in all, what is being done). Raises `NotAtHand` for what cannot be reached or read, or is not a
    causal language model.
    """
    say = on_step or _silent
    folder = folder_at_hand(source, revision)
    if folder is None:
        say(0, 2, f"downloading {source}")
        folder = download(source, revision)
    base = Base(source, commit_of(folder) or revision, source.rstrip("/").rsplit("/", 1)[-1])
    say(1, 2, f"loading {base.title}")
    try:
        _check_causal(transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False), base.title)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = _load_model(folder, base.title)
    except LoomError:
        raise
    except Exception as error:  # the libraries raise many types for a folder they cannot read
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise NotAtHand(
            f"{base.title} cannot be loaded", reason, "choose another base; all but the preview works"
        ) from error
    return TextBase(base, model, tokenizer)


def _silent(done: int, total: int, doing: str) -> None:
    """The `on_step` of callers that gave none."""


def _load_model(folder: Path, title: str) -> Any:
    """The model in evaluation mode; weights the folder lacks are an error, where transformers would draw them."""
    on_gpu = torch.cuda.is_available()
    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype="auto" if on_gpu else torch.float32,
        trust_remote_code=False,
        weights_only=True,
        output_loading_info=True,
    )
    lacking = sorted(str(key) for key in (*found["missing_keys"], *found["mismatched_keys"]))
    if lacking:
        raise NotAtHand(
            f"{title} lacks {len(lacking)} of its weights",
            f"such as {', '.join(lacking[:3])}",
            "choose a whole causal language model",
        )
    return model.to("cuda" if on_gpu else "cpu").eval().requires_grad_(False)


def _check_causal(config: Any, title: str) -> None:
    """Refuse encoders, encoder-decoders and models of other things than text, in a plain sentence."""
    kind, known = config.model_type, type(config)
    if getattr(config, "is_encoder_decoder", False):
        why = f"{kind} reads with an encoder and writes with a decoder"
    elif known not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        why = f"{kind} is not a language model that continues a text"
    elif known in transformers.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        why = f"{kind} is an encoder: it fills gaps and does not continue a text"
    else:
        return
    raise NotAtHand(f"{title} has no text preview", why, "choose a causal language model; all else works")
