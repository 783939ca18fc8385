"""The one exception that a command line turns into a single line and exit code 2."""


class InputError(ValueError):
    """A mistake of the user or of the surroundings: what is wrong, what was expected, what to do."""
