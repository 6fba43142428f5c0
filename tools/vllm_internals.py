#!/usr/bin/env python3
"""Whether a vLLM is inside as the launcher of both frontends uses it: prints each difference, and fails if any.

`.venv/bin/python tools/vllm_internals.py FOLDER`: the folder that holds `vllm/`, such as `site-packages` or an unpacked
sdist. It is read, not imported. Without a folder it is the engine environment's.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from vllm_engine.engine.both_frontends.vllm_internals import USED, Used, compared

ROOT = Path(__file__).parents[1]
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Sources:
    """The sources below one folder, by module."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def differences(self, used: Used) -> list[str]:
        """Return what about a function or class is not as the launcher uses it."""
        found = next(filter(None, (self._find(used.name, module) for module in used.modules)), None)
        if found is None:
            return [f"there is no {used.name} in {' or '.join(used.modules)}"]
        module, node = found
        required, taken = self._arguments(node)
        source = ast.get_source_segment(self._text(module) or "", node) or ""
        members = set(self._members(module, node))
        return compared(used, taken=taken, required=required, members=members, source=source)

    def _text(self, module: str) -> str | None:
        path = self._folder.joinpath(*module.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        return file.read_text(encoding="utf-8") if file.exists() else None

    def _find(self, name: str, module: str) -> tuple[str, Definition] | None:
        """Find a definition in a module, or where the module imports it from."""
        text = self._text(module)
        for node in ast.walk(ast.parse(text)) if text is not None else ():
            if isinstance(node, Definition) and node.name == name:
                return module, node
            if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
                is_package = (self._folder / Path(*module.split("."))).is_dir()
                parts = module.split(".")[: None if is_package and node.level == 1 else -node.level or None]
                origin = ".".join([*parts, *filter(None, [node.module])]) if node.level else node.module or ""
                if origin != module and (found := self._find(name, origin)):
                    return found
        return None

    def _arguments(self, node: Definition) -> tuple[list[str], list[str]]:
        """Return the names of required arguments, and of all: of a class, those that its instances are made with."""
        if isinstance(node, ast.ClassDef):
            makers = [
                each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"
            ]
            return self._arguments(makers[0]) if makers else ([], [])
        args = node.args
        named = [each.arg for each in (*args.posonlyargs, *args.args) if each.arg != "self"]
        keywords = [each.arg for each in args.kwonlyargs]
        variable = [each.arg for each in (args.vararg, args.kwarg) if each]
        required = named[: len(named) - len(args.defaults)]
        required += [each for each, given in zip(keywords, args.kw_defaults, strict=True) if given is None]
        return required, [*named, *keywords, *variable]

    def _members(self, module: str, node: Definition) -> Iterator[str]:
        """Yield the names of methods and fields, inherited ones too."""
        if not isinstance(node, ast.ClassDef):
            return
        for each in node.body:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                yield each.name
            elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                yield each.target.id
            elif isinstance(each, ast.Assign):
                yield from (target.id for target in each.targets if isinstance(target, ast.Name))
        for base in node.bases:
            if isinstance(base, ast.Name) and (found := self._find(base.id, module)):
                yield from self._members(*found)


def differences(folder: Path) -> list[str]:
    """Return all that is not as it is used."""
    sources = Sources(folder)
    return [each for used in USED for each in sources.differences(used)]


def main() -> int:
    """Print the differences."""
    given = (
        [Path(sys.argv[1])] if sys.argv[1:] else sorted((ROOT / ".venv-engine/lib").glob("*/site-packages"))
    )
    found = differences(given[0])
    print("\n".join(found) or f"vLLM in {given[0]} is as the launcher uses it")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
