"""The document that schemas refer into, and what bounds the work with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from inference_service.grammar.errors import ConstraintError
from inference_service.grammar.limits import MOST_DEPTH, MOST_SCHEMAS
from inference_service.grammar.schema.keywords import constraints
from inference_service.grammar.schema.merge import merge
from inference_service.grammar.schema.source import Schema, as_schema, follow, inside


class Document:
    """A schema with all that its references lead to.

    Args:
        root: the whole of it.
        path: where it stands, for errors.

    """

    def __init__(self, root: Schema, path: str) -> None:
        self.root = root
        self.path = path
        self._depth = 0
        self._count = 0

    @contextmanager
    def deeper(self, path: str) -> Iterator[None]:
        """Count a schema inside a schema, and an expansion.

        Raises:
            ConstraintError: there are too many.

        """
        self._depth += 1
        self._count += 1
        if self._depth > MOST_DEPTH:
            raise ConstraintError(f"schemas are nested more than {MOST_DEPTH} deep", path)
        if self._count > MOST_SCHEMAS:
            raise ConstraintError(f"there are more than {MOST_SCHEMAS} schemas, references expanded", path)
        try:
            yield
        finally:
            self._depth -= 1

    def demands(self, schema: Mapping[str, Any], path: str) -> dict[str, Any]:
        """What a schema demands, without annotations."""
        return constraints(schema, path, is_root=schema is self.root)

    def resolve(self, reference: str, path: str) -> tuple[Schema, str]:
        """Follow a `$ref`; give what it leads to and where that stands."""
        return follow(self.root, reference, self.path, inside(path, "$ref"))

    def plain_reference(self, schema: Schema, path: str) -> str | None:
        """The reference that a schema is, if it demands nothing else."""
        if isinstance(schema, bool):
            return None
        demands = self.demands(schema, path)
        while list(demands) == ["allOf"] and len(demands["allOf"]) == 1:
            inner = demands["allOf"][0]
            demands = self.demands(inner, path) if isinstance(inner, dict) else {}
        return demands["$ref"] if list(demands) == ["$ref"] else None

    def flat(self, value: object, path: str) -> Schema:
        """Make the same demands without `$ref`, `allOf`, `const` and annotations; False for none at all.

        Raises:
            ConstraintError: they are invalid, or cannot be put together.

        """
        schema = as_schema(value, path)
        if isinstance(schema, bool):
            return schema
        with self.deeper(path):
            demands = self.demands(schema, path)
            parts: list[Schema] = []
            if "$ref" in demands:
                parts.append(self.flat(*self.resolve(demands.pop("$ref"), path)))
            for index, part in enumerate(demands.pop("allOf", ())):
                parts.append(self.flat(part, f"{inside(path, 'allOf')}[{index}]"))
            if "const" in demands:
                parts.append({"enum": [demands.pop("const")]})
            result: Schema = demands
            for part in parts:
                result = merge(result, part, path)
            return result
