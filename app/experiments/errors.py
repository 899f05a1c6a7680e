"""What callers can do wrong about experiments."""

from collections.abc import Sequence

from app.core.errors import Conflict, KeyTaken, NotFound, ReferenceNotFound
from app.experiments.lifecycle import Move, Refusal, Status


class ExperimentNotFound(ReferenceNotFound):
    slug = "experiment-not-found"
    title = "No such experiment"
    noun = "experiment"


class ExperimentKeyTaken(KeyTaken):
    slug = "experiment-key-taken"
    title = "An experiment with this key exists"
    noun = "an experiment"


class MoveNotAllowed(Conflict):
    slug = "move-not-allowed"
    title = "The experiment's state does not allow this move"

    def __init__(self, move: Move, status: Status, allowed: Sequence[Move]) -> None:
        names = ", ".join(allowed) or "none"
        super().__init__(
            f"The experiment is {status}; {move} is not possible. Allowed: {names}.",
            current_status=status.value,
            allowed=[name.value for name in allowed],
        )


class ChangeNotAllowed(Conflict):
    slug = "change-not-allowed"
    title = "The experiment's state does not allow this change"

    def __init__(self, status: Status, refusals: Sequence[Refusal]) -> None:
        listed = "; ".join(f"{refusal.field}: {refusal.detail}" for refusal in refusals)
        super().__init__(
            f"The experiment is {status}. {listed}.",
            current_status=status.value,
            errors=[{"field": refusal.field, "detail": refusal.detail} for refusal in refusals],
        )


class NotADraft(Conflict):
    slug = "not-a-draft"
    title = "Only drafts can be deleted"

    def __init__(self, status: Status) -> None:
        super().__init__(
            f"The experiment is {status}; only a draft can be deleted. Complete and archive it instead.",
            current_status=status.value,
        )


class DraftInUse(Conflict):
    slug = "draft-in-use"
    title = "Stored assignments or overrides refer to the draft"

    def __init__(self) -> None:
        super().__init__(
            "The draft has overrides or imported assignments. Remove its overrides and delete it then; imported"
            " assignments stay for ever, so archive a draft that has some."
        )


class VariantInUse(Conflict):
    slug = "variant-in-use"
    title = "Stored assignments or overrides refer to it"

    def __init__(self) -> None:
        super().__init__(
            "Stored assignments or overrides refer to a variant that this would remove. Keep the variant, or"
            " archive this draft and create a new experiment."
        )


class MetricAttached(Conflict):
    slug = "metric-attached"
    title = "The experiment has this metric"

    def __init__(self, key: str) -> None:
        super().__init__(f"metric: the experiment has {key!r} already; remove it first to attach it in another role.")


class PrimaryTaken(Conflict):
    slug = "primary-taken"
    title = "The experiment has a primary metric"

    def __init__(self, key: str) -> None:
        super().__init__(f"role: {key!r} is primary, and one metric decides. Remove it first, or attach as secondary.")


class TooManyMetrics(Conflict):
    slug = "too-many-metrics"
    title = "The experiment has as many metrics as it can have"

    def __init__(self, most: int) -> None:
        super().__init__(f"An experiment has at most {most} metrics; remove one that is not needed.")


class MetricNotAttached(NotFound):
    slug = "metric-not-attached"
    title = "The experiment does not have this metric"

    def __init__(self, reference: str) -> None:
        super().__init__(f"The experiment has no metric with the id or key {reference[:80]!r}.")


class PlannedMetricStays(Conflict):
    slug = "planned-metric-stays"
    title = "The metric is part of a sealed plan"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"{key!r} was promised before the start, and the plan is sealed; only metrics attached later can be"
            " removed. Create a new experiment to plan without it."
        )
