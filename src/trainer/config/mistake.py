"""A user's mistake, which the command line answers in one line."""


class Mistake(Exception):
    """What the user can mend: the message names the key, the value, and what is allowed."""
