"""Conversations to prompts, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference_service.generation.control_texts import ControlTexts, new_seal, sealed
from inference_service.generation.template_sandbox import TemplateRefusal, compile_template
from inference_service.generation.tokenizer import Tokenizer

_MOST_REASON = 200


class PromptError(Exception):
    """Expected: the model's template cannot take the conversation. The message is safe to send."""


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One message of a conversation."""

    role: str
    """One of the service's own role names: templates build control tokens out of it."""
    content: str
    """Whatever the caller wrote."""


class ChatTemplate:
    """A model's chat template, next to the tokenizer that encodes what it renders.

    Only the template's own text can become control tokens; a message that spells one is encoded as
    the characters it is made of, and its text reaches the model unchanged. Safe to use from several
    threads.

    Args:
        source: the Jinja source.
        tokenizer: the model's tokenizer.
        bos_token: text of the token that begins a text; empty for none.
        eos_token: text of the token that ends one; empty for none.

    Raises:
        jinja2.TemplateSyntaxError: the source is no template.

    """

    def __init__(self, source: str, tokenizer: Tokenizer, *, bos_token: str, eos_token: str) -> None:
        self._template = compile_template(source)
        self._tokenizer = tokenizer
        self._control = ControlTexts(tokenizer.control_tokens)
        self._texts = {"bos_token": bos_token, "eos_token": eos_token}

    def render(self, messages: Sequence[ChatTurn]) -> list[int]:
        """The prompt that asks the model for the next turn, as token ids.

        Raises:
            PromptError: the template refuses the conversation, or fails on it.

        """
        weak_points = [self._control.weak_points(message.content) for message in messages]
        seal = new_seal(message.content for message in messages) if any(weak_points) else ""
        contents = [
            sealed(message.content, points, seal)
            for message, points in zip(messages, weak_points, strict=True)
        ]
        prompt = self._render([message.role for message in messages], contents)
        return self._tokenizer.begin(self._encode(prompt, seal))

    def _render(self, roles: Sequence[str], contents: Sequence[str]) -> str:
        messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, tools=None, documents=None, **self._texts
            )
        except TemplateRefusal as refusal:
            reason = " ".join(str(refusal).split())[:_MOST_REASON]
            raise PromptError(f"The model's chat template refuses the conversation: {reason}") from refusal
        except Exception as error:
            # The template is the model's code: whatever it raises is its failure.
            raise PromptError("The model's chat template fails on the conversation.") from error

    def _encode(self, prompt: str, seal: str) -> list[int]:
        ids: list[int] = []
        for part in self._control.split(prompt):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._tokenizer.encode_text(part.replace(seal, "") if seal else part)
        return ids
