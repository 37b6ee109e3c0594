"""Settings: three sources, one precedence, and errors that name where they came from."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from inference_service.config import ServiceConfig
from lodestream import settings
from lodestream.cli import main
from lodestream.parser import CommandParser
from lodestream.settings import BRIDGE, COMMON, SERVICE
from lodestream.sources import service_links
from lodestream_common.config import CommonConfig
from lodestream_common.errors import SettingError
from rest_bridge.config import BridgeConfig


def _load(*flags: str) -> ServiceConfig:
    return settings.load(ServiceConfig, CommandParser("serve", "", {**SERVICE, **COMMON}).parse(flags))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lodestream.toml"


@pytest.mark.parametrize("sources", list(itertools.product([False, True], repeat=3)))
def test_flag_beats_variable_beats_file_beats_default(
    sources: tuple[bool, bool, bool], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every combination the strongest source that speaks is the one that counts."""
    in_file, in_environment, in_flags = sources
    file.write_text("queue_limit = 11\n" if in_file else "")
    if in_environment:
        monkeypatch.setenv("LODESTREAM_QUEUE_LIMIT", "22")
    flags = ["--queue-limit", "33"] if in_flags else []

    expected = 33 if in_flags else 22 if in_environment else 11 if in_file else 256
    assert _load("--config", str(file), *flags).queue_limit == expected


def test_a_deeply_nested_file_is_no_toml(file: Path) -> None:
    """An operator's error, not a traceback."""
    file.write_text("a = " + "[" * 100_000)

    with pytest.raises(SettingError, match="not valid TOML"):
        _load("--config", str(file))


@pytest.mark.parametrize("name", ["LODESTREAM_API_KEY", "LODESTREAM_URL", "LODESTREAM_TARGET"])
def test_variables_of_callers_are_no_unknown_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers and servers share a shell, so servers accept the variables of the client and the examples."""
    monkeypatch.setenv(name, "pg_of_a_caller")

    assert _load().queue_limit == 256


def test_a_mistyped_variable_of_callers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest name is suggested, as with settings."""
    monkeypatch.setenv("LODESTREAM_APIKEY", "x")

    with pytest.raises(SettingError, match=r"LODESTREAM_APIKEY: .* LODESTREAM_API_KEY\?"):
        _load()


