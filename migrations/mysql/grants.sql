-- The least rights with which the outbox works on MySQL and MariaDB. Run it after the migrations, in the
-- database of the tables, and grant the roles to those that log in:
--
--     GRANT outbox_writer TO shop@'%';
--     SET DEFAULT ROLE outbox_writer TO shop@'%';    -- MariaDB: … FOR shop@'%'
--
-- It may be run again.

CREATE ROLE IF NOT EXISTS outbox_writer;
CREATE ROLE IF NOT EXISTS outbox_runner;

-- Who publishes writes messages, and can't see or change any, not even its own. When and in which place it was
-- written is not for it to say: a place of its choice would put it before others, or exhaust the numbers.
GRANT INSERT (message_id, topic, `partition`, `key`, payload, headers, event_type) ON outbox TO outbox_writer;

-- The runner. It never writes new messages, but moves parked ones back to their places.
GRANT SELECT, INSERT, DELETE ON outbox TO outbox_runner;
GRANT SELECT, INSERT, DELETE ON outbox_archive TO outbox_runner;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_parked TO outbox_runner;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_runners TO outbox_runner;
GRANT SELECT, INSERT, UPDATE ON outbox_dead_letters TO outbox_runner;
GRANT SELECT, UPDATE ON outbox_lanes TO outbox_runner;
GRANT SELECT ON outbox_paused TO outbox_runner;
