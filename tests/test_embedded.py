import os

import psycopg
import pytest
import redis
from django.conf import settings
from django.db import connection


@pytest.mark.django_db
def test_tests_run_on_a_real_postgres_as_a_role_that_is_no_superuser():
    assert connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user")
        assert cursor.fetchone() == (False, True)


def test_the_superuser_cannot_log_in():
    url = os.environ["DATABASE_URL"].replace("//serai:", "//postgres:")
    with pytest.raises(psycopg.OperationalError, match="no pg_hba.conf entry"):
        psycopg.connect(url)


def test_valkey_wants_a_password():
    assert redis.Redis.from_url(settings.REDIS_URL).ping()
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(f"redis://{settings.REDIS_URL.rpartition('@')[2]}").ping()
