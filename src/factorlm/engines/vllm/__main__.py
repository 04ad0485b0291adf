"""python -m factorlm.engines.vllm check: whether the installed vLLM does what the plug-in relies on."""

from __future__ import annotations

import argparse
import sys

from factorlm.errors import FactorlmError


def main() -> int:
    """Run a command; the exit status is 0 if all was right, 1 if not, 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m factorlm.engines.vllm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="run the behavioural check and note the version if it passes")
    checking.add_argument("--no-note", action="store_true", help="only say, do not write the version down")
    checking.add_argument("--parallel", action="store_true", help="also split the model over two workers")
    arguments = parser.parse_args()
    try:
        from factorlm.engines.vllm.checking import check

        return 0 if check(note=not arguments.no_note, parallel=arguments.parallel) else 1
    except FactorlmError as error:
        print(f"factorlm: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
