"""What a caller is told when the services cannot run here."""


class LocalAzureError(RuntimeError):
    """What keeps the local services from running, as one line for the reader."""
