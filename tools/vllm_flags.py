"""Write down what flags `vllm serve` takes, from vLLM's own parser and config classes.

Run by the engine's Python, so that the pinned vLLM answers for itself::

    export VLLM_TARGET_DEVICE=cpu
    .venv-engine/bin/python tools/vllm_flags.py > src/vllm_engine/config/flags/0.32.json
    .venv-engine/bin/python tools/vllm_flags.py --check src/vllm_engine/config/flags/0.32.json

`--check` exits 1 and prints a diff when the file does not say what the parser says. Each flag is one
line of the file, so a diff names the flags that changed. Defaults are left out: some depend on the device.
A vLLM that is not installed is put first on PYTHONPATH, unpacked; its compiled parts are not needed.

Types are found by feeding probe texts to the parser's own converters, not by their names, because
vLLM builds most converters as closures and lambdas.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

# The device types of vLLM's platforms (vllm/platforms/*.py) other than "cpu", which vLLM always lists.
DEVICE_TYPES = ("cuda", "xpu")
# PyTorch must know the device, vLLM must not: choices that contain it follow the host's own device.
_SOME_DEVICE = "meta"

Parser = argparse.ArgumentParser


def serve_parser() -> Parser:
    """Build the parser that the `vllm` command would hand `serve`'s arguments to."""
    vllm_command = import_module("vllm.utils.argparse_utils").FlexibleArgumentParser(prog="vllm")
    serve = import_module("vllm.entrypoints.cli.serve").ServeSubcommand()
    parser: Parser = serve.subparser_init(vllm_command.add_subparsers(dest="subparser"))
    return parser


def platform_neutral_parser() -> tuple[Parser, list[Any]]:
    """Build the parser as on a device that vLLM has no platform for, to see which choices name the device.

    Returns also the config classes that its flags come from.
    """
    platform = import_module("vllm.platforms").current_platform
    arguments: Any = import_module("vllm.engine.arg_utils")
    before, get_kwargs = platform.device_type, arguments.get_kwargs
    configs: list[Any] = []

    def get_and_note(config: Any) -> Any:
        configs.append(config)
        return get_kwargs(config)

    platform.device_type, arguments.get_kwargs = _SOME_DEVICE, get_and_note
    try:
        return serve_parser(), configs
    finally:
        platform.device_type, arguments.get_kwargs = before, get_kwargs


def bounds_of(configs: list[Any]) -> dict[str, dict[str, float]]:
    """Return the least and greatest values of the fields that have such, and the same in every class."""
    found: dict[str, list[dict[str, float]]] = {}
    for config in configs:
        for name, field in config.__pydantic_fields__.items():
            pairs = ((bound, getattr(each, bound, None)) for each in field.metadata for bound in BOUNDS)
            found.setdefault(name, []).append({bound: value for bound, value in pairs if value is not None})
    return {name: several[0] for name, several in found.items() if all(one == several[0] for one in several)}


def catalogue() -> dict[str, Any]:
    """Return everything the gateway needs to know of the flags, ordered so that two runs agree."""
    parser, configs = platform_neutral_parser()
    bounds = bounds_of(configs)
    options: dict[argparse.Action, list[str]] = {}
    # Not `action.option_strings`: since 0.33 vLLM hides the --no-enable-x forms there, yet accepts them.
    for option, action in parser._option_string_actions.items():
        options.setdefault(action, []).append(option)
    flags = [
        entry(parser, action, names) | bounds.get(action.dest, {})
        for action, names in options.items()
        if not isinstance(action, argparse._HelpAction)
    ]
    return {
        "vllm": import_module("vllm").__version__.partition("+")[0],
        "abbreviations": parser.allow_abbrev,
        "flags": sorted(flags, key=lambda flag: str(flag["name"])),
    }


def entry(parser: Parser, action: argparse.Action, options: list[str]) -> dict[str, Any]:
    """Describe one flag; what is false or empty is left out."""
    name = next(option for option in options if option.startswith("--"))
    negatives = sorted(option for option in options if turns_off(parser, action, option))
    type_name, keys = value_type(action)
    listed = action.nargs == "+" or isinstance(action, argparse._AppendAction)
    kind = ("bool" if negatives else "switch") if action.nargs == 0 else ("list" if listed else "value")
    choices = [str(choice) for choice in action.choices or () if choice not in (None, _SOME_DEVICE)]
    details = {
        "negatives": negatives,
        "choices": choices,
        "platform_choices": list(DEVICE_TYPES) if _SOME_DEVICE in (action.choices or ()) else [],
        "fold_choices": folds(action.type),
        "optional": returns(action.type, "None", None),
        "bare": action.nargs == "?",
        "repeat": isinstance(action, argparse._AppendAction),
        "dotted": type_name.startswith("json") or type_name == "lora",
        "keys": keys,
    }
    head = {"name": name.removeprefix("--"), "aliases": sorted(options), "kind": kind, "type": type_name}
    return head | {key: value for key, value in details.items() if value}