def test_sources_are_merged_setting_by_setting(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that sets one thing leaves the rest to the others; the file may be named by a variable."""
    file.write_text('queue_limit = 5\nthreads = 1\nlog_level = "debug"\n')
    monkeypatch.setenv("LODESTREAM_CONFIG", str(file))
    monkeypatch.setenv("LODESTREAM_THREADS", "2")

    config = _load("--stall-timeout=1.5")

    assert (config.queue_limit, config.threads, config.log_level, config.stall_timeout) == (
        5,
        2,
        "debug",
        1.5,
    )


def test_the_flag_names_another_file_than_the_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config beats LODESTREAM_CONFIG, whose file is not even read."""
    file.write_text("threads = 3\n")
    monkeypatch.setenv("LODESTREAM_CONFIG", "/nowhere.toml")

    assert _load("--config", str(file)).threads == 3


def test_aliases_have_three_forms(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated flag, a list in a variable and a table in the file say the same."""
    expected = {"a": "x", "b": "hf://o/r=1"}

    assert _load("--alias", "a=x", "--alias", "b=hf://o/r=1").alias == expected
    monkeypatch.setenv("LODESTREAM_ALIAS", "a=x, b=hf://o/r=1")
    assert _load().alias == expected
    monkeypatch.delenv("LODESTREAM_ALIAS")
    file.write_text('[alias]\na = "x"\nb = "hf://o/r=1"\n')
    assert _load("--config", str(file)).alias == expected


def test_switches_are_flags_without_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """--strict turns on, --no-strict turns off what a variable turned on."""
    parser = CommandParser("bridge", "", {**BRIDGE, **COMMON})

    assert settings.load(BridgeConfig, parser.parse(["--strict"])).strict
    monkeypatch.setenv("LODESTREAM_STRICT", "true")
    assert settings.load(BridgeConfig, parser.parse([])).strict
    assert not settings.load(BridgeConfig, parser.parse(["--no-strict"])).strict


def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """`LODESTREAM_THREADS=` is how compose files spell nothing."""
    monkeypatch.setenv("LODESTREAM_THREADS", "")

    assert _load().threads == 0


def test_a_tilde_is_the_home_in_every_source(home: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lodestream expands ~ where no shell does."""
    monkeypatch.setenv("LODESTREAM_KEYS_FILE", "~/k.json")
    file.write_text('cache_dir = "~/c"\n')

    config = _load("--config=~/lodestream.toml")

    assert (config.keys_file, config.cache_dir) == (home / "k.json", home / "c")


def test_settings_of_the_other_server_may_stand_in_variables_and_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file and one environment serve both."""
    monkeypatch.setenv("LODESTREAM_HTTP_ADDRESS", "127.0.0.1:9000")
    file.write_text("strict = true\nthreads = 2\n")

    assert _load("--config", str(file)).threads == 2


KUBERNETES = {
    "LODESTREAM_SERVICE_HOST": "10.0.0.7",
    "LODESTREAM_SERVICE_PORT": "50051",
    "LODESTREAM_SERVICE_PORT_GRPC": "50051",
    "LODESTREAM_PORT": "tcp://10.0.0.7:50051",
    "LODESTREAM_PORT_50051_TCP": "tcp://10.0.0.7:50051",
    "LODESTREAM_PORT_50051_TCP_ADDR": "10.0.0.7",
    "LODESTREAM_BRIDGE_PORT": "tcp://10.0.0.8:8000",
    "LODESTREAM_BRIDGE_SERVICE_HOST": "10.0.0.8",
}


def test_variables_that_kubernetes_injects_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services named lodestream and lodestream-bridge do not break the servers in their namespace."""
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)

    assert _load().threads == 0


def test_a_lone_look_alike_is_no_injected_variable() -> None:
    """Only a set with its URL is Kubernetes' own; a person's slip stays an error."""
    assert service_links(KUBERNETES) == set(KUBERNETES)
    assert service_links({"LODESTREAM_SERVICE_PORT": "50051", "LODESTREAM_PORT": "50051"}) == set()


class Wrong(NamedTuple):
    """An invalid setting, and the names that the error must have."""

    flags: list[str]
    variables: Mapping[str, str]
    content: str
    named: list[str]


UNKNOWN: Sequence[Wrong] = [
    Wrong(["--max-concurency", "3"], {}, "", ["--max-concurency", "did you mean --max-concurrency?"]),
    Wrong(["--max_concurrency=3"], {}, "", ["--max_concurrency", "did you mean --max-concurrency?"]),
    Wrong(["--max-conc", "3"], {}, "", ["--max-conc"]),
    Wrong(["--http-address", "h:1"], {}, "", ["--http-address", "no setting of `lodestream serve`"]),
    Wrong(["extra"], {}, "", ["'extra'"]),
    Wrong(
        [], {"LODESTREAM_MODLE": "x"}, "", ["LODESTREAM_MODLE", "variable", "did you mean LODESTREAM_MODEL?"]
    ),
    Wrong([], {"LODESTREAM_model": "x"}, "", ["LODESTREAM_model", "did you mean LODESTREAM_MODEL?"]),
    Wrong([], {"LODESTREAM_XYZZY": ""}, "", ["LODESTREAM_XYZZY"]),
    Wrong([], {}, "queue-limit = 3", ["queue-limit", "lodestream.toml", "did you mean queue_limit?"]),
    Wrong([], {}, "[service]\nthreads = 3", ["service", "lodestream.toml"]),
]
MALFORMED: Sequence[Wrong] = [
    Wrong(["--threads", "many"], {}, "", ["--threads", "'many'", "whole number from 0 to 1024"]),
    Wrong(["--threads=-1"], {}, "", ["--threads", "from 0 to 1024"]),
    Wrong(["--threads"], {}, "", ["--threads", "expected one argument"]),
    Wrong(["--stall-timeout", "0"], {}, "", ["--stall-timeout", "above 0, at most 3600"]),
    Wrong(["--backend", "magic"], {}, "", ["--backend", "'magic'", "llama_cpp, tensorrt_llm, simulated"]),
    Wrong(["--alias", "a"], {}, "", ["--alias", "'a'", "NAME=ID"]),
    Wrong(["--grpc-address", "50051"], {}, "", ["--grpc-address", "host:port"]),
    Wrong([], {"LODESTREAM_THREADS": "many"}, "", ["LODESTREAM_THREADS", "'many'"]),
    Wrong([], {"LODESTREAM_ALIAS": "a=x,b"}, "", ["LODESTREAM_ALIAS", "'b'"]),
    Wrong([], {"LODESTREAM_GRPC_ADDRESS": "h:99999"}, "", ["LODESTREAM_GRPC_ADDRESS", "99999"]),
    Wrong([], {"LODESTREAM_CONFIG": "/nowhere.toml"}, "", ["/nowhere.toml", "cannot be read"]),
    Wrong([], {}, "threads = 9999", ["lodestream.toml: threads", "9999"]),
    Wrong([], {}, "threads = true", ["lodestream.toml: threads", "True"]),
    Wrong([], {}, "threads = [1]", ["lodestream.toml: threads"]),
    Wrong([], {}, "alias = 'a=x'", ["lodestream.toml: alias"]),
    Wrong(["--log-sample", "fine=1"], {}, "", ["--log-sample", "'fine'", "refused"]),
    Wrong(["--trusted-proxies", "::1,example"], {}, "", ["--trusted-proxies", "'example'", "10.0.0.0/8"]),
    Wrong([], {}, "trusted_proxies = '::1'", ["lodestream.toml: trusted_proxies", "a list"]),
    Wrong([], {}, "threads =\nqueue_limit = 1", ["lodestream.toml", "not valid TOML", "line 1"]),
    Wrong([], {}, "model = '" + "x" * 500 + "'\nlog_level = '" + "y" * 500 + "'", ["log_level"]),
]


@pytest.mark.parametrize("wrong", [*UNKNOWN, *MALFORMED], ids=lambda wrong: wrong.named[0])
def test_an_unknown_or_invalid_setting_is_an_error_of_one_line(
    wrong: Wrong, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, and one line on stderr with the name, its source, and what was meant or accepted."""
    file.write_text(wrong.content)
    for name, value in wrong.variables.items():
        monkeypatch.setenv(name, value)
    config = ["--config", str(file)] if wrong.content else []

    status = main(["serve", *config, *wrong.flags])

    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    assert re.fullmatch(r"lodestream: [^\n]{1,300}\n", printed.err)
    assert all(name in printed.err for name in wrong.named), printed.err


@pytest.mark.parametrize("command", ["up", "bridge", "keys list", "model list", "health"])
def test_every_command_refuses_unknown_variables(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command finds a misspelled variable."""
    monkeypatch.setenv("LODESTREAM_HTTP_ADRESS", "x")

    assert main(command.split()) == 2
    assert "did you mean LODESTREAM_HTTP_ADDRESS?" in capsys.readouterr().err


def test_flags_carry_a_whole_configuration() -> None:
    """The flags of `as_flags` are parsed as the same settings, by which child processes get theirs."""
    config = ServiceConfig(
        model="-weird name=1",
        alias={"a": "x", "b": "y=z"},
        keys_file=Path("/var/with space.json"),
        context_length=128,
        stall_timeout=0.25,
        simulated_fault="fail_at=3,ignore_cancel",
        trusted_proxies=("10.0.0.0/8", "::1"),
    )
    flags = settings.as_flags(config)

    assert _load(*flags) == config
    assert settings.as_flags(ServiceConfig()) == []
    strict = BridgeConfig(strict=True, request_timeout=2.5)
    parser = CommandParser("bridge", "", {**BRIDGE, **COMMON})
    assert settings.load(BridgeConfig, parser.parse(settings.as_flags(strict))) == strict


def test_a_list_has_three_forms(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ("10.0.0.0/8", "::1", "unix")
    flags = ["--trusted-proxies", "10.0.0.0/8, ::1", "--trusted-proxies", "unix"]
    assert _load(*flags).trusted_proxies == expected
    monkeypatch.setenv("LODESTREAM_TRUSTED_PROXIES", "10.0.0.0/8,::1,unix")
    assert _load().trusted_proxies == expected
    monkeypatch.delenv("LODESTREAM_TRUSTED_PROXIES")
    file.write_text('trusted_proxies = ["10.0.0.0/8", "::1", "unix"]\n')
    assert _load("--config", str(file)).trusted_proxies == expected


BRIDGE_WRONG = [
    (["--cors-origin", "chat.example.org"], "is no origin"),
    (["--cors-origin", "*"], "is no origin"),
    (["--root-path", "llm"], "is no path such as /llm"),
    (["--root-path", "/llm/"], "without a slash at its end"),
    (["--root-path", "/v1"], "path of the bridge itself"),
]


@pytest.mark.parametrize(("flags", "problem"), BRIDGE_WRONG)
def test_settings_of_a_proxy_are_checked(flags: Sequence[str], problem: str) -> None:
    parser = CommandParser("bridge", "", {**BRIDGE, **COMMON})
    with pytest.raises(SettingError, match=problem) as raised:
        settings.load(BridgeConfig, parser.parse(flags))
    assert str(raised.value).startswith(flags[0])


@pytest.mark.parametrize("model", [CommonConfig, ServiceConfig, BridgeConfig])
def test_every_setting_can_be_explained(model: type[CommonConfig]) -> None:
    """Each has a description, and a form on the command line that the parser understands."""
    for name, field in model.model_fields.items():
        assert field.description, name
        setting = settings.ALL[name]
        assert setting.expected != "text" or setting.type is str or name.endswith("address")
