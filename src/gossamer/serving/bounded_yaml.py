"""YAML that cannot take more time or memory than its size lets expect.

A few lines of YAML can stand for millions of values (aliases of aliases), nest deeper than any
stack, or hold a number whose digits take minutes to add up. What is read while others are served
must not.
"""

from typing import Any

import yaml

MAX_DEPTH = 32
"""Lists and mappings inside each other."""
MAX_VALUES = 1_000_000
"""All values, each counted as often as aliases repeat it."""
MAX_SCALAR = 1000
"""Characters of one value."""

# The C code is eight times as fast and recurses without a limit: hence the depth is checked first.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_bounded(text: str) -> Any:
    """The value that `text` holds, of plain types.

    Raises `yaml.YAMLError`, and for values that make no sense, such as an impossible date, whatever
    the library does.
    """
    _check_events(text)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {MAX_VALUES} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_events(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise yaml.YAMLError(
                    f"line {_line(event)} is nested more than {MAX_DEPTH} levels deep"
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_SCALAR:
            raise yaml.YAMLError(
                f"line {_line(event)} holds a value of more than {MAX_SCALAR} characters"
            )


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    assert mark is not None
    return mark.line + 1


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Values in `node`; `known` holds the counts of nodes that were met before."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        # What is still being counted and met again is inside itself.
        known[id(node)] = MAX_VALUES + 1
        children = (
            [each for pair in node.value for each in pair]
            if isinstance(node, yaml.MappingNode)
            else node.value
        )
        known[id(node)] = 1 + sum(_count(child, known) for child in children)
    return known[id(node)]
