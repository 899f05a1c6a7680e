"""The events of each user in ClickHouse: gathered once, and told apart by what looks at them.

There are far fewer users than events, and for every event each aggregate costs something, also where it does not take
it. So tracks that have no event in common share one array of keys. Keys sort by track and time; where a list of events
begins and ends is then a position, found by counting. Events whose numbers matter, which are few, are gathered together
with these.
"""
# ruff: noqa: S608  # All statements are made of constants and numbers.

from collections.abc import Iterator, Sequence

from app.measurement.cold_events import ColdEvents, joined, key_of, offset_of, track_bound
from app.measurement.plan import Plan, Stretch, Track

_OF_USER = ("variant_id", "exposed_us")
# Offsets are counted from the earliest moment that may matter.
_EARLIEST = "(exposed_us - {look_back_us:Int64})"

EventList = tuple[Track, Stretch]


def filtered(events: ColdEvents, plan: Plan, name: str) -> str:
    """Return the rows of users who have events, each event once, with those that count.

    Columns: by list, `first` moment and `number` of the events; of lists of which every event is needed also `f`, their
    moments, ascending, and `a`, their numbers, in the same order. Of a list without events the first moment is 0.
    """
    tracks = plan.tracks
    lists = [[one for one in plan.lists if one[0] == track] for track in tracks]
    gathered, single, apart = [f"any({one}) AS {one}" for one in _OF_USER], list(_OF_USER), list(_OF_USER)
    for index, track in enumerate(tracks):
        if track.has_numbers:
            keeps = _keeps(events, index, lists[index])
            gathered.append(f"groupArrayIf(({key_of('0')}, assumeNotNull(amount{index})), {keeps}) AS pairs{index}")
            single.append(f"arrayCompact(arraySort(pairs{index})) AS pairs{index}")
            apart += [_offsets(f"tupleElement(pairs{index}, 1)", index), f"tupleElement(pairs{index}, 2) AS a_t{index}"]
    for together in _disjoint(tracks):
        keys = f"keys{together[0]}"
        gathered.append(_gathered([(index, _keeps(events, index, lists[index])) for index in together], keys))
        single.append(f"arrayCompact(arraySort({keys})) AS {keys}")
        apart += _apart(together, keys)
    positions, columns = ["*"], list(_OF_USER)
    for index in range(len(tracks)):
        positions += _positions(events, index, lists[index])
        columns += _told(events, plan, index, lists[index])
    return f"""
    SELECT {", ".join(columns)} FROM (
    SELECT {", ".join(positions)} FROM (
    SELECT {", ".join(apart)} FROM (
    SELECT {", ".join(single)} FROM (
    SELECT {", ".join(gathered)} FROM {joined(events, plan, name)}
    GROUP BY unit))))"""


def _disjoint(tracks: Sequence[Track]) -> Sequence[Sequence[int]]:
    """Return the tracks without numbers by their index, in groups of which no event is in two tracks."""
    groups: list[tuple[set[str], list[int]]] = []
    for index, track in enumerate(tracks):
        if track.has_numbers:
            continue
        types = set(track.event_types)
        found = next((group for group in groups if types and group[0] and types.isdisjoint(group[0])), None)
        if found is None:
            groups.append((types, [index]))
        else:
            found[0].update(types)
            found[1].append(index)
    return [indexes for _, indexes in groups]


def _keeps(events: ColdEvents, index: int, lists: Sequence[EventList]) -> str:
    """Return the condition that an event is gathered for a track: for its only list, or for whichever it may be."""
    return f"keeps{index}" if len(lists) > 1 else f"keeps{index} AND {events.inside(*lists[0])}"


def _gathered(keeps: Sequence[tuple[int, str]], name: str) -> str:
    if len(keeps) == 1:
        return f"groupArrayIf({key_of('0')}, {keeps[0][1]}) AS {name}"
    number = ", ".join(f"keeps{index}, {place}" for place, (index, _) in enumerate(keeps[:-1]))
    condition = " OR ".join(f"({condition})" for _, condition in keeps)
    return f"groupArrayIf({key_of(f'multiIf({number}, {len(keeps) - 1})')}, {condition}) AS {name}"


def _apart(together: Sequence[int], keys: str) -> Iterator[str]:
    """Return the offsets of each track's events, out of keys that sort by track."""
    if len(together) == 1:
        yield _offsets(keys, together[0])
        return
    before = ["0", *(f"arrayCount(key -> key < {track_bound(place)}, {keys})" for place in range(1, len(together)))]
    for place, index in enumerate(together):
        end = before[place + 1] if place + 1 < len(together) else f"length({keys})"
        yield _offsets(f"arraySlice({keys}, {before[place]} + 1, {end} - {before[place]})", index)


def _offsets(keys: str, index: int) -> str:
    return f"arrayMap(key -> {offset_of('key')}, {keys}) AS o_t{index}"


def _positions(events: ColdEvents, index: int, lists: Sequence[EventList]) -> Iterator[str]:
    """Return how many of a track's events lie before each of its lists, and in it."""
    for track, stretch in lists:
        place = events.place(track, stretch)
        # Of an only list nothing else was gathered.
        begins, ends = events.offsets(track, stretch) if len(lists) > 1 else (None, None)
        yield f"{_before(begins, index) if begins else '0'} AS before{place}"
        end = _before(ends, index) if ends else f"length(o_t{index})"
        # What the question's start cuts off may be the whole list.
        yield f"toUInt64(greatest({end}, before{place}) - before{place}) AS number{place}"


def _before(offset: str, index: int) -> str:
    return f"arrayCount(at -> at < {offset}, o_t{index})"


def _told(events: ColdEvents, plan: Plan, index: int, lists: Sequence[EventList]) -> Iterator[str]:
    """Return the columns of a track's lists."""
    offsets, listed = f"o_t{index}", _listed(events, plan)
    for track, stretch in lists:
        place = events.place(track, stretch)
        number, first, part = (
            f"number{place}",
            f"{offsets}[before{place} + 1]",
            "arraySlice({}, before{} + 1, number{})",
        )
        if len(lists) == 1:
            yield f"length({offsets}) AS {number}"
            number, first, part = f"length({offsets})", f"{offsets}[1]", "{}"
        else:
            yield number
        yield f"if({number} = 0, 0, {first} + {_EARLIEST}) AS first{place}"
        if (track, stretch) in listed or len(lists) == 1:
            yield f"arrayMap(at -> at + {_EARLIEST}, {part.format(offsets, place, place)}) AS f{place}"
            if track.has_numbers:
                yield f"{part.format(f'a_t{index}', place, place)} AS a{place}"


def _listed(events: ColdEvents, plan: Plan) -> frozenset[EventList]:
    """Return the lists of which every event is needed: without a series numbers of events are known by counting."""
    if events.in_order:
        return plan.listed
    return plan.only(measure.index for measure in plan.measures if not measure.is_number).listed
