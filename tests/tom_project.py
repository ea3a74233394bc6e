"""A real TOM in its own environment: project, database, user with a token, server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from alerce_spark.local_kafka import free_port
from tests.missing import missing

ROOT = Path(__file__).parents[1]
_SETTINGS = """
from tom_common.default_settings import *
BASE_DIR = {folder!r}
SECRET_KEY = "no secret: the TOM of a test"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1"]
TOM_NAME = "test"
INSTALLED_APPS = TOMTOOLKIT_INSTALLED_APPS + ["tom_alerce_spark"]
DATA_SERVICES = {{"alerce_spark": {{"base_url": {url!r}}}}}
SITE_ID = 1
MIDDLEWARE = TOMTOOLKIT_MIDDLEWARE
AUTHENTICATION_BACKENDS = TOMTOOLKIT_AUTHENTICATION_BACKENDS
ROOT_URLCONF = "tom_common.urls"
CRISPY_TEMPLATE_PACK = "bootstrap5"
TEMPLATES = [{{
    "BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True,
    "OPTIONS": {{"context_processors": [
        "django.template.context_processors.debug", "django.template.context_processors.request",
        "django.contrib.auth.context_processors.auth", "django.contrib.messages.context_processors.messages"]}},
}}]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR + "/tom.sqlite"}}}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
CACHES = {{"default": {{
    "BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": BASE_DIR + "/cache"}}}}
TASKS = {{"default": {{"BACKEND": "django_tasks.backends.immediate.ImmediateBackend"}}}}
LOGIN_URL, LOGIN_REDIRECT_URL = "/accounts/login/", "/"
STATIC_URL, STATIC_ROOT = "/static/", BASE_DIR + "/static"
MEDIA_URL, MEDIA_ROOT = "/data/", BASE_DIR + "/data"
USE_TZ, TIME_ZONE = True, "UTC"
TARGET_TYPE, TARGET_PERMISSIONS_ONLY, TARGET_DEFAULT_PERMISSION = "SIDEREAL", True, "PRIVATE"
AUTH_STRATEGY, HINTS_ENABLED, EXTRA_FIELDS, MATCH_MANAGERS, FACILITIES = "READ_ONLY", False, [], {{}}, {{}}
TOM_FACILITY_CLASSES, HOOKS, OPEN_URLS = [], {{}}, []
DATA_PRODUCT_TYPES = {{"photometry": ("photometry", "Photometry")}}
DATA_PROCESSORS = {{}}
REST_FRAMEWORK = {{
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "tom_common.accounts.api_auth.TomTokenAuthentication", "rest_framework.authentication.SessionAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": [],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.LimitOffsetPagination", "PAGE_SIZE": 100,
}}
PLOTLY_THEME = "plotly_white"
"""
_USER = """
from django.contrib.auth.models import User
from rest_framework.authtoken.models import Token
user = User.objects.create_superuser("mira", password="ceti")
print("token=" + Token.objects.get_or_create(user=user)[0].key)
"""


@dataclass(frozen=True)
class Tom:
    """A running TOM: its address, the token of its user mira (password ceti), its database."""

    url: str
    token: str
    database: Path


def python() -> str:
    """Python of the environment with the toolkit; made where it is not there. Skips where it cannot be made."""
    folder = os.environ.get("TOM_VENV", str(ROOT / ".cache" / "tom"))
    command = ["make", "--silent", "tom", f"TOM_VENV={folder}", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"TOM Toolkit (make tom: {done.stderr.strip()[-300:]})")
    return f"{folder}/bin/python"


@contextmanager
def running(folder: Path, services: str) -> Iterator[Tom]:
    """A TOM in a folder that asks the server at `services`."""
    (folder / "tom_settings.py").write_text(_SETTINGS.format(folder=str(folder), url=services))
    (folder / "data").mkdir()
    keep = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = keep | {"PYTHONPATH": str(folder), "DJANGO_SETTINGS_MODULE": "tom_settings"}
    django = [python(), "-W", "ignore", "-m", "django"]

    def manage(*arguments: str) -> str:
        done = subprocess.run([*django, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    manage("migrate", "--verbosity", "0")
    token = manage("shell", "-c", _USER).split("token=")[1].strip()
    port = free_port()
    with (folder / "tom.log").open("w") as log:
        serve = [*django, "runserver", "--noreload", f"127.0.0.1:{port}"]
        server = subprocess.Popen(serve, env=environment, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/", server, folder / "tom.log")
        yield Tom(f"http://127.0.0.1:{port}", token, folder / "tom.sqlite")
    finally:
        server.terminate()
        server.wait()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    while True:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            requests.get(url, timeout=60)
        except requests.ConnectionError:
            time.sleep(0.2)
        else:
            return
