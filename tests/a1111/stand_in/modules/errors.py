"""Errors are told on the console and go no further."""

import sys
import traceback


def report(message, *, exc_info=False):
    print(f"*** {message}", file=sys.stderr)
    if exc_info:
        print(traceback.format_exc(), file=sys.stderr)
