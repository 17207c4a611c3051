"""The embedded mixture at work: one frozen text decoder, at most one adapter at a time, tokens of pictures and sounds.

The folder is laid out as Phi-4-multimodal's: `vision-lora/` and `speech-lora/` are PEFT folders for
the embedded text base, `encoders.safetensors` holds the rest. The decoder's input is

    <|endoftext|>  picture (4 tokens, if any)  sound (4 tokens, if any)  Question: ...  Answer:
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from studio.audio.features import log_mel
from studio.core.adapter import Adapter
from studio.core.data import assets
from studio.core.errors import LoomError, MissingFile, Refused
from studio.core.late import peft, torch
from studio.core.tensors import open_safetensors
from studio.formats import save_adapter
from studio.mixture.encoders import (
    Head,
    Weights,
    audio_features,
    fresh_weights,
    image_features,
    project_audio,
    project_image,
)
from studio.mixture.world import Example
from studio.routing.modality import Decision, ModalityRouter, active
from studio.text.bases import TextBase, open_base

EMBEDDED = assets("mixture")
BASE = "lora-loom/text-base"
ADAPTERS = ("vision", "speech")
ENCODERS = "encoders.safetensors"
_LONGEST = 12  # tokens of an answer


@dataclass(frozen=True, eq=False)
class Mixture:
    """Decoder with both adapters loaded, and the encoders' weights.

    Which adapter is active is a state of the decoder, so every call holds `lock` while it sets and uses one.
    """

    base: TextBase
    decoder: Any  # PeftModel over base.model
    weights: Weights
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, examples: Sequence[Example], adapter: str | None) -> list[str]:
        """The greedy answers to questions of one mode under one adapter, or none; see `studio.routing.modality`.

        Raises `LoomError` for mixed modes, an unknown adapter, or a prompt that is too long.
        """
        with self.lock, active(self.decoder, adapter), torch.inference_mode():
            opened, prompts = self.tokens(examples), self.prompts(examples)
            written: list[list[int]] = [[] for _ in examples]
            for _ in range(_LONGEST):
                rows = [prompt + row for prompt, row in zip(prompts, written, strict=True)]
                chosen = self.logits(opened, rows).argmax(-1).tolist()
                for row, token in zip(written, chosen, strict=True):
                    if not (row and row[-1] in self.base.end_tokens):
                        row.append(token)
                if all(row[-1] in self.base.end_tokens for row in written):
                    break
        return [self.base.decode([token for token in row if token not in self.base.end_tokens]) for row in written]

    def answer_all(self, examples: Sequence[Example], router: ModalityRouter) -> tuple[list[str], list[Decision]]:
        """The answers to questions of any modes, split by mode, each under the adapter that the router picks."""
        parts, log = router.split([example.inputs for example in examples])
        said: dict[int, str] = {}
        for part in parts:
            some = [examples[row] for row in part.rows]
            said |= dict(zip(part.rows, self.answer(some, part.adapter), strict=True))
        return [said[row] for row in range(len(examples))], log

    def next_logits(self, prompt: list[int], adapter: str | None) -> torch.Tensor:
        """Logits (vocabulary,) of the token after a prompt of text alone, read as the base reads it."""
        with self.lock, active(self.decoder, adapter), torch.inference_mode():
            logits: torch.Tensor = self.decoder(input_ids=torch.tensor([prompt])).logits[0, -1]
        return logits

    def prompts(self, examples: Sequence[Example]) -> list[list[int]]:
        """Token ids of the prompts. Raises `LoomError` for one that leaves no room for an answer."""
        found = [self.base.encode(example.prompt) for example in examples]
        longest = max(map(len, found), default=0)
        if longest + _LONGEST + 8 > self.base.context:
            raise LoomError(
                f"The question has {longest} tokens", f"the decoder reads {self.base.context}", "shorten it"
            )
        return found

    def tokens(self, examples: Sequence[Example]) -> torch.Tensor:
        """What the encoders make of pictures and sounds, (n, t, width) with t = 0, 4 or 8: examples are of one mode."""
        if len({example.inputs.mode for example in examples}) > 1:
            raise LoomError("These questions have different inputs", next="split the batch by mode")
        parts = [torch.zeros(len(examples), 0, self.base.model.config.hidden_size)]
        images = [example.image for example in examples if example.image is not None]
        sounds = [example.sound for example in examples if example.sound is not None]
        if images:
            pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
            parts.append(project_image(self.weights, image_features(self.weights, pixels)))
        if sounds:
            mel = torch.from_numpy(log_mel(np.stack(sounds)))
            head: Head = "vision" if images else "speech"
            parts.append(project_audio(self.weights, audio_features(self.weights, mel), head))
        return torch.cat(parts, 1)

    def logits(self, opened: torch.Tensor, rows: Sequence[list[int]]) -> torch.Tensor:
        """Logits (n, vocabulary) of the token that follows each row, under whatever adapter is active."""
        states, ends = self.states(opened, rows)
        model = self.decoder.get_base_model()
        result: torch.Tensor = model.lm_head(states[torch.arange(len(rows)), ends - 1])
        return result

    def losses(self, examples: Sequence[Example], adapter: str | None) -> torch.Tensor:
        """Mean negative log-likelihood of a token of each right answer (n,), the end included, under one adapter."""
        with self.lock, active(self.decoder, adapter), torch.inference_mode():
            found, row = self.token_losses(
                self.tokens(examples), self.prompts(examples), self.answers([example.answer for example in examples])
            )
        total = torch.zeros(len(examples)).index_add(0, row, found)
        return total / torch.bincount(row, minlength=len(examples))

    def features(self, examples: Sequence[Example]) -> torch.Tensor:
        """The mean of what the decoder is given for each example, (n, width): for a router to read."""
        with torch.inference_mode():
            words = self.decoder.get_base_model().get_input_embeddings()
            given = zip(self.tokens(examples), self.prompts(examples), strict=True)
            return torch.stack([torch.cat([own, words(torch.tensor(ids))]).mean(0) for own, ids in given])

    def answers(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of answers that follow a prompt, each closed by the end."""
        tokenizer = self.base.tokenizer
        return [tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for text in texts]

    def token_losses(
        self, opened: torch.Tensor, prompts: Sequence[list[int]], answers: Sequence[list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Negative log-likelihood of every token of the answers, one after another, and the row it belongs to.

        Under whatever adapter is active; gradients flow where they are wanted.
        """
        states, _ = self.states(opened, [p + a[:-1] for p, a in zip(prompts, answers, strict=True)])
        first = opened.shape[1] - 1
        lengths = [(first + len(p), len(a)) for p, a in zip(prompts, answers, strict=True)]
        at = torch.tensor([(row, start + k) for row, (start, count) in enumerate(lengths) for k in range(count)])
        logits = self.decoder.get_base_model().lm_head(states[at[:, 0], at[:, 1]])
        target = torch.tensor([token for answer in answers for token in answer])
        return torch.nn.functional.cross_entropy(logits, target, reduction="none"), at[:, 0]

    def states(self, opened: torch.Tensor, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Last hidden states (n, time, width) of rows of token ids behind their modal tokens, and each row's length.

        Rows are padded on the right, where a causal model does not look.
        """
        model = self.decoder.get_base_model()
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        words = model.get_input_embeddings()(ids)
        given = torch.cat([words[:, :1], opened, words[:, 1:]], 1)
        ends = torch.tensor([len(row) for row in rows]) + opened.shape[1]
        return model.model(inputs_embeds=given, use_cache=False).last_hidden_state, ends

    def add(self, adapter: Adapter, name: str) -> None:
        """Load one more adapter of the decoder under a name, for example a merge of the two."""
        with tempfile.TemporaryDirectory(prefix="loom-mixture-", ignore_cleanup_errors=True) as folder, self.lock:
            save_adapter(adapter, Path(folder) / name)
            self.decoder.load_adapter(Path(folder) / name, adapter_name=name)
            self.decoder.eval().requires_grad_(False)


def open_mixture(folder: Path = EMBEDDED) -> Mixture:
    """Open the mixture; its adapters and encoders are float32 in memory.

    Raises `MissingFile` where the folder lacks a part, `Refused` where a part does not fit.
    """
    for part in (ENCODERS, *(f"{name}-lora/adapter_model.safetensors" for name in ADAPTERS)):
        if not (folder / part).is_file():
            raise MissingFile(f"{folder.name} lacks {part}", next="python -m training.mixture makes it")
    base = open_base(BASE)
    base.model.to("cpu", torch.float32)  # too small for a GPU to help, and equal everywhere
    first, *others = ADAPTERS
    decoder = peft.PeftModel.from_pretrained(base.model, folder / f"{first}-lora", adapter_name=first)
    for name in others:
        decoder.load_adapter(folder / f"{name}-lora", adapter_name=name)
    return Mixture(base, decoder.eval().requires_grad_(False), read_encoders(folder / ENCODERS))


def read_encoders(path: Path) -> dict[str, torch.Tensor]:
    """The encoders' weights, float32. Raises `Refused` where one is missing or has another shape."""
    stored = open_safetensors(path).tensors
    wanted = fresh_weights(torch.Generator())
    wrong = [name for name, like in wanted.items() if name not in stored or stored[name].shape != tuple(like.shape)]
    if wrong:
        raise Refused(f"{path.name} is not of this mixture", f"{len(wrong)} tensors differ, such as {wrong[0]}")
    return {name: torch.from_numpy(np.array(stored[name].read())) for name in wanted}
