"""What can keep an export from being made."""

from app.core.errors import RateLimited


class TooManyExports(RateLimited):
    """This process makes as many exports as it may."""

    slug = "too-many-exports"
    title = "Too many exports at once"


class ClientTooSlow(Exception):
    """The client has taken nothing for so long that the export is given up."""
