"""20,000 grades, every tenth faulty in one of 25 ways: are all others graded, the faulty ones named, none paid twice?

PYTHONPATH=src:tests python benchmarks/judge_faults.py [--grades 20000]        about 4 minutes

The server (tests/judge_faulty.py) counts what it was paid for. A second run asks only what had a bad hour.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from judge_faulty import FaultyServer, judged  # noqa: E402
from test_gemini import PROMPT, settings, talk  # noqa: E402

from placid.judge import run  # noqa: E402
from placid.store import RunDir  # noqa: E402


def main() -> None:
    """Prints one JSON line; leaves with 1 if anything is not as it should be."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--grades", type=int, default=20_000)
    count = parse.parse_args().grades
    os.environ |= {"GEMINI_API_KEY": "none"}
    with tempfile.TemporaryDirectory(prefix="placid-faults-") as folder, FaultyServer() as server:
        os.environ["GOOGLE_GEMINI_BASE_URL"] = server.url
        run_dir = talk(RunDir(Path(folder)), count)
        rows = []
        for _ in range(2):
            began, asked = time.monotonic(), len(server.requests)
            judge_id = run(settings(limits={"deadline_s": 5}), run_dir, [PROMPT])
            verdicts = list(run_dir.verdicts(judge_id).values())
            wrong, billed = judged(server, verdicts, count)
            states = Counter(v.unscored.value if v.unscored else "scored" for v in verdicts)
            rows.append(
                {
                    "seconds": round(time.monotonic() - began, 1),
                    "requests": len(server.requests) - asked,
                    "states": dict(states),
                    "requests_by_times_paid": dict(billed),
                    "wrong": wrong,
                }
            )
    print(json.dumps({"benchmark": "judge_faults", "grades": count, "runs": rows}))
    raise SystemExit(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    main()
