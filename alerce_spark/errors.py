"""Errors that a user can mend: one message, exit status 2. All others are faults of ours and keep their trace."""

from __future__ import annotations


class AlerceError(Exception):
    """Root of the errors with a message for the user: what is wrong, where, and what to do about it.

    Each room defines its own leaves beside the code that raises them.
    """


class InputError(AlerceError, ValueError):
    """What the user gave (an argument, a file, its contents) cannot be used; the message names it and the remedy."""


class LakeError(AlerceError):
    """The lake cannot be used as asked; the message says why and what to do."""
