"""Random JSON Schemas of the parts that a grammar can keep to, bounded so that documents end."""

import random
from typing import Any

WORDS = ("a", "id", "name", "tags", "größe", 'quo"te', "new line\n", "x y")
PATTERNS = (r"^[A-Z]{2}-\d{1,3}$", r"^(yes|no)$", r"^[^@]{1,4}@[a-z]{1,3}$", "^$")
FORMATS = ("date", "time", "uuid", "ipv4")


def random_schema(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    """A schema with definitions, some of which it refers to."""
    names = [f"d{number}" for number in range(rng.randrange(3))]
    schema = _schema(rng, depth, names)
    if names:
        schema["$defs"] = {name: _schema(rng, 1, []) for name in names}
    return schema


def _schema(rng: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    if names and rng.random() < 0.2:
        return {"$ref": f"#/$defs/{rng.choice(names)}"}
    if depth > 0 and rng.random() < 0.6:
        kind = rng.choice([_object, _object, _array, _tuple, _any_of])
        return kind(rng, depth - 1, names)
    return rng.choice([_text, _text, _number, _integer, _one_of_few, _nothing])(rng)


def _object(rng: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    chosen = rng.sample(WORDS, rng.randrange(1, 4))
    schema = {
        "type": "object",
        "properties": {name: _schema(rng, depth, names) for name in chosen},
        "required": [name for name in chosen if rng.random() < 0.6],
        "additionalProperties": False,
    }
    if rng.random() < 0.2:
        schema["title"] = "What it is."
    return schema


def _array(rng: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    least = rng.randrange(3)
    return {
        "type": "array",
        "items": _schema(rng, depth, names),
        "minItems": least,
        "maxItems": least + rng.randrange(3),
    }


def _tuple(rng: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    parts = [_schema(rng, depth, names) for _ in range(rng.randrange(1, 3))]
    return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts)}


def _any_of(rng: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    return {"anyOf": [_schema(rng, depth, names) for _ in range(2)]}


def _text(rng: random.Random) -> dict[str, Any]:
    pick = rng.random()
    if pick < 0.3:
        return {"type": "string", "pattern": rng.choice(PATTERNS)}
    if pick < 0.5:
        return {"type": "string", "format": rng.choice(FORMATS)}
    least = rng.randrange(3)
    return {"type": "string", "minLength": least, "maxLength": least + rng.randrange(5)}


def _number(rng: random.Random) -> dict[str, Any]:
    least = rng.randrange(-20, 20)
    return {"type": "number", "minimum": least, "exclusiveMaximum": least + rng.randrange(1, 9)}


def _integer(rng: random.Random) -> dict[str, Any]:
    least = rng.randrange(-200, 200)
    schema = {"type": "integer", "minimum": least, "maximum": least + rng.randrange(10, 99)}
    if rng.random() < 0.3:
        schema["multipleOf"] = rng.choice([2, 5])
    return schema


def _one_of_few(rng: random.Random) -> dict[str, Any]:
    return {"enum": rng.sample([1, -2.5, "one", "", None, True, [1], {"a": "b"}], 3)}


def _nothing(rng: random.Random) -> dict[str, Any]:
    return {"type": rng.choice(["null", "boolean"])}
