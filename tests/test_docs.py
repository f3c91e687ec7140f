"""What the documentation points to is there: links, anchors, pictures, tools and their options, configs."""

import re
from pathlib import Path

import pytest
from conftest import ROOT

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
LINK = re.compile(r'\[[^\]]*\]\(([^)\s]+)\)')
FENCE = re.compile(r'^```.*?^```', re.MULTILINE | re.DOTALL)
WIDTH = 120


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.+)$', FENCE.sub('', page.read_text()), re.MULTILINE)
    texts = [re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings]
    return set(texts)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    lost = []
    for target in LINK.findall(FENCE.sub('', page.read_text())):
        if re.match('[a-z]+:', target):
            continue
        name, _, anchor = target.partition('#')
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors_of(path)):
            lost.append(target)
    assert not lost


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tools_and_configs_that_are_named_are_there(page):
    """And each option of a tool's command line is one of its source."""
    text = page.read_text()
    paths = re.findall(r'(?<![\w/.-])((?:tools|configs|tests|docs|frostnet_mm)/[\w/.-]+\.(?:py|sh|md|png|jpg))', text)
    assert not [path for path in paths if not (ROOT / path).exists()]
    commands = re.findall(r'python (tools/[\w/]+\.py)((?:[^\n`\\]|\\\n)*)', text)
    for tool, rest in commands:
        sources = (ROOT / tool).read_text() + (ROOT / 'frostnet_mm/cli.py').read_text()
        for option in re.findall(r'(?<=\s)--[a-z][\w-]*', rest.partition('#')[0]):
            assert f"'{option}'" in sources, f'{tool} {option}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_short_outside_of_tables(page):
    long = [n for n, line in enumerate(page.read_text().splitlines(), 1) if len(line) > WIDTH and line[0] != '|']
    assert not long


def test_every_page_is_in_an_index():
    index = (ROOT / 'docs/README.md').read_text() + (ROOT / 'docs/results/README.md').read_text()
    own = {page.name for page in PAGES if page.name != 'README.md'}
    assert own == {name for name in own if f']({name})' in index}
