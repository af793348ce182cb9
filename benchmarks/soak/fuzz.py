"""Run the fuzz tests for a chosen time: `python benchmarks/soak/fuzz.py --minutes 10`.

The strategies and checks are those of tests/test_fuzz_*.py; here they run with a new seed each time, until the time
is up. With `--atheris TARGET` the bytes come from atheris, guided by the coverage of Midrib's code (README.md describes
its environment). The first example that breaks an invariant ends the run with its exception and status 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TESTS = Path(__file__).parents[2] / "tests"
ROUND = 200
LONG = settings(max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck))
OURS = ["midrib.server", "midrib.wire"]


def tests(name: str) -> ModuleType:
    """Return a module of tests/, which imports others of them as `tests.NAME`."""
    sys.path.insert(0, str(TESTS.parent))
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"there is no {name}.py in {TESTS}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def targets() -> Iterator[dict[str, Any]]:
    """Start two servers; yield the functions of hypothesis that fuzz them, by name."""
    rpc, http, decoding = (tests(f"test_fuzz_{part}") for part in ("grpc", "http", "decoding"))
    with ExitStack() as stack:
        on_grpc = stack.enter_context(rpc.subjected())
        on_http = stack.enter_context(http.subjected())
        readers = st.sampled_from(list(decoding.READERS.values()))
        yield {
            "calls": probe(rpc.calls(), on_grpc.check_call),
            "conversations": probe(rpc.conversations(), on_grpc.check_conversation),
            "posts": probe(http.posts(), on_http.check_post),
            "spoken": probe(http.spoken(), on_http.check_spoken),
            "decoding": probe(
                st.tuples(readers, st.binary(max_size=200) | decoding.STRUCTURED),
                lambda both: decoding.check_read(*both),
            ),
        }


def probe(strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> Any:
    """Return a hypothesis function that checks the examples of a strategy and counts them in `.examples`."""

    @LONG
    @given(strategy)
    def run(example: Any) -> None:
        counted.examples += 1
        check(example)

    counted: Any = run
    counted.examples = 0
    return counted


def by_hypothesis(minutes: float) -> None:
    """Run all targets in rotation until the time is up."""
    until = time.monotonic() + minutes * 60
    with targets() as chosen:
        while time.monotonic() < until:
            for run in chosen.values():
                run()
        for name, run in chosen.items():
            sys.stdout.write(f"{name:>14}  {run.examples:>8,} examples, no failure\n")


def by_atheris(name: str, minutes: float) -> None:
    """Let atheris choose the bytes of one target; it ends the process."""
    import atheris  # type: ignore[import-untyped] # installed in a separate environment

    with atheris.instrument_imports(include=OURS), targets() as chosen:
        # Fuzz() never returns: libFuzzer ends the process at this limit.
        atheris.Setup(
            [sys.argv[0], f"-max_total_time={int(minutes * 60)}", "-max_len=4096", "-len_control=0"],
            chosen[name].hypothesis.fuzz_one_input,
        )
        atheris.Fuzz()


def main() -> None:
    """Parse the command line, and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--atheris", metavar="TARGET", help="calls, conversations, posts, spoken or decoding")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)  # the server logs each failing item
    if chosen.atheris:
        by_atheris(chosen.atheris, chosen.minutes)
    else:
        by_hypothesis(chosen.minutes)


if __name__ == "__main__":
    main()
