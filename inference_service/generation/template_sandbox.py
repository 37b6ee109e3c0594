"""The environment that chat templates are written for, sandboxed: a template is code out of a model file."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateRuntimeError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from inference_service.generation.tools.arguments import RawArguments


class TemplateRefusal(TemplateRuntimeError):
    """Expected: the template called `raise_exception`."""


class _GenerationBlocks(Extension):
    """`{% generation %}` marks the model's own turns for training; here it only wraps them."""

    tags = {"generation"}  # noqa: RUF012 - the base class's attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compile_template(source: str) -> Template:
    """Compile a chat template.

    The template sees neither files nor modules, cannot change what it is given, and loops over at most
    100,000 numbers (`jinja2.sandbox.MAX_RANGE`). Loops inside loops and huge products are its own
    author's to avoid: whoever chooses a model chooses its template.

    Raises:
        jinja2.TemplateSyntaxError: it is no template.

    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[loopcontrols, _GenerationBlocks],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    if isinstance(value, RawArguments):
        return str(value)
    # Jinja's own filter escapes for HTML, which a model never saw.
    return json.dumps(value, indent=indent, **{"ensure_ascii": False, **options})


def _raise_exception(message: str) -> NoReturn:
    raise TemplateRefusal(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
