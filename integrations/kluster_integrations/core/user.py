"""The user's folder on this machine, its settings, and the key in the platform's keyring."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

from kluster_integrations._extras import install_command
from kluster_integrations.core.errors import KlusterError
from kluster_integrations.core.notices import warn

__all__ = [
    "change_settings",
    "forget_key",
    "read_settings",
    "settings_file",
    "store_key",
    "stored_key",
    "user_folder",
]

_SERVICE, _USER = "kluster.ai", "api_key"
_problems: dict[str, str] = {}
"""What went wrong with the keyring, until it is reported."""


def user_folder() -> Path:
    """Return the folder of the command line's settings, log and history. It may not exist yet.

    `$XDG_DATA_HOME/kluster` or `~/.local/share/kluster`; on macOS below `~/Library/Application Support`, on Windows
    below `%LOCALAPPDATA%`.
    """
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        named = Path(os.environ.get("XDG_DATA_HOME") or "")
        base = named if named.is_absolute() else Path.home() / ".local" / "share"  # the XDG rule: absolute, or ignored
    return base / "kluster"


def settings_file() -> Path:
    """Return the settings file. It may not exist yet."""
    return user_folder() / "settings.json"


def read_settings() -> dict[str, Any]:
    """Return the settings; `{}` if there are none.

    Raises:
        KlusterError: If the file cannot be read, or does not hold one JSON object.
    """
    file = settings_file()
    try:
        found = json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # HOME=/dev/null, as some services have it
        return {}
    except OSError as err:
        hint = "make the file readable, or set XDG_DATA_HOME to another folder."
        raise KlusterError(f"{file} cannot be read: {err.strerror}.", hint=hint) from None
    except ValueError as err:
        hint = "repair the file, or delete it to start anew."
        raise KlusterError(f"{file} cannot be read: {err}", hint=hint) from None
    if not isinstance(found, dict):
        raise KlusterError(f"{file} does not hold a JSON object.", hint="delete the file to start anew.")
    return found


def change_settings(**changes: Any) -> None:
    """Change some settings and keep the others. None removes a setting.

    Raises:
        KlusterError: If the file cannot be read or written.
    """
    settings = {name: value for name, value in {**read_settings(), **changes}.items() if value is not None}
    file = settings_file()
    new = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", "utf-8")
        new.replace(file)  # atomic: a reader never sees half a file
    except OSError as err:
        with contextlib.suppress(OSError):  # a full disk leaves an empty file behind
            new.unlink()
        raise KlusterError(f"{file} cannot be written: {err.strerror}.", hint="check the folder's rights.") from None


def stored_key() -> str | None:
    """Return the key that `kluster keys set` has stored in the platform's keyring, or None.

    The keyring is read only if the settings say that there is a key, because it may ask the user for a password.
    """
    key = _stored_key(user_folder())
    # Taken before the warning: who shows a warning may ask for the key, to mask it.
    if problem := _problems.pop("keyring", None):
        warn(f"The key that `kluster keys set` has stored cannot be read. {problem}", stacklevel=3)
    return key


@functools.lru_cache(maxsize=1)  # the keyring is another process, which takes its time
def _stored_key(_: Path) -> str | None:
    try:
        if not read_settings().get("keyring"):
            return None
    except KlusterError:  # commands say so; a program that only wants a configuration has other keys
        return None
    try:
        return str(_keyring("get_password") or "") or None
    except KlusterError as err:
        _problems["keyring"] = str(err)
        return None


def store_key(key: str) -> None:
    """Put a key in the platform's keyring, where `KlusterConfig` finds it when no variable is set.

    Raises:
        KlusterError: If there is no keyring, or it refuses.
    """
    _keyring("set_password", key)
    change_settings(keyring=True)
    _stored_key.cache_clear()


def forget_key() -> None:
    """Remove the key from the keyring.

    Raises:
        KlusterError: If there is no keyring, or it refuses.
    """
    _keyring("delete_password")
    change_settings(keyring=None)
    _stored_key.cache_clear()


def _keyring(action: str, *args: str) -> Any:
    """Call a function of the package keyring for our one entry."""
    try:
        import keyring
    except ModuleNotFoundError:
        hint = f"{install_command('keyring')}, or set KLUSTER_API_KEY."
        raise KlusterError("The package keyring is not installed.", hint=hint) from None
    try:
        return getattr(keyring, action)(_SERVICE, _USER, *args)
    except Exception as err:  # a backend raises what its platform does
        reason = " ".join(str(err).split()) or type(err).__name__
    # Outside of `except`: the backend's frames hold the key.
    raise KlusterError(f"The keyring of this machine refuses: {reason}", hint="set KLUSTER_API_KEY instead.")
