"""Every field of PEFT's LoraConfig, and what is done with it: the reader and the docs go by this one table.

A test holds it to the fields of the installed PEFT, and each line to what the reader really does.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

How = Literal["honoured", "carried", "tensors", "warned", "refused", "training"]
HOW: Mapping[How, str] = MappingProxyType(
    {
        "honoured": "decides what is read",
        "carried": "an export keeps it",
        "tensors": "the tensors say it themselves",
        "warned": "read, with a warning",
        "refused": "refused by name",
        "training": "of training alone: changes nothing that is read",
    }
)


class Treatment(NamedTuple):
    """What is done with a field, and in words: the kind's name where refused, the warning where warned."""

    how: How
    text: str


FIELDS: Mapping[str, Treatment] = MappingProxyType(
    {
        "peft_type": Treatment("honoured", "LORA, and LOHA and LOKR by their own rules; every other by name refused"),
        "r": Treatment("honoured", "the rank of the tensors is believed, another one here is warned of"),
        "lora_alpha": Treatment("honoured", "scaling = lora_alpha / r"),
        "use_rslora": Treatment("honoured", "scaling = lora_alpha / sqrt(r)"),
        "rank_pattern": Treatment("honoured", "the rank that is expected of a module, by PEFT's rule of matching"),
        "alpha_pattern": Treatment("honoured", "a module's own alpha, by PEFT's rule of matching"),
        "target_parameters": Treatment("honoured", "fused experts, one pair for each"),
        "base_model_name_or_path": Treatment("honoured", "the base; exports keep it if it looks like a Hub id"),
        "fan_in_fan_out": Treatment("carried", "deltas are (out, in) as the layer works, either way"),
        "bias": Treatment("carried", "biases are stored with the LoRA as full tensors"),
        "modules_to_save": Treatment("carried", "they are stored with the LoRA as full tensors"),
        "task_type": Treatment("carried", "left out where a head is missing, without which PEFT fails to load"),
        "trainable_token_indices": Treatment(
            "carried", "the rows are stored with the LoRA as full tensors, with a warning"
        ),
        "target_modules": Treatment("tensors", "exports list full paths"),
        "exclude_modules": Treatment("tensors", ""),
        "layers_to_transform": Treatment("tensors", ""),
        "layers_pattern": Treatment("tensors", ""),
        "layer_replication": Treatment(
            "warned", "it replicates layers of the base (layer_replication): it fits only a base expanded so"
        ),
        "alora_invocation_tokens": Treatment(
            "warned", "activated LoRA: trained to act only after certain tokens; a merge applies it always"
        ),
        "arrow_config": Treatment(
            "warned", "its config routes between several adapters (Arrow); only its own matrices are read"
        ),
        "velora_config": Treatment("warned", "it was trained with VeLoRA; its matrices are read as plain LoRA"),
        "ensure_weight_tying": Treatment(
            "warned", "it was trained with tied embeddings (ensure_weight_tying), which exports do not say"
        ),
        "init_lora_weights": Treatment(
            "warned", "where the start alters the base (PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ); others change nothing"
        ),
        "use_dora": Treatment("refused", "DoRA"),
        "lora_bias": Treatment("refused", "LoRA with a bias of its own (lora_bias)"),
        "use_qalora": Treatment("refused", "QALoRA"),
        "use_bdlora": Treatment("refused", "block-diagonal LoRA (BD-LoRA)"),
        "kasa_config": Treatment("refused", "KaSA"),
        "monteclora_config": Treatment("refused", "MonteCLoRA"),
        "qalora_group_size": Treatment("training", "QALoRA's, which is refused where it is used"),
        "lora_dropout": Treatment("training", ""),
        "inference_mode": Treatment("training", ""),
        "revision": Treatment("training", "which commit of the base was used"),
        "peft_version": Treatment("training", ""),
        "auto_mapping": Treatment("training", ""),
        "loftq_config": Treatment("training", "LoftQ is warned of by init_lora_weights"),
        "eva_config": Treatment("training", "EVA starts A elsewhere and leaves the base as it is"),
        "corda_config": Treatment("training", "CorDA is warned of by init_lora_weights"),
        "lora_ga_config": Treatment("training", "LoRA-GA is warned of by init_lora_weights"),
        "megatron_config": Treatment("training", "parallel layers; the tensors are plain LoRA"),
        "megatron_core": Treatment("training", ""),
        "runtime_config": Treatment("training", ""),
    }
)


def texts(how: How) -> dict[str, str]:
    """The fields that are treated in one way, with their words."""
    return {field: treatment.text for field, treatment in FIELDS.items() if treatment.how == how}
