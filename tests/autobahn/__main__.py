"""`python -m tests.autobahn [case …]`: the Autobahn cases against the codec; the exit status is 1 if one failed.

The cases of permessage-deflate (12 and 13) are left out: the server speaks no extension.
"""

import asyncio
import sys
from collections import Counter

import kosoku

from tests.autobahn.echo import serving

LEFT_OUT = ["12.*", "13.*"]


async def run(port, include):
    """All results, the failed ones among them."""
    try:
        return await kosoku.run_fuzzingclient(f"ws://127.0.0.1:{port}", include, LEFT_OUT, concurrency=2)
    except kosoku.FailureError as failure:
        return failure.results


def main(include):
    """Run, and print what each verdict was given how often."""
    with serving() as port:
        results = asyncio.run(run(port, include or None))
    failed = [result for result in results if not result.passed]
    for result in failed:
        print(
            f"{result.case_id} {result.behavior.value}/{result.behavior_close.value}: {result.result} {result.result_close}"
        )
        print(f"    {' '.join(result.description.split())}")
    verdicts = Counter(result.behavior.value for result in results)
    print(f"{len(results)} cases: {dict(verdicts)}, {len(failed)} failed")
    for result in results:
        if result.behavior.value == "NON-STRICT":
            print(f"    not strict: {result.case_id}")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
