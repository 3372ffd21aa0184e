"""How the tests read a README."""
from __future__ import annotations

import re
import subprocess
from pathlib import Path


def section_of(text: str, heading: str) -> str:
    """Returns what stands below a heading, up to the next one of its level."""
    found = re.search(rf'^## {heading}$(.*?)(?=^## |\Z)', text, re.MULTILINE | re.DOTALL)
    assert found, f'There is no chapter "{heading}"'
    return found[1]


def words_of_prose(text: str) -> int:
    """Counts the words that are read: without code, where a link leads, the lines of tables, tags."""
    prose = re.sub(r'(?ms)^```.*?^```$|\]\([^)]*\)|^\|[-| ]+\|$|\||<[^>]*>', ' ', text)
    return len(prose.split())


def bash_reads(commands: str) -> bool:
    """Says whether bash finds nothing wrong with the way that the commands are written."""
    bash = subprocess.run(['bash', '-n'], input=commands, capture_output=True, text=True)
    return (bash.returncode, bash.stderr) == (0, '')


def broken_links(readme: Path) -> list[str]:
    """Returns the links that lead to no heading and to no file of the project; those to the web are not followed."""
    links = [link for link in re.findall(r'\]\(([^)]+)\)', readme.read_text(encoding='utf-8'))
             if not link.startswith('https://')]
    assert links
    return [link for link in links if not _leads_somewhere(readme, *link.partition('#')[::2])]


def _leads_somewhere(readme: Path, path: str, heading: str) -> bool:
    target = readme.parent / path if path else readme
    return target.exists() and (not heading or heading in {
        re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-')
        for title in re.findall(r'^#+ (.*)$', target.read_text(encoding='utf-8'), re.MULTILINE)})
