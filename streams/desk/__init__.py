"""The desk: where people see what a loop predicts, and say what they think of it."""

from __future__ import annotations
