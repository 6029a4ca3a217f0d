"""All settings, typed and with defaults that run a fresh clone. docs/reference.md lists them."""

import os
import re
import sys
from datetime import timedelta
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy as _
from environ import FileAwareEnv  # NAME or NAME_FILE (Docker secrets)

from config import secret
from core import cors
from core.times import UTC_FORMAT

VERSION = "1.0.0"
BASE_DIR = Path(__file__).resolve().parents[1]
env = FileAwareEnv()

DEBUG = env.bool("SERAI_DEBUG", False)
TESTING = "pytest" in sys.modules

# --- Folders
DATA_DIR = Path(env.str("SERAI_DATA", str(BASE_DIR / ".data"))).resolve()
PRIVATE_DIR = DATA_DIR / "private"
CACHE_DIR = Path(env.str("SERAI_CACHE", "~/.cache/serai")).expanduser()
# A tenant's own files lie in DATA_DIR/tenants/<slug>/<kind>; shared roots are the operator's.
MODEL_ROOTS = [Path(root).resolve() for root in env.list("SERAI_MODEL_ROOTS", default=[])]
DEMO_MODEL = BASE_DIR / "demo" / "serai-demo"
# Variables that a package installer needs from our environment: its own options, proxies, certificates.
NETWORK_NAMES = re.compile(r"HOME|PATH|TMPDIR|SSL_CERT_(FILE|DIR)|UV_.*|(https?|all|no)_proxy", re.IGNORECASE)
NETWORK_ENVIRONMENT = {name: value for name, value in os.environ.items() if NETWORK_NAMES.fullmatch(name)}

# --- Keys: one secret, a derived key for each purpose
_SECRET = secret.load(PRIVATE_DIR / "secret", env.str("SERAI_SECRET", None))
SECRET_KEY = secret.derive(_SECRET, "django").hex()
JWT_SIGNING_KEY = secret.derive(_SECRET, "jwt").hex()
KEY_PEPPER = secret.derive(_SECRET, "api-key")
CACHE_SALT_KEY = secret.derive(_SECRET, "cache-salt")
CHECKPOINT_KEY = secret.derive(_SECRET, "checkpoint")

# --- Address
HOST = env.str("SERAI_HOST", "127.0.0.1")
PORT = env.int("SERAI_PORT", 8000)
BASE_URL = env.str("SERAI_BASE_URL", f"http://{HOST}:{PORT}")
ALLOWED_HOSTS = env.list("SERAI_ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]", HOST])
CORS_ORIGINS = env.list("SERAI_CORS_ORIGINS", default=[])
for _origin in CORS_ORIGINS:
    if not cors.is_origin(_origin):
        raise ImproperlyConfigured(
            f"SERAI_CORS_ORIGINS: {_origin!r} is no origin. Write scheme, host and port in small letters, such as "
            "https://app.example.com, without a path; a wildcard is not offered."
        )
CSRF_TRUSTED_ORIGINS = [BASE_URL]
ANONYMOUS_TENANT = env.str("SERAI_ANONYMOUS_TENANT", "")
ANONYMOUS_ANYWHERE = env.bool("SERAI_ANONYMOUS_ANYWHERE", False)
if ANONYMOUS_TENANT and HOST not in ("127.0.0.1", "localhost", "::1") and not ANONYMOUS_ANYWHERE:
    raise ImproperlyConfigured(
        f"SERAI_ANONYMOUS_TENANT serves everybody who reaches {HOST}: bind to 127.0.0.1, "
        "or set SERAI_ANONYMOUS_ANYWHERE=true if that is meant."
    )

# --- Applications
INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "channels",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "axes",
    "core",
    "accounts",
    "models_app",
    "inference",
    "training",
    "monitoring",
    "config",
    "benchmarks",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "core.middleware.RequestIdMiddleware",
    "core.middleware.CorsMiddleware",
    "core.middleware.NulMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "accounts.middleware.OwnLanguageMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
