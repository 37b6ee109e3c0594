"""The policy in a file: prompts, keys, and changes while the server runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from inference_service.output.content_filter.output import ContentPolicy, OutputFilter
from inference_service.output.content_filter.rules_file import FilePolicy
from lodestream_common.errors import OperatorError
from tests.support.filtering import Filtered, delta, write

HERON = ("[[rules]]", "name = 'heron'", "phrases = ['heron']", "action = 'block'")
EGRET = ("[[rules]]", "name = 'egret'", "phrases = ['egret']", "action = 'redact'")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "filter.toml"


def output(policy: ContentPolicy, text: str, key_name: str = "alice") -> str:
    """The filtered output."""
    output_filter = policy.output_filter(key_name)
    if output_filter is None:
        return text
    filtered = Filtered(output_filter)
    return filtered.feed(delta(text)).text + filtered.flush().text


def soon(condition: Callable[[], bool]) -> bool:
    """Whether the condition holds within some seconds."""
    end = time.monotonic() + 10
    while not (answer := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return answer


def test_a_prompt_is_allowed_redacted_or_blocked(path: Path) -> None:
    policy = FilePolicy(write(path, *HERON, *EGRET))

    allowed = policy.check_prompt(["an owl", ""], "alice")
    assert (allowed.texts, allowed.blocked, allowed.redacted) == (("an owl", ""), None, frozenset())
    redacted = policy.check_prompt(["an Egret", "an owl"], "alice")
    assert (redacted.texts, redacted.blocked) == (("an [redacted]", "an owl"), None)
    assert redacted.redacted == {"egret"}
    blocked = policy.check_prompt(["an egret", "a heron", "an owl"], "alice")
    assert blocked.blocked is not None
    assert (blocked.blocked.rule, blocked.texts) == ("heron", ())


def test_each_text_of_a_prompt_is_filtered_separately(path: Path) -> None:
    policy = FilePolicy(write(path, *HERON))

    assert policy.check_prompt(["her", "on"], "alice").blocked is None


def test_a_rule_may_apply_only_to_prompts_or_only_to_output(path: Path) -> None:
    policy = FilePolicy(write(path, *HERON, "applies_to = 'prompt'", *EGRET, "applies_to = 'output'"))

    assert policy.check_prompt(["an egret"], "alice").texts == ("an egret",)
    assert policy.check_prompt(["a heron"], "alice").blocked is not None
    assert output(policy, "an egret, a heron") == "an [redacted], a heron"


def test_a_rule_may_apply_to_some_keys(path: Path) -> None:
    policy = FilePolicy(write(path, *HERON, "keys = ['alice', 'bob']", *EGRET))

    assert output(policy, "egret heron", "alice") == "[redacted] "
    assert output(policy, "egret heron", "carol") == "[redacted] heron"
    assert policy.check_prompt(["heron"], "bob").blocked is not None
    assert policy.check_prompt(["heron"], "anonymous").blocked is None


def test_a_caller_without_rules_has_no_filter(path: Path) -> None:
    policy = FilePolicy(write(path, *HERON, "keys = ['alice']"))

    assert policy.output_filter("bob") is None
    assert isinstance(policy.output_filter("alice"), OutputFilter)


def test_a_file_without_rules_filters_nothing(path: Path) -> None:
    policy = FilePolicy(write(path, ""))

    assert policy.output_filter("alice") is None
    assert policy.check_prompt(["heron"], "alice").texts == ("heron",)


def test_a_file_may_be_json(tmp_path: Path) -> None:
    rules = {"rules": [{"name": "heron", "phrases": ["heron"], "action": "redact", "replacement": ""}]}

    assert output(FilePolicy(write(tmp_path / "filter.json", json.dumps(rules))), "a heron.") == "a ."


def test_changes_apply_without_a_restart(path: Path) -> None:
    policy = FilePolicy(write(path, *HERON))
    assert output(policy, "an egret") == "an egret"

    with capture_logs() as logs:
        write(path, *HERON, *EGRET)
        assert soon(lambda: output(policy, "an egret") == "an [redacted]" and bool(logs))
    assert [(line["event"], line["rules"]) for line in logs] == [("content_filter_reloaded", 2)]

    write(path, *EGRET)
    assert soon(lambda: policy.check_prompt(["heron"], "alice").blocked is None)


def test_an_in_place_change_of_the_same_length_is_noticed(path: Path) -> None:
    policy = FilePolicy(write(path, *HERON))

    before = path.stat()
    path.write_text(path.read_text().replace("['heron']", "['robin']"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert soon(lambda: output(policy, "a robin") == "a ")


def test_a_running_answer_is_filtered_by_the_rules_of_its_start(path: Path) -> None:
    policy = FilePolicy(write(path, *HERON), check_interval=0)
    output_filter = policy.output_filter("alice")
    assert output_filter is not None
    write(path, *EGRET)
    assert soon(lambda: output(policy, "a heron") == "a heron")

    assert Filtered(output_filter).feed(delta("an egret, a heron")).text == "an egret, a "


@pytest.mark.parametrize("how", ["broken", "gone", "unreadable"])
def test_a_broken_file_changes_nothing_and_is_one_error(path: Path, how: str) -> None:
    policy = FilePolicy(write(path, *HERON), check_interval=0)

    with capture_logs() as logs:
        if how == "broken":
            write(path, *HERON, "frases = ['heron']")
        else:
            path.unlink()
        if how == "unreadable":
            path.mkdir()
        assert soon(lambda: output(policy, "a heron") == "a " and bool(logs))
        for _ in range(20):
            assert output(policy, "a heron") == "a "
            time.sleep(0.01)

    assert [line["log_level"] for line in logs] == ["error"]
    assert str(path) in logs[0]["reason"]
    assert "\n" not in logs[0]["reason"]
    if how == "unreadable":
        path.rmdir()
    write(path, *EGRET)
    assert soon(lambda: output(policy, "a heron") == "a heron")


def test_logs_contain_no_text(path: Path) -> None:
    policy = FilePolicy(write(path, *HERON), check_interval=0)

    with capture_logs() as logs:
        policy.check_prompt(["a heron"], "alice")
        output(policy, "a heron")
        write(path, *EGRET)
        assert soon(lambda: output(policy, "an egret") == "an [redacted]")

    assert soon(lambda: bool(logs))
    assert "heron" not in str(logs)
    assert "egret" not in str(logs)


def test_a_server_does_not_start_without_its_rules(path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot be read: No such file"):
        FilePolicy(path)


def test_without_a_filter_its_libraries_are_not_imported() -> None:
    """The package that the rest of the service imports does not import the libraries."""
    code = (
        "import sys, inference_service.output.content_filter.rules, inference_service.output.pipeline;"
        "sys.exit(bool({'re2', 'ahocorasick_rs'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
