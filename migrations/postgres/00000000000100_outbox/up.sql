-- The transactional outbox on PostgreSQL 13 and later.
--
-- A row in `outbox` IS an undelivered message: there is no status column, and the runner deletes
-- what was delivered. Writers in any language fill (topic, key, payload) and, as they need them,
-- (message_id, partition, headers, event_type); everything else is the database's own.

CREATE SEQUENCE outbox_id_seq AS bigint CACHE 1;

CREATE TABLE outbox (
    -- The order of messages. Three things happen in this default, in this order:
    --   1. A transaction with synchronous_commit = off would show rows that a crash of the server
    --      can take back after they were sent. It is raised for this transaction.
    --   2. The transaction id is drawn before the sequence value, so that every id below one that
    --      is visible belongs to a transaction that a snapshot knows.
    --   3. The id itself.
    id bigint NOT NULL DEFAULT (
        CASE
            WHEN (current_setting('synchronous_commit') <> 'off'
                  OR set_config('synchronous_commit', 'on', true) IS NOT NULL)
                 AND pg_current_xact_id() IS NOT NULL
            THEN nextval('outbox_id_seq')
        END
    ),
    -- The unit of ordering and of ownership, from the ordering key: (topic, partition) where there is
    -- a partition, else (topic, key) where there is a key, else anything. Generated here, so that
    -- writers in all languages agree. It must only be stable while messages wait.
    lane smallint NOT NULL GENERATED ALWAYS AS (
        (hashtextextended(
            topic,
            CASE
                WHEN partition IS NOT NULL THEN partition::bigint
                WHEN key IS NOT NULL THEN hashtextextended(encode(key, 'hex') COLLATE "C", 0)
                ELSE uuid_hash_extended(message_id, 0)
            END
        ) & 15)::smallint
    ) STORED,
    -- By which consumers recognise a message that is delivered twice; sent as header outbox-id.
    message_id uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The characters are checked by the library before they are sent; a regular expression here
    -- would more than double the cost of the row.
    topic text COLLATE "C" NOT NULL CHECK (octet_length(topic) BETWEEN 1 AND 249),
    -- NULL: the sink's partitioner decides.
    partition integer CHECK (partition >= 0),
    key bytea,
    -- NULL: a tombstone.
    payload bytea,
    -- An array of {"key", "value"}; bytes as {"key", "base64"}.
    headers json CHECK (json_typeof(headers) = 'array'),
    -- Sent as header outbox-type.
    event_type text,
    -- For people and metrics; never used for order.
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (lane, id)
) WITH (
    -- Rows come and go all the time, so vacuum by their number rather than by a share of the table.
    autovacuum_vacuum_scale_factor = 0.0,
    autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0.0,
    autovacuum_vacuum_insert_threshold = 100000
);

ALTER SEQUENCE outbox_id_seq OWNED BY outbox.id;

-- One row a lane: a runner's right to it. All comparisons use the database's clock.
CREATE TABLE outbox_lanes (
    lane smallint PRIMARY KEY CHECK (lane BETWEEN 0 AND 15),
    owner uuid,
    -- The fencing token: +1 on every change of owner.
    epoch bigint NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL DEFAULT '-infinity',
    -- For exactly-once delivery: the number and the message ids of the batch that is being sent.
    batch bigint NOT NULL DEFAULT 0,
    manifest uuid[]
) WITH (fillfactor = 50);

INSERT INTO outbox_lanes (lane) SELECT generate_series(0, 15);

-- One row a runner that is alive, so that runners can share the lanes fairly.
CREATE TABLE outbox_runners (
    runner uuid PRIMARY KEY,
    name text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Messages of keys that are set aside because the sink refused one, in order.
CREATE TABLE outbox_parked (
    id bigint NOT NULL,
    lane smallint NOT NULL,
    message_id uuid NOT NULL,
    topic text COLLATE "C" NOT NULL,
    partition integer,
    key bytea,
    payload bytea,
    headers json,
    event_type text,
    created_at timestamptz NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Of the first message of a key: how often it was tried, why it was refused, and when it is due
    -- again (NULL: it waits for an operator). Later messages of the key wait behind it.
    attempts integer NOT NULL DEFAULT 0,
    error text,
    next_attempt_at timestamptz,
    PRIMARY KEY (lane, id)
);

-- Delivered messages, where the runner's completion is `Archive`.
CREATE TABLE outbox_archive (
    id bigint NOT NULL,
    lane smallint NOT NULL,
    message_id uuid NOT NULL,
    topic text COLLATE "C" NOT NULL,
    partition integer,
    key bytea,
    payload bytea,
    headers json,
    event_type text,
    created_at timestamptz NOT NULL,
    delivered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- By time, so that what is past its retention lies together.
    PRIMARY KEY (delivered_at, lane, id)
);
