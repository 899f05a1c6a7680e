"""What callers can do wrong about access."""

from app.core.errors import Conflict, Forbidden, NotFound, Unauthenticated


class InvalidToken(Unauthenticated):
    slug = "invalid-token"


class MissingScope(Forbidden):
    slug = "missing-scope"
    title = "The token lacks the scope"


class WrongProject(Forbidden):
    slug = "wrong-project"
    title = "The token belongs to another project"


class ProjectNotFound(NotFound):
    slug = "project-not-found"
    title = "No such project"


class ProjectKeyTaken(Conflict):
    slug = "project-key-taken"
    title = "A project with this key exists"


class TokenNotFound(NotFound):
    slug = "token-not-found"
    title = "No such token"
