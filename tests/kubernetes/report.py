"""Turns the reports of the full suite's shards into one page: every specification, and what came of it.

report.py DIRECTORY    reads DIRECTORY/SHARD/junit_01.xml and DIRECTORY/SHARD/log.txt, prints Markdown
"""

import pathlib
import re
import sys
import xml.etree.ElementTree as xml

HERE = pathlib.Path(__file__).parent


def left_out():
    """Specifications that cannot pass here: a part of their names, and the reason outside Overlane."""
    for line in (HERE / "known-failures.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition("\t")
            yield name, reason


def specifications(path):
    for case in xml.parse(path).iter("testcase"):
        name = case.get("name")
        if case.find("skipped") is not None or not name.startswith("[It]"):
            continue
        failed = case.find("failure") is not None or case.find("error") is not None
        yield re.sub(r"^\[It\] ", "", name), failed, float(case.get("time", 0))


def own_tests(path):
    for name, result in re.findall(r"^test (\S+) .*?(ok|FAILED)$", path.read_text(errors="replace"), re.M | re.S):
        yield name, result == "FAILED", 0.0


def main():
    shards = []
    for shard in sorted(path for path in pathlib.Path(sys.argv[1]).iterdir() if path.is_dir()):
        junit, log = shard / "junit_01.xml", shard / "log.txt"
        cases = list(specifications(junit)) if junit.exists() else list(own_tests(log)) if log.exists() else []
        shards.append((shard.name, cases))
    print("# The full Kubernetes suite, specification by specification\n")
    print("Written by `make test-kubernetes-full`. Shards that are not here were not run.\n")
    print("| shard | passed | failed |\n| --- | --- | --- |")
    for name, cases in shards:
        failed = sum(failed for _, failed, _ in cases)
        print(f"| {name} | {len(cases) - failed} | {failed} |")
    print("\nLeft out, for a reason outside Overlane:\n")
    for name, reason in left_out():
        print(f"- `{name}`: {reason}")
    for name, cases in shards:
        print(f"\n## {name}\n")
        for spec, failed, seconds in sorted(cases):
            mark = "FAILED" if failed else "passed"
            time = f", {seconds:.0f} s" if seconds else ""
            print(f"- {mark}{time}: {spec}")


main()
