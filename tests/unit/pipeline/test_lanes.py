"""Each partition is a lane, its beats find it, and they find it no more once there are more partitions."""

import importlib
import json
import pkgutil

from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

import app
from app.pipeline.lanes import RELAY_LANES, came_through, kafka_lanes, key_for
from app.pipeline.messages import HEARTBEAT_AGGREGATE
from app.pipeline.topics import TOPICS_FILE, topics

DATA_TOPICS = [topic for topic in topics() if topic.aggregatetype is not None]
CONNECTOR = TOPICS_FILE.with_name("connector.json")


def test_lanes__all_topics__have_one_for_each_partition_and_share_none() -> None:
    numbers = [lane.number for lane in (*RELAY_LANES, *kafka_lanes())]

    assert len(kafka_lanes()) == sum(topic.partitions for topic in DATA_TOPICS)
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) < 2**31


def test_lanes__key__leads_to_the_partition_that_the_lane_stands_for() -> None:
    for topic in DATA_TOPICS:
        lanes = [lane for lane in kafka_lanes() if lane.aggregatetype == topic.aggregatetype]
        assert [_partition(lane.aggregateid, topic.partitions) for lane in lanes] == list(range(topic.partitions))


@given(st.data(), st.integers(1, 48), st.integers(1, 500))
def test_key_for__more_partitions_than_known__leads_elsewhere(data: st.DataObject, known: int, more: int) -> None:
    partition = data.draw(st.integers(0, known - 1))

    key = key_for(partition, known)

    assert _partition(key, known) == partition
    assert _partition(key, known + more) != partition


def test_came_through__other_partition_or_topic__denies_it() -> None:
    event_lane = next(lane for lane in kafka_lanes() if lane.aggregatetype == "event")
    beat = f'{{"lane": {event_lane.number}, "beat": 1, "watermark": "2026-01-01T00:00:00Z"}}'.encode()

    assert came_through(beat, "experiments.event", 0)
    assert not came_through(beat, "experiments.event", 1)
    assert not came_through(beat, "experiments.event", 99)
    assert not came_through(beat, "experiments.assignment", 0)
    assert not came_through(beat, "experiments.heartbeat", 0)


def test_came_through__relay_s_beat__is_denied_everywhere() -> None:
    beat = b'{"lane": 0, "beat": 1, "watermark": "2026-01-01T00:00:00Z"}'

    assert not any(came_through(beat, topic.name, 0) for topic in topics())


def test_topics__every_aggregate_type_of_the_outbox__has_the_one_that_the_connector_chooses() -> None:
    """A row without a topic would stop the stream."""
    route = json.loads(CONNECTOR.read_text())["config"]["transforms.outbox.route.topic.replacement"]
    routed = {aggregate: route.replace("${routedByValue}", aggregate) for aggregate in _aggregates()}

    assert set(routed.values()) <= {topic.name for topic in topics()}
    for topic in DATA_TOPICS:
        assert topic.name == routed[str(topic.aggregatetype)]


def test_topics__with_facts__have_lanes() -> None:
    assert {topic.aggregatetype for topic in DATA_TOPICS} == _aggregates() - {HEARTBEAT_AGGREGATE}


def _partition(key: str, partitions: int) -> int:
    chosen: int = DefaultPartitioner()(key.encode(), list(range(partitions)), None)
    return chosen


def _aggregates() -> set[str]:
    """Collect what the contexts' `messages` modules call their aggregate types."""
    names = [f"app.{package.name}.messages" for package in pkgutil.iter_modules(app.__path__) if package.ispkg]
    found: set[str] = set()
    for name in names:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        found |= {value for key, value in vars(module).items() if key.endswith("AGGREGATE")}
    return found
