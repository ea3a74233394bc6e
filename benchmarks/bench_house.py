"""Layout of the code: files and lines by room, long or complex functions, imports between rooms, import cycles.

A room is a folder or top-level module of alerce_spark. `--before DIR` also measures another checkout.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

PACKAGE = "alerce_spark"
#: Lines and branches from which a function is counted as long and as complex.
LONG, COMPLEX = 70, 10
_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
_BRANCH = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.comprehension, ast.match_case)


def room_of(parts: tuple[str, ...]) -> str:
    """Room of a module by the parts of its path below the package."""
    return parts[0] if len(parts) > 1 else parts[0].removesuffix(".py")


def imported(tree: ast.Module) -> Iterator[tuple[str, ...]]:
    """Modules of the package that a module imports, by their parts below the package; types only needed by mypy too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            below = tuple(node.module.split(".")[1:])
            yield from [below] if below else [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (tuple(a.name.split(".")[1:]) for a in node.names if a.name.startswith(f"{PACKAGE}."))


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of rooms that import each other, one list per group."""
    reach = {room: set(to) for room, to in arrows.items()}
    for through in arrows:
        for room in arrows:
            if through in reach[room]:
                reach[room] |= reach[through]
    groups = {tuple(sorted(b for b in arrows if b in reach[a] and a in reach[b])) for a in arrows if a in reach[a]}
    return [list(group) for group in sorted(groups)]


def complexity(function: ast.AST) -> int:
    """Number of branches of a function and one, as McCabe counts them, with operands of `and` and `or`."""
    nodes = list(ast.walk(function))
    return (
        1
        + sum(isinstance(n, _BRANCH) for n in nodes)
        + sum(len(n.values) - 1 for n in nodes if isinstance(n, ast.BoolOp))
    )


def private(tree: ast.Module) -> int:
    """Private names that a module takes from another one of the package."""
    modules = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE
        for alias in node.names
    }
    taken = sum(name.startswith("_") for name in modules)
    return taken + sum(
        isinstance(n, ast.Attribute)
        and isinstance(n.value, ast.Name)
        and n.value.id in modules
        and n.attr.startswith("_")
        and not n.attr.startswith("__")
        for n in ast.walk(tree)
    )


def strict_errors(checkout: Path) -> int:
    """Errors of mypy in its strict mode."""
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir=/dev/null", "-p", PACKAGE],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    return sum(": error:" in line for line in run.stdout.splitlines())


def measure(checkout: Path) -> dict[str, Any]:
    """Figures of a checkout."""
    lines: dict[str, int] = defaultdict(int)
    files: dict[str, int] = defaultdict(int)
    arrows: dict[str, set[str]] = defaultdict(set)
    names: dict[str, int] = defaultdict(int)
    functions: list[tuple[str, int, int]] = []
    taken = 0
    root = checkout / PACKAGE
    modules = {p.relative_to(root).parts for p in sorted(root.rglob("*.py"))}
    rooms = {room_of(parts) for parts in modules} - {"__init__"}
    for parts in sorted(modules):
        room, text = room_of(parts), root.joinpath(*parts).read_text()
        tree = ast.parse(text)
        files[room] += 1
        lines[room] += text.count("\n")
        names[parts[-1]] += 1
        arrows[room] |= {to[0] for to in imported(tree) if to[0] in rooms} - {room}
        taken += private(tree)
        functions += [
            (f"{'/'.join(parts)}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1, complexity(node))
            for node in ast.walk(tree)
            if isinstance(node, _FUNCTION)
        ]
    biggest = max(lines, key=lambda room: lines[room])
    return {
        "files": sum(files.values()),
        "lines": sum(lines.values()),
        "rooms": len(rooms),
        "lines by room": dict(sorted(lines.items(), key=lambda item: -item[1])),
        "files by room": dict(sorted(files.items(), key=lambda item: -item[1])),
        "biggest room": f"{biggest}: {lines[biggest] / sum(lines.values()):.0%} of the lines",
        "functions": len(functions),
        "median lines of a function": median(length for _, length, _ in functions),
        f"functions of more than {LONG} lines": [name for name, length, _ in functions if length > LONG],
        f"functions of complexity above {COMPLEX}": [name for name, _, branches in functions if branches > COMPLEX],
        "private names taken from other modules": taken,
        "module names used more than twice": {n: k for n, k in sorted(names.items()) if k > 2 and n != "__init__.py"},
        "arrows between rooms": sum(map(len, arrows.values())),
        "circles": circles(arrows),
        "errors of mypy --strict": strict_errors(checkout),
    }


def main() -> None:
    """Print the figures of this checkout, and of the one before."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="another checkout")
    options = parser.parse_args()
    result = {"before": measure(options.before)} if options.before else {}
    print(json.dumps({**result, "now": measure(Path(__file__).resolve().parent.parent)}))


if __name__ == "__main__":
    main()
