"""What a search cannot do as asked."""

from ..errors import UserError


class SearchError(UserError, ValueError):
    """An architecture, a space or a measurement does not fit the search; the message says why and what to do."""
