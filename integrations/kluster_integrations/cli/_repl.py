"""`kluster chat` on a terminal: lines with an editor and a history, commands, and answers that Ctrl-C ends."""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

from kluster_integrations.cli import _log
from kluster_integrations.cli._conversation import STOPPED, Conversation
from kluster_integrations.cli._errors import UsageError, report, without_keys
from kluster_integrations.cli._images import image_url
from kluster_integrations.cli._models import complete_model, resolve
from kluster_integrations.cli._terminal import typed_path
from kluster_integrations.errors import AuthenticationError, BadRequestError

__all__ = ["Repl"]


class _Leave(BaseException):
    """The user has asked to leave; not an error, so nothing that catches errors catches it."""


class Repl:
    """A conversation on a terminal. What the user types goes to the model, unless it is a command such as /help.

    Args:
        chat: The conversation.
        images: URLs of images that go with the first question.
        after: Called with each answer.
    """

    def __init__(self, chat: Conversation, images: list[str], after: Callable[[Any], None]) -> None:
        self._chat = chat
        self._images = images
        self._after = after
        chat.stoppable = True

    def run(self) -> None:
        """Talk until the user leaves.

        Raises:
            KeyboardInterrupt: At the second Ctrl-C in a row at an empty line.
            AuthenticationError: The key is not accepted, and nothing is said yet that could be lost.
            BadRequestError: The parameters cannot be sent.
        """
        self._chat.check()
        session: PromptSession[str] = PromptSession(
            history=self._history(),
            completer=_Completer(),
            complete_while_typing=False,
            key_bindings=_keys(),
            output=create_output(always_prefer_tty=True),  # stdout may be a file that takes the answers
            enable_suspend=True,
            enable_open_in_editor=True,
            tempfile_suffix=".md",
        )
        kept = f"kept in {_log.log_file()}" if self._chat.keeps_log else "not kept"
        _say(f"{self._chat.model}; /help lists the commands, Ctrl-D ends. The conversation is {kept}.")
        interrupted = False
        while True:
            try:
                text = session.prompt("> ")
                interrupted = False
                self._take(text)
            except (EOFError, _Leave):
                return
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                _say("Ctrl-C again, Ctrl-D or /exit ends the conversation.")

    def _take(self, text: str) -> None:
        if command := re.fullmatch(r"/([\w-]*)(?:\s+(.*))?", text.strip(), re.DOTALL):
            name, argument = command[1], (command[2] or "").strip()
            try:
                self._command(name)(argument)
            except UsageError as err:
                _say(f"Error: {err.message}")  # without the option's name, which stands for a command here
            except Exception as err:  # whatever it is, the conversation goes on
                report(err)
        elif text.strip():
            self._ask(text)

    def _ask(self, text: str) -> None:
        try:
            answer = self._chat.ask(text, self._images)
        except Exception as err:
            if isinstance(err, AuthenticationError) and all(m["role"] == "system" for m in self._chat.messages):
                raise
            report(err)  # the question may be asked again, with its images
            return
        if answer.finish_reason == STOPPED:
            _say("(stopped)" if answer.text.strip() else "(stopped; the question is forgotten)")
            return
        self._images = []
        self._after(answer)

    def _command(self, name: str) -> Callable[[str], None]:
        found: Callable[[str], None] | None = getattr(self, f"_do_{name}", None) if f"/{name}" in COMMANDS else None
        if found is None:
            near = difflib.get_close_matches(f"/{name}", COMMANDS, n=1)
            known = f"did you mean {near[0]}?" if near else "/help lists the commands."
            raise UsageError(f"There is no command /{name}; {known}")
        return found

    def _do_help(self, _: str) -> None:
        for name, (argument, what) in COMMANDS.items():
            _say(f"{f'{name} {argument}'.rstrip():<18} {what}")
        _say("Alt-Enter begins a new line; a paste of several lines is one message. Ctrl-X Ctrl-E opens the line in")
        _say("your $EDITOR. Ctrl-C ends an answer, Ctrl-Z goes back to the shell until `fg`.")

    def _do_model(self, name: str) -> None:
        if name:
            self._chat.model = resolve(name)
        _say(f"The model is {self._chat.model}.")
        if not self._images:
            return
        try:
            self._chat.check_vision()
        except BadRequestError:
            self._images = []
            _say("It takes no images: those for the next question are dropped.")

    def _do_system(self, text: str) -> None:
        if text:
            self._chat.system = text
        _say(f"The system prompt is {self._chat.system!r}." if self._chat.system else "There is no system prompt.")

    def _do_image(self, source: str) -> None:
        if not source:
            raise UsageError("/image needs a FILE or a URL.")
        self._chat.check_vision()
        self._images = [*self._images, image_url(source.strip("'\""))]
        _say(f"{len(self._images)} image{'s' * (len(self._images) > 1)} will go with the next question.")

    def _do_save(self, name: str) -> None:
        if not name:
            raise UsageError("/save needs a FILE: .json has the messages, any other name is Markdown.")
        file = typed_path(name.strip("'\""))
        text = _as_json(self._chat) if file.suffix == ".json" else _as_markdown(self._chat)
        try:
            with file.open("x", encoding="utf-8") as out:
                out.write(without_keys(text))
        except FileExistsError:
            raise UsageError(f"{file} is there already; name another file.") from None
        except OSError as err:
            raise UsageError(f"{file} cannot be written: {err.strerror}.") from None
        _say(f"Saved in {file}.")

    def _do_clear(self, _: str) -> None:
        self._chat.clear()
        self._images = []
        _say("A new conversation.")

    def _do_exit(self, _: str) -> None:
        raise _Leave

    def _history(self) -> History:
        if not self._chat.keeps_log:
            return InMemoryHistory()
        file = _log.log_file().with_name("history")
        try:
            _log.private_file(file)
        except OSError:
            return InMemoryHistory()
        return _History(str(file))


