"""Errors of configs."""

from ..errors import UserError


class ConfigError(UserError, ValueError):
    """A config cannot be used; the message says why and what to do."""
