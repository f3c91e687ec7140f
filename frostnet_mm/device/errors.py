"""What can go wrong that a user can mend. The package needs nothing but NumPy: it is copied into deployments."""


class UserError(Exception):
    """What a user can mend: tools print its message, without a traceback."""


class DeploymentError(UserError, ValueError):
    """A deployment, or what is asked of it, that cannot be used."""


class ImageError(UserError, ValueError):
    """An image that cannot be used."""


class SaturationWarning(UserWarning):
    """An engine whose INT8 sums may saturate on this CPU, so that its results are wrong."""
