-- The transactional outbox on MySQL 8.0.16 and MariaDB 10.11, and later. See the PostgreSQL migration for
-- the meaning of the columns. All times are UTC. `key` and `partition` are words of SQL here, so whoever
-- names these columns puts them into backticks.

CREATE TABLE outbox (
    -- The order of messages. Drawn when the row is inserted, and never drawn twice.
    id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
    -- The unit of ordering and of ownership. Generated here, so that writers in all languages agree. It
    -- must only be stable while messages wait.
    lane smallint GENERATED ALWAYS AS (
        (crc32(topic) + CASE
            WHEN `partition` IS NOT NULL THEN `partition`
            WHEN `key` IS NOT NULL THEN crc32(`key`)
            ELSE crc32(message_id)
        END) & 15
    ) STORED,
    message_id varchar(36) CHARACTER SET ascii COLLATE ascii_general_ci NOT NULL DEFAULT (uuid()),
    -- Wider than what the check allows: without a strict sql_mode, what is too wide is cut off, and then
    -- refused all the same.
    topic varchar(255) NOT NULL
        CHECK (octet_length(topic) BETWEEN 1 AND 249),
    `partition` int CHECK (`partition` >= 0),
    `key` longblob,
    payload longblob,
    -- As text, which keeps numbers as they were written.
    headers longtext
        CHECK (json_valid(headers) AND json_type(headers) = 'ARRAY'),
    event_type longtext,
    created_at datetime(6) NOT NULL DEFAULT (utc_timestamp(6)),
    -- A generated column can't be part of a primary key on MariaDB.
    KEY outbox_by_lane (lane, id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE outbox_lanes (
    lane smallint NOT NULL PRIMARY KEY CHECK (lane BETWEEN 0 AND 15),
    owner varchar(36) CHARACTER SET ascii COLLATE ascii_general_ci,
    epoch bigint NOT NULL DEFAULT 0,
    expires_at datetime(6) NOT NULL DEFAULT '1970-01-01 00:00:00',
    batch bigint NOT NULL DEFAULT 0,
    -- An array of ids, in JSON.
    manifest longtext CHARACTER SET ascii COLLATE ascii_general_ci NOT NULL DEFAULT ('[]'),
    manifest_parked boolean NOT NULL DEFAULT false,
    -- The same in all rows: which outbox it is, so that no two deliver exactly once in one name.
    outbox_id varchar(36) CHARACTER SET ascii COLLATE ascii_general_ci NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT INTO outbox_lanes (lane, outbox_id)
SELECT l.lane, o.id
FROM (SELECT uuid() AS id) AS o
CROSS JOIN (
    SELECT 0 AS lane UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4
    UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9
    UNION ALL SELECT 10 UNION ALL SELECT 11 UNION ALL SELECT 12 UNION ALL SELECT 13 UNION ALL SELECT 14
    UNION ALL SELECT 15
) AS l;

CREATE TABLE outbox_runners (
    runner varchar(36) CHARACTER SET ascii COLLATE ascii_general_ci NOT NULL PRIMARY KEY,
    name longtext NOT NULL,
    started_at datetime(6) NOT NULL DEFAULT (utc_timestamp(6)),
    expires_at datetime(6) NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE outbox_parked (
    id bigint NOT NULL PRIMARY KEY,
    lane smallint NOT NULL,
    message_id varchar(36) CHARACTER SET ascii COLLATE ascii_general_ci NOT NULL,
    topic varchar(255) NOT NULL,
    `partition` int,
    `key` longblob,
    payload longblob,
    headers longtext,
    event_type longtext,
    created_at datetime(6) NOT NULL,
    parked_at datetime(6) NOT NULL DEFAULT (utc_timestamp(6)),
    attempts int NOT NULL DEFAULT 0,
    error longtext,
    next_attempt_at datetime(6),
    -- What is parked and released together. A key itself can be too long for an index.
    ordering_key binary(32) GENERATED ALWAYS AS (
        unhex(sha2(CASE
            WHEN `partition` IS NOT NULL THEN concat('p', `partition`, ':', hex(topic))
            WHEN `key` IS NOT NULL THEN concat('k', hex(`key`), ':', hex(topic))
            ELSE concat('m', message_id)
        END, 256))
    ) STORED,
    KEY outbox_parked_by_key (lane, ordering_key, id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE outbox_paused (
    topic varchar(255) NOT NULL PRIMARY KEY,
    paused_at datetime(6) NOT NULL DEFAULT (utc_timestamp(6))
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE outbox_archive (
    id bigint NOT NULL,
    lane smallint NOT NULL,
    message_id varchar(36) CHARACTER SET ascii COLLATE ascii_general_ci NOT NULL,
    topic varchar(255) NOT NULL,
    `partition` int,
    `key` longblob,
    payload longblob,
    headers longtext,
    event_type longtext,
    created_at datetime(6) NOT NULL,
    delivered_at datetime(6) NOT NULL DEFAULT (utc_timestamp(6)),
    -- By time, so that what is past its retention lies together.
    PRIMARY KEY (delivered_at, lane, id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE outbox_dead_letters (
    id bigint NOT NULL PRIMARY KEY,
    lane smallint NOT NULL,
    message_id varchar(36) CHARACTER SET ascii COLLATE ascii_general_ci NOT NULL,
    topic varchar(255) NOT NULL,
    `partition` int,
    `key` longblob,
    payload longblob,
    headers longtext,
    event_type longtext,
    created_at datetime(6) NOT NULL,
    refused_at datetime(6) NOT NULL DEFAULT (utc_timestamp(6)),
    error longtext NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE outbox_audit (
    seq bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
    done_at datetime(6) NOT NULL DEFAULT (utc_timestamp(6)),
    action varchar(255) NOT NULL,
    operator longtext NOT NULL,
    -- By default the account that did it.
    role varchar(255) NOT NULL DEFAULT (session_user()),
    reason longtext,
    lane smallint,
    id bigint,
    message_id varchar(36) CHARACTER SET ascii COLLATE ascii_general_ci,
    topic varchar(255) NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
