"""Errors that a user can correct: one message, exit status 2. All others are bugs and keep their trace."""

from __future__ import annotations


class AlerceError(Exception):
    """Root of the errors with a message for the user: what is wrong, where, and what to do about it.

    Each room defines its own leaves beside the code that raises them.
    """


class InputError(AlerceError, ValueError):
    """An input of the user (an argument, a file, its contents) cannot be used; the message names it and the remedy."""


class LakeError(AlerceError):
    """The lake cannot be used as requested; the message gives the reason and the remedy."""
