"""Takes items that wait at the desk, and trusts the model: `tool.py DESK TOKEN COUNT`."""

import sys

import httpx

desk, token, count = sys.argv[1:]
signed = {"Authorization": f"Bearer {token}"}
with httpx.Client(base_url=f"{desk}/api/v1", headers=signed) as api:
    for _ in range(int(count)):
        (item,) = api.post("/leases", json={"count": 1}).raise_for_status().json()
        asked = {"event_id": item["event_id"], "lease": item["lease"]}
        verdict = {"verdict": "accept", "label": item["label"]}
        if item["label"] is None:  # the model had no answer
            verdict = {"verdict": "abstain"}
        said = api.post("/feedback", json=asked | verdict).raise_for_status().json()
        print(said["feedback_id"])
