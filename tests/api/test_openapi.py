"""The schema as a customer reads it: everything is said, typed, and shown by examples that are right."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]  # Comes with Schemathesis, without types.
import pytest

from tests.factories import Json

# JSON of the caller's own, which has no shape that could be said; and the texts of sealed plans, read.
_OF_CALLERS = {"config", "context", "properties", "details", "document"}


@pytest.fixture(scope="module")
def document(root: httpx.Client) -> Json:
    found: Json = root.get("/api/v1/openapi.json").json()
    return found


def _operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def _objects(schema: object, name: str) -> Iterator[tuple[str, Json]]:
    """Give every schema in a schema, with the name under which it stands."""
    if isinstance(schema, list):
        for inner in schema:
            yield from _objects(inner, name)
    elif isinstance(schema, dict):
        yield name, schema
        for key, inner in schema.items():
            if key == "properties":
                for field, of_field in inner.items():
                    yield from _objects(of_field, field)
            elif key in {"anyOf", "oneOf", "allOf", "items", "additionalProperties"}:
                yield from _objects(inner, name)


def test_openapi__every_operation__says_what_it_and_its_parameters_do(document: Json) -> None:
    for where, operation in _operations(document):
        assert operation["summary"], where
        assert operation["description"].endswith("."), where
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description"), f"{where} {parameter['name']}"
        for status, answer in operation["responses"].items():
            assert answer["description"], where
            assert all(content.get("schema") for content in answer.get("content", {}).values()), f"{where} {status}"


def test_openapi__whatever_can_be_sent_a_body__may_refuse_it(document: Json) -> None:
    for where, operation in _operations(document):
        if not where.lower().startswith("get"):
            assert {"400", "413", "415"} <= set(operation["responses"]), where


def test_openapi__every_body__has_examples_that_it_takes(document: Json) -> None:
    schemas = document["components"]["schemas"]
    tried = 0
    for where, operation in _operations(document):
        if "requestBody" not in operation:
            continue
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        for form in schema.get("oneOf", [schema]):
            examples = schemas[form["$ref"].rpartition("/")[2]].get("examples", [])
            assert examples, where
            for example in examples:
                jsonschema.validate(example, {**form, "components": {"schemas": schemas}})
                tried += 1
    assert tried > 20


def test_openapi__every_example__is_as_its_schema_says(document: Json) -> None:
    schemas = document["components"]["schemas"]
    shown = {name for name, schema in schemas.items() if schema.get("examples")}
    assert shown >= {"Problem", "ExperimentOut", "MetricsMetricOut", "AssignmentOut", "AuditEntryOut", "BatchOut"}
    for name in shown:
        for example in schemas[name]["examples"]:
            jsonschema.validate(example, {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}})


def test_openapi__schemas__are_described_and_typed(document: Json) -> None:
    for name, schema in document["components"]["schemas"].items():
        if name == "JsonValue":  # What is evidence differs from finding to finding.
            continue
        assert re.fullmatch(r"[A-Z][A-Za-z]+", name), name
        if schema.get("type") == "object":
            assert schema.get("description"), name
        for field, inner in _objects(schema, name):
            if field in _OF_CALLERS:
                continue
            where = f"{name}.{field}"
            assert inner.keys() & {"type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"}, where
            if inner.get("type") == "object":
                assert inner.get("properties") or isinstance(inner.get("additionalProperties"), dict), where
            if inner.get("type") == "array":
                assert inner.get("items"), where


def test_openapi__a_change_of_a_metric__is_typed_as_the_metric_is(document: Json) -> None:
    schemas = document["components"]["schemas"]
    whole, change = schemas["MetricIn"]["properties"], schemas["MetricChange"]["properties"]
    assert set(whole) - set(change) == {"key", "kind"}
    assert set(change) - set(whole) == {"archived"}
    for name in set(whole) & set(change):
        assert _type_of(change[name]) == _type_of(whole[name]), name


def _type_of(field: Json) -> dict[str, Any]:
    return {name: value for name, value in field.items() if name not in {"title", "description", "default"}}


def test_openapi__changes__have_no_defaults_that_a_client_could_fill_in(document: Json) -> None:
    schemas = document["components"]["schemas"]
    changes = [operation for where, operation in _operations(document) if where.startswith("patch ")]
    assert changes
    for operation in changes:
        form = operation["requestBody"]["content"]["application/json"]["schema"]
        for name, field in schemas[form["$ref"].rpartition("/")[2]]["properties"].items():
            assert field.get("default") is None, name


def test_openapi__text__is_json_that_every_reader_takes(root: httpx.Client) -> None:
    text = root.get("/api/v1/openapi.json").text

    def refuse(name: str) -> float:
        raise AssertionError(name)

    assert json.loads(text, parse_constant=refuse)["openapi"].startswith("3.")
