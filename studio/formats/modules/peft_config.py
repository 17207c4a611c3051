"""What PEFT's adapter_config.json says about a LoRA, with every field checked before it is believed."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studio.core.adapter import Finding
from studio.core.errors import Refused
from studio.formats.containers.bundle import CONFIG
from studio.formats.modules.other_kinds import instead_of, kind_of_flag, kind_of_type
from studio.formats.modules.patterns import first_match
from studio.formats.modules.peft_fields import FIELDS, texts
from studio.formats.modules.scaling import Scaling, by_alpha, by_default

_MAX_PATTERNS = 20_000
_MAX_PATTERN_LENGTH = 1_000
_MATCHING_SECONDS = 5.0  # for all patterns on all names
_TOKENS = "it trained single token embeddings; they are stored with the LoRA and are not merged"

# Fields that others than LoraConfig have: PEFT's LoHa and LoKr (their kinds are told before this is read), trainers.
_OTHERS_FIELDS = frozenset({"alpha", "path_initial_model_for_weight_conversion", "use_effective_conv2d"})


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The checked fields of an adapter_config.json that decide how its tensors are read.

    `place` says where the config stands, None for a file without. `deadline` is the monotonic time after which its
    patterns are matched no further.
    """

    rank: int | None
    alpha: float | None
    use_rslora: bool
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    base: str | None
    findings: tuple[Finding, ...]
    carried: Mapping[str, Any]
    place: str | None = CONFIG
    deadline: float = math.inf
    target_parameters: tuple[str, ...] = ()

    def expected_rank(self, *names: str) -> int | None:
        """The rank the config promises for a module, or None where it promises none.

        `names` are those under which PEFT may have seen the module; see `patterns.wrapped_names`.
        """
        found = first_match(self.rank_pattern, names, self.deadline)
        return int(found.value) if found else self.rank

    def scaling(self, rank: int, *names: str) -> Scaling:
        """PEFT's factor for a module whose tensors have this rank; without a config alpha it is 1."""
        found = first_match(self.alpha_pattern, names, self.deadline)
        if found:
            return by_alpha(found.value, rank, f'alpha_pattern["{found.pattern}"] of {self.place}', self.use_rslora)
        if self.alpha is None:
            return by_default(1.0, "its config names no alpha" if self.place else f"no {CONFIG} beside the weights")
        return by_alpha(self.alpha, rank, f"lora_alpha of {self.place}", self.use_rslora)


NO_CONFIG = PeftConfig(None, None, False, {}, {}, None, (), {}, place=None)


def read_peft_config(config: Mapping[str, Any] | None, place: str = CONFIG) -> PeftConfig:
    """Check the config, which stands at a `place`; raises `Refused` for other kinds of adapter (by name) and for fields
    of the wrong type.
    """
    if config is None:
        return NO_CONFIG
    refuse_other_kinds(config)
    rank = _number(config, "r", 1)
    if rank is not None and not rank.is_integer():
        raise _wrong("r", rank, "a whole number")
    return PeftConfig(
        rank=None if rank is None else int(rank),
        alpha=_number(config, "lora_alpha"),
        use_rslora=_flag(config, "use_rslora"),
        rank_pattern=_patterns(config, "rank_pattern", 1),
        alpha_pattern=_patterns(config, "alpha_pattern"),
        base=_text(config, "base_model_name_or_path"),
        findings=tuple(_caveats(config)),
        carried=_carried(config),
        place=place,
        deadline=time.monotonic() + _MATCHING_SECONDS,
        target_parameters=_listed(config, "target_parameters"),
    )


def refuse_other_kinds(config: Mapping[str, Any]) -> None:
    """Refuse by name what stores other things than the two matrices of LoRA.

    A flag `use_…` that is set, or a `…_config` with something in it, that PEFT's LoRA does not know changes what the
    matrices mean in a way that nobody here knows.
    """
    kind = _text(config, "peft_type")
    if kind is not None and kind.upper() != "LORA":
        name = kind_of_type(kind)
        raise Refused(f"this is {name}, not LoRA", "only low-rank pairs can be read and merged here", instead_of(name))
    refused = texts("refused")
    for field, value in config.items():
        if value and (field in refused or _changes_the_meaning(field)):
            name = refused.get(field) or kind_of_flag(field)
            raise Refused(f"this is {name}, not plain LoRA", f"its config sets {field[:60]}", instead_of(name))


