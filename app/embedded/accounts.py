"""The account under which embedded servers run when the service itself runs as root."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

# What Linux and macOS agree on when the password file does not name `nobody`.
NOBODY_UID = 65534


@dataclass(frozen=True)
class Account:
    uid: int
    gid: int


def account_for(folder: Path) -> Account | None:
    """Return the account to become: the folder's owner, nobody if that is root, None for an ordinary user."""
    if os.geteuid() != 0:
        return None
    status = folder.stat()
    if status.st_uid != 0:
        return Account(status.st_uid, status.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return Account(NOBODY_UID, NOBODY_UID)
    return Account(nobody.pw_uid, nobody.pw_gid)


def give(folder: Path, account: Account | None) -> None:
    """Make the account own the folder and all in it, unless it does already."""
    if account is None or folder.stat().st_uid == account.uid:
        return
    for parent, _, files in os.walk(folder):
        for name in files:
            os.chown(Path(parent, name), account.uid, account.gid, follow_symlinks=False)
    # The top comes last: a walk that was cut short is then repeated by the next start.
    for parent, _, _ in os.walk(folder, topdown=False):
        os.chown(parent, account.uid, account.gid)
