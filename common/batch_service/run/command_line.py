"""Splits a command line into a program and its arguments as a POSIX shell does, which expands nothing."""

from __future__ import annotations

import os
import re

_PIECE = re.compile(r'''(?P<gap>[ \t\r\n]+)|(?P<plain>[^ \t\r\n'"\\]+)|'(?P<single>[^']*)'|\\(?P<escaped>.)'''
                    '|(?P<quote>")', re.DOTALL)
_QUOTED = re.compile(r'(?P<plain>[^"\\]+)|\\(?P<escaped>["\\])|(?P<backslash>\\)|(?P<quote>")')


def split(line: str) -> list[str]:
    """Returns the words of a command line, in a time in proportion to its length; shlex.split takes the square.

    Raises:
        ValueError: A quote is not closed, nothing follows a backslash, or Linux would not take so much.
    """
    words: list[str] = []
    word: list[str] | None = None
    pattern, position = _PIECE, 0
    while position < len(line):
        piece = pattern.match(line, position)
        if piece is None:
            raise ValueError('a quote is not closed, or nothing follows the last backslash')
        position = piece.end()
        if piece.lastgroup == 'gap':
            if word is not None:
                words.append(''.join(word))
            word = None
            continue
        word = [] if word is None else word
        if piece.lastgroup == 'quote':
            pattern = _QUOTED if pattern is _PIECE else _PIECE
        else:
            word.append(piece[piece.lastgroup or 0])
    if pattern is _QUOTED:
        raise ValueError('a quote is not closed')
    if word is not None:
        words.append(''.join(word))
    _refuse_what_linux_would(words)
    return words


def _refuse_what_linux_would(words: list[str]) -> None:
    """It counts a pointer and an end for each word. To hand it so many words takes long, so they are counted here."""
    most = os.sysconf('SC_ARG_MAX')
    if sum(map(len, words)) + 9 * len(words) > most:
        raise ValueError(f'it has more than {most} bytes, with 9 for each of its {len(words)} words')
