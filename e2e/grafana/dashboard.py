"""Reads a dashboard with Grafana's own types and prints what they do not know, one line each.

python3 dashboard.py FILE: the file as Grafana's library writes it again must be the file as it was.
"""

import json
import sys

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard


def unlike(ours, theirs, where):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key not in theirs:
                yield f"{where}/{key}: unknown to Grafana"
            else:
                yield from unlike(value, theirs[key], f"{where}/{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for at, (one, other) in enumerate(zip(ours, theirs)):
            yield from unlike(one, other, f"{where}/{at}")
    elif ours != theirs:
        yield f"{where}: {json.dumps(ours)} is read as {json.dumps(theirs)}"


def main(file):
    with open(file, encoding="utf-8") as opened:
        ours = json.load(opened)
    # Without them panels' options and queries would pass as they are.
    plugins.register_default_plugins()
    theirs = json.loads(JSONEncoder().encode(Dashboard.from_json(ours)))
    found = list(unlike(ours, theirs, ""))
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