APPEND_SLASH = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Stores
DATABASES = {"default": env.db("DATABASE_URL", "postgres://serai@127.0.0.1:5432/serai")}
DATABASES["default"].update(CONN_MAX_AGE=60, CONN_HEALTH_CHECKS=True)
DATABASES["default"].setdefault("OPTIONS", {}).setdefault("connect_timeout", 5)
REDIS_URL = env.str("REDIS_URL", "redis://127.0.0.1:6379/0")
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

# --- People
AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
AXES_ENABLE_ADMIN = False  # operators need no page of its tables
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=5)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]  # never the address alone: that locks out all who share it
AXES_RESET_ON_SUCCESS = True
AXES_LOCKOUT_CALLABLE = "accounts.lockout.response"
LOGIN_URL = "/console/login/"
LOGIN_REDIRECT_URL = "/console/"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = BASE_URL.startswith("https://")
SESSION_COOKIE_NAME = "serai_session"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"

# --- REST
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.authentication.CredentialAuthentication",
        "accounts.authentication.ConsoleAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["accounts.permissions.PolicyPermission"],
    "DEFAULT_PAGINATION_CLASS": "core.pagination.PagePagination",
    "DEFAULT_FILTER_BACKENDS": ["core.filters.FilterBackend"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["core.parsers.JsonParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "core.errors.exception_handler",
    "DATETIME_FORMAT": UTC_FORMAT,
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024
ACCESS_TOKEN_SECONDS = 3600
REFRESH_TOKEN_SECONDS = 14 * 24 * 3600
SIMPLE_JWT = {
    "ALGORITHM": "HS256",
    "SIGNING_KEY": JWT_SIGNING_KEY,
    "AUDIENCE": "serai-api",
    "ISSUER": "serai",
    "ACCESS_TOKEN_LIFETIME": timedelta(seconds=ACCESS_TOKEN_SECONDS),
    "REFRESH_TOKEN_LIFETIME": timedelta(seconds=REFRESH_TOKEN_SECONDS),
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Serai",
    "VERSION": VERSION,
    "DESCRIPTION": "Serves and fine-tunes language models on your own machines.",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api",
    "PREPROCESSING_HOOKS": ["config.openapi.without_mirror"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "gateway.api.openapi.add_data_plane",
    ],
}

# --- Celery: messages are only hints to look now; losing all of them loses no work
CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_TIME_LIMIT = 120
CELERY_TASK_ACKS_LATE = CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 3600, "socket_timeout": 30, "global_keyprefix": "serai:"}
CELERY_WORKER_HIJACK_ROOT_LOGGER = False

# --- Data plane
GATEWAY_MAX_BODY = env.int("SERAI_MAX_BODY", 16 * 1024 * 1024)
GATEWAY_CONNECT_TIMEOUT = env.float("SERAI_CONNECT_TIMEOUT", 2.0)
GATEWAY_FIRST_BYTE_TIMEOUT = env.float("SERAI_FIRST_BYTE_TIMEOUT", 120.0)
GATEWAY_IDLE_TIMEOUT = env.float("SERAI_IDLE_TIMEOUT", 30.0)
GATEWAY_REPLY_TIMEOUT = env.float("SERAI_REPLY_TIMEOUT", 600.0)  # replies that are not streamed
GATEWAY_TOTAL_TIMEOUT = env.float("SERAI_TOTAL_TIMEOUT", 1800.0)
GATEWAY_SEND_TIMEOUT = env.float("SERAI_SEND_TIMEOUT", 60.0)
GATEWAY_QUEUE_LIMIT = env.int("SERAI_QUEUE_LIMIT", 256)
SPOOL_DIR = DATA_DIR / "spool"

# --- Engines: dotted paths of engine classes; of two with one name the first is used
ENGINE_ADAPTERS = env.list(
    "SERAI_ENGINE_ADAPTERS",
    default=["engines.vllm.VllmEngine", "engines.llamacpp.LlamaCppEngine"],
)
MIN_RESIDENCY_SECONDS = env.int("SERAI_MIN_RESIDENCY", 60)
ENGINE_THREADS = env.int("SERAI_ENGINE_THREADS", 0)  # 0: chosen from the machine

# --- Training
DATASET_MAX_BYTES = env.int("SERAI_MAX_DATASET", 256 * 1024 * 1024)
JOBS_PER_TENANT = env.int("SERAI_TRAINING_JOBS", 2)  # jobs that may hold devices at the same time
TRAINER = env.str("SERAI_TRAINER", "training.runner.program.trainer_argv")  # the function that returns its command line
# the function that returns the command line of the program that counts tokens
TOKEN_COUNTER = env.str("SERAI_TOKEN_COUNTER", "training.datasets.tokens.counter_argv")

# Set by `up` for its children, which end when that supervisor ends
SESSION = env.str("SERAI_SESSION", "")
SUPERVISOR_PID = env.int("SERAI_SUPERVISOR_PID", 0)
SUPERVISOR_START = env.int("SERAI_SUPERVISOR_START", 0)
ENGINE_LEASE_SECONDS = env.int("SERAI_ENGINE_LEASE", 900)

# --- Language, time
LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("zh-hans", _("Simplified Chinese"))]
LOCALE_PATHS = [BASE_DIR / "platform" / "core" / "locale"]
USE_I18N = USE_TZ = True
TIME_ZONE = "UTC"

