"""The examples are programs: tests run them, and collecting them must not."""

from __future__ import annotations

collect_ignore = ["consumer.py", "producer.py", "reviewer.py", "tool.py"]
