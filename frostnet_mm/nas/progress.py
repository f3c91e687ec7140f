"""How far a stage is, and how long it will still take."""

import time
from collections.abc import Callable


class Progress:
    """Says how far a stage is, in lines such as '12 of 150 networks evaluated, 14 min left'.

    Args:
        what (str): What is counted.
        total (int): How many there are to be.
        done (int): How many there are at the start. Default: 0.
        say (Callable): Prints a line. Default: print.
        clock (Callable): Tells the time in seconds.
    """

    def __init__(
        self,
        what: str,
        total: int,
        done: int = 0,
        say: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total, self.before, self.say, self.clock = what, total, done, say, clock
        self.started = clock()
        if done:
            say(f'{done} of {total} {what} before')

    def reached(self, done: int, remark: str = '') -> None:
        """Say how far it is.

        Args:
            done (int): How many there are now.
            remark (str): What to add. Default: ''.
        """
        new = done - self.before
        left = (self.clock() - self.started) / new * max(0, self.total - done) if new > 0 else 0.0
        parts = [f'{done} of {self.total} {self.what}', *([f'{duration(left)} left'] if done < self.total else [])]
        self.say(', '.join([*parts, *([remark] if remark else [])]))


def duration(seconds: float) -> str:
    """A time for people: '40 s', '14 min', '3.2 h'."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 5400 else f'{seconds / 3600:.1f} h'
