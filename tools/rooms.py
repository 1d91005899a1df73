"""The structure of the source by its own imports: `python tools/rooms.py [FOLDER]`, by default src/bakeoff.

A room is a folder, or a module that lies at the root. Printed are the rooms with their sizes and what they import, how
many arrows go from one room to another, how many modules a change of room passes (doors), and every circle, of rooms
and of modules. Imports inside functions count as well.
"""

import ast
import sys
from collections import defaultdict
from pathlib import Path

Graph = dict[str, set[str]]


def modules(folder: Path) -> dict[str, Path]:
    """Return the modules below a package's folder by their dotted names; the package itself is left out."""
    paths = {path: path.relative_to(folder).with_suffix("").parts for path in sorted(folder.rglob("*.py"))}
    names = {".".join(part for part in parts if part != "__init__"): path for path, parts in paths.items()}
    return {name: path for name, path in names.items() if name}


def imports(path: Path, package: str, known: dict[str, Path], top_only: bool = False) -> set[str]:
    """Return which of the known modules a module imports, in functions too unless `top_only`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [name for alias in node.names for name in (f"{node.module}.{alias.name}", node.module)]
        else:
            continue
        for name in names:
            inner = name.removeprefix(f"{package}.") if package else name
            if inner in known:
                found.add(inner)
    return found


def graph_of(folder: Path, package: str, top_only: bool = False) -> Graph:
    """Return what each module below a folder imports of the others."""
    known = modules(folder)
    return {name: imports(path, package, known, top_only) - {name} for name, path in known.items()}


def room(module: str, folder: Path) -> str:
    """Return the folder that a module lies in, or its own name at the root."""
    return module if (folder / module.replace(".", "/")).is_dir() else module.rpartition(".")[0] or module


def circles(graph: Graph) -> list[list[str]]:
    """Return the groups of nodes that reach each other (Tarjan 1972, strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            place = stack.index(node)
            group = sorted(stack[place:])
            del stack[place:]
            if len(group) > 1:
                found.append(group)

    for node in graph:
        if node not in index:
            visit(node)
    return found


def main() -> None:
    """Print rooms, arrows and circles."""
    folder = Path(sys.argv[1] if sys.argv[1:] else Path(__file__).parent.parent / "src/bakeoff")
    package = folder.name if (folder / "__init__.py").exists() else ""
    graph = graph_of(folder, package)
    between: Graph = defaultdict(set)
    for module, others in graph.items():
        here = room(module, folder)
        across = {room(other, folder) for other in others} - {here}
        between[here] |= across
    files: dict[str, int] = defaultdict(int)
    for module in graph:
        files[room(module, folder)] += 1
    for name in sorted(files):
        print(f"{name:24} {files[name]:3} modules -> {', '.join(sorted(between[name])) or 'nothing'}")
    print(f"rooms: {len(files)}, arrows between rooms: {sum(map(len, between.values()))}")
    for what, found in (("rooms", circles(between)), ("modules", circles(graph))):
        print(f"circles of {what}: {len(found)}")
        for group in found:
            print(f"  {' <-> '.join(group)}")


if __name__ == "__main__":
    main()
