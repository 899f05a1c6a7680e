"""Every valid payload passes as it is; every other one is poison and nothing worse."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pipeline.lanes import RELAY_LANES, Lane, kafka_lanes
from app.pipeline.messages import BEAT, HEARTBEAT_AGGREGATE
from app.pipeline.transform import LARGEST_PAYLOAD_BYTES, Poison, Reason, Row, transform
from tests.pipeline.payloads import JSON, KINDS, SHAPES, payloads

TABLES = {
    "assignment.created": "exposures",
    "override.changed": "overrides",
    "event.recorded": "events",
    "experiment.changed": "experiments",
    "heartbeat.beat": "heartbeats",
}
MOMENT_FIELDS = {"exposed_at", "ts", "watermark", "ingested_at"}
ID_FIELDS = {"experiment_id", "project_id", "variant_id"}
OBJECT_FIELDS = {"context", "properties", "definition"}
EVENT = ("event", "event.recorded")
ASSIGNMENT = ("assignment", "assignment.created")
OVERRIDE = ("override", "override.changed")

# What no field of its kind can be, as JSON.
WRONG_MOMENTS = (
    b'"2026-01-01T00:00:00"',
    b'"1899-12-31T23:59:59.999999Z"',
    b'"1900-01-01T00:00:00+00:01"',
    b'"2300-01-01T00:00:00Z"',
    b'"infinity"',
    b'"0044-03-15T12:00:00+00:00 BC"',
    b"1767225600",
    b"null",
)
WRONG_IDS = (b"0", b"-1", b"9223372036854775808", b"1.5", b'"1"', b"true")
WRONG_VALUES = (b"1e999", b"-1e999", b"NaN", b"Infinity", b'"1.5"', b"true", b"[]")
WRONG_OBJECTS = (b"[]", b'"{}"', b"null", b"1", b'{"a":}', b"{,}")


@given(st.data(), KINDS)
def test_transform__valid_payload__passes_it_on_untouched(data: st.DataObject, kind: tuple[str, str]) -> None:
    payload = msgspec.json.encode(data.draw(payloads(kind)))

    row = transform(*kind, payload)

    assert row == Row(TABLES[kind[1]], payload)


@given(st.data(), KINDS)
def test_transform__unknown_key__passes(data: st.DataObject, kind: tuple[str, str]) -> None:
    payload = msgspec.json.encode({**data.draw(payloads(kind)), "added_later": data.draw(JSON)})

    assert transform(*kind, payload).line == payload


@given(st.data(), KINDS)
def test_transform__missing_key__is_poison(data: st.DataObject, kind: tuple[str, str]) -> None:
    payload = data.draw(payloads(kind))
    del payload[data.draw(st.sampled_from(sorted(payload)))]

    with pytest.raises(Poison):
        transform(*kind, msgspec.json.encode(payload))


@given(st.data(), KINDS)
def test_transform__wrong_value_in_any_field__is_poison(data: st.DataObject, kind: tuple[str, str]) -> None:
    payload = data.draw(payloads(kind))
    field = data.draw(st.sampled_from(sorted(SHAPES[kind])))
    payload[field] = msgspec.Raw(data.draw(st.sampled_from(_wrong(kind, field))))

    with pytest.raises(Poison):
        transform(*kind, msgspec.json.encode(payload))


@given(st.data(), KINDS, st.integers().filter(lambda version: version != 1) | st.sampled_from(["1", None, 1.5]))
def test_transform__other_schema_version__is_poison(data: st.DataObject, kind: tuple[str, str], version: Any) -> None:
    payload = {**data.draw(payloads(kind)), "schema_version": version}

    with pytest.raises(Poison):
        transform(*kind, msgspec.json.encode(payload))


@given(st.data(), KINDS)
def test_transform__cut_short__is_poison(data: st.DataObject, kind: tuple[str, str]) -> None:
    payload = msgspec.json.encode(data.draw(payloads(kind)))

    with pytest.raises(Poison):
        transform(*kind, payload[: data.draw(st.integers(0, len(payload) - 1))])


@given(st.data(), KINDS)
def test_transform__any_byte_changed__passes_or_is_poison(data: st.DataObject, kind: tuple[str, str]) -> None:
    payload = bytearray(msgspec.json.encode(data.draw(payloads(kind))))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))

    try:
        row = transform(*kind, bytes(payload))
    except Poison:
        return
    assert row.line == bytes(payload)


@given(KINDS, st.binary() | JSON.map(msgspec.json.encode))
def test_transform__anything_else__is_poison(kind: tuple[str, str], payload: bytes) -> None:
    with pytest.raises(Poison):
        transform(*kind, payload)


@pytest.mark.parametrize("lane", [*RELAY_LANES, *kafka_lanes()])
@given(st.data())
def test_transform__beat_among_the_rows_of_any_aggregate__goes_to_the_heartbeats(
    lane: Lane, data: st.DataObject
) -> None:
    payload = msgspec.json.encode(data.draw(payloads((HEARTBEAT_AGGREGATE, BEAT))))

    assert transform(lane.aggregatetype, BEAT, payload) == Row("heartbeats", payload)


@given(st.text(), st.text())
def test_transform__unknown_type__is_poison(aggregatetype: str, type_: str) -> None:
    with pytest.raises(Poison, match="no table takes"):
        transform(aggregatetype, type_, b"{}")


@given(st.data())
def test_transform__bytes_that_are_no_text__is_poison(data: st.DataObject) -> None:
    payload = msgspec.json.encode({**data.draw(payloads(EVENT)), "properties": {"a": "@"}})

    with pytest.raises(Poison):
        transform(*EVENT, payload.replace(b'"@"', b'"\xff"'))


@given(st.data())
def test_transform__objects_nested_beyond_reason__is_poison(data: st.DataObject) -> None:
    payload = data.draw(payloads(EVENT))
    payload["properties"] = msgspec.Raw(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)

    with pytest.raises(Poison):
        transform(*EVENT, msgspec.json.encode(payload))


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1900, 1, 1, tzinfo=UTC),
        datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    ],
)
@given(st.data())
def test_transform__ends_of_the_range__pass(moment: datetime, data: st.DataObject) -> None:
    beat = (HEARTBEAT_AGGREGATE, BEAT)
    payload = msgspec.json.encode({**data.draw(payloads(beat)), "watermark": moment})

    assert transform(*beat, payload).line == payload


@pytest.mark.parametrize(("kind", "field"), [(EVENT, "ts"), (ASSIGNMENT, "exposed_at")])
@given(st.data())
def test_transform__time_of_a_fact__passes_unless_it_lies_after_its_arrival(
    kind: tuple[str, str], field: str, data: st.DataObject
) -> None:
    payload = {**data.draw(payloads(kind)), "ingested_at": "2026-03-01T12:00:00Z"}

    for moment in ("1901-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "2026-03-02T12:00:00Z"):
        transform(*kind, msgspec.json.encode({**payload, field: moment}))
    for moment in ("2026-03-02T12:00:00.000001Z", "2200-01-01T00:00:00Z"):
        with pytest.raises(Poison, match="its arrival") as caught:
            transform(*kind, msgspec.json.encode({**payload, field: moment}))
        assert caught.value.reason is Reason.TIMESTAMP


@pytest.mark.parametrize("moment", ["1970-01-01T00:00:00Z", "2019-12-31T23:59:59.999999Z", "2200-01-01T00:00:00Z"])
@given(st.data(), KINDS)
def test_transform__arrival_that_no_clock_of_ours_says__is_poison(
    moment: str, data: st.DataObject, kind: tuple[str, str]
) -> None:
    payload = msgspec.json.encode({**data.draw(payloads(kind)), "ingested_at": moment})

    with pytest.raises(Poison, match="2020 to 2199"):
        transform(*kind, payload)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema_version": 2}, Reason.UNKNOWN_VERSION),
        ({"schema_version": 2, "value": "a shape of the future"}, Reason.UNKNOWN_VERSION),
        ({"schema_version": "1"}, Reason.WRONG_FIELDS),
        ({"value": "1.5"}, Reason.WRONG_FIELDS),
        ({"properties": []}, Reason.WRONG_FIELDS),
        ({"user_id": "a\0b"}, Reason.NUL_CHARACTER),
        ({"properties": {"deep": ["\0"]}}, Reason.NUL_CHARACTER),
        ({"properties": {"a\\\0": 1}}, Reason.NUL_CHARACTER),
        ({"properties": {"long": "x" * LARGEST_PAYLOAD_BYTES}}, Reason.TOO_LARGE),
    ],
)
@given(st.data())
def test_transform__poison__says_which(change: dict[str, Any], reason: Reason, data: st.DataObject) -> None:
    payload = msgspec.json.encode({**data.draw(payloads(EVENT)), **change})

    with pytest.raises(Poison) as caught:
        transform(*EVENT, payload)

    assert caught.value.reason is reason


@given(st.data())
def test_transform__text_that_looks_like_an_escaped_nul__passes(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(["\\u0000", "\\\\u0000", "u0000", '"\\u0000']))
    payload = msgspec.json.encode({**data.draw(payloads(EVENT)), "properties": {text: text}})

    assert transform(*EVENT, payload).line == payload


def _wrong(kind: tuple[str, str], field: str) -> tuple[bytes, ...]:
    exceptions = {
        (EVENT, "experiment_id"): WRONG_IDS,  # Null is right: the event counts for every experiment.
        (OVERRIDE, "variant_id"): WRONG_IDS[1:],  # Zero is right: the override is removed.
        (EVENT, "value"): WRONG_VALUES,
    }
    by_field = {
        **dict.fromkeys(MOMENT_FIELDS, WRONG_MOMENTS),
        **dict.fromkeys(ID_FIELDS, (*WRONG_IDS, b"null")),
        **dict.fromkeys(OBJECT_FIELDS, WRONG_OBJECTS),
    }
    return exceptions.get((kind, field)) or by_field.get(field) or (b"[]", b"{}", b"1.5", b"-1")
