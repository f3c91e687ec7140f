"""The process that measures one cell: reads requests as lines of JSON, answers each with a line of JSON.

Between its turns it is blocked in a read and uses no processor. It imports neither torch nor mm unless a request needs
them: they would cost 15 seconds and 300 MiB beside an engine that does without.
"""

import json
import os
import sys
import traceback
from typing import Any

from .session import Session


class Worker(Session):
    """Answers the requests, each a dict with ``command``, the name of a method, and its arguments."""

    def prepare(self, **options: Any) -> dict:
        """Make deployments; see :func:`prepare.prepare`."""
        from . import prepare

        return prepare.prepare(**options)

    def profile(self, **options: Any) -> dict:
        """Time the layers of a deployment; see :func:`prepare.profile`."""
        from . import prepare

        return dict(layers=prepare.profile(**options))

    def operators(self, **options: Any) -> dict:
        """Time one operator in float and INT8; see :func:`operators.measure`."""
        from . import operators

        return operators.measure(**options)


def main() -> None:
    """Answer requests of the standard input until it ends, into the file descriptor given, or the standard output."""
    # A channel of its own: libraries print to the standard output, some while they are imported.
    answers = os.fdopen(int(sys.argv[1]) if len(sys.argv) > 1 else os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop('command'))(**request)
        except Exception as error:  # whatever it is, it is the reason that the table gives for this cell
            traceback.print_exc()
            answer = dict(error=f'{type(error).__name__}: {error}')
        answers.write(json.dumps(answer) + '\n')


if __name__ == '__main__':
    main()
