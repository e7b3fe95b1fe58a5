"""What W&B takes from the environment: the user's account, but no run; and the checks of its settings before trials start.

W&B reads `wandb/settings` of the working directory, which may name another server and so get the key, and an outer W&B run
(`wandb agent`, SageMaker) names its run in environment variables. Neither may decide where retain sends its trials.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from ..config.schema import Wandb
from ..errors import UserError
from .rows import Mode

NAME_LENGTH = 128  # W&B's limit on the names of projects, groups and runs
TAG_LENGTH = 64
# Environment variables that configure the account and the way to its server. All others of W&B describe a run or its process.
_ACCOUNT = re.compile(
    r"WANDB_(API_KEY|IDENTITY_TOKEN_FILE|CREDENTIALS_FILE|BASE_URL|APP_URL|ENTITY|ORGANIZATION|USERNAME|USER_EMAIL|"
    r"CONFIG_DIR|CACHE_DIR|DATA_DIR|ARTIFACT_DIR|HTTPS?_PROXY|HTTP_TIMEOUT|FILE_PUSHER_TIMEOUT|INSECURE_DISABLE_SSL|"
    r"AZURE_ACCOUNT_URL_TO_ACCESS_KEY|ERROR_REPORTING|DEBUG|CORE_DEBUG|"
    r"_(PROXIES|EXTRA_HTTP_HEADERS|SERVICE_WAIT|(GRAPHQL|FILE_STREAM|FILE_TRANSFER)_(RETRY|TIMEOUT)_?\w*))"
)
_PATHS = ("CONFIG_DIR", "CACHE_DIR", "DATA_DIR", "ARTIFACT_DIR", "IDENTITY_TOKEN_FILE", "CREDENTIALS_FILE")
_PATH_VARIABLES = ("NETRC", *(f"WANDB_{name}" for name in _PATHS))


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """A context in which W&B sees the user's account only: an empty working directory, no variables of an outer run.

    The working directory and the environment are the process's: use it where no other thread depends on them.
    """
    before = dict(os.environ)
    for name in _PATH_VARIABLES:
        if path := os.environ.get(name):
            os.environ[name] = os.path.abspath(os.path.expanduser(path))
    for name in before:
        if name.startswith("WANDB_") and not _ACCOUNT.fullmatch(name):
            del os.environ[name]
    try:
        with TemporaryDirectory(prefix="retain-wandb-") as empty, contextlib.chdir(empty):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def resolve_mode(mode: Mode | None) -> Mode:
    """Return W&B's mode: `mode`, or WANDB_MODE, or online if there is a key, else offline.

    Raises:
        UserError: an unknown WANDB_MODE. If not offline or disabled: a key or a setting of the account that W&B refuses, or
            online without a key.
    """
    chosen = mode or os.environ.get("WANDB_MODE")
    if chosen is not None and chosen not in get_args(Mode):
        raise UserError(f"WANDB_MODE={chosen}: must be one of {', '.join(get_args(Mode))}")
    if chosen in ("offline", "disabled"):
        return chosen  # type: ignore[return-value]  # mypy does not narrow by get_args
    has_key = has_valid_key()
    if chosen == "online" and not has_key:
        raise UserError("wandb.mode=online: no W&B key is set. Run `wandb login`, set WANDB_API_KEY, or use offline")
    return "online" if has_key else "offline"


def check_wandb(config: Wandb) -> Mode:
    """Check, before trials start, what W&B would refuse later; return the mode.

    Raises:
        UserError: names the key or the environment variable, and what is allowed.
    """
    mode = resolve_mode(config.mode)
    if mode == "disabled" or (replace(config, mode=None) == Wandb() and not _is_configured()):
        return mode
    import wandb

    _account_settings()
    names = f"must have 1 to {NAME_LENGTH} characters, none of them / \\ # ? % :"
    for key, name in (("project", config.project), ("entity", config.entity)):
        if name is not None:  # W&B checks the project only; the entity is a part of the same URLs
            _attempt(f"wandb.{key}={name!r}", lambda name=name: _text(name) and wandb.Settings(project=name), names)
    if config.group:
        _attempt(f"wandb.group={config.group!r}", lambda: _text(config.group, NAME_LENGTH), names.partition(",")[0])
    for tag in config.tags:
        tags = f"wandb.tags={list(config.tags)}"
        _attempt(tags, lambda tag=tag: wandb.Settings(run_tags=(_text(tag)[:TAG_LENGTH],)), "a tag must not be empty")
    return mode


def has_valid_key() -> bool:
    """Whether W&B finds a key without prompting for one: in the environment, a netrc file or the user's settings.

    Raises:
        UserError: the key has not the format of one, or W&B refuses a variable that configures the account.
    """
    if not _is_configured():
        return False
    from wandb.sdk.lib import wbauth

    token, key = os.environ.get("WANDB_IDENTITY_TOKEN_FILE"), os.environ.get("WANDB_API_KEY")
    if token and key:
        raise UserError("WANDB_API_KEY and WANDB_IDENTITY_TOKEN_FILE are both set: W&B allows one of them")
    if token and not Path(token).expanduser().is_file():
        raise UserError(f"WANDB_IDENTITY_TOKEN_FILE={token}: there is no such file")
    settings = _account_settings()
    host = _attempt(f"base_url={settings.base_url}", lambda: wbauth.HostUrl(settings.base_url))
    if token:
        return True
    if key:
        _attempt("WANDB_API_KEY", lambda: wbauth.AuthApiKey(host=host, api_key=key))
        return True
    stored = _attempt("the W&B key in the netrc file", lambda: wbauth.read_netrc_auth(host=host)) or settings.api_key
    return bool(stored)


def _is_configured() -> bool:
    """Whether there is anything that could configure an account: without it, W&B, whose import takes a second, is not asked."""
    if any(map(_ACCOUNT.fullmatch, os.environ)):  # WANDB_CONFIG_DIR, which moves the settings file, too
        return True
    files = (os.environ.get("NETRC") or "~/.netrc", "~/_netrc", "~/.config/wandb/settings")
    return any(os.path.exists(os.path.expanduser(file)) for file in files)


def _account_settings() -> Any:
    """Return W&B's settings from the user's settings file and the account's variables, not from the working directory."""
    import wandb

    directory = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    with TemporaryDirectory(prefix="retain-wandb-") as empty:
        settings = wandb.Settings(root_dir=empty, quiet=True)
        settings.settings_system = str(directory / "settings")
        settings.update_from_system_settings()
    for name, value in os.environ.items():
        if _ACCOUNT.fullmatch(name):
            shown = name if "KEY" in name or "HEADERS" in name else f"{name}={value}"
            _attempt(shown, lambda name=name, value=value: settings.update_from_env_vars({name: value}))
    return settings


def _text(text: Any, length: int | None = None) -> Any:
    """Return a text that is not blank, has at most `length` characters and can be encoded; raise ValueError for others."""
    if not text.strip() or len(text) > (length or len(text)):
        raise ValueError
    text.encode()
    return text


def _attempt(what: str, check: Any, allowed: str = "") -> Any:
    """Return what a check of W&B's returns; raise a UserError about `what` if W&B refuses it.

    Args:
        what: the key or variable, with its value.
        check: a function without arguments.
        allowed: says what is allowed; without it, W&B's message does.
    """
    from wandb.errors import Error

    try:
        return check()
    except UnicodeEncodeError:
        raise UserError(f"{what}: must be text that can be written in UTF-8") from None
    except (Error, ValueError) as error:  # pydantic's ValidationError has many lines, and shows the value
        details: Any = getattr(error, "errors", None)
        message = details()[0]["msg"].removeprefix("Value error, ") if details else str(error)
        raise UserError(f"{what}: {allowed or message}") from None
