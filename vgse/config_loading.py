"""Reading a configuration: YAML file, command-line overrides, and errors that name the field."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro
import yaml
from pydantic import BaseModel, ValidationError

from vgse.config import Config
from vgse.errors import ConfigError


def load_config(path: str | Path, overrides: Sequence[str] = (), *, program: str = "vgse") -> Config:
    """Reads `path` and applies `overrides` such as ["--relate.alpha", "-0.05"].

    Raises:
        ConfigError: the file is missing or not YAML, or a field is unknown, of the wrong type or out of range.
    """
    return apply_overrides(parse_config(_read_yaml(Path(path)), str(path)), overrides, program=program)


def apply_overrides(config: Config, overrides: Sequence[str], *, program: str = "vgse") -> Config:
    """`config` with command-line overrides; a wrong one ends the process with exit code 2 and an explanation."""
    if not overrides:
        return config
    try:
        changed = tyro.cli(Config, default=config, args=list(overrides), prog=f"{program} CONFIG")
    except ValidationError as error:
        raise ConfigError(_explain(error, "command line"), "mend the option(s) named above") from None
    # tyro rebuilds each section without the fields it hides, so the credentials and the search space are put back.
    tune = changed.tune.model_copy(update={"space": config.tune.space})
    return changed.model_copy(update={"storage": _with_credentials(changed, config), "tune": tune})


def parse_config(values: Any, source: str) -> Config:
    """Checks plain data (as read from YAML) into a `Config`. `source` names it in errors."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: a configuration is a mapping of sections, not {type(values).__name__}")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, source), "mend the field(s) named above") from None


def fingerprint(values: Any) -> str:
    """A short digest of plain data, the same for equal data whatever the order of its keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def field_paths(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every field path of the configuration, e.g. `relate.alpha`."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from field_paths(field.annotation, f"{prefix}{name}.")


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
        raise ConfigError(
            f"configuration file {path} does not exist",
            f"did you mean {path.parent / near[0]}?" if near else "check the path",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error}", "give a readable YAML file") from None
    except yaml.YAMLError as error:
        raise ConfigError(
            f"configuration file {path} is not valid YAML: {error}", "mend it at the line given"
        ) from None


def _with_credentials(changed: Config, original: Config) -> Any:
    secrets = {name: getattr(original.storage, name) for name in ("key", "secret", "token")}
    return changed.storage.model_copy(update=secrets)


def _explain(error: ValidationError, source: str) -> str:
    lines = [_explain_one(detail) for detail in error.errors(include_url=False, include_input=False)]
    return f"{source}:\n" + "\n".join(f"  {line}" for line in lines)


def _explain_one(detail: Any) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{path}: unknown key{nearest(path)}"
    if detail["type"] == "missing":
        return f"{path}: missing; it has no default"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" if path else message


def nearest(path: str) -> str:
    """What to say of an unknown field: the nearest right name, or those there are."""
    parent, _, key = path.rpartition(".")
    siblings = [p for p in field_paths() if p.rpartition(".")[0] == parent]
    elsewhere = [p for p in field_paths() if p.rpartition(".")[2] == key]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    near = difflib.get_close_matches(key, [p.rpartition(".")[2] for p in siblings], n=1, cutoff=0.5)
    if near:
        return f"; did you mean {parent + '.' if parent else ''}{near[0]}?"
    return f"; known here: {', '.join(p.rpartition('.')[2] for p in siblings) or 'nothing'}"
