"""The argument parser of every command: flags from settings, help, and errors in one line."""

from __future__ import annotations

import textwrap
from argparse import ArgumentParser, BooleanOptionalAction, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from lodestream.settings import ALL
from lodestream.sources import Setting, suggestion
from lodestream_common.errors import SettingError

_SOURCES = """\
Each setting above is also an environment variable, and a key in a TOML file; --config PATH or
LODESTREAM_CONFIG name the file. These three are equal:
  {flag} {value}
  {variable}={value}
  {key} = {toml}
A flag replaces a variable, a variable replaces a key in the file, and that replaces the default.
An empty variable counts as unset. An unknown name is an error; variables and the file may contain
settings of other commands.
"""


_WIDTH = 100


class CommandParser(ArgumentParser):
    """Parses the arguments after `lodestream <command>`; wrong ones raise SettingError.

    Args:
        command: the name, as typed.
        about: what the command does, for the top of the help.
        settings: headline → the settings below it, which become flags of the command.
        examples: whole command lines.
        operands: the part of the usage line between the command and its settings.

    """

    def __init__(
        self,
        command: str,
        about: str,
        settings: Mapping[str, Iterable[Setting]],
        examples: Sequence[str] = (),
        operands: str = "",
    ) -> None:
        super().__init__(
            prog=f"lodestream {command}",
            usage=" ".join(filter(None, ["%(prog)s", operands, "[--SETTING VALUE ...]" if settings else ""])),
            description=textwrap.fill(about, _WIDTH),
            epilog=_epilog([s for group in settings.values() for s in group], examples),
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self.set_defaults(config=None)
        if settings:
            self.add_argument(
                "--config", metavar="PATH", help="TOML file of settings [also as LODESTREAM_CONFIG]"
            )
        for headline, group in settings.items():
            section = self.add_argument_group(headline)
            for setting in group:
                section.add_argument(setting.flag, dest=setting.name, **_action(setting))

    def parse(self, arguments: Sequence[str]) -> Namespace:
        """Parse the arguments; settings that were not given are None.

        Raises:
            SettingError: an argument is unknown or malformed.

        """
        parsed, left = self.parse_known_args(arguments)
        if left:
            raise SettingError(self._unknown(left[0].split("=", 1)[0]))
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raise the error that argparse would print."""
        raise SettingError(message.removeprefix("argument "))

    def _unknown(self, name: str) -> str:
        if not name.startswith("-"):
            return f"{name!r}: unknown argument; see {self.prog} --help"
        own = [option for action in self._actions for option in action.option_strings]
        if any(setting.flag == name for setting in ALL.values()):
            return f"{name}: is no setting of `{self.prog}`; see {self.prog} --help"
        return f"{name}: unknown flag{suggestion(name, own) or f'; see {self.prog} --help'}"


class _HelpFormatter(RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=_WIDTH)


def _action(setting: Setting) -> dict[str, Any]:
    help_text = setting.help.replace("%", "%%")
    if setting.is_switch:
        return {"action": BooleanOptionalAction, "default": None, "help": help_text}
    return {
        "action": "append" if setting.is_mapping or setting.is_list else "store",
        "metavar": setting.metavar,
        "help": help_text,
    }


def _epilog(settings: Sequence[Setting], examples: Sequence[str]) -> str:
    parts = [_sources_text(settings)] if settings else []
    if examples:
        parts.append("examples:\n" + "\n".join(f"  {example}" for example in examples))
    return "\n".join(parts)


def _sources_text(settings: Sequence[Setting]) -> str:
    shown = next((setting for setting in settings if setting.type is int and setting.default), settings[0])
    value = shown.default_text
    toml = value if shown.type is int else f'"{value}"'
    return _SOURCES.format(flag=shown.flag, variable=shown.variable, key=shown.name, value=value, toml=toml)
