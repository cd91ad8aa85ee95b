-- The least rights with which the outbox works on PostgreSQL. Run it after the migrations, as the owner
-- of the tables, and grant the roles to those that log in:
--
--     GRANT outbox_writer TO shop;
--     GRANT outbox_runner TO shop_outbox;
--     GRANT outbox_operator TO alice;
--
-- It may be run again. An outbox that is in a schema of its own is found by the search_path, as in
--
--     PGOPTIONS='-c search_path=billing' psql -f grants.sql
--
-- Roles belong to the whole server: who has one of these may do the same in each outbox in which this was
-- run. To keep outboxes apart, put other names in place of these three.

-- Roles belong to the whole server, and somebody else may be making them at this moment.
DO $do$
BEGIN
    CREATE ROLE outbox_writer NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$do$;

DO $do$
BEGIN
    CREATE ROLE outbox_runner NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$do$;

DO $do$
BEGIN
    CREATE ROLE outbox_operator NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$do$;

-- Who may not use the schema sees no table in it.
DO $do$
DECLARE
    role text;
    schema name := (SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                    WHERE c.oid = 'outbox'::regclass);
BEGIN
    FOREACH role IN ARRAY ARRAY['outbox_writer', 'outbox_runner', 'outbox_operator'] LOOP
        IF NOT has_schema_privilege(role, schema, 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', schema, role);
        END IF;
    END LOOP;
END
$do$;

-- Who publishes writes messages, and can't see or change any, not even its own. When and in which place it was
-- written is not for it to say: a place of its choice would be passed over. (What it needs besides, the use of the
-- sequence and the doorbell, is granted to everybody by the migration.)
GRANT INSERT (message_id, topic, partition, key, payload, headers, event_type) ON outbox TO outbox_writer;

-- The runner. It never writes new messages, but moves parked ones back to their places.
GRANT SELECT, INSERT, DELETE ON outbox, outbox_archive TO outbox_runner;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_parked, outbox_runners TO outbox_runner;
GRANT INSERT ON outbox_dead_letters TO outbox_runner;
GRANT SELECT, UPDATE ON outbox_lanes, outbox_doorbell TO outbox_runner;
GRANT SELECT ON outbox_paused TO outbox_runner;
GRANT SELECT ON SEQUENCE outbox_id_seq TO outbox_runner;

-- Operators see everything, let a parked message be tried now, move one to the dead letters, and pause
-- topics; what they did is noted, and they can't take the note back.
GRANT SELECT ON outbox, outbox_lanes, outbox_runners, outbox_doorbell, outbox_parked, outbox_archive,
    outbox_dead_letters, outbox_audit, outbox_paused TO outbox_operator;
GRANT UPDATE (next_attempt_at), DELETE ON outbox_parked TO outbox_operator;
GRANT INSERT ON outbox_dead_letters, outbox_audit TO outbox_operator;
GRANT INSERT, DELETE ON outbox_paused TO outbox_operator;
GRANT SELECT ON SEQUENCE outbox_id_seq TO outbox_operator;
