"""One name, one thing: whoever reads a class's name anywhere in the library knows which it is."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.source import LIBRARY, ROOT, tree

ALIAS = re.compile(r"[A-Z][a-z]\w*")  # an assignment to such a name makes a type: Draft = dict[str, Any]


def public_types(path: Path) -> Iterator[str]:
    """The classes and type aliases that a module offers to others."""
    for node in tree(path).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name) if ALIAS.match(target.id))


def test_no_public_class_or_type_stands_twice_in_the_library() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path in LIBRARY:
        for name in public_types(path):
            homes[name].append(str(path.relative_to(ROOT)))
    assert len(homes) > 100
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}
