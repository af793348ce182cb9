"""Start worker processes: fork a process that has imported torch, or start an interpreter."""

from midrib.server._worker.launch.launcher import launch as launch
from midrib.server._worker.launch.launcher import start_forking as start_forking
from midrib.server._worker.launch.processes import LaunchedProcess as LaunchedProcess
from midrib.server._worker.launch.processes import Program as Program
