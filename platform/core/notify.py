"""Triggers by which Postgres notifies listeners of changed tables: no code path can forget them.

One channel, `serai`; the payload is the table's name, or a word that `send` was given. Postgres sends equal
payloads of one transaction once.
"""

from django.db import connection, migrations

CHANNEL = "serai"

CREATE_FUNCTION = f"""
CREATE OR REPLACE FUNCTION serai_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('{CHANNEL}', TG_TABLE_NAME);
    RETURN NULL;
END $$
"""


def create_function() -> migrations.RunSQL:
    return migrations.RunSQL(CREATE_FUNCTION, "DROP FUNCTION serai_notify()")


def on_change(table: str, *columns: str) -> migrations.RunSQL:
    """Notify of inserts, deletes, and updates (only of `columns`, if given)."""
    update = f"UPDATE OF {', '.join(columns)}" if columns else "UPDATE"
    return migrations.RunSQL(
        f"CREATE TRIGGER serai_notify AFTER INSERT OR DELETE OR {update} ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION serai_notify()",
        f"DROP TRIGGER serai_notify ON {table}",
    )


def send(word: str) -> None:
    """Notify the listeners of something that no table shows."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, word])
