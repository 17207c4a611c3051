"""The embedded visual-analogy model at work: look at a, a' and b once, then draw b' as often as a slider moves.

The folder holds a FLUX-Kontext-shaped model that the stock `FluxKontextPipeline` opens, a LoRWeB basis and its
relation encoder. One analogy is one mix of the basis; its update is merged into copies of the weights for the call
alone, so that calls do not disturb each other.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from studio.core.adapter import Adapter
from studio.core.data import assets
from studio.core.errors import LoomError, MissingFile, Refused
from studio.core.late import diffusers, torch, transformers
from studio.core.tensors import open_safetensors
from studio.formats.containers.lorweb_file import PREFIX
from studio.vision.analogist import OnStep
from studio.vision.latents import all_positions, euler, pack, strip, unpack
from studio.vision.lorweb import Lorweb
from studio.vision.lorweb_file import read_lorweb
from studio.vision.transforms import TRANSFORMS

EMBEDDED = assets("vision")
BASE = "lora-loom/tiny-flux-kontext"  # what adapters of the embedded model call it
STEPS = 2
MAX_STRENGTH = 10
Picture = Image.Image | np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Three pictures as the model sees them, to be drawn from many times."""

    latents: torch.Tensor  # (1, channels, h, w) of b
    context: torch.Tensor  # (1, channels, h, 3 w), the strip [b | a | a']
    query: torch.Tensor  # (Q,), what the router is asked


