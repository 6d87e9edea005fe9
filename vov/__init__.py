"""VOV, compression as adaptation: one short vector per image or clip."""

__version__ = "0.1.0"


class VovError(Exception):
    """A problem that the user can cure. The message is one line and names the cure."""
