"""Helper, no test: adapters and safetensors files made from what their headers shall say."""

import json
import os

import torch


def adapter(folder, config, tensors):
    """With `tensors` as a header says them, by name: a number format and a shape; no data."""
    header, end = {}, 0
    for name, (code, *shape) in tensors.items():
        size = {"F32": 4, "BF16": 2, "I64": 8, "I32": 4}[code]
        start, end = end, end + size * torch.Size(shape).numel()
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    write_config(folder, config)
    path = folder / "adapter_model.safetensors"
    content = file_of(header)
    path.write_bytes(content)
    # A hole: takes no place on the disk, but would in memory.
    os.truncate(path, len(content) + end)
    return folder


def write_config(folder, config):
    folder.mkdir(exist_ok=True)
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / "adapter_config.json").write_bytes(text)


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data
