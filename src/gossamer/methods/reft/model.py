"""ReFT as a PEFT tuner: `get_peft_model(model, ReftConfig(...))`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from gossamer.errors import SettingError
from gossamer.methods.common.peft_tuner import GossamerBlockTuner, register_tuner
from gossamer.methods.common.targets import find_blocks
from gossamer.methods.reft.config import PEFT_TYPE, ReftConfig
from gossamer.methods.reft.layer import ReftBlock
from gossamer.methods.reft.orthonormal import restore_orthonormal
from gossamer.methods.reft.positions import PromptTracker

__all__ = ["ReftConfig", "ReftModel"]


class ReftModel(GossamerBlockTuner):
    """Edits the output of decoder blocks at positions of the prompt; the weights stay as they are.

    For models of transformers whose decoder holds its blocks in one list: Llama, Mistral, Qwen and
    their like. Quantised bases work as any other.
    """

    method = "reft"
    prefix = "reft_"
    tuner_layer_cls = ReftBlock
    no_merge = (
        "ReFT cannot be merged into the weights: it edits hidden states at some positions only; "
        "keep the adapter and serve it with gossamer serve"
    )

    tracker: PromptTracker
    _path: str

    @contextmanager
    def prompt_width(self, width: int) -> Iterator[None]:
        """Inside, the first `width` columns, padding included, are the prompts: for calls that
        bring a prompt in pieces with a cache. `generate()` needs no such help."""
        with self.tracker.prompt_width(width):
            yield

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        names = ("inputs", "input_ids", "inputs_embeds")
        given = args[0] if args else next((kwargs[n] for n in names if n in kwargs), None)
        if not isinstance(given, Tensor):
            return type(self.model).generate(self.model, *args, **kwargs)
        with self.tracker.prompt_width(given.shape[1], kwargs.get("attention_mask")):
            return type(self.model).generate(self.model, *args, **kwargs)

    def _prepare_model(self, peft_config: ReftConfig, model: nn.Module) -> None:
        path, blocks = find_blocks(model, "ReFT")
        count = len(blocks)
        layers = sorted(set(range(count) if peft_config.layers is None else peft_config.layers))
        if not layers:
            raise SettingError("layers is empty; leave it out to edit all blocks")
        for layer in layers:
            if not 0 <= layer < count:
                raise SettingError(
                    f"layers: there is no layer {layer}; the model has 0 to {count - 1}"
                )
        width = self.width(model)
        if peft_config.rank > width:
            raise SettingError(f"rank = {peft_config.rank} is above the model's width {width}")
        peft_config.set_layers(path, layers)
        if not hasattr(self, "tracker"):
            self._path = path
            self.tracker = PromptTracker(model, model.get_submodule(path.rpartition(".")[0]))
            self._hook = model.register_forward_pre_hook(self._before_model)
            if hasattr(model, "generate"):
                # Also for calls that do not come through PEFT: they do not tell where prompts end.
                model.generate = self._generate  # type: ignore[assignment]

    def new_layer(self, target: nn.Module, path: str) -> ReftBlock:
        return ReftBlock(target, self.tracker, self.width(self.model))

    def _before_model(self, module: nn.Module, args: Any) -> None:
        """Rows that an optimizer may have moved become orthonormal again."""
        # The version of a tensor does not tell: fused optimizers leave it as it was.
        restore_orthonormal(
            [
                matrix
                for block in self._blocks()
                for matrix in block.rotations()
                if matrix.requires_grad and matrix.device.type != "meta"
            ]
        )

    def adapter_parameters(self, adapter_name: str) -> Iterator[nn.Parameter]:
        # Those that PEFT's tests may disturb: not the rows that stay orthonormal.
        fixed = {id(m) for block in self._blocks() for m in block.rotations()}
        return (p for p in super().adapter_parameters(adapter_name) if id(p) not in fixed)

    def _blocks(self) -> list[ReftBlock]:
        blocks = self.model.get_submodule(self._path)
        return [block for block in blocks.children() if isinstance(block, ReftBlock)]

    @classmethod
    def _get_adapter_state_dict(
        cls, model: Any, config: Any, adapter_name: str, state_dict: Any, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        chosen: dict[str, Tensor] = super()._get_adapter_state_dict(
            model, config, adapter_name, state_dict, *args, **kwargs
        )
        if config.orthogonal:
            # They share their memory with the model: what is saved is what acts.
            restore_orthonormal([v for k, v in chosen.items() if "_rotate." in k])
        return chosen

    def let_go(self) -> None:
        for block in self._blocks():
            block.remove()
        self.tracker.remove()
        self._hook.remove()
        self.model.__dict__.pop("generate", None)


register_tuner(PEFT_TYPE, ReftConfig, ReftModel, ReftModel.prefix)