def turns_off(parser: Parser, action: argparse.Action, option: str) -> bool:
    """Whether giving this option string stores False."""
    if action.nargs != 0:
        return False
    namespace = argparse.Namespace()
    action(parser, namespace, None, option)
    return getattr(namespace, action.dest) is False


def value_type(action: argparse.Action) -> tuple[str, list[str]]:
    """Return the name of the type of one value, and the keys of its JSON object where vLLM fixes them."""
    converter = action.type
    if action.nargs == 0:
        return "bool", []
    if type(action).__name__ == "LoRAParserAction":
        module = import_module("vllm.entrypoints.openai.models.protocol").LoRAModulePath
        return "lora", [field.name for field in dataclasses.fields(module)]
    if converter is None or returns(converter, "{}", "{}"):
        return "str", []
    if config := dataclass_behind(converter):
        return "json_object", json_keys(config)
    for type_name, (text, value) in PROBES.items():
        if returns(converter, text, value):
            return type_name, []
    raise SystemExit(f"{action.option_strings}: cannot tell the type of its values; add a probe for it")


BOUNDS = ("ge", "gt", "le", "lt")
"""As annotated_types and pydantic call them: the parser takes such a value, and its config class refuses it."""

# Probed in this order: each text is one that no later type turns into that value.
PROBES: dict[str, tuple[str, Any]] = {
    "ids": ("0,GPU-x", [0, "GPU-x"]),
    "json_or_str": ("x", "x"),
    "json": ("[1]", [1]),
    "human_int_or_auto": ("auto", -1),
    "human_int": ("8k", 8000),
    "int": ("7", 7),
    "float": ("0.5", 0.5),
}


def returns(converter: Any, text: str, value: Any) -> bool:
    """Whether the converter turns the text into exactly this value."""
    if converter is None:
        return False
    try:
        found = converter(text)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return False
    # An int converter and a float converter must not pass for each other.
    return type(found) is type(value) and bool(found == value)


def folds(converter: Any) -> bool:
    """Whether the converter lower-cases its text and turns dashes into underscores."""
    return returns(converter, "A-B", "a_b")


def dataclass_behind(converter: Any) -> type[Any] | None:
    """Return the config class whose JSON the converter reads, looking into closures and defaults."""
    for value in reachable(converter):
        if isinstance(value, type) and dataclasses.is_dataclass(value):
            return value
    return None


def reachable(converter: Any) -> Iterator[Any]:
    """Yield what a nest of closures holds."""
    held = [cell.cell_contents for cell in getattr(converter, "__closure__", None) or ()]
    for value in [*held, *(getattr(converter, "__defaults__", None) or ())]:
        yield value
        if not isinstance(value, type):
            yield from reachable(value)


def json_keys(config: Any) -> list[str]:
    """Return the keys vLLM takes in this object, or nothing where it takes any key."""
    if config.__pydantic_config__.get("extra") != "forbid":
        return []
    fields = config.__pydantic_fields__.items()
    return sorted(field.alias or name for name, field in fields if field.init is not False)


def rendered(found: dict[str, Any]) -> str:
    """Return the file's text: JSON with one line a flag."""
    lines = ",\n".join("  " + json.dumps(flag) for flag in found["flags"])
    head = "".join(f" {json.dumps(key)}: {json.dumps(found[key])},\n" for key in found if key != "flags")
    return f'{{\n{head} "flags": [\n{lines}\n ]\n}}\n'


def drift(path: Path, text: str) -> list[str]:
    """Return a unified diff from the file to what the parser says; empty when they agree."""
    stored = path.read_text(encoding="utf-8").splitlines()
    return list(difflib.unified_diff(stored, text.splitlines(), str(path), "vllm serve", lineterm="", n=0))


def main() -> int:
    arguments = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--check", type=Path, metavar="FILE", help="compare with FILE instead of printing")
    check: Path | None = arguments.parse_args().check
    # Plugins of whoever runs this could add flags; our own command line could make vLLM drop --model.
    os.environ["VLLM_PLUGINS"] = ""
    sys.argv = ["vllm", "serve"]
    # vLLM logs to stdout.
    with contextlib.redirect_stdout(sys.stderr):
        text = rendered(catalogue())
    if check is None:
        sys.stdout.write(text)
        return 0
    difference = drift(check, text)
    print("\n".join(difference) if difference else f"{check} is what vllm serve takes")
    return 1 if difference else 0


if __name__ == "__main__":
    raise SystemExit(main())
