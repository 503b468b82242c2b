"""Recounts a loop's promises from its topics alone, with a naive fold of its own: a set of sources, and River.

It shares no decision with what it checks: nothing of ``core`` is imported, and bytes are turned into fields by functions
that it is given.  What it cannot tell (a record that retention has deleted, versions that other code has made, the last
bits on a machine that rounds otherwise) it does not accuse of; but it does not call good what it had to leave out unseen.

It streams: of an id it keeps a digest of 8 bytes, and reads a topic again only to name offenders.  Two ids with one
digest could hide an offence, never make one up; among a million ids there are such two once in 37 million audits.
"""

from __future__ import annotations

from streams.audit.naive import Said, lineage_of, nearly
from streams.audit.recount import audit
from streams.audit.report import Finding, Report, Stored, Subject

__all__ = ["Finding", "Report", "Said", "Stored", "Subject", "audit", "lineage_of", "nearly"]
