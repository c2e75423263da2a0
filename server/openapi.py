"""The OpenAPI document: FastAPI's, with what FastAPI cannot know, so that programs can be generated from it.

Separate from the application, because it is a function of its routes alone.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from server import problems
from server.auth import is_public

Schema = dict[str, Any]


def document_of(app: FastAPI) -> dict[str, Any]:
    """The document of an application, made once.

    Beyond FastAPI's: the schema of problems, which no route declares as its model; which operations need no token;
    parameters that may be left out but not be null; and tuples and maps in words that every generator knows.
    """
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (problems.FieldError, problems.Problem):
            schemas[model.__name__] = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas[model.__name__].pop("$defs", None)
        for unused in ("HTTPValidationError", "ValidationError", "_Nested"):
            schemas.pop(unused, None)
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if is_public(method.upper(), path):
                    operation["security"] = []
                for parameter in operation.get("parameters", ()):
                    parameter["schema"] = without_null(parameter["schema"])
        app.openapi_schema = in_common_words(document)
    return app.openapi_schema


def without_null(schema: Schema) -> Schema:
    """The schema of a parameter that may be left out: in a query or a header, null is a word like any other."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    if not options or len(options) == len(schema["anyOf"]):
        return schema
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return options[0] | rest if len(options) == 1 else rest | {"anyOf": options}


def in_common_words(part: Any) -> Any:
    """The document without words that generators do not know.

    `prefixItems` of a fixed length become `items` of that length, whatever each may be; `patternProperties` become
    properties of any name that has the pattern; a default that is an object stays the server's.
    """
    if isinstance(part, list):
        return [in_common_words(one) for one in part]
    if not isinstance(part, dict):
        return part
    found = {name: in_common_words(one) for name, one in part.items()}
    named = found.get("patternProperties")
    if isinstance(named, dict) and "type" in found and len(named) == 1:
        ((pattern, values),) = found.pop("patternProperties").items()
        found |= {"propertyNames": {"pattern": pattern}, "additionalProperties": values}
    if isinstance(found.get("default"), dict) and ("$ref" in found or "anyOf" in found):
        del found["default"]
    places = found.pop("prefixItems", None)
    if isinstance(places, list):
        kinds = [one for number, one in enumerate(places) if one not in places[:number]]
        found["items"] = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    elif places is not None:
        found["prefixItems"] = places  # a field of that name
    return found
