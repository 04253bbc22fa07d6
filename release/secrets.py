"""Look for keys in every file of the project with detect-secrets; exits with 1 if there is one. `make lint` runs it.

Two things are told apart from keys by their form: words (`another-key`, which the tests use), and what a recording
holds by the thousand without being secret (ids, hashes, vectors), where only the forms of real keys count. What
detect-secrets passes over is looked for here: a key without quotes, as in a shell's line, and one that is a UUID.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from detect_secrets.core.scan import scan_file
from detect_secrets.settings import default_settings, transient_settings
from tests.tree import ROOT, files

__all__ = ["found"]

_BY_CHANCE = ("Base64HighEntropyString", "HexHighEntropyString", "KeywordDetector")
_RECORDED = ("cassettes/", "tests/outputs/", "tests/recorded/outcomes/")
# Filters that would let keys pass: those that are UUIDs, and those inside of a call's brackets.
_NOT_FILTERED = ("is_potential_uuid", "is_indirect_reference")
_GUESSED = (
    *("Secret Keyword", "Basic Auth Credentials", "Bearer", "Assigned", "sk-"),
    *("Base64 High Entropy String", "Hex High Entropy String"),
)
_FORMS = {
    "Bearer": re.compile(r"\bBearer\s+([\w.~+/-]{8,}=*)", re.IGNORECASE),
    "Assigned": re.compile(r"(?:key|token|secret|password)[\"'\]]*\s*[:=]\s*[\"'\[]*([\w.~+/-]{8,}=*)", re.IGNORECASE),
    "sk-": re.compile(r"\b(sk-[\w-]{8,})"),
}
_WORDS = re.compile(r"[\W_]*(?:[A-Za-z]{1,14}|\d{1,4}|p4ssw0rd)(?:[\W_]+(?:[A-Za-z]{1,14}|\d{1,4}))*[\W_]*")


def _settings(*, recorded: bool) -> dict[str, Any]:
    with default_settings() as settings:
        plugins = [{"name": name, **options} for name, options in settings.plugins.items()]
        filters = [{"path": path, **options} for path, options in settings.filters.items()]
    return {
        "plugins_used": [plugin for plugin in plugins if not (recorded and plugin["name"] in _BY_CHANCE)],
        "filters_used": [one for one in filters if not one["path"].endswith(_NOT_FILTERED)],
    }


def found(path: Path) -> list[str]:
    """Return what looks like a key in a file: its line and kind, never the key."""
    with transient_settings(_settings(recorded=path.relative_to(ROOT).as_posix().startswith(_RECORDED))):
        secrets = [(one.line_number, one.type, one.secret_value or "") for one in scan_file(str(path))]
    text = path.read_text("utf-8", "replace")
    for kind, form in _FORMS.items():
        secrets += [(text.count("\n", 0, m.start()) + 1, kind, m[1]) for m in form.finditer(text)]
    return [f"line {line}: {kind}" for line, kind, key in secrets if not (kind in _GUESSED and _WORDS.fullmatch(key))]


def main() -> int:
    """Scan all files, and say what is found."""
    hits = [f"{path.relative_to(ROOT)}, {hit}" for path in files() for hit in found(path)]
    for hit in hits:
        print(hit, file=sys.stderr)
    if hits:
        print("Error: these may be keys. Hint: remove them; a stand-in is made of words.", file=sys.stderr)
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main())
