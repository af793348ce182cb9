"""Renders the Helm chart with odd values in each place: build-support/odd_chart_values.py [CASES].

The chart must refuse a value and name its place, or render manifests that Kubernetes accepts: by its schemas of three
versions and by the rules of kubernetes_rules.py. build-support/check-deploy runs it with the same choice of cases every
time; with a number it renders that many, with `all` every case (half an hour).
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import helm_python as helm  # type: ignore[import-not-found]  # pants: no-infer-dep - only check-deploy has it
import kubernetes_validate  # type: ignore[import-not-found]  # pants: no-infer-dep - only check-deploy has it
import yaml  # type: ignore[import-untyped]  # it has no types
from kubernetes_rules import problems
from render_chart import CHART

VERSIONS: Final = ("1.30", "1.33", "1.37")
# Resources of operators, whose schemas check_resources.mjs has.
_OTHERS: Final = {"ScaledObject", "ServiceMonitor"}
_SEED: Final = 19
_CASES: Final = 500
# What a chart passes on as it is: Kubernetes checks it.
_PASSED_ON: Final = ("affinity", "initContainers", "extraVolumes", "tlsConfig", "valueFrom")
_ODD: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 5, 3601, 2**31, 2**53, 10**30, 0.5, 1e300),
    *("", " ", "a", "A", "0", "true", "null", "~", "ü", "日本", "a b", "a: b", "a #b", "#", "- x", "{}", "["),
    *(
        "a\nb",
        "a\n",
        "\t",
        "\u200b",
        "\x01",
        "$(HOME)",
        "$$",
        "'",
        '"',
        "\\",
        "a/b",
        "a=b",
        "a:b",
        "a.b",
        "-a",
        "a-",
        "a_b",
    ),
    *("*", "{{ .Values }}", "1Gi", "50%", "1e3", "0x10", "1_000", "x" * 64, "x" * 254, "x" * 5000, "2026-11-30"),
    *([], [None], ["a", "a"], [1], [""], [{}], [["a"]]),
    *({}, {"a": "b"}, {"a": None}, {"a": 1}, {"": ""}, {"ü": "x"}, {"a b": "x"}, {"x" * 300: "y"}, {"a": {"b": []}}),
    {"app.kubernetes.io/name": "other"},
)


class Case(NamedTuple):
    """One odd value.  base: the name of the file in ci that it changes.  path: of the value."""

    base: str
    path: tuple[Any, ...]
    value: Any

    def __str__(self) -> str:
        return f"{self.base} with {'.'.join(map(str, self.path))} = {str(self.value)[:60]!r}"


def bases() -> dict[str, Any]:
    """Return the values of each file in ci, together with the defaults."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    return {path.stem: _merged(defaults, yaml.safe_load(path.read_text()) or {}) for path in CHART.glob("ci/*.yaml")}


def cases(values: dict[str, Any]) -> list[Case]:
    """Return every place of every base with every odd value."""
    places = [(name, path) for name, base in sorted(values.items()) for path in _paths(base)]
    return [Case(name, path, odd) for name, path in places for odd in _ODD]


def _merged(first: Any, second: Any) -> Any:
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return second
    return {key: _merged(first.get(key), second[key]) if key in second else first[key] for key in [*first, *second]}


def _paths(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of the values and of everything in them that the chart itself reads."""
    if path:
        yield path
    if isinstance(values, dict | list) and not {*map(str, path)} & set(_PASSED_ON):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _paths(value, (*path, key))


def changed(base: Any, case: Case) -> Any:
    """Return a base's values with the odd one of a case."""
    values = node = copy.deepcopy(base)
    for key in case.path[:-1]:
        node = node[key]
    node[case.path[-1]] = case.value
    return values


class Checker:
    """Renders cases and keeps the manifests that were found valid."""

    def __init__(self, chart: Any, values: dict[str, Any]) -> None:
        self._chart = chart
        self._bases = values
        self._valid: set[str] = set()
        self.refused = 0

    def check(self, case: Case) -> str:
        """Return what is wrong with the chart's answer to a case; "" for nothing."""
        try:
            values = helm.values_from_yaml(yaml.safe_dump(changed(self._bases[case.base], case), allow_unicode=True))
            manifests = self._chart.render(values, name="midrib", namespace="inference")
        except helm.HelmError as error:
            self.refused += 1
            names = [key.replace("/", "~1") for key in case.path if isinstance(key, str)][-2:]
            named = any(name in str(error) for name in names)
            return "" if named else f"{case}: the refusal names none of {names}: {error}"
        wrong = [problem for name, text in manifests.items() if name.endswith(".yaml") for problem in self._of(text)]
        return f"{case}: accepted, but {'; '.join(wrong)[:400]}" if wrong else ""

    def _of(self, text: str) -> Iterator[str]:
        """Yield the problems of a template's manifests."""
        if text in self._valid:
            return
        try:
            found = [problem for manifest in yaml.safe_load_all(text) if manifest for problem in _problems(manifest)]
        except yaml.YAMLError as error:
            found = [f"no YAML: {error}"]
        if not found:
            self._valid.add(text)
        yield from found


def _problems(manifest: Any) -> Iterator[str]:
    yield from problems(manifest)
    for version in VERSIONS if manifest["kind"] not in _OTHERS else ():
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}"


def main() -> None:
    """Check the cases and list the wrong answers."""
    values = bases()
    chosen = cases(values)
    if "all" not in sys.argv:
        count = int(sys.argv[1]) if sys.argv[1:] else _CASES
        chosen = random.Random(_SEED).sample(chosen, min(len(chosen), count))  # noqa: S311 - a choice of cases
    with helm.Chart.load(CHART) as chart:
        checker = Checker(chart, values)
        wrong = [answer for case in chosen if (answer := checker.check(case))]
    if wrong:
        print("\n".join(wrong))
        sys.exit(1)
    print(f"Odd values: {len(chosen)} cases, {checker.refused} refused by name, the others rendered valid manifests")


if __name__ == "__main__":
    main()
