"""A new password ends the log-ins that were opened with the old one, whichever page or command changed it."""

from django.db import migrations

CREATE = """
CREATE FUNCTION accounts_end_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE accounts_loginsession SET revoked_at = now() WHERE user_id = NEW.id AND revoked_at IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER accounts_end_sessions AFTER UPDATE OF password ON accounts_user
    FOR EACH ROW WHEN (OLD.password IS DISTINCT FROM NEW.password) EXECUTE FUNCTION accounts_end_sessions();
"""
DROP = """
DROP TRIGGER accounts_end_sessions ON accounts_user;
DROP FUNCTION accounts_end_sessions();
"""


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_installation_and_notifications")]

    operations = [migrations.RunSQL(CREATE, DROP)]
