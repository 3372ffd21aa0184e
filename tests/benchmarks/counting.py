"""Measures how fast words are counted: ``python -m tests.benchmarks.counting [ROUNDS [MEGABYTES]]``.

A first round, which is not timed, looks at the memory (which slows down what it looks at) and compares the results;
those of wc are another thing, as it does not tell one word from another.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from itertools import accumulate
from pathlib import Path
from statistics import median

PROGRAMS = {'ours': '''
import python_tutorial_task as task
words = task.count_words(task.Path(sys.argv[1]))
''', 'the plain way': '''
import unicodedata
tokens = Counter(open(sys.argv[1], encoding='utf-8', errors='replace').read().removeprefix('\\ufeff').split())
punctuation = ''.join(char for char in set().union(*tokens) if unicodedata.category(char).startswith('P'))
words = Counter()
for token, count in tokens.items():
    words[token.strip(punctuation).casefold()] += count
del words['']
'''}
AWK = r'''
{ for (i = 1; i <= NF; i++) tokens[$i]++ }
END {
    for (token in tokens) {
        word = tolower(token)
        gsub(/^[!"#%&'()*,\-.\/:;?@\[\\\]_{}]+|[!"#%&'()*,\-.\/:;?@\[\\\]_{}]+$/, "", word)
        words[word] += tokens[token]
    }
    for (word in words) if (word != "") print word, words[word]
}'''


def write_text(path: Path, size: int) -> None:
    """Writes English-like text: 50,000 words, the frequent ones short, in sentences with punctuation and capitals."""
    chance = random.Random(1)
    vocabulary: dict[str, None] = {}
    while len(vocabulary) < 50_000:
        length = max(1, round(chance.gauss(2 + len(vocabulary) ** 0.18, 1)))
        vocabulary[''.join(chance.choices('etaoinshrdlcumwfgypbvk', range(22, 0, -1), k=length))] = None
    words, weights = list(vocabulary), list(accumulate(1 / (rank + 2.7) for rank in range(50_000)))
    marks = ['{}'] * 46 + ['{},', '{},', '{},', '"{}"', '({});']
    with path.open('w', encoding='ascii') as file:
        while file.tell() < size:
            for _ in range(1_000):
                sentence = chance.choices(words, cum_weights=weights, k=chance.randint(5, 25))
                text = ' '.join(map(str.format, chance.choices(marks, k=len(sentence)), sentence))
                file.write(f'{text.capitalize()}{chance.choice("....?!")}{chance.choice("    " + chr(10))}')


def command_of(name: str, path: Path) -> list[str]:
    if name == 'wc -w':
        return ['wc', '-w', str(path)]
    if name not in PROGRAMS:
        return [name, AWK, str(path)]
    program = f'import json, sys\nfrom collections import Counter\n{PROGRAMS[name]}\njson.dump(words, sys.stdout)'
    return [sys.executable, '-c', program, str(path)]


def memory_of(process: int) -> int:
    """The memory of a process and its children in bytes, what they share counted once; 0 where there is no /proc."""
    proc = Path(f'/proc/{process}')
    try:
        lines = (proc / 'smaps_rollup').read_text().splitlines()
        children = (proc / f'task/{process}/children').read_text().split()
    except OSError:
        return 0
    own = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith('Pss:'))
    return own + sum(memory_of(int(child)) for child in children)


def look_at(name: str, path: Path) -> tuple[int, dict[str, int]]:
    """Returns the peak memory of a way to count, and its words."""
    peak = 0
    with subprocess.Popen(command_of(name, path), stdout=subprocess.PIPE, text=True, encoding='utf-8') as process:
        assert process.stdout
        output: list[str] = []
        reader = threading.Thread(target=lambda stream: output.append(stream.read()), args=(process.stdout,))
        reader.start()
        while reader.is_alive():
            peak = max(peak, memory_of(process.pid))
            reader.join(0.1)
    assert process.returncode == 0, name
    if name in PROGRAMS:
        return peak, json.loads(output[0])
    if name == 'wc -w':
        return peak, {}
    return peak, {word: int(count) for word, count in map(str.split, output[0].splitlines())}


def measure(name: str, path: Path) -> tuple[float, float]:
    """Returns the seconds that a way took, and those of its processors."""
    used, began = os.times(), time.perf_counter()
    subprocess.run(command_of(name, path), stdout=subprocess.DEVNULL, check=True)
    seconds, now = time.perf_counter() - began, os.times()
    return seconds, now.children_user + now.children_system - used.children_user - used.children_system


def row(*cells: str) -> None:
    print(f'{cells[0]:<14}', *(f'{cell:>20}' for cell in cells[1:]), flush=True)


def spread(values: list[float], form: str) -> str:
    return ' / '.join(format(value, form) for value in (min(values), median(values), max(values)))


def compare(path: Path, rounds: int) -> None:
    names = ['ours', 'the plain way', *filter(shutil.which, ['mawk', 'gawk']), 'wc -w']
    seconds: dict[str, list[float]] = {name: [] for name in names}
    processors: dict[str, list[float]] = {name: [] for name in names}
    peaks, results = zip(*(look_at(name, path) for name in names), strict=True)
    assert all(words == results[0] for words in results[:-1]), 'the results differ'
    for _ in range(rounds):
        for name in names:
            took, cpu = measure(name, path)
            seconds[name].append(took)
            processors[name].append(cpu)
    size = path.stat().st_size / 1e6
    print(f'{size:.0f} MB, {len(results[0]):,} words, {rounds} rounds in turn; min / median / max')
    row('', 'seconds', 'processor seconds', 'MB/s', 'peak memory', 'ours is faster by')
    for name, peak in zip(names, peaks, strict=True):
        ratios = [theirs / ours for theirs, ours in zip(seconds[name], seconds['ours'], strict=True)]
        row(name, spread(seconds[name], '.1f'), spread(processors[name], '.1f'), f'{size / median(seconds[name]):.0f}',
            f'{peak / 1e6:.0f} MB', spread(ratios, '.2f'))


if __name__ == '__main__':
    the_rounds, the_megabytes = [*map(int, sys.argv[1:]), *[5, 100][len(sys.argv) - 1:]]
    with tempfile.TemporaryDirectory() as directory:
        the_path = Path(directory) / 'text.txt'
        write_text(the_path, the_megabytes * 1_000_000)
        compare(the_path, the_rounds)
