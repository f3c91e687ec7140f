"""List the licences of what is installed, and what the requirements pin beside it, without asking any service.

python tools/studies/licences.py                     # a table: package, version, licence
python tools/studies/licences.py --refuse AGPL SSPL  # exit status 1 if a licence contains one of these words

Known vulnerabilities cannot be looked up so: they need a service (pip-audit: pypi.org or osv.dev). The list that this
command writes, name and version a line, is what such a service takes.
"""

import argparse
import re
from importlib.metadata import Distribution, distributions
from pathlib import Path

import _tools  # noqa: F401

from frostnet_mm.cli import run_tool

REQUIREMENTS = Path(__file__).resolve().parent.parent.parent / 'requirements.txt'
UNKNOWN = 'not stated'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='List the licences of what is installed.')
    parser.add_argument('--refuse', nargs='+', default=[], metavar='WORD', help='licences that must not be there')
    parser.add_argument('--requirements', type=Path, default=REQUIREMENTS, help='pins to compare with')
    args = parser.parse_args()
    if not args.requirements.is_file():
        parser.error(f'--requirements {args.requirements}: expected a file such as requirements.txt')
    return args


def plain(name: str) -> str:
    """A package's name as indices compare it (PEP 503)."""
    return re.sub(r'[-_.]+', '-', name).lower()


def licence_of(package: Distribution) -> str:
    """What a package says its licence is: the expression, else the classifiers, else the first line of the text."""
    meta = package.metadata
    if meta.get('License-Expression'):
        return meta['License-Expression']
    classified = [line.rpartition(' :: ')[2] for line in meta.get_all('Classifier') or () if line.startswith('License')]
    text = (meta.get('License') or '').strip().splitlines()
    found = [name for name in classified if name != 'OSI Approved'] or text[:1]
    return ', '.join(found)[:80] or UNKNOWN


def pins_of(path: Path) -> dict[str, set[str]]:
    """Versions that a file of requirements allows, by name; several where they depend on the interpreter."""
    found: dict[str, set[str]] = {}
    for line in path.read_text().splitlines():
        match = re.match(r'([\w.-]+)==([\w.]+)', line)
        if match:
            found.setdefault(plain(match[1]), set()).add(match[2])
    return found


def main() -> int:
    args = parse_args()
    installed = {plain(package.metadata['Name']): package for package in distributions()}
    pins, refused = pins_of(args.requirements), []
    print('| package | version | pinned | licence |\n|---|---|---|---|')
    for name, package in sorted(installed.items()):
        licence, version = licence_of(package), package.version.partition('+')[0]
        pinned = 'yes' if version in pins.get(name, ()) else ', '.join(sorted(pins[name])) if name in pins else 'no'
        print(f'| {name} | {version} | {pinned} | {licence} |')
        refused += [f'{name} ({licence})' for word in args.refuse if word.lower() in licence.lower()]
    unstated = sum(licence_of(package) == UNKNOWN for package in installed.values())
    print(f'\n{len(installed)} packages, {unstated} of which state no licence.')
    if refused:
        print(f'PROBLEM: refused licences: {"; ".join(refused)}')
    return int(bool(refused))


if __name__ == '__main__':
    run_tool(main)
