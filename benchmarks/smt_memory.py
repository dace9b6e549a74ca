"""Memory of SMT against full fine-tuning for a model of LLaMA-7B's shape, by accounting.

    python benchmarks/smt_memory.py

Nothing is run: the model lives on the meta device, and sizes are counted. bfloat16 weights,
gradients and activations; float32 master weights and two moments for what learns, as with mixed
precision and Adam.
"""

import argparse

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from gossamer.methods.smt.select import any_blocks
from gossamer.methods.smt.settings import SmtSettings

GB = 1e9
WEIGHT, GRADIENT, MASTER_AND_MOMENTS = 2, 2, 12


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratio", type=float, default=0.0084, help="attention_ratio")
    parser.add_argument("--tokens", type=int, default=16 * 512, help="of a batch on the device")
    args = parser.parse_args()
    config = LlamaConfig(vocab_size=32000)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    settings = SmtSettings(attention_ratio=args.ratio)
    blocks = any_blocks(model, settings)
    weights = sum(p.numel() for p in model.parameters())
    learning = sum(b.size for each in blocks.values() for b in each)
    candidates = sum(
        m.weight.numel()
        for n, m in model.named_modules()
        if n.rpartition(".")[2] in settings.attention_modules
    )
    kept = config.num_hidden_layers * config.hidden_size * 2 * args.tokens
    print(f"{weights:,} weights; {learning:,} in {learning // 65536} blocks learn")
    print(f"activations with gradient checkpointing, {args.tokens:,} tokens: {kept / GB:.1f} GB")
    most = sum(b.width for each in blocks.values() for b in each)
    print(f"columns kept for the blocks of all layers, no checkpointing: <= {most:,} per token\n")
    phases = {
        "full fine-tuning": (weights, 0),
        "SMT, blocks": (learning, 0),
        "SMT, selection=train, warm-up": (weights, 0),
        "SMT, selection=probe, probe": (0, config.hidden_size**2 * GRADIENT),
    }
    full = 0.0
    print(f"{'':<32}{'weights':>9}{'grads':>9}{'Adam':>9}{'total':>9}{'+ activ.':>10}")
    for name, (count, passing) in phases.items():
        gradients = count * GRADIENT + passing
        parts = [weights * WEIGHT, gradients, count * MASTER_AND_MOMENTS]
        total = sum(parts)
        full = full or total
        row = "".join(f"{part / GB:9.2f}" for part in [*parts, total])
        less = 1 - (total + kept) / (full + kept)
        print(f"{name:<32}{row}{(total + kept) / GB:10.2f}  {-less:+.0%}")
    print(f"\non the processor while blocks are chosen, float32 sums: {candidates * 4 / GB:.2f} GB")
    small = weights * WEIGHT + learning * (GRADIENT + MASTER_AND_MOMENTS)
    other = (full * 0.33 - small) / 0.67
    print(f"a reduction of 67 % means {other / GB:.0f} GB that both need alike, e.g. activations")


if __name__ == "__main__":
    main()
