"""For every run of tests, by plain pytest or by Pants.

Imports survive a change of directory and reach children. A run of files that are all skipped, each with its reason, is
not a failure: Pants decides which files share a run. Hypothesis measures no time: other work may use the processor.
"""

import contextlib
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent

# Pants names source roots relative to its sandbox; a spawned worker finds a test's module from the root.
sys.path[:] = dict.fromkeys([str(ROOT / entry) for entry in sys.path] + [str(ROOT)])
# So does the environment in which it starts children: by the first name for a PEX, by the second within one.
for name in {"PEX_EXTRA_SYS_PATH", "__PEX_EXTRA_SYS_PATH__"} & set(os.environ):
    roots = os.environ[name].split(os.pathsep)
    os.environ[name] = os.pathsep.join(str(ROOT / root) for root in roots)

with contextlib.suppress(ImportError):  # the clients of other projects are tested without it
    from hypothesis import HealthCheck, settings

    settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("untimed")


@pytest.fixture(
    scope="session", params=[("grpcio", 1), ("asyncio", 1), ("asyncio", 3)], ids=["grpcio", "asyncio", "3-fronts"]
)
def front(request: pytest.FixtureRequest) -> Iterator[str]:
    """The implementation of gRPC of the servers that a test starts, in their process or in three others."""
    implementation, processes = request.param
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MIDRIB_FRONT", implementation)
        environment.setenv("MIDRIB_FRONTS", str(processes))
        yield implementation


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Function) -> Generator[None, object, object]:
    """Start the servers of a test without `front` by the default: the fixture's variables last until the next one."""
    with pytest.MonkeyPatch.context() as environment:
        if "front" not in item.fixturenames:
            environment.delenv("MIDRIB_FRONT", raising=False)
            environment.delenv("MIDRIB_FRONTS", raising=False)
        return (yield)


_SKIPPED_FILES: list[str] = []


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note the files that are skipped as a whole."""
    if report.skipped:
        _SKIPPED_FILES.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Let a run succeed in which every file is skipped."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and _SKIPPED_FILES:
        session.exitstatus = pytest.ExitCode.OK
