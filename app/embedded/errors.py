"""What the embedded servers raise when they cannot do their work."""


class EmbeddedError(Exception):
    """An embedded server cannot start or go on; the message is one line for the operator."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
