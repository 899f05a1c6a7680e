"""The one tree of errors that callers can cause; contexts subclass these with a stable slug."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypedDict

# How Pydantic calls the bounds of a number, and how we do.
_BOUNDS: Mapping[str, str] = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_OF_NUMBERS = frozenset({"greater_than_equal", "greater_than", "less_than_equal", "less_than", "finite_number"})
# What Pydantic says in words of Python, or with names of classes, in the caller's.
_WORDS: Mapping[str, str] = {
    "missing": "is required",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "timezone_aware": "must have an offset, as in 2026-01-31T12:00:00Z",
    "too_short": "must have at least {min_length} {items}, not {actual_length}",
    "too_long": "must have at most {max_length} {items}, not {actual_length}",
}
# Marks parts of an error's location that name a form of a body, not a field.
TAG_PREFIX = "form:"


class FieldProblem(TypedDict):
    """What is wrong with one field of a request, and the way out."""

    field: str
    detail: str


class AppError(Exception):
    """An expected failure. `slug` is stable and ends up in the problem's `type`."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None, **extensions: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers: dict[str, str] = dict(headers or {})
        self.extensions = extensions


class NotFound(AppError):
    status = 404
    slug = "not-found"
    title = "Not found"


class Conflict(AppError):
    status = 409
    slug = "conflict"
    title = "Conflict with the current state"


class ReferenceNotFound(NotFound):
    """Nothing of a kind has this id or key in the project. `noun` names one of the kind, as `metric`."""

    noun: ClassVar[str]

    def __init__(self, reference: str) -> None:
        super().__init__(f"No {self.noun} has the id or key {reference[:80]!r} in this project.")


class KeyTaken(Conflict):
    """Another one of the kind has this key in the project. `way_out` says what else can be done."""

    noun: ClassVar[str]
    way_out: ClassVar[str] = ""

    def __init__(self, key: str) -> None:
        super().__init__(f"key: {self.noun} with the key {key!r} exists in this project; choose another{self.way_out}.")


class Forbidden(AppError):
    status = 403
    slug = "forbidden"
    title = "Forbidden"


class Unauthenticated(AppError):
    status = 401
    slug = "unauthenticated"
    title = "A valid token is required"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class RateLimited(AppError):
    status = 429
    slug = "rate-limited"
    title = "Too many requests"

    def __init__(self, detail: str, *, retry_after_s: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_s)}, retry_after_s=retry_after_s)


class Unavailable(AppError):
    status = 503
    slug = "unavailable"
    title = "Temporarily unavailable"

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_s)})


class MalformedRequest(AppError):
    status = 400
    slug = "malformed-request"
    title = "The request is not HTTP"

    def __init__(self) -> None:
        super().__init__(
            "The request line or a header holds what HTTP does not allow. Percent-encode letters beyond ASCII in path"
            " and query, as j%C3%BCrgen (curl: -G --data-urlencode), and send one Content-Length."
        )


class MalformedBody(AppError):
    status = 400
    slug = "malformed-json"
    title = "The body is not JSON"


class BodyTooLarge(AppError):
    status = 413
    slug = "body-too-large"
    title = "The body is too large"


class UnsupportedMediaType(AppError):
    status = 415
    slug = "unsupported-media-type"
    title = "Send application/json"


class Invalid(AppError):
    """A request whose shape or meaning is wrong: 422 with one entry per field."""

    status = 422
    slug = "validation-error"
    title = "The request is not valid"

    def __init__(self, errors: Sequence[FieldProblem]) -> None:
        listed = "; ".join(f"{problem['field']}: {problem['detail']}" for problem in errors[:5])
        super().__init__(listed, errors=list(errors))

    @classmethod
    def field(cls, field: str, detail: str) -> "Invalid":
        return cls([{"field": field, "detail": detail}])


def field_problem(item: Mapping[str, Any]) -> FieldProblem:
    """Say a Pydantic error in the caller's words: `variants.0.name`, not `("body", "variants", 0, "name")`."""
    location = [str(part) for part in item["loc"] if not str(part).startswith(TAG_PREFIX)]
    if len(location) > 1 and location[0] in {"body", "query", "path", "header"}:
        location = location[1:]
    detail = str(item["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if item["type"] in _WORDS:
        detail = _WORDS[item["type"]].format_map(_said_of(item.get("ctx", {})))
    elif item["type"] == "extra_forbidden":
        detail = "unknown field; remove it"
    elif item["type"] in _OF_NUMBERS and (given := _not_finite(item.get("input"))) is not None:
        # Pydantic names the bound that NaN or infinity does not keep, which is not what is wrong with it.
        bounds = [f" {words} {item['ctx'][name]}" for name, words in _BOUNDS.items() if name in item.get("ctx", ())]
        wanted = f"a number{bounds[0]}" if bounds else "an ordinary number"
        detail = f"must be a finite number, not {given}; send {wanted}"
    return {"field": ".".join(location) or "body", "detail": detail}


def _said_of(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the words are filled with; of texts behind another check, Pydantic does not know that they are."""
    return {**context, "items": "characters" if context.get("field_type") == "Value" else "items"}


def _not_finite(value: object) -> str | None:
    """Return the name of a number that is NaN or infinite, `None` for everything else."""
    try:
        number = float(value) if isinstance(value, float | str) else 0.0
    except ValueError:
        return None
    if math.isnan(number):
        return "NaN"
    return "infinity" if math.isinf(number) else None