@dataclass(frozen=True, slots=True, eq=False)
class AnalogyModel:
    """Autoencoder, flow transformer, relation encoder and basis; see `load_embedded`."""

    vae: Any
    transformer: Any
    encoder: Any
    basis: Lorweb
    text: torch.Tensor  # (1, tokens, width) of the empty instruction
    pooled: torch.Tensor  # (1, width)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def usual_steps(self) -> int:
        """How many steps to take where nobody says."""
        return STEPS

    @property
    def side(self) -> int:
        """Pictures are squares of this many pixels."""
        return int(self.vae.config.sample_size)

    def look(self, a: Picture, a2: Picture, b: Picture) -> Seen:
        """Encode the three pictures; other sizes are resized to the model's square.

        Raises `LoomError` for what is not a picture.
        """
        pixels = torch.cat([self._pixels(picture) for picture in (a, a2, b)])
        with torch.inference_mode():
            za, za2, zb = (part[None] for part in self._encode(pixels))
            return Seen(zb, strip(za, za2, zb), self._query(pixels))

    def coefficients(
        self, a: Picture, a2: Picture, b: Picture, *, temperature: float = 1.0
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The mix that the pictures ask for, float32 (layers, N); layers in the order of `basis.layers`."""
        mix: np.ndarray[Any, np.dtype[np.float32]] = self.route(self.look(a, a2, b), temperature).numpy()
        return mix

    def route(self, seen: Seen, temperature: float = 1.0) -> torch.Tensor:
        """The mix for pictures already looked at, (layers, N)."""
        with torch.no_grad():
            return self.basis.coefficients(seen.query.clone(), temperature)

    def blend(self, first: Seen, second: Seen, t: float) -> Seen:
        """The example pictures a part t of the way from one to another; b is the first's."""
        part = (1 - t) * first.context + t * second.context
        return Seen(first.latents, part, (1 - t) * first.query + t * second.query)

    def analogy(
        self,
        a: Picture,
        a2: Picture,
        b: Picture,
        *,
        coeffs: np.ndarray[Any, Any] | None = None,
        steps: int = STEPS,
        seed: int = 0,
        strength: float = 1.0,
        temperature: float = 1.0,
        on_step: OnStep | None = None,
    ) -> Image.Image:
        """b' with a : a' :: b : b'.

        `coeffs` (layers, N) takes the place of the routed mix, and then `temperature` has no effect. `strength` scales
        the whole update. `on_step(done, steps, picture)` sees b' as it forms; it may raise `Cancelled`.
        """
        seen = self.look(a, a2, b)
        mix = self.route(seen, temperature) if coeffs is None else torch.as_tensor(np.asarray(coeffs, np.float32))
        return self.draw(seen, mix, steps=steps, seed=seed, strength=strength, on_step=on_step)

    def draw(
        self,
        seen: Seen,
        mix: torch.Tensor,
        *,
        steps: int = STEPS,
        seed: int = 0,
        strength: float = 1.0,
        on_step: OnStep | None = None,
    ) -> Image.Image:
        """b' for pictures already looked at and a mix (layers, N). Raises `LoomError` for a wrong mix or step count."""
        check_drawing(steps, seed, strength)
        return self._drawn(seen, self.basis.deltas(mix, strength), steps, seed, on_step)

    def draw_loras(
        self,
        seen: Seen,
        loras: Iterable[tuple[Adapter, float]],
        *,
        steps: int = STEPS,
        seed: int = 0,
        on_step: OnStep | None = None,
    ) -> Image.Image:
        """b' with ordinary LoRAs in place of a mix, each times its weight; without any, what the base does alone.

        Raises `LoomError` for an adapter that does not fit this model.
        """
        check_drawing(steps, seed, 1.0)
        deltas: dict[str, torch.Tensor] = {}
        for adapter, weight in loras:
            if misfit := self.misfit(adapter):
                raise LoomError(f"{adapter.name} does not fit the embedded analogy model", misfit)
            for name, module in adapter.modules.items():
                place = name.removeprefix(PREFIX)
                delta = torch.from_numpy(module.delta()) * weight
                deltas[place] = deltas[place] + delta if place in deltas else delta
        return self._drawn(seen, deltas, steps, seed, on_step)

    def misfit(self, adapter: Adapter) -> str:
        """Why an ordinary LoRA is not one of this model; empty where it is."""
        shapes = {name: tuple(weight.shape) for name, weight in self._weights.items()}
        for name, module in adapter.modules.items():
            place = name.removeprefix(PREFIX)
            if shapes.get(f"{place}.weight") != module.shape:
                return f"{place} is {shapes.get(f'{place}.weight', 'not there')}, it adapts {module.shape}"
        return ""

    def _drawn(
        self, seen: Seen, deltas: Mapping[str, torch.Tensor], steps: int, seed: int, on_step: OnStep | None
    ) -> Image.Image:
        """b' with dense updates by module, from the seed's noise."""
        noise = torch.randn(seen.latents.shape, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            weights = self._merged(deltas)
            final = euler(
                lambda x, t: self._velocity(x, t, seen.context, weights),
                noise,
                steps,
                None if on_step is None else lambda done, of, z: on_step(done, of, self._decode(z)),
            )
            return self._decode(final)

    def lora(self, mix: torch.Tensor, strength: float = 1.0, name: str = "analogy") -> Adapter:
        """One analogy as an ordinary LoRA of rank N r, to be saved like any other."""
        return self.basis.as_lora(mix, strength, name)

    def pipeline(self) -> Any:
        """The same weights in the stock `FluxKontextPipeline`; run it with `pipeline_inputs`."""
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False)
        absent = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
        return diffusers.FluxKontextPipeline(scheduler=scheduler, vae=self.vae, transformer=self.transformer, **absent)

    def pipeline_inputs(self, seen: Seen) -> dict[str, Any]:
        """Arguments with which the stock pipeline draws what `draw` draws, given the same LoRA and noise."""
        return {
            "image": seen.context,
            "prompt_embeds": self.text,
            "pooled_prompt_embeds": self.pooled,
            "height": self.side,
            "width": self.side,
            "max_area": self.side**2,
            "_auto_resize": False,
        }

    # Inside -----------------------------------------------------------------------------------------------------------

    def _pixels(self, picture: Picture) -> torch.Tensor:
        """(1, 3, side, side) in [0, 1]."""
        try:
            image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
            rgb = image.convert("RGB")
        except (TypeError, ValueError, AttributeError, OSError) as error:
            raise LoomError(
                "This is not a picture", str(error), "give a PIL image or an (h, w, 3) uint8 array"
            ) from error
        if rgb.size != (self.side, self.side):
            rgb = rgb.resize((self.side, self.side), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].float() / 255

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        config = self.vae.config
        latents = self.vae.encode(pixels * 2 - 1).latent_dist.mode()
        normed: torch.Tensor = (latents - config.shift_factor) * config.scaling_factor
        return normed

    def _decode(self, latents: torch.Tensor) -> Image.Image:
        config = self.vae.config
        with torch.inference_mode():
            pixels = self.vae.decode(latents / config.scaling_factor + config.shift_factor).sample[0]
        levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return Image.fromarray(levels.permute(1, 2, 0).numpy())

    def _query(self, pixels: torch.Tensor) -> torch.Tensor:
        """z = [E(a, a'), E(b, b)], each half layer-normed; pixels (3, 3, side, side) of a, a' and b."""
        pairs = torch.stack([torch.cat([pixels[0], pixels[1]]), torch.cat([pixels[2], pixels[2]])]) * 2 - 1
        embedded = self.encoder(pixel_values=pairs).image_embeds
        normed: torch.Tensor = torch.nn.functional.layer_norm(embedded, embedded.shape[1:])
        return normed.flatten()

    @property
    def _weights(self) -> dict[str, torch.Tensor]:
        """The transformer's own parameters by name, not those that another call has swapped in."""
        with self.lock:
            return dict(self.transformer.named_parameters())

    def _merged(self, deltas: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The adapted weights by parameter name, dense updates (m, n) by module added."""
        own = self._weights
        return {f"{name}.weight": own[f"{name}.weight"] + delta for name, delta in deltas.items()}

    def _velocity(
        self, x: torch.Tensor, time: float, context: torch.Tensor, weights: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The transformer's velocity for the target tokens, as a latent map."""
        target = pack(x)
        ids = all_positions(x, context, self.text.shape[1])
        inputs = {
            "hidden_states": torch.cat([target, pack(context)], 1),
            "encoder_hidden_states": self.text,
            "pooled_projections": self.pooled,
            "timestep": torch.tensor([time]),
            "txt_ids": ids[: self.text.shape[1]],
            "img_ids": ids[self.text.shape[1] :],
            "return_dict": False,
        }
        with self.lock:  # functional_call swaps parameters for its time: two at once would leave each other's behind
            out = torch.func.functional_call(self.transformer, weights, kwargs=inputs)[0]
        return unpack(out[:, : target.shape[1]], x.shape[2], x.shape[3])


def check_drawing(steps: int, seed: int, strength: float) -> None:
    """Raise `LoomError` for what no sampler can do."""
    if not 1 <= steps <= 100:
        raise LoomError(f"{steps} steps cannot be taken", next="choose between 1 and 100")
    if not 0 <= seed < 1 << 63:
        raise LoomError(f"Seed {seed} is out of range", next="choose 0 or a positive number")
    if not (math.isfinite(strength) and abs(strength) <= MAX_STRENGTH):
        raise LoomError(
            f"Strength {strength} is out of range", next=f"choose between -{MAX_STRENGTH} and {MAX_STRENGTH}"
        )


def load_embedded(folder: Path = EMBEDDED, basis: Path | None = None) -> AnalogyModel:
    """Load the model that comes with the studio, in float32 on the CPU; `basis` takes the place of its own.

    Raises `MissingFile` when the folder or a part of it is not there, and `Refused` for a basis of another base.
    """
    for part in ("vae", "transformer", "encoder", "lorweb", "prompt.safetensors"):
        if not (folder / part).exists():
            raise MissingFile(
                f"{folder} has no {part}",
                "the embedded vision model is not complete",
                "run python -m training.vision",
            )
    vae = _pretrained(diffusers.AutoencoderKL, folder / "vae")
    transformer = _pretrained(diffusers.FluxTransformer2DModel, folder / "transformer")
    encoder = _pretrained(transformers.CLIPVisionModelWithProjection, folder / "encoder")
    prompt = open_safetensors(folder / "prompt.safetensors").tensors
    text, pooled = (torch.from_numpy(np.array(prompt[name].read())) for name in ("text", "pooled"))
    opened = read_lorweb(basis or folder / "lorweb")
    opened.check_fits(transformer)
    return AnalogyModel(vae, transformer, encoder, opened, text, pooled)


def catalogue(folder: Path = EMBEDDED) -> tuple[str, ...]:
    """Transforms that the model does well, chosen on its validation set; those worth offering as ready analogies.

    Raises `MissingFile` when the folder has no results, and `Refused` when they name no transforms of this world.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise MissingFile(f"{folder} has no results.json", "the model was trained but not evaluated")
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["catalogue"]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{path} is not the results of a training run", str(error)) from error
    if not isinstance(names, list) or not set(map(str, names)) <= set(TRANSFORMS):
        raise Refused(f"{path} lists transforms that this world does not have")
    return tuple(names)


def _pretrained(kind: Any, folder: Path) -> Any:
    """Load one part and insist that no tensor was missing: a part with random weights would draw without complaint."""
    try:
        part, report = kind.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise MissingFile(f"{folder} cannot be loaded", str(error).splitlines()[0]) from error
    if report["missing_keys"] or report["mismatched_keys"]:
        missing = sorted(str(key) for key in (*report["missing_keys"], *report["mismatched_keys"]))
        raise Refused(
            f"{folder} does not hold a whole {kind.__name__}", f"{missing[0]} is missing or has another shape"
        )
    return part.eval().requires_grad_(False)
