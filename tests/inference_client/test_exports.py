from __future__ import annotations

import inspect
from pathlib import Path

import inference_client
from inference_client import AsyncClient, Client, errors


def test_all_is_sorted_and_complete() -> None:
    """Every public name of the package is in `__all__`, in the order that ruff keeps."""
    public = {
        name
        for name, value in vars(inference_client).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }

    assert public == set(inference_client.__all__)
    assert inference_client.__all__ == sorted(inference_client.__all__, key=_isort_key)


def test_every_error_is_exported() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    }

    assert defined <= set(inference_client.__all__)


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(AsyncClient) == methods(Client)


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(inference_client.__file__).parent / "py.typed").is_file()


def _isort_key(name: str) -> tuple[int, str]:
    # Constants, then classes, then the rest.
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name
