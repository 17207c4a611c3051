"""The verb `analogy` of the command line: a is to a' as b is to b'."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from studio.core.errors import BadRecipe
from studio.formats.writers import WRITERS, writers_for
from studio.merging import method_by_id

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from studio.vision.analogist import Analogist
    from studio.vision.export import OpenBasis

_EMBEDDED = "embedded"
_OF_KONTEXT = ("prompt", "guidance", "size", "encoder", "device", "offload", "float8")


def add_verb(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the verb by a subparsers' `add_parser`."""
    verb = add("analogy", help="draw b' so that a is to a' as b is to b'")
    verb.add_argument("--a", required=True, type=Path, metavar="PICTURE", help="before")
    verb.add_argument("--a2", required=True, type=Path, metavar="PICTURE", help="after")
    verb.add_argument("--b", required=True, type=Path, metavar="PICTURE", help="the picture to edit likewise")
    verb.add_argument("-o", "--out", required=True, type=Path, metavar="PICTURE", help="where b' goes; PNG, JPEG, WebP")
    verb.add_argument("--basis", type=Path, metavar="LORWEB", help="a LoRWeB folder or file; default: the studio's own")
    verb.add_argument(
        "--base", default=_EMBEDDED, help="folder or Hub id of FLUX.1-Kontext; default: the embedded model"
    )
    verb.add_argument("--seed", type=int, default=0, help="of the noise; default 0")
    verb.add_argument("--steps", type=int, help="of drawing; default: the model's own (2 embedded, 28 FLUX)")
    verb.add_argument("--strength", type=float, default=1.0, help="of the whole edit; default 1")
    verb.add_argument("--temperature", type=float, default=1.0, help="low asks few adapters, high all alike; default 1")
    verb.add_argument("--gain", action="append", default=[], metavar="N=G", help="adapter N's share times G; 0 mutes")
    verb.add_argument("--keep-total", action="store_true", help="muted shares go to the other adapters")
    verb.add_argument("--mix", type=Path, metavar="JSON", help="coefficients to use in place of the routed ones")
    verb.add_argument("--coeffs", type=Path, metavar="JSON", help="write the coefficients that were used")
    verb.add_argument("--lora", type=Path, metavar="OUT", help="keep the analogy as a LoRA: a folder or .zip")
    verb.add_argument("--rank", type=int, default=0, help="cut that LoRA to a rank; default: all of it, exactly")
    verb.add_argument("--format", choices=[*writers_for("image pipelines")], default="peft", help="of that LoRA")
    verb.add_argument("--json", action="store_true", help="print what was done as JSON")
    _kontext_arguments(verb.add_argument_group("with a FLUX.1-Kontext base"))
    verb.set_defaults(run=_analogy)


def _kontext_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--prompt", help="the edit in words")
    group.add_argument("--guidance", type=float, help="how much the words count; default: 2.5")
    group.add_argument("--size", type=int, help="pixels of a tile's side; default 512")
    group.add_argument("--encoder", help="folder or Hub id of the image encoder; default: the one the basis names")
    group.add_argument("--device", help="cuda, cpu, …; default: the GPU where there is one")
    group.add_argument("--offload", choices=("none", "model", "layer"), help="keep parts on the CPU; default: none")
    group.add_argument("--float8", action="store_true", default=None, help="store the transformer in eight bits")
    group.add_argument("--accept-licence", action="store_true", help="you have read and accept the models' terms")


def _analogy(options: argparse.Namespace) -> int:
    from studio.vision.pictures import SUFFIXES, read_picture, write_picture

    if options.out.suffix.lower() not in SUFFIXES:
        raise BadRecipe(f"{options.out.name} does not say what to write", next=f"end it in {', '.join(SUFFIXES)}")
    method_by_id("svd").check({"rank": options.rank})
    _require_places(options)
    pictures = [read_picture(getattr(options, name)) for name in ("a", "a2", "b")]
    model, opened = _opened(options)
    seen = model.look(*pictures)
    mix = _mix(options, model, seen)
    steps = options.steps if options.steps is not None else model.usual_steps
    drawn = model.draw(
        seen, mix, steps=steps, seed=options.seed, strength=options.strength, on_step=_progress if _is_seen() else None
    )
    write_picture(drawn, options.out)
    kept = _keep(options, opened, mix)
    if options.coeffs:
        _write_coefficients(options, opened, mix, steps)
    _report(options, mix, drawn, kept)
    return 0


def _require_places(options: argparse.Namespace) -> None:
    """Nothing is drawn that could not be written."""
    from studio.core.outputs import require_place
    from studio.formats.saving import require_export_place
    from studio.vision.mixes import is_mix
    from studio.vision.pictures import is_drawn

    require_place(options.out, "a picture that the studio drew", is_drawn)
    require_place(options.coeffs, "coefficients that the studio wrote", is_mix)
    require_export_place(options.lora, options.format)


