"""Assignments and overrides when the experiment changes at the worst moment."""

import asyncio

import pytest

from app.assignments.errors import ImportClosed, OverrideClosed, UnknownVariant
from app.assignments.values import Question, Reason
from app.core.rows import RowCode
from app.experiments.errors import ExperimentNotFound
from app.experiments.lifecycle import Move
from tests.integration.services.bench import Bench, import_rows, variants


async def test_import__archived_since_it_was_looked_up__is_closed(bench: Bench) -> None:
    caller, looked_up = await bench.caller(), await bench.experiment(running=False)
    await bench.experiments.move(caller, looked_up.key, Move.ARCHIVE)

    with pytest.raises(ImportClosed):
        await bench.assignments.import_rows(caller, looked_up, import_rows(("ann", "control")))


async def test_import__variant_replaced_since_it_was_looked_up__rejects_that_row_alone(bench: Bench) -> None:
    caller, looked_up = await bench.caller(), await bench.experiment("a", "b", running=False)
    await bench.experiments.change(caller, looked_up.key, {"variants": variants(["a", "c"])})

    rows = import_rows(("ann", "b"), ("bob", "a"), ("cleo", "c"))
    rejected = await bench.assignments.import_rows(caller, looked_up, rows)

    assert [(error.index, error.code) for error in rejected] == [(0, RowCode.UNKNOWN_VARIANT)]
    assert await _users(bench) == ["bob", "cleo"]


async def test_import__while_the_experiment_is_being_archived__waits_and_is_closed(bench: Bench) -> None:
    caller, experiment = await bench.caller(), await bench.experiment(running=False)
    async with bench.database.begin() as connection:
        await bench.changes.bump(connection, "experiments")
        await connection.exec_driver_sql(f"UPDATE experiments SET status = 'archived' WHERE id = {experiment.id}")
        importing = asyncio.create_task(
            bench.assignments.import_rows(caller, experiment, import_rows(("ann", "control")))
        )
        _, waiting = await asyncio.wait({importing}, timeout=0.3)
        assert waiting

    with pytest.raises(ImportClosed):
        await importing
    assert await _users(bench) == []


async def test_import__deleted_since_it_was_looked_up__is_not_found(bench: Bench) -> None:
    caller, looked_up = await bench.caller(), await bench.experiment(running=False)
    await bench.experiments.delete(caller, looked_up.key)

    with pytest.raises(ExperimentNotFound):
        await bench.assignments.import_rows(caller, looked_up, import_rows(("ann", "control")))
    with pytest.raises(ExperimentNotFound):
        await bench.overrides.put(caller, looked_up, "qa", "control")


async def test_override__experiment_changed_since_it_was_looked_up__is_judged_as_it_is_now(bench: Bench) -> None:
    caller, looked_up = await bench.caller(), await bench.experiment("a", "b", running=False)
    await bench.experiments.change(caller, looked_up.key, {"variants": variants(["a", "c"])})

    assert (await bench.overrides.put(caller, looked_up, "qa", "c")).reason is Reason.OVERRIDE
    with pytest.raises(UnknownVariant):
        await bench.overrides.put(caller, looked_up, "qa", "b")
    await bench.experiments.move(caller, looked_up.key, Move.ARCHIVE)
    with pytest.raises(OverrideClosed):
        await bench.overrides.put(caller, looked_up, "qa", "c")


@pytest.mark.parametrize("context_first", [True, False])
async def test_enrolment__same_user_at_once_with_and_without_context__keeps_the_context(
    bench: Bench, *, context_first: bool
) -> None:
    experiment = await bench.experiment()
    with_context = Question(experiment, "ann", enroll=True, context={"country": "DE"})
    questions = [with_context, Question(experiment, "ann", enroll=True), with_context]
    order = questions if context_first else questions[1:]

    outcomes = await asyncio.gather(*(bench.assignments._enrolled([question]) for question in order))

    reasons = [answer.reason for outcome in outcomes for answer in outcome.values()]
    (row,) = await bench.rows("SELECT context FROM assignments")
    assert row["context"] == {"country": "DE"}
    assert reasons[order.index(with_context)] is Reason.NEW_ASSIGNMENT


async def test_enrolment__same_user_at_once__is_new_for_the_first_alone(bench: Bench) -> None:
    experiment = await bench.experiment()
    questions = [Question(experiment, "ann", enroll=True, context={"n": number}) for number in range(3)]

    outcomes = await asyncio.gather(*(bench.assignments._enrolled([question]) for question in questions))

    (row,) = await bench.rows("SELECT context FROM assignments")
    assert row["context"] == {"n": 0}
    assert [answer.reason for outcome in outcomes for answer in outcome.values()] == [
        Reason.NEW_ASSIGNMENT,
        Reason.EXISTING_ASSIGNMENT,
        Reason.EXISTING_ASSIGNMENT,
    ]


async def test_enrolment__by_an_old_version_beside_the_new_one__counts_for_both(bench: Bench) -> None:
    old = await bench.experiment()
    new = await bench.experiments.change(await bench.caller(), old.key, {"name": "Renamed"})
    questions = [Question(version, "ann", enroll=True) for version in (old, new)]

    outcomes = await asyncio.gather(*(bench.assignments._enrolled([question]) for question in questions))

    assert [answer.enrolled for outcome in outcomes for answer in outcome.values()] == [True, True]


async def test_bulk__one_experiment_not_as_it_was_announced__is_the_only_one_not_enrolled(bench: Bench) -> None:
    steady, changing = await bench.experiment(), await bench.experiment()
    # A version that no epoch announces: what a process sees whose look at the changes failed.
    await bench.rows("UPDATE experiments SET version = version + 1 WHERE id = :id", id=changing.id)

    answers = await bench.assignments.answer_many(
        [Question(experiment, "ann", enroll=True) for experiment in (changing, steady)]
    )

    assert [answer.reason for answer in answers] == [Reason.STORE_UNAVAILABLE, Reason.NEW_ASSIGNMENT]
    assert [answer.enrolled for answer in answers] == [False, True]
    assert answers[0].variant is not None


async def _users(bench: Bench) -> list[str]:
    return [row["user_id"] for row in await bench.rows("SELECT user_id FROM assignments ORDER BY user_id")]
