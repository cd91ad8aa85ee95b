-- The transactional outbox on SQLite 3.35 and later. See the PostgreSQL migration for the meaning of
-- the columns.
--
-- Times are UTC in ISO 8601. SQLite has one writer, so one lane is enough.

CREATE TABLE outbox (
    -- AUTOINCREMENT, or the ids of deleted rows would come back.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    lane INTEGER NOT NULL GENERATED ALWAYS AS (0) VIRTUAL,
    -- A version 4 UUID.
    message_id TEXT NOT NULL DEFAULT (
        lower(
            hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2)
            || '-' || substr('89ab', 1 + (abs(random()) % 4), 1) || substr(hex(randomblob(2)), 2)
            || '-' || hex(randomblob(6))
        )
    ),
    topic TEXT NOT NULL CHECK (length(CAST(topic AS BLOB)) BETWEEN 1 AND 249),
    partition INTEGER CHECK (partition BETWEEN 0 AND 2147483647),
    key BLOB,
    payload BLOB,
    headers TEXT CHECK (json_type(headers) = 'array'),
    event_type TEXT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);

CREATE TABLE outbox_lanes (
    lane INTEGER PRIMARY KEY CHECK (lane = 0),
    owner TEXT,
    epoch INTEGER NOT NULL DEFAULT 0,
    expires_at TEXT NOT NULL DEFAULT '0000-01-01T00:00:00.000Z'
);

INSERT INTO outbox_lanes (lane) VALUES (0);

CREATE TABLE outbox_runners (
    runner TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    started_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    expires_at TEXT NOT NULL
);

CREATE TABLE outbox_parked (
    id INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER,
    key BLOB,
    payload BLOB,
    headers TEXT,
    event_type TEXT,
    created_at TEXT NOT NULL,
    parked_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    next_attempt_at TEXT,
    -- What is parked and released together.
    ordering_key BLOB NOT NULL GENERATED ALWAYS AS (
        CASE
            WHEN partition IS NOT NULL THEN 'p' || partition || ':' || topic
            WHEN key IS NOT NULL THEN 'k' || hex(key) || ':' || topic
            ELSE 'm' || message_id
        END
    ) VIRTUAL,
    PRIMARY KEY (lane, id)
);

CREATE INDEX outbox_parked_by_key ON outbox_parked (ordering_key, id);

CREATE TABLE outbox_archive (
    id INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER,
    key BLOB,
    payload BLOB,
    headers TEXT,
    event_type TEXT,
    created_at TEXT NOT NULL,
    delivered_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (delivered_at, lane, id)
);

CREATE TABLE outbox_dead_letters (
    id INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER,
    key BLOB,
    payload BLOB,
    headers TEXT,
    event_type TEXT,
    created_at TEXT NOT NULL,
    refused_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    error TEXT NOT NULL,
    PRIMARY KEY (lane, id)
);
