"""The error that a user can act on."""


class UserError(Exception):
    """A problem that the user can fix; commands print it as one line and exit with code 2.

    The message says where (file, row or flag), what was expected, what kind of thing was found, and what to do. It never
    quotes a patient's value or the text of a row.
    """
