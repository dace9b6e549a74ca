"""One adapter of a model as a copy of another."""

from typing import Any

from peft import get_peft_model_state_dict, set_peft_model_state_dict

from gossamer.errors import UnknownNameError


def copy_adapter(model: Any, source: str, target: str) -> None:
    """Make the adapter `target` of a `PeftModel` a copy of its adapter `source`.

    All that would be saved is copied: what learns, what does not (masks, places of blocks, fixed
    factors) and modules beside the adapter; for tuners of PEFT as for ours. Where there is no
    `target` yet it is added with the configuration of `source`; it is not made the active one.

    For TRL's preference trainers with SHiRA, VeRA and others of PEFT whose parameters TRL does not
    copy: `copy_adapter(trainer.model, "default", "ref")` after the trainer is made. Tuners of ours
    need no such call. Raises `UnknownNameError` if there is no `source`.
    """
    if source not in model.peft_config:
        raise UnknownNameError.among("adapter", source, model.peft_config)
    if target not in model.peft_config:
        model.add_adapter(target, model.peft_config[source])
    state = get_peft_model_state_dict(model, adapter_name=source, save_embedding_layers=False)
    # Clones, since room for the copy may be made while it is read.
    state = {key: tensor.detach().clone() for key, tensor in state.items()}
    result = set_peft_model_state_dict(model, state, adapter_name=target)
    if result.unexpected_keys:
        raise RuntimeError(f"{target} has no room for {result.unexpected_keys[:3]}")
