"""Audit: the log itself gives each event its place, its time and its hash; pages of events by every filter."""

from alembic import op

revision = "0005"
down_revision = "0004"

_STATEMENTS = (
    "ALTER TABLE audit_events ADD COLUMN hash bytea",
    # The hash of the event before it (nothing for the first), then this event as canonical JSON, which is how Postgres
    # writes a jsonb array. The contract describes it at AuditEvent.hash, so that anybody can verify the log.
    """
    CREATE FUNCTION audit_hash(previous bytea, event audit_events) RETURNS bytea LANGUAGE sql STABLE AS $$
        SELECT sha256(coalesce(previous, '') || convert_to(jsonb_build_array(
            event.tenant_id, event.sequence, (extract(epoch FROM event.occurred_at) * 1000000)::bigint, event.actor,
            event.actor_ip, event.action, event.key_id, event.owner_id, event.request_id, event.revision,
            event.before, event.after
        )::text, 'UTF8'))
    $$
    """,
    # Events of an earlier version are chained as they are.
    """
    DO $$
    DECLARE
        event audit_events;
        chained text;
        previous bytea;
    BEGIN
        FOR event IN SELECT * FROM audit_events ORDER BY tenant_id, sequence LOOP
            IF chained IS DISTINCT FROM event.tenant_id THEN
                chained := event.tenant_id;
                previous := NULL;
            END IF;
            previous := audit_hash(previous, event);
            UPDATE audit_events SET hash = previous WHERE tenant_id = event.tenant_id AND sequence = event.sequence;
        END LOOP;
    END
    $$
    """,
    "ALTER TABLE audit_events ALTER COLUMN hash SET NOT NULL",
    # Whatever a statement says, the log decides, so that none can forget to. The lock is that of next_numbers(). The
    # time is that of the database, the only clock that all servers share, and never before the event before: so a
    # span of time is a range of the log.
    """
    CREATE FUNCTION chain_audit_event() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        last audit_events;
    BEGIN
        PERFORM pg_advisory_xact_lock('changes'::regclass::oid::bigint);
        SELECT * INTO last FROM audit_events WHERE tenant_id = NEW.tenant_id ORDER BY sequence DESC LIMIT 1;
        NEW.sequence := coalesce(last.sequence, 0) + 1;
        NEW.occurred_at := greatest(clock_timestamp(), last.occurred_at);
        NEW.hash := audit_hash(last.hash, NEW);
        RETURN NEW;
    END
    $$
    """,
    """
    CREATE TRIGGER chain_audit_event BEFORE INSERT ON audit_events
    FOR EACH ROW EXECUTE FUNCTION chain_audit_event()
    """,
    # A page of ListAuditEvents is a range of one of these, or of the primary key where nothing is filtered. Nulls would
    # come last, if there were any, unlike in the primary key read backwards. So the planner cannot take that for the
    # order of a filtered page, and walk down the whole log for a rare actor.
    "CREATE INDEX audit_events_by_key ON audit_events (tenant_id, key_id, sequence DESC NULLS LAST)",
    "CREATE INDEX audit_events_by_owner ON audit_events (tenant_id, owner_id, sequence DESC NULLS LAST)",
    "CREATE INDEX audit_events_by_actor ON audit_events (tenant_id, actor, sequence DESC NULLS LAST)",
    "CREATE INDEX audit_events_by_action ON audit_events (tenant_id, action, sequence DESC NULLS LAST)",
    "CREATE INDEX audit_events_by_time ON audit_events (tenant_id, occurred_at, sequence)",
)


def upgrade() -> None:
    """Chain the events, and index them."""
    for statement in _STATEMENTS:
        op.execute(statement)
