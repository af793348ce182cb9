"""Validates the KServe resources of YAML files against KServe's models: check_kserve.py FILE...

build-support/check-deploy runs it with the packages kserve (without its dependencies), kubernetes and PyYAML.
Every field must exist, have the type of its model, and each required field must be there.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml  # type: ignore[import-untyped] # it has no types

# The package's own __init__ imports a model server. The models need none of it.
_spec = importlib.util.find_spec("kserve")
if _spec is None or _spec.submodule_search_locations is None:
    raise ImportError("expected the package kserve: pip install --no-deps kserve six")
sys.modules["kserve"] = _package = ModuleType("kserve")
_package.__path__ = list(_spec.submodule_search_locations)

from kserve import models  # type: ignore[import-not-found] # noqa: E402 # not among our packages
from kubernetes.client import models as core  # type: ignore[import-not-found] # noqa: E402 # not among our packages

KINDS = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}
SCALARS = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object, "datetime": str}


def errors(value: Any, kind: str, path: str) -> Iterator[str]:
    """Yield the errors of a value.  kind: its type, in the notation of OpenAPI's generator.  path: of the value."""
    collection = re.fullmatch(r"(list|dict)[\[(](?:str, )?(.*)[\])]", kind)
    if collection:
        expected = list if collection[1] == "list" else dict
        if not isinstance(value, expected):
            yield f"{path} is {value!r}, expected a {expected.__name__}"
            return
        items: Any = enumerate(value) if isinstance(value, list) else value.items()
        for key, item in items:
            yield from errors(item, collection[2], f"{path}.{key}")
    elif kind in SCALARS:
        if not isinstance(value, SCALARS[kind]):  # type: ignore[arg-type] # a class, or several
            yield f"{path} is {value!r}, expected {kind}"
    else:
        yield from _model_errors(value, getattr(models, kind, None) or getattr(core, kind), path)


def _model_errors(value: Any, model: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path} is {value!r}, expected the fields of {model.__name__}"
        return
    names = {field: name for name, field in model.attribute_map.items()}
    for field, item in value.items():
        if field not in names:
            yield f"{path}.{field} is not a field of {model.__name__}: {sorted(names)}"
        else:
            yield from errors(item, model.openapi_types[names[field]], f"{path}.{field}")
    try:
        model(**{names[field]: item for field, item in value.items() if field in names})
    except ValueError as error:  # a required field is missing
        yield f"{path}: {error}"


def main(files: list[str]) -> int:
    """Print the errors in the files. Return 0 if there are KServe resources and all are valid."""
    valid, wrong = 0, []
    for file in files:
        for resource in yaml.safe_load_all(Path(file).read_text()):
            if resource["kind"] not in KINDS:
                continue
            wrong += [f"{file}: {error}" for error in errors(resource, KINDS[resource["kind"]], resource["kind"])]
            valid += 1
    sys.stderr.write("".join(f"{line}\n" for line in wrong))
    sys.stdout.write(f"KServe: {valid} resources, {len(wrong)} errors\n")
    return int(bool(wrong) or not valid)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
