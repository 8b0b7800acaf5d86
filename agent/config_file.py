"""Reading the agent's configuration from a TOML file, with errors that name the file, the key and the fix."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agent.config import AgentConfig
from agent.config_rules import ConfigError

CONFIG_MAX_BYTES: Final = 16 * 2**20
_PATH_KEYS: Final = frozenset(
    {"state_file", "control_dir", "password_file", "ca", "cert", "key", "token_file", "kubeconfig"}
)
_TAGS: Final = frozenset({"hash", "hpc"})


def load_config(path: Path) -> AgentConfig:
    """Read and check a file; its relative paths are relative to its own folder. Raises `ConfigError`."""
    name = path.name
    try:
        with path.open("rb") as file:
            raw = file.read(CONFIG_MAX_BYTES + 1)
    except OSError as error:
        fix = "give --config a file that this user may read"
        raise ConfigError("", f"cannot be read: {error.strerror}", fix, str(path)) from None
    if len(raw) > CONFIG_MAX_BYTES:
        raise ConfigError("", f"is larger than {CONFIG_MAX_BYTES} bytes", "write devices as ranges", name)
    return parse_config(raw, name, path.parent)


def parse_config(raw: bytes, name: str, folder: Path) -> AgentConfig:
    """Check a configuration's text; `name` is what errors call the file. Raises `ConfigError`."""
    try:
        tree = tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("", f"is not TOML: {error}", "correct the place it names", name) from None
    _anchor(tree, folder)
    try:
        return AgentConfig.model_validate(tree)
    except ValidationError as error:
        raise _explained(error.errors(include_url=False), tree, name) from None


def _anchor(tree: dict[str, Any], folder: Path) -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            _anchor(value, folder)
        elif key in _PATH_KEYS and isinstance(value, str):
            tree[key] = str(folder / value)


def _explained(errors: Sequence[ErrorDetails], tree: dict[str, Any], name: str) -> ConfigError:
    """The first error as one message; how many more there are is said too."""
    first = errors[0]
    context = first.get("ctx", {})
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    key = str(context["key"]) if first["type"] == "config_rule" else _spelled(first["loc"], tree)
    problem, fix = _words(first, key)
    return ConfigError(key, problem, fix + more, name)


def _words(error: ErrorDetails, key: str) -> tuple[str, str]:
    """What is wrong, and what to write instead."""
    leaf = key.rpartition(".")[2]
    given = error["input"]
    match error["type"]:
        case "missing":
            return "is missing", f"add {leaf} = ..."
        case "extra_forbidden":
            near = difflib.get_close_matches(leaf, _known_keys(AgentConfig, set()), n=1)
            return "is not a key here", f"write {near[0]}" if near else "remove it"
        case "config_rule" | "value_error":
            text = str(error["msg"]).removeprefix("Value error, ")
            problem, _, fix = text.partition("; fix: ")
            return problem, fix or f"correct {leaf}"
        case "path_not_file":
            return f"{given} is no file", "create it, or correct the path"
        case "string_pattern_mismatch" if error["loc"] and error["loc"][-1] == "[key]":
            return "is not a name", "use lower-case letters, digits, - and _"
        case _:
            shown = "" if isinstance(given, dict | list | BaseModel) else f", got {given!r}"
            return f"{error['msg'][:1].lower()}{error['msg'][1:]}{shown}", f"correct {leaf}"


def _spelled(loc: Iterable[int | str], tree: Any) -> str:
    """A pydantic location as the file spells it: list places in brackets, the tags of unions left out."""
    key = ""
    node = tree
    for part in loc:
        if isinstance(part, int):
            key += f"[{part}]"
        elif part == "[key]" or (part in _TAGS and not (isinstance(node, dict) and part in node)):
            continue
        else:
            key += f".{part}" if key else part
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            node = None
    return key


def _known_keys(model: type[BaseModel], seen: set[type[BaseModel]]) -> list[str]:
    """Every key of a model and of those inside it."""
    if model in seen:
        return []
    seen.add(model)
    keys = list(model.model_fields)
    for info in model.model_fields.values():
        for inner in _models_in(info.annotation):
            keys += _known_keys(inner, seen)
    return keys


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]