def _changes_the_meaning(field: str) -> bool:
    """Whether a field is a switch of training that is on no list."""
    return field not in FIELDS.keys() | _OTHERS_FIELDS and (field.startswith("use_") or field.endswith("_config"))


def _caveats(config: Mapping[str, Any]) -> list[Finding]:
    warned = {**texts("warned"), "trainable_token_indices": _TOKENS}
    del warned["init_lora_weights"]  # which of them alters the base is told below
    found = [Finding("warn", text) for field, text in warned.items() if config.get(field)]
    unknown = sorted(config.keys() - FIELDS.keys() - _OTHERS_FIELDS)
    if unknown:
        names = ", ".join(unknown)[:120]
        found.append(Finding("note", f"its config has settings that PEFT's LoRA does not know ({names}): not honoured"))
    init = config.get("init_lora_weights")
    if init is not None and not isinstance(init, (bool, str)):
        raise _wrong("init_lora_weights", init, "true, false or a name")
    changed_base = str(init).lower().startswith(("pissa", "olora", "corda", "lora_ga", "loftq"))
    if isinstance(init, str) and changed_base and not config.get("path_initial_model_for_weight_conversion"):
        text = f"trained from a {init} start, which alters the base"
        found.append(Finding("warn", text + ": right on the original base only if it was converted when saved"))
    return found


def _carried(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that an export keeps, each checked."""
    carried: dict[str, Any] = {
        "task_type": _text(config, "task_type"),
        "fan_in_fan_out": _flag(config, "fan_in_fan_out"),
        "bias": _text(config, "bias"),
        "target_modules": _names(config, "target_modules"),
        "modules_to_save": _names(config, "modules_to_save"),
        "trainable_token_indices": _tokens(config),
    }
    return {field: value for field, value in carried.items() if value}


def _wrong(field: str, value: object, expected: str) -> Refused:
    return Refused(
        f"the config's {field} is {str(value)[:60]!r}", f"expected {expected}", "correct adapter_config.json"
    )


def _number(config: Mapping[str, Any], field: str, least: float = -math.inf) -> float | None:
    value = config.get(field)
    return None if value is None else _checked_number(field, value, least)


def _checked_number(field: str, value: object, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(field, value, "a number")
    if abs(value) > 1e12 or not math.isfinite(value) or value < least:
        raise _wrong(field, value, "a finite number" if least == -math.inf else f"a number from {least} up")
    return float(value)


def _flag(config: Mapping[str, Any], field: str) -> bool:
    value = config.get(field)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _wrong(field, value, "true or false")


def _text(config: Mapping[str, Any], field: str) -> str | None:
    value = config.get(field)
    if value is None or isinstance(value, str):
        return value or None
    raise _wrong(field, value, "text")


def _names(config: Mapping[str, Any], field: str) -> str | tuple[str, ...]:
    value = config.get(field)
    if value is None or isinstance(value, str):
        return value or ()
    if isinstance(value, Sequence) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise _wrong(field, value, "a list of module names")


def _listed(config: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """Names that PEFT takes as a list only."""
    found = _names(config, field)
    if isinstance(found, str):
        raise _wrong(field, found, "a list of parameter names")
    return found


def _tokens(config: Mapping[str, Any]) -> tuple[int, ...] | dict[str, tuple[int, ...]] | None:
    """Token numbers, for the input embeddings or by the embedding's name."""
    value = config.get("trainable_token_indices")
    if isinstance(value, Mapping):
        return {str(name): _numbers(indices) for name, indices in value.items()}
    return None if value is None else _numbers(value)


def _numbers(value: object) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or not all(isinstance(number, int) for number in value):
        raise _wrong("trainable_token_indices", value, "a list of token numbers")
    return tuple(value)


def _patterns(config: Mapping[str, Any], field: str, least: float = -math.inf) -> dict[str, float]:
    value = config.get(field)
    if value is None:
        return {}
    if (
        not isinstance(value, dict)
        or len(value) > _MAX_PATTERNS
        or any(len(key) > _MAX_PATTERN_LENGTH for key in value)
    ):
        raise _wrong(field, value, "patterns of module names with a number each")
    return {key: _checked_number(f"{field}[{key[:40]!r}]", number, least) for key, number in value.items()}
