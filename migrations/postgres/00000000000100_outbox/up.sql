-- The transactional outbox on PostgreSQL 13 and later.
--
-- A row in `outbox` IS an undelivered message: there is no status column, and the runner deletes
-- what was delivered. Writers in any language fill (topic, key, payload) and, as they need them,
-- (message_id, partition, headers, event_type); everything else is the database's own.

CREATE SEQUENCE outbox_id_seq AS bigint CACHE 1;

-- What messages are ordered by, as a number: (topic, partition) where there is a partition, else
-- (topic, key) where there is a key, else anything. It must only be stable while messages wait. Short
-- enough to be inlined wherever it is used.
CREATE FUNCTION outbox_ordering_key(topic text, partition integer, key bytea, message_id uuid)
    RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $function$
SELECT hashtextextended(
        topic,
        CASE
            WHEN partition IS NOT NULL THEN partition::bigint
            WHEN key IS NOT NULL THEN hashtextextended(encode(key, 'hex') COLLATE "C", 0)
            ELSE uuid_hash_extended(message_id, 0)
        END
    )
$function$;

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
    -- The unit of ordering and of ownership. Generated here, so that writers in all languages agree.
    lane smallint NOT NULL GENERATED ALWAYS AS (
        (outbox_ordering_key(topic, partition, key, message_id) & 15)::smallint
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

-- So that a writer needs no right but INSERT on the table. It allows to draw ids, and nothing else.
GRANT USAGE ON SEQUENCE outbox_id_seq TO PUBLIC;

-- One row a lane: a runner's right to it. All comparisons use the database's clock.
CREATE TABLE outbox_lanes (
    lane smallint PRIMARY KEY CHECK (lane BETWEEN 0 AND 15),
    owner uuid,
    -- The fencing token: +1 on every change of owner.
    epoch bigint NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL DEFAULT '-infinity',
    -- For exactly-once delivery: the batch that was sent last, or is being sent. Its messages stand in
    -- outbox, or in outbox_parked.
    batch bigint NOT NULL DEFAULT 0,
    manifest bigint[] NOT NULL DEFAULT '{}',
    manifest_parked boolean NOT NULL DEFAULT false,
    -- The same in all rows: which outbox it is, so that no two deliver exactly once in one name.
    outbox_id uuid NOT NULL
) WITH (fillfactor = 50);

INSERT INTO outbox_lanes (lane, outbox_id)
SELECT l.lane, o.id FROM generate_series(0, 15) AS l (lane) CROSS JOIN gen_random_uuid() AS o (id);

-- One row a runner that is alive, so that runners can share the lanes fairly.
CREATE TABLE outbox_runners (
    runner uuid PRIMARY KEY,
    name text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- The doorbell: until when the runner of a lane sleeps. Who writes a message to a lane whose runner
-- sleeps also sends NOTIFY outbox, '<oid of this table>/<lane>'; while runners are awake, nobody does, since
-- PostgreSQL lets only one transaction at a time commit with a notification.
CREATE TABLE outbox_doorbell (
    lane smallint PRIMARY KEY CHECK (lane BETWEEN 0 AND 15),
    asleep_until timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

INSERT INTO outbox_doorbell (lane) SELECT generate_series(0, 15);

-- All that a writer may read.
GRANT SELECT ON outbox_doorbell TO PUBLIC;

-- Rings at the doorbell of this oid, and returns NULL. Two statements keep it from being inlined: all that stands
-- in a writer's statement is made ready each time, though nobody sleeps.
CREATE FUNCTION outbox_ring(doorbell oid, lane smallint)
    RETURNS boolean
    LANGUAGE sql VOLATILE
AS $function$
SELECT pg_notify('outbox', $1 || '/' || $2);

    SELECT NULL::boolean
$function$;

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
    -- What is parked and released together. A key itself can be too long for an index.
    ordering_key bigint NOT NULL GENERATED ALWAYS AS (
        outbox_ordering_key(topic, partition, key, message_id)
    ) STORED,
    PRIMARY KEY (lane, id)
);

CREATE INDEX outbox_parked_by_key ON outbox_parked (lane, ordering_key, id);

-- What an operator has paused: topics, or everything, by the name `*`, which no topic can have.
CREATE TABLE outbox_paused (
    topic text COLLATE "C" PRIMARY KEY,
    paused_at timestamptz NOT NULL DEFAULT clock_timestamp()
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

-- Refused messages, where the runner's policy is a dead-letter table.
CREATE TABLE outbox_dead_letters (
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
    refused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    error text NOT NULL,
    PRIMARY KEY (lane, id)
);

-- What operators did by hand to parked messages.
CREATE TABLE outbox_audit (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    done_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- retry or skip a parked message, pause or resume a topic or everything (`*`)
    action text NOT NULL,
    -- Who says to have done it, as which role, and why.
    operator text NOT NULL,
    role text NOT NULL DEFAULT session_user,
    reason text,
    lane smallint,
    id bigint,
    message_id uuid,
    topic text COLLATE "C" NOT NULL
);

-- What the runner does is done by functions, because only a function carries the planner's settings
-- along, whatever pooler is in between. They matter: statistics are gathered, and plans that are kept are made, mostly
-- while the table is empty, and a plan for an empty table reads a full one from end to end.
--
-- The functions that change messages are fenced. They take the lanes and epochs of the leases that the
-- runner believes to hold, and its id; they touch only lanes that it does hold, with an unexpired lease,
-- and return these. FOR SHARE keeps another runner from taking a lane in the middle. Lanes are locked in
-- their order everywhere, so that runners can't deadlock.

-- Tells that a runner is alive, renews its lanes, and takes free ones up to its share among the runners
-- that are alive: 6, 5 and 5 for three, in the order of their ids, so that shares add up to all lanes. A
-- free lane that another runner is taking at this moment is left to it. What ends later
-- than in an hour, or in twice the time that is asked for, was written while the clock was ahead. Under READ COMMITTED a locked
-- row is looked at again after the lock was got, so no lane is taken twice.
CREATE FUNCTION outbox_lease(runner uuid, name text, ttl_ms bigint)
    RETURNS TABLE (share bigint, lane smallint, epoch bigint)
    LANGUAGE sql VOLATILE
AS $function$
DELETE FROM outbox_runners
    WHERE expires_at < clock_timestamp() - interval '1 hour'
        OR expires_at > clock_timestamp() + greatest(interval '1 hour', $3 * interval '2 milliseconds');

    INSERT INTO outbox_runners (runner, name, expires_at)
    VALUES ($1, $2, clock_timestamp() + $3 * interval '1 millisecond')
    ON CONFLICT (runner) DO UPDATE SET expires_at = excluded.expires_at;

    WITH share AS MATERIALIZED (
        SELECT 16 / n + CASE WHEN rank < 16 % n THEN 1 ELSE 0 END AS share
        FROM (
            -- At least itself, even if what it told is past before it is counted.
            SELECT greatest(count(*), 1) AS n, count(*) FILTER (WHERE r.runner < $1) AS rank
            FROM outbox_runners AS r
            WHERE r.expires_at > clock_timestamp()
        ) AS alive
    ), held AS MATERIALIZED (
        SELECT l.lane FROM outbox_lanes AS l WHERE l.owner = $1 ORDER BY l.lane FOR UPDATE
    ), free AS MATERIALIZED (
        SELECT l.lane
        FROM outbox_lanes AS l
        WHERE (l.owner IS NULL OR l.expires_at <= clock_timestamp()
                OR l.expires_at > clock_timestamp() + greatest(interval '1 hour', $3 * interval '2 milliseconds'))
            AND l.lane NOT IN (SELECT h.lane FROM held AS h)
        ORDER BY l.lane
        LIMIT greatest(0, (SELECT s.share FROM share AS s) - (SELECT count(*) FROM held))
        FOR UPDATE SKIP LOCKED
    ), granted AS (
        UPDATE outbox_lanes AS l
        SET epoch = l.epoch + CASE WHEN l.owner = $1 THEN 0 ELSE 1 END,
            owner = $1,
            expires_at = clock_timestamp() + $3 * interval '1 millisecond'
        FROM (SELECT h.lane FROM held AS h UNION ALL SELECT f.lane FROM free AS f) AS chosen
        WHERE l.lane = chosen.lane
        RETURNING l.lane, l.epoch
    )
    SELECT s.share, g.lane, g.epoch FROM share AS s LEFT JOIN granted AS g ON true
$function$;

-- Hands lanes back.
CREATE FUNCTION outbox_release(lanes smallint[], epochs bigint[], runner uuid)
    RETURNS void
    LANGUAGE sql VOLATILE
AS $function$
WITH mine AS MATERIALIZED (
        SELECT l.lane
        FROM unnest($1, $2) AS held (lane, epoch)
        JOIN outbox_lanes AS l USING (lane, epoch)
        WHERE l.owner = $3
        ORDER BY l.lane
        FOR UPDATE OF l
    )
    UPDATE outbox_lanes AS l
    SET owner = NULL, expires_at = '-infinity'
    FROM mine AS m
    WHERE l.lane = m.lane
$function$;

-- Takes a runner's leave: hands back all of its lanes, also one that it was granted without noticing.
CREATE FUNCTION outbox_leave(runner uuid)
    RETURNS void
    LANGUAGE sql VOLATILE
AS $function$
WITH mine AS MATERIALIZED (
        SELECT l.lane FROM outbox_lanes AS l WHERE l.owner = $1 ORDER BY l.lane FOR UPDATE
    )
    UPDATE outbox_lanes AS l
    SET owner = NULL, expires_at = '-infinity'
    FROM mine AS m
    WHERE l.lane = m.lane;

    DELETE FROM outbox_runners AS r WHERE r.runner = $1
$function$;

-- The oldest messages of each lane, as many as are asked for, without those that the runner has and without some
-- topics. One index scan a lane, which stops at the limit; nothing is sorted. (<> ALL is hashed only since
-- PostgreSQL 15, so the ids stand in a subquery.) The key and the payload of a message come without it if they have
-- more bytes than `large`: the runner asks for those that it has room for.
--
-- It has no settings of its own, and so becomes part of the statement that calls it: what it finds is not put aside
-- first. The runner tells the planner what a function could have told it.
--
-- Each scan starts at the lane's floor, below which the runner knows of nothing that is not delivered,
-- so that rows are not walked that are dead but can't be vacuumed yet. Transactions that were late when
-- the floor was set, and have ended since, may have committed something below it: each comes with the
-- floor from which what it wrote is found. The snapshot that decides is the one that reads.
CREATE FUNCTION outbox_read(lanes smallint[], most bigint[], floors bigint[], large bigint, exclude bigint[],
    exclude_topics text[], only_topics text[], late_lanes smallint[], late_xids bigint[], late_floors bigint[])
    RETURNS TABLE (
        lane smallint, id bigint, message_id uuid, topic text, partition integer, key bytea,
        payload bytea, headers text, event_type text, created_at timestamptz, bytes integer)
    LANGUAGE sql STABLE
AS $function$
SELECT m.lane, m.id, m.message_id, m.topic, m.partition, CASE WHEN m.bytes <= $4 THEN m.key END,
        CASE WHEN m.bytes <= $4 THEN m.payload END, m.headers::text, m.event_type, m.created_at, m.bytes
    FROM unnest($1, $2, $3) AS l (lane, most, floor)
    CROSS JOIN LATERAL (
        SELECT o.*, coalesce(octet_length(o.payload), 0) + coalesce(octet_length(o.key), 0) AS bytes
        FROM outbox AS o
        WHERE o.lane = l.lane
            AND o.id >= least(l.floor, (
                SELECT min(late.floor)
                FROM unnest($8, $9, $10) AS late (lane, xid, floor)
                WHERE late.lane = l.lane
                    AND pg_visible_in_snapshot(late.xid::text::xid8, pg_current_snapshot())
            ))
            AND ($5 = '{}' OR o.id NOT IN (SELECT unnest($5)))
            AND o.topic <> ALL ($6)
            AND ($7 IS NULL OR o.topic = ANY ($7))
        ORDER BY o.id
        LIMIT l.most
    ) AS m
$function$;

-- The same with a plan that is kept, whatever is asked for: to make one takes four times as long as to find a message.
-- All that is found is put aside first, so this is for a few.
CREATE FUNCTION outbox_read_few(lanes smallint[], most bigint[], floors bigint[], large bigint, exclude bigint[],
    exclude_topics text[], only_topics text[], late_lanes smallint[], late_xids bigint[], late_floors bigint[])
    RETURNS TABLE (
        lane smallint, id bigint, message_id uuid, topic text, partition integer, key bytea,
        payload bytea, headers text, event_type text, created_at timestamptz, bytes integer)
    LANGUAGE plpgsql STABLE
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET jit = off
AS $function$
BEGIN
    RETURN QUERY SELECT * FROM outbox_read($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);
END
$function$;

-- What floors are made of: the highest id that was drawn until now, a transaction id that was drawn
-- after it (so whoever drew an id up to that one has a lower transaction id), and the transactions that
-- are in progress.
CREATE FUNCTION outbox_horizon()
    RETURNS TABLE (last_id bigint, xid bigint, in_progress bigint[])
    LANGUAGE sql VOLATILE
AS $function$
WITH drawn AS MATERIALIZED (
        -- Of a sequence of which nothing was drawn, `last_value` is what is drawn first.
        SELECT s.last_value - CASE WHEN s.is_called THEN 0 ELSE 1 END AS id FROM outbox_id_seq AS s
    )
    SELECT d.id, pg_current_xact_id()::text::bigint,
        ARRAY(SELECT x::text::bigint FROM pg_snapshot_xip(pg_current_snapshot()) AS x)
    FROM drawn AS d
$function$;

-- Deletes what was delivered: these ids, which lie in these ranges of lanes. A range is one index scan, which
-- takes less time than a probe for each message; what else lies in it is none of the ids, and stays.
-- (IS TRUE keeps it a look into a hash table: IN alone would become a join.) The plan is kept.
CREATE FUNCTION outbox_settle(held smallint[], epochs bigint[], runner uuid, lanes smallint[], firsts bigint[],
    lasts bigint[], ids bigint[])
    RETURNS TABLE (lane smallint, epoch bigint)
    LANGUAGE plpgsql VOLATILE
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET jit = off
AS $function$
#variable_conflict use_column
BEGIN
    RETURN QUERY WITH mine AS MATERIALIZED (
        SELECT l.lane, l.epoch
        FROM unnest($1, $2) AS held (lane, epoch)
        JOIN outbox_lanes AS l USING (lane, epoch)
        WHERE l.owner = $3 AND l.expires_at > clock_timestamp()
        ORDER BY l.lane
        FOR SHARE OF l
    ), gone AS (
        DELETE FROM outbox AS o
        USING unnest($4, $5, $6) AS d (lane, first, last)
        WHERE o.lane = d.lane AND o.id BETWEEN d.first AND d.last
            AND (o.id IN (SELECT unnest($7))) IS TRUE
            AND d.lane = ANY (ARRAY(SELECT m.lane FROM mine AS m))
    )
    SELECT m.lane, m.epoch FROM mine AS m;
END
$function$;

-- Moves what was delivered to the archive, found in the same way.
CREATE FUNCTION outbox_archive_delivered(held smallint[], epochs bigint[], runner uuid, lanes smallint[], firsts bigint[],
    lasts bigint[], ids bigint[])
    RETURNS TABLE (lane smallint, epoch bigint)
    LANGUAGE sql VOLATILE
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET jit = off
AS $function$
WITH mine AS MATERIALIZED (
        SELECT l.lane, l.epoch
        FROM unnest($1, $2) AS held (lane, epoch)
        JOIN outbox_lanes AS l USING (lane, epoch)
        WHERE l.owner = $3 AND l.expires_at > clock_timestamp()
        ORDER BY l.lane
        FOR SHARE OF l
    ), gone AS (
        DELETE FROM outbox AS o
        USING unnest($4, $5, $6) AS d (lane, first, last)
        WHERE o.lane = d.lane AND o.id BETWEEN d.first AND d.last
            AND (o.id IN (SELECT unnest($7))) IS TRUE
            AND d.lane = ANY (ARRAY(SELECT m.lane FROM mine AS m))
        RETURNING o.*
    ), archived AS (
        INSERT INTO outbox_archive
            (id, lane, message_id, topic, partition, key, payload, headers, event_type, created_at)
        SELECT id, lane, message_id, topic, partition, key, payload, headers, event_type, created_at
        FROM gone
    )
    SELECT m.lane, m.epoch FROM mine AS m
$function$;

-- Moves messages to the parked ones. Without an error a message queues up behind another one of its
-- key; without a time to retry it waits for an operator.
CREATE FUNCTION outbox_park(held smallint[], epochs bigint[], runner uuid, lanes smallint[], ids bigint[], errors text[],
    attempts integer[], retry_ms bigint[])
    RETURNS TABLE (lane smallint, epoch bigint)
    LANGUAGE sql VOLATILE
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET jit = off
AS $function$
WITH mine AS MATERIALIZED (
        SELECT l.lane, l.epoch
        FROM unnest($1, $2) AS held (lane, epoch)
        JOIN outbox_lanes AS l USING (lane, epoch)
        WHERE l.owner = $3 AND l.expires_at > clock_timestamp()
        ORDER BY l.lane
        FOR SHARE OF l
    ), gone AS (
        DELETE FROM outbox AS o
        USING unnest($4, $5, $6, $7, $8) AS p (lane, id, error, attempts, retry_ms)
        WHERE o.lane = p.lane AND o.id = p.id AND p.lane = ANY (ARRAY(SELECT m.lane FROM mine AS m))
        RETURNING o.*, p.error, p.attempts, p.retry_ms
    ), parked AS (
        INSERT INTO outbox_parked
            (id, lane, message_id, topic, partition, key, payload, headers, event_type, created_at,
             error, attempts, next_attempt_at)
        SELECT id, lane, message_id, topic, partition, key, payload, headers, event_type, created_at,
            g.error, g.attempts, clock_timestamp() + g.retry_ms * interval '1 millisecond'
        FROM gone AS g
        -- It may be there still: somebody has put a copy back.
        ON CONFLICT DO NOTHING
    )
    SELECT m.lane, m.epoch FROM mine AS m
$function$;

-- Moves a refused message to the dead letters.
CREATE FUNCTION outbox_bury(held smallint[], epochs bigint[], runner uuid, lane smallint, id bigint, error text)
    RETURNS TABLE (lane smallint, epoch bigint)
    LANGUAGE sql VOLATILE
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET jit = off
AS $function$
WITH mine AS MATERIALIZED (
        SELECT l.lane, l.epoch
        FROM unnest($1, $2) AS held (lane, epoch)
        JOIN outbox_lanes AS l USING (lane, epoch)
        WHERE l.owner = $3 AND l.expires_at > clock_timestamp()
        ORDER BY l.lane
        FOR SHARE OF l
    ), gone AS (
        DELETE FROM outbox AS o
        WHERE o.lane = $4 AND o.id = $5 AND o.lane = ANY (ARRAY(SELECT m.lane FROM mine AS m))
        RETURNING o.*
    ), dead AS (
        INSERT INTO outbox_dead_letters
            (id, lane, message_id, topic, partition, key, payload, headers, event_type, created_at, error)
        SELECT g.id, g.lane, message_id, topic, partition, key, payload, headers, event_type,
            created_at, $6
        FROM gone AS g
        -- It may be there already: somebody has put a copy back.
        ON CONFLICT DO NOTHING
    )
    SELECT m.lane, m.epoch FROM mine AS m
$function$;

-- The first message of each parked key, found by skipping from key to key in the index: the cost is by
-- keys, however much is parked of each.
CREATE FUNCTION outbox_parked_firsts(lanes smallint[])
    RETURNS TABLE (lane smallint, id bigint, attempts integer, next_attempt_at timestamptz)
    LANGUAGE sql VOLATILE
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET jit = off
AS $function$
WITH RECURSIVE firsts AS (
        SELECT l.lane, f.ordering_key, f.id, f.attempts, f.next_attempt_at
        FROM unnest($1) AS l (lane)
        CROSS JOIN LATERAL (
            SELECT p.ordering_key, p.id, p.attempts, p.next_attempt_at
            FROM outbox_parked AS p
            WHERE p.lane = l.lane
            ORDER BY p.ordering_key, p.id
            LIMIT 1
        ) AS f
        UNION ALL
        SELECT f.lane, n.ordering_key, n.id, n.attempts, n.next_attempt_at
        FROM firsts AS f
        CROSS JOIN LATERAL (
            SELECT p.ordering_key, p.id, p.attempts, p.next_attempt_at
            FROM outbox_parked AS p
            WHERE p.lane = f.lane AND p.ordering_key > f.ordering_key
            ORDER BY p.ordering_key, p.id
            LIMIT 1
        ) AS n
    )
    SELECT f.lane, f.id, f.attempts, f.next_attempt_at FROM firsts AS f
$function$;

-- Moves others of the key of a parked message that was delivered back to their places, up to so many and the
-- last ones first, and takes out the message itself when none is left. Tells whether there may be more.
CREATE FUNCTION outbox_unpark(held smallint[], epochs bigint[], runner uuid, lane smallint, id bigint, archive boolean,
    most bigint)
    RETURNS TABLE (lane smallint, epoch bigint, more boolean)
    LANGUAGE sql VOLATILE
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET jit = off
AS $function$
WITH mine AS MATERIALIZED (
        SELECT l.lane, l.epoch
        FROM unnest($1, $2) AS held (lane, epoch)
        JOIN outbox_lanes AS l USING (lane, epoch)
        WHERE l.owner = $3 AND l.expires_at > clock_timestamp()
        ORDER BY l.lane
        FOR SHARE OF l
    ), delivered AS MATERIALIZED (
        SELECT p.lane, p.id, p.ordering_key
        FROM outbox_parked AS p
        WHERE p.lane = $4 AND p.id = $5 AND p.lane = ANY (ARRAY(SELECT m.lane FROM mine AS m))
        FOR UPDATE OF p
    ), behind AS MATERIALIZED (
        SELECT b.lane, b.id
        FROM delivered AS d
        CROSS JOIN LATERAL (
            SELECT p.lane, p.id
            FROM outbox_parked AS p
            WHERE p.lane = d.lane AND p.ordering_key = d.ordering_key AND p.id <> d.id
            ORDER BY p.id DESC
            LIMIT $7
        ) AS b
    ), rest AS (
        DELETE FROM outbox_parked AS p
        USING behind AS b
        WHERE p.lane = b.lane AND p.id = b.id
        RETURNING p.*
    ), back AS (
        INSERT INTO outbox
            (id, message_id, topic, partition, key, payload, headers, event_type, created_at)
        SELECT r.id, r.message_id, r.topic, r.partition, r.key, r.payload, r.headers, r.event_type,
            r.created_at
        FROM rest AS r
        ON CONFLICT DO NOTHING
    ), gone AS (
        DELETE FROM outbox_parked AS p
        USING delivered AS d
        WHERE p.lane = d.lane AND p.id = d.id AND (SELECT count(*) FROM behind) < $7
        RETURNING p.*
    ), archived AS (
        INSERT INTO outbox_archive
            (id, lane, message_id, topic, partition, key, payload, headers, event_type, created_at)
        SELECT id, lane, message_id, topic, partition, key, payload, headers, event_type, created_at
        FROM gone
        WHERE $6
    )
    SELECT m.lane, m.epoch, (SELECT count(*) FROM behind) >= $7 FROM mine AS m
$function$;

-- Takes note that a parked message was refused again.
CREATE FUNCTION outbox_refuse_again(held smallint[], epochs bigint[], runner uuid, lane smallint, id bigint, error text,
    attempts integer, retry_ms bigint)
    RETURNS TABLE (lane smallint, epoch bigint)
    LANGUAGE sql VOLATILE
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET enable_sort = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET jit = off
AS $function$
WITH mine AS MATERIALIZED (
        SELECT l.lane, l.epoch
        FROM unnest($1, $2) AS held (lane, epoch)
        JOIN outbox_lanes AS l USING (lane, epoch)
        WHERE l.owner = $3 AND l.expires_at > clock_timestamp()
        ORDER BY l.lane
        FOR SHARE OF l
    ), refused AS (
        UPDATE outbox_parked AS p
        SET error = $6,
            attempts = $7,
            next_attempt_at = clock_timestamp() + $8 * interval '1 millisecond'
        WHERE p.lane = $4 AND p.id = $5 AND p.lane = ANY (ARRAY(SELECT m.lane FROM mine AS m))
    )
    SELECT m.lane, m.epoch FROM mine AS m
$function$;

-- For exactly-once delivery: takes note of what is about to be sent, one batch a lane. Should the runner
-- die, its successor finds out at the broker whether this very batch was committed. Returns the lanes
-- whose batch was noted: a statement that comes late does not take the place of a later batch.
CREATE FUNCTION outbox_note_batches(held smallint[], epochs bigint[], runner uuid, lanes smallint[], numbers bigint[],
    parked boolean[], id_lanes smallint[], ids bigint[])
    RETURNS TABLE (lane smallint, epoch bigint)
    LANGUAGE sql VOLATILE
AS $function$
WITH mine AS MATERIALIZED (
        SELECT l.lane, l.epoch
        FROM unnest($1, $2) AS held (lane, epoch)
        JOIN outbox_lanes AS l USING (lane, epoch)
        WHERE l.owner = $3 AND l.expires_at > clock_timestamp()
        ORDER BY l.lane
        FOR UPDATE OF l
    ), noted AS (
        UPDATE outbox_lanes AS l
        SET batch = b.number,
            manifest = ARRAY(SELECT i.id FROM unnest($7, $8) AS i (lane, id) WHERE i.lane = l.lane),
            manifest_parked = b.parked
        FROM unnest($4, $5, $6) AS b (lane, number, parked)
        WHERE l.lane = b.lane AND l.batch < b.number AND l.lane = ANY (ARRAY(SELECT m.lane FROM mine AS m))
        RETURNING l.lane, l.epoch
    )
    SELECT n.lane, n.epoch FROM noted AS n
$function$;
