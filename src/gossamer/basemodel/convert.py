"""Turn a GGUF file into an ordinary safetensors model folder."""

import io
from contextlib import redirect_stderr
from pathlib import Path

from gossamer.basemodel.quiet import quiet_transformers
from gossamer.errors import CorruptModelError


def convert_gguf(gguf: Path, output: Path) -> None:
    """Dequantise `gguf` to fp32 and write weights, config, tokenizer and chat template.

    Raises:
        CorruptModelError: transformers cannot read the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = str(gguf.parent), gguf.name
    # One of the bars is drawn whatever transformers is told.
    with quiet_transformers(), redirect_stderr(io.StringIO()):
        try:
            # Without dequantize=True the model would count as quantised for good: it could then
            # be neither trained nor saved.
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise CorruptModelError(f"cannot read the model in {name}: {error}") from None
        # GGUF knows the context length as a property of the model only.
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)
