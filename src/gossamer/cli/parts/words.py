"""What people type who know other tools, and what Gossamer calls it."""

from collections.abc import Iterable

from gossamer.errors import unknown_name_message

_ELSEWHERE = {
    "gossamer tune": ("train", "training", "finetune", "fine-tune", "fit", "sft", "learn"),
    "gossamer model pull NAME": ("pull", "download", "fetch", "get", "install", "add"),
    "gossamer model list": ("models", "list-models", "search"),
    "gossamer adapters list DIR": ("list", "ls", "show", "ps", "info"),
    "gossamer serve NAME": ("server", "start", "up", "api", "launch", "host", "deploy"),
    "gossamer adapters merge PATH --output DIR": ("merge", "export", "convert", "fuse", "save"),
    "gossamer chat MODEL": (
        *("run", "ask", "talk", "generate", "complete", "prompt", "infer", "inference", "predict"),
        "interactive",
    ),
    "gossamer compare": ("evaluate", "eval", "score", "sweep"),
    "gossamer bench serve": ("benchmark", "loadtest", "load-test", "perf"),
    "gossamer keys": ("key", "auth", "login", "token", "users"),
    "gossamer tune --help": ("methods", "lora", "qlora", "dora"),
    "gossamer tune --output DIR --resume": ("resume", "continue"),
}
"""Our command, and the words for it elsewhere."""


def unknown_command(name: str, known: Iterable[str]) -> str:
    """Say in one line which command of ours is meant by one that does not exist."""
    word = name.lower().replace("_", "-")
    for ours, words in _ELSEWHERE.items():
        if word in words:
            return f"unknown command '{name}'; here it is: {ours}"
    return unknown_name_message("command", name, known)
