"""``scripts/bench``: lists the benchmarks, or runs one."""

from __future__ import annotations

import sys

import record


def main(arguments: list[str]) -> int:
    known = record.benchmarks()
    if not arguments:
        print("Run one with scripts/bench NAME. There are:")
        for name, text in known.items():
            print(f"  {name:<18} {text}")
        return 0
    name, *wanted = arguments
    name = name.replace("_", "-")
    if name not in known:
        sys.exit(f"there is no benchmark '{name}'; there are: {', '.join(known)}")
    return min(1, record.run(name, wanted))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
