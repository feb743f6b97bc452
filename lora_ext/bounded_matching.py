"""Matching in bounded time, whatever text or regular expression a stranger gives."""

from __future__ import annotations

import re

LONGEST_EXPRESSION, MOST_REPETITIONS, MOST_ALTERNATIVES = 200, 2, 6


def is_bounded_expression(expression: str) -> bool:
    r"""Whether a regular expression cannot take long to match.

    Matching an arbitrary one can take forever. With two repetitions, none of them of a group, and few alternatives it
    takes at most about half a millisecond for a layer's name (a third repetition: 50 ms). `.*` at both ends of what is
    searched for says nothing and is not counted. What Python warns of (`[[`, `--` …) is not taken either.

    Args:
        expression: a Python regular expression; whether it is a valid one is not checked.

    Example:
        >>> [is_bounded_expression(text) for text in (r"mid_block\.attentions\.\d\..*to_[qk]", "(a+)+$")]
        [True, False]
    """
    simple = re.sub(r"\\[.dw]", "x", expression)
    return (
        len(expression) <= LONGEST_EXPRESSION
        and not re.search(r"\\|\)[*+?{]|\{|\(\?(?!:)|\[\[|--|&&|~~|\|\|", simple)
        and len(re.findall(r"[*+]|(?<!\()\?", re.sub(r"^\^?\.\*|\.\*\$?$", "", simple))) <= MOST_REPETITIONS
        and simple.count("|") <= MOST_ALTERNATIVES
    )


def split_outside_brackets(text: str, separator: str, brackets: str) -> list[str]:
    """Splits a text at the separators whose next bracket is no closing one, in linear time.

    Args:
        text: the text.
        separator: one character.
        brackets: the opening ones, then the closing ones.

    Example:
        >>> split_outside_brackets("a=1,b=(2,3),c", ",", "([)]")
        ['a=1', 'b=(2,3)', 'c']
    """
    closing = brackets[len(brackets) // 2 :]
    parts, end, inside = [], len(text), False
    for match in reversed(list(re.finditer(f"[{re.escape(separator + brackets)}]", text))):
        if match[0] != separator:
            inside = match[0] in closing
        elif not inside:
            parts.append(text[match.end() : end])
            end = match.start()
    return [text[:end], *reversed(parts)]
