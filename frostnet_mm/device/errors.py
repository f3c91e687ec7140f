"""What can go wrong that a user can mend. The package needs nothing but NumPy: it is copied into deployments."""

import os
import sys


class UserError(Exception):
    """What a user can mend: tools print its message, without a traceback."""


class DeploymentError(UserError, ValueError):
    """A deployment, or what is asked of it, that cannot be used."""


class ImageSizeError(DeploymentError):
    """An image that comes out in another size than that of the network."""


class ImageError(UserError, ValueError):
    """An image that cannot be used."""


class SaturationWarning(UserWarning):
    """An engine whose INT8 sums may saturate on this CPU, so that its results are wrong."""


def close_output() -> None:
    """After a ``BrokenPipeError``: who read what is printed has gone, as ``head`` does; Python flushes at its exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
