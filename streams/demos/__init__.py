"""Loops that run on real data: ``counterpoint demo NAME``."""

from __future__ import annotations

NAMES = ("phishing", "digits", "trump")