COMMANDS = {
    "/model": ("[NAME]", "shows the model, or asks another one from here on"),
    "/system": ("[TEXT]", "shows the system prompt, or sets another one"),
    "/image": ("FILE|URL", "adds an image to the next question"),
    "/save": ("FILE", "saves the conversation, as Markdown or (.json) as messages"),
    "/clear": ("", "begins a new conversation"),
    "/help": ("", "shows this"),
    "/exit": ("", "ends, as Ctrl-D does"),
}
"""The commands, what follows them, and what they do."""


class _History(FileHistory):
    """A history without keys."""

    def store_string(self, string: str) -> None:
        super().store_string(without_keys(string))


class _Completer(Completer):
    """Completes commands, models and files, at Tab."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        return self._found(document.text_before_cursor, complete_event)

    def _found(self, text: str, event: CompleteEvent) -> Iterator[Completion]:
        command, space, rest = text.partition(" ")
        if not text.startswith("/"):
            return
        if not space:
            found = ((name, f"{name} " if argument else name) for name, (argument, _) in COMMANDS.items())
            yield from (Completion(whole, -len(text)) for name, whole in found if name.startswith(text))
        elif command == "/model":
            yield from (Completion(name, -len(rest)) for name in complete_model(rest))
        elif command in ("/image", "/save"):
            yield from PathCompleter(expanduser=True).get_completions(Document(rest), event)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    @keys.add("<sigint>")
    def _interrupt(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return keys


def _as_json(chat: Conversation) -> str:
    return json.dumps({"model": chat.model, "messages": chat.messages}, ensure_ascii=False, indent=2) + "\n"


def _as_markdown(chat: Conversation) -> str:
    blocks = [f"# A conversation with {chat.model}"]
    for message in chat.messages:
        content = message["content"]
        if not isinstance(content, str):
            content = "\n\n".join(part["text"] if part["type"] == "text" else "(an image)" for part in content)
        calls = [
            f"`{call['function']['name']}({call['function']['arguments']})`" for call in message.get("tool_calls", ())
        ]
        blocks += [f"## {message['role'].capitalize()}", *filter(None, [content, *calls])]
    return "\n\n".join(blocks) + "\n"


def _say(text: str) -> None:
    print(text, file=sys.stderr)
