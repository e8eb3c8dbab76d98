"""Writes dashboards/*.json. With --check: writes nothing, fails where a file is not what it would write."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from generator import agent, fleet, node, workload

FOLDER = Path(__file__).parent.parent


def main() -> int:
    """0, or 1 when --check found a difference."""
    check = sys.argv[1:] == ["--check"]
    made = {f"{board.uid}.json": board for board in (module.build() for module in (fleet, node, workload, agent))}
    different = {path.name for path in FOLDER.glob("*.json")} - set(made)
    for name, board in made.items():
        path = FOLDER / name
        text = json.dumps(board, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        if not path.exists() or path.read_text() != text:
            different.add(name)
            if not check:
                path.write_text(text)
    if check and different:
        print(f"{', '.join(sorted(different))} of dashboards/: not in step: run `make dashboards`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
