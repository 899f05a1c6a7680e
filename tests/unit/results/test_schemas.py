"""The models of an answer over HTTP: they show the values as these are kept."""

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from app.results.answer import Results
from app.results.schema_base import Out
from app.results.schemas import ResultsOut


def _inner(annotation: Any) -> Iterator[Any]:
    """Return all that an annotation is made of."""
    arguments = get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _inner(argument)


def _pairs(model: type[Out], value: type) -> Iterator[tuple[type[Out], type]]:
    """Return the models of an answer, each with the class of the values that it shows."""
    yield model, value
    of_value = get_type_hints(value)
    for name, field in model.model_fields.items():
        models = [one for one in _inner(field.annotation) if isinstance(one, type) and issubclass(one, Out)]
        values = [one for one in _inner(of_value[name]) if dataclasses.is_dataclass(one) and isinstance(one, type)]
        assert len(models) == len(values), f"{model.__name__}.{name}"
        for pair in zip(models, values, strict=True):
            yield from _pairs(*pair)


def test_schemas__of_every_part_of_an_answer__have_the_fields_of_its_values_in_their_order() -> None:
    # A kept answer is the values as they are: with other fields it would not be what was answered.
    pairs = set(_pairs(ResultsOut, Results))

    assert len(pairs) > 25
    for model, value in pairs:
        assert list(model.model_fields) == [field.name for field in dataclasses.fields(value)], model.__name__
