"""Job and cluster files: YAML whose every mistake is told with its file and line."""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from astrid_dist.errors import ConfigError

Place = tuple[str | int, ...]
Where = Callable[[Place], str]
Model = TypeVar("Model", bound=BaseModel)

_SECRET = re.compile(r"secret|passw(or)?d|token|credential|access_?key|api_?key", re.IGNORECASE)
_USER_IN_URL = re.compile(r"\w+://[^/@\s]+@")


def load_job(path: str | PathLike[str], overrides: Sequence[str] = ()) -> tuple[str, dict[str, Any], Where]:
    """Read a job file and lay ``key=value`` arguments over it.

    Parameters
    ----------
    path : path
        YAML with a key ``stage`` and the settings of that stage beside it.
    overrides : sequence of str
        ``key=value``, the key dotted for nested settings, the value YAML.

    Returns
    -------
    stage : str
        Name of the stage.
    raw : dict
        Its settings, not validated yet.
    where : callable
        Place of a setting (a tuple of keys) to ``file:line`` or the argument that set it.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not a mapping, has a key twice, or holds what looks like a secret.
    """
    raw, where = load_yaml(path, overrides)
    stage = raw.pop("stage", None)
    if not isinstance(stage, str):
        raise ConfigError(
            f"{where(())}: a job file says which stage it runs, as `stage: difference`; found {stage!r}"
        )
    return stage, raw, where


def load_yaml(path: str | PathLike[str], overrides: Sequence[str] = ()) -> tuple[dict[str, Any], Where]:
    """Read a YAML mapping with the line of every key, and lay ``key=value`` arguments over it."""
    name = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: no valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{name}: expected a mapping of settings, found {type(raw).__name__}")
    said: dict[Place, str] = {(): name}
    _find_lines(node, (), name, said)
    for override in overrides:
        _override(raw, override, said)
    _refuse_secrets(raw, (), said)

    def where(place: Place) -> str:
        while place not in said:
            place = place[:-1]
        return said[place]

    return raw, where


def validate(model: type[Model], raw: dict[str, Any], where: Where) -> Model:
    """Make a model of raw settings.

    Raises
    ------
    ConfigError
        Every mistake on a line of its own: where it is, which key, what was expected.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        said = [
            _explain(model, tuple(mistake["loc"]), mistake, where)
            for mistake in error.errors(include_url=False)
        ]
        raise ConfigError("\n".join(said)) from error


def job_schema(model: type[BaseModel], stage: str) -> dict[str, Any]:
    """JSON Schema of the job file of a stage, for editors: its settings, and the stage's name beside them."""
    schema = model.model_json_schema()
    said = {"const": stage, "description": "The stage this job runs.", "title": "Stage"}
    schema["properties"] = {"stage": said, **schema.get("properties", {})}
    schema["required"] = ["stage", *schema.get("required", [])]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _find_lines(node: yaml.Node | None, place: Place, name: str, said: dict[Place, str]) -> None:
    """Note the line of every key; refuse keys that come twice, since YAML would keep the last in silence."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            inner = (*place, index)
            said[inner] = f"{name}:{item.start_mark.line + 1}"
            _find_lines(item, inner, name, said)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        inner, line = (*place, key.value), key.start_mark.line + 1
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            raise ConfigError(f"{name}:{line}: key {key.value!r} is no string to YAML: put it in quotes")
        if inner in said:
            raise ConfigError(
                f"{name}:{line}: key {_dotted(inner)!r} is there twice, first at {said[inner]}: keep one"
            )
        said[inner] = f"{name}:{line}"
        _find_lines(value, inner, name, said)


def _override(raw: dict[str, Any], override: str, said: dict[Place, str]) -> None:
    key, equals, text = override.partition("=")
    place: Place = tuple(key.split("."))
    if not equals or not all(place):
        raise ConfigError(f"argument {override!r}: expected key=value, as survey=survey.zarr")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"argument {override!r}: the value is no valid YAML: {error}") from error
    inner: Any = raw
    for depth, part in enumerate(place[:-1]):
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            there = _dotted(place[: depth + 1])
            raise ConfigError(f"argument {override!r}: {there!r} is {inner!r}, which has no keys of its own")
    inner[place[-1]] = value
    for depth in range(1, len(place) + 1):
        if depth == len(place) or place[:depth] not in said:
            said[place[:depth]] = f"argument {override!r}"


def _refuse_secrets(value: Any, place: Place, said: dict[Place, str]) -> None:
    """Job files are copied into ledgers and logs: a secret in one is a secret lost."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if _SECRET.search(str(key)) and isinstance(inner, str):
                raise ConfigError(
                    f"{said.get((*place, key), said[()]).split('=')[0]}: {key!r} looks like a secret: take "
                    "it out; credentials come from the environment (AWS_*, R2_ACCOUNT_ID) or a profile"
                )
            _refuse_secrets(inner, (*place, key), said)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_secrets(inner, (*place, index), said)
    elif isinstance(value, str) and _USER_IN_URL.search(value):
        raise ConfigError(
            f"{said.get(place, said[()]).split('=')[0]}: the URL in {_dotted(place)!r} has a user or "
            "password: take it out; credentials come from the environment or a profile"
        )


def _explain(model: type[BaseModel], place: Place, mistake: Any, where: Where) -> str:
    name = _dotted(place) or "the settings"
    if mistake["type"] == "extra_forbidden":
        known = _fields(model, place[:-1])
        near = get_close_matches(str(place[-1]), known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known)) or 'none'}"
        return f"{where(place)}: unknown key {name!r}; {hint}"
    if mistake["type"] == "missing":
        return f"{where(place[:-1])}: {name!r} is missing{_described(model, place)}"
    got = "" if isinstance(mistake["input"], dict) else f" (got {mistake['input']!r})"
    return f"{where(place)}: {name!r}: {mistake['msg']}{got}"


def _fields(model: type[BaseModel], place: Place) -> list[str]:
    """Names that a model, or the model nested at a place, knows."""
    inner = _nested(model, place)
    return [] if inner is None else [field.alias or name for name, field in inner.model_fields.items()]


def _nested(model: Any, place: Place) -> type[BaseModel] | None:
    for part in place:
        if isinstance(part, str) and model is not None and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation)
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first model that an annotation (Optional, list, dict, Annotated) holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


def _described(model: type[BaseModel], place: Place) -> str:
    inner = _nested(model, place[:-1])
    field = inner.model_fields.get(str(place[-1])) if inner is not None else None
    return f": {field.description}" if field is not None and field.description else ""


def _dotted(place: Place) -> str:
    return ".".join(map(str, place))