# --- Static files
STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
STATIC_ROOT.mkdir(parents=True, exist_ok=True, mode=0o700)
WHITENOISE_USE_FINDERS = True  # files are served from the packages; STATIC_ROOT is for `collectstatic` behind a proxy
WHITENOISE_AUTOREFRESH = False

# --- Logs
LOG_LEVEL = env.str("SERAI_LOG_LEVEL", "INFO")
LOG_FORMAT = env.str("SERAI_LOG_FORMAT", "plain", choices=("plain", "json"))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"redact": {"()": "core.logs.RedactFilter"}, "fields": {"()": "core.logs.FieldsFilter"}},
    "formatters": {"plain": {"()": "core.logs.PlainFormatter"}, "json": {"()": "core.logs.JsonFormatter"}},
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT, "filters": ["redact", "fields"]}
    },
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        "axes": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
        # their DEBUG lines hold payloads, and the level can be changed at run time
        **{name: {"level": "INFO"} for name in ("asyncio", "django.db.backends", "httpx", "kombu")},
    },
}


def _page(title, icon: str, name: str) -> dict:
    return {"title": title, "icon": icon, "link": reverse_lazy(f"admin:{name}_changelist")}


UNFOLD = {
    "SITE_TITLE": "Serai",
    "SITE_HEADER": "Serai",
    "SITE_SUBHEADER": _("Models on your own machines"),
    "SITE_SYMBOL": "dns",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda _request: static("serai/favicon.svg")}],
    "SIDEBAR": {
        "navigation": [
            {
                "title": _("Serving"),
                "items": [
                    _page(_("Models"), "neurology", "models_app_model"),
                    _page(_("Instances"), "memory", "inference_instance"),
                    _page(_("Nodes"), "dns", "inference_node"),
                    _page(_("Tasks"), "task_alt", "inference_task"),
                    _page(_("Crashes"), "report", "inference_crashdossier"),
                ],
            },
            {
                "title": _("Training"),
                "items": [
                    _page(_("Training jobs"), "model_training", "training_trainingjob"),
                    _page(_("Data sets"), "dataset", "training_dataset"),
                    _page(_("Adapters"), "extension", "models_app_adapter"),
                ],
            },
            {
                "title": _("People"),
                "items": [
                    _page(_("Tenants"), "groups", "accounts_tenant"),
                    _page(_("Accounts"), "person", "accounts_user"),
                    _page(_("API keys"), "key", "accounts_apikey"),
                    _page(_("Audit log"), "history", "accounts_auditrecord"),
                ],
            },
        ]
    },
}