def _opened(options: argparse.Namespace) -> tuple[Analogist, OpenBasis]:
    """The model and its basis."""
    from studio.formats.containers.lorweb_file import find_lorweb
    from studio.vision.export import OpenBasis
    from studio.vision.pipeline import EMBEDDED, load_embedded

    _quiet()
    if options.base != _EMBEDDED:
        return _kontext(options)
    given = [name for name in _OF_KONTEXT if getattr(options, name) is not None]
    if given:
        raise BadRecipe(f"--{given[0]} means nothing to the embedded model", next="give it with a --base")
    file = find_lorweb(options.basis or EMBEDDED / "lorweb")
    model = load_embedded(basis=file)
    return model, OpenBasis(model.basis, file)


def _kontext(options: argparse.Namespace) -> tuple[Analogist, OpenBasis]:
    """FLUX.1-Kontext with a released basis, once its terms are accepted."""
    from studio.formats.containers.lorweb_file import find_lorweb
    from studio.vision.export import OpenBasis
    from studio.vision.kontext import GUIDANCE, SIDE, Prompting
    from studio.vision.kontext_open import Placing, open_kontext
    from studio.vision.licences import require_accepted
    from studio.vision.lorweb_file import encoder_of

    if options.basis is None:
        raise BadRecipe("FLUX.1-Kontext needs a basis", next="give --basis, a LoRWeB folder or file")
    file = find_lorweb(options.basis)
    encoder = options.encoder or encoder_of(file)
    require_accepted(
        [options.base, str(file), encoder], options.accept_licence, "read them, then give --accept-licence"
    )
    prompting = Prompting(
        options.prompt or "",
        GUIDANCE if options.guidance is None else options.guidance,
        SIDE if options.size is None else options.size,
    )
    placing = Placing(options.device or "", options.offload or "none", bool(options.float8))
    model = open_kontext(options.base, file, encoder=encoder, prompting=prompting, placing=placing)
    return model, OpenBasis(model.basis, file)


def _mix(options: argparse.Namespace, model: Analogist, seen: object) -> Tensor:
    """The mix to draw: routed or read, then the gains."""
    from studio.vision.mixes import read_mix
    from studio.vision.space import gained

    mix = read_mix(options.mix, model.basis) if options.mix else model.route(seen, options.temperature)
    gains = _gains(options.gain, model.basis.size)
    return gained(mix, gains, renormalise=options.keep_total)


def _gains(words: Sequence[str], size: int) -> list[float]:
    """One gain for each adapter, 1 where none is given; adapters count from 1."""
    found = [1.0] * size
    for word in words:
        place, _, gain = word.partition("=")
        try:
            index, value = int(place), float(gain)
        except ValueError:
            raise BadRecipe(f"{word!r} is not a gain", next="write adapter=factor, such as 3=0") from None
        if not 1 <= index <= size or not abs(value) <= 100:
            raise BadRecipe(f"{word!r} is out of range", f"adapters are 1 to {size}, gains at most 100")
        found[index - 1] = value
    return found


def _keep(options: argparse.Namespace, opened: OpenBasis, mix: Tensor) -> str:
    """Write the analogy as a LoRA where that is asked for; what to say of it."""
    if options.lora is None:
        return ""
    from studio.composing.export import export
    from studio.vision.export import kept, recipe_of

    note = f"One visual analogy, drawn by {options.base} with seed {options.seed}."
    recipe = recipe_of(opened, mix, options.strength, rank=options.rank, name=options.lora.stem, note=note)
    composition = kept(opened, recipe)
    written = export(composition, recipe, options.lora, format=options.format)
    report = composition.report
    return f"{written}: {WRITERS[options.format].title}, rank {report.rank}, kept energy {report.kept_energy:.2%}"


def _write_coefficients(options: argparse.Namespace, opened: OpenBasis, mix: Tensor, steps: int) -> None:
    from studio.vision.mixes import Drawn, write_mix

    drawn = Drawn(
        base=options.base,
        basis_sha256=opened.digest,
        steps=steps,
        seed=options.seed,
        strength=options.strength,
        temperature=options.temperature,
        prompt=options.prompt or "",
        guidance=options.guidance,
    )
    write_mix(options.coeffs, opened.basis, mix, drawn)


def _report(options: argparse.Namespace, mix: Tensor, drawn: Image, kept: str) -> None:
    from studio.vision.export import strongest
    from studio.vision.lorweb import effective_size

    effective = float(effective_size(mix).mean())
    top = [index + 1 for index in strongest(mix, 4)]
    if options.json:
        about = {"out": str(options.out), "size": drawn.size, "effective_adapters": effective, "strongest": top}
        print(json.dumps(about | ({"lora": kept} if kept else {}), indent=1))
        return
    print(
        f"{options.out}: {drawn.width} x {drawn.height}, about {effective:.1f} of {mix.shape[-1]} adapters in a layer, "
        f"strongest {', '.join(map(str, top))}"
    )
    if kept:
        print(kept)


def _quiet() -> None:
    """No bars of the libraries: an error is one line on stderr."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()


def _is_seen() -> bool:
    return sys.stderr.isatty()


def _progress(done: int, of: int, picture: Image | None) -> None:
    print(f"\rstep {done} of {of}", end="\n" if done == of else "", file=sys.stderr, flush=True)
