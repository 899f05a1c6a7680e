"""What callers can do wrong about assignments."""

from app.core.errors import Conflict, Invalid, NotFound
from app.experiments.lifecycle import Status
from app.experiments.values import Experiment


class ImportClosed(Conflict):
    slug = "import-closed"
    title = "Archived experiments take no imports"

    def __init__(self) -> None:
        super().__init__("The experiment is archived; assignments can be imported until then.")


class OverrideClosed(Conflict):
    slug = "override-closed"
    title = "The experiment's state does not allow overrides"

    def __init__(self, status: Status) -> None:
        super().__init__(
            f"The experiment is {status}; overrides are possible while it is draft, running or paused.",
            current_status=status.value,
        )


class UnknownVariant(Invalid):
    """The field `variant` names none of the experiment's."""

    def __init__(self, experiment: Experiment, key: str) -> None:
        keys = ", ".join(item.key for item in experiment.variants)
        super().__init__([{"field": "variant", "detail": f"no variant has the key {key[:64]!r}; there are {keys}"}])


class OverrideNotFound(NotFound):
    slug = "override-not-found"
    title = "No such override"

    def __init__(self) -> None:
        super().__init__("The user has no override in this experiment.")
