"""Accounts of the lab server, by MLflow's own calls. The address and an admin's credentials come from
MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.

    python deploy/lab/users.py add alice               # asks for the password; --generate makes one
    python deploy/lab/users.py password labadmin       # first of all, after the first start
    python deploy/lab/users.py grant alice fleet EDIT  # an experiment of somebody else's
    python deploy/lab/users.py remove alice            # her runs stay
"""

from __future__ import annotations

import argparse
import getpass
import os
import secrets
import sys

from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient
from mlflow.tracking import MlflowClient
from requests.exceptions import RequestException

LEAST = 12  # characters of a password, which MLflow wants


def main(words: list[str] | None = None) -> int:
    options = _options().parse_args(words)
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not address.startswith(("http://", "https://")):
        return _error("MLFLOW_TRACKING_URI: expected the address of the lab server, https://...")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    try:
        print(_done(options, AuthServiceClient(address), MlflowClient(address)))
    except (MlflowException, RequestException) as error:
        return _error(str(error).strip().partition("\n")[0])
    return 0


def _options() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = found.add_subparsers(dest="command", required=True)
    for command in ("add", "password", "remove", "grant"):
        parser = commands.add_parser(command)
        parser.add_argument("name")
        if command in ("add", "password"):
            parser.add_argument(
                "--generate", action="store_true", help="make one and print it once"
            )
        if command == "add":
            parser.add_argument("--admin", action="store_true", help="may manage users too")
        if command == "grant":
            parser.add_argument("experiment", help="its name")
            parser.add_argument("permission", choices=("READ", "EDIT", "MANAGE", "NO_PERMISSIONS"))
    return found


def _done(options: argparse.Namespace, users: AuthServiceClient, client: MlflowClient) -> str:
    name = str(options.name)
    if options.command == "remove":
        users.delete_user(name)
        return f"{name} is removed; the runs stay"
    if options.command == "grant":
        experiment = client.get_experiment_by_name(options.experiment)
        if experiment is None:
            raise MlflowException(f"there is no experiment '{options.experiment}'")
        users.grant_user_permission(
            name, "experiment", experiment.experiment_id, options.permission
        )
        return f"{name} has {options.permission} on {options.experiment}"
    password = secrets.token_urlsafe(18) if options.generate else _asked(name)
    told = f": {password}" if options.generate else ""
    if options.command == "add":
        users.create_user(name, password)
        if options.admin:
            users.update_user_admin(name, True)
        return f"{name} is added{told}"
    own = os.environ.get("MLFLOW_TRACKING_USERNAME") == name
    current = os.environ.get("MLFLOW_TRACKING_PASSWORD") if own else None
    users.update_user_password(name, password, current)
    return f"the password of {name} is changed{told}"


def _asked(name: str) -> str:
    password = getpass.getpass(f"new password of {name}, {LEAST} characters or more: ")
    if password != getpass.getpass("the same again: "):
        raise MlflowException("the two differ; nothing is changed")
    return password


def _error(text: str) -> int:
    print(f"Error: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
