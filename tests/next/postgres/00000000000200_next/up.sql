-- What a next version of the tables may bring, for a test: a column, an index, functions with other bodies, and one
-- that replaces another, which stays for the runners of the version before.

-- Runners touch the lanes before anything else, so that none of them waits in the middle of what is changed here; and
-- writers don't wait for long.
SET LOCAL lock_timeout = '10s';
LOCK TABLE outbox_lanes IN EXCLUSIVE MODE;

ALTER TABLE outbox ADD COLUMN trace_id text;
ALTER TABLE outbox_parked ADD COLUMN trace_id text;
ALTER TABLE outbox_archive ADD COLUMN trace_id text;
ALTER TABLE outbox_dead_letters ADD COLUMN trace_id text;
CREATE INDEX outbox_archive_by_message ON outbox_archive (message_id);

CREATE OR REPLACE FUNCTION outbox_park(held smallint[], epochs bigint[], runner uuid, lanes smallint[], ids bigint[], errors text[],
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
             trace_id, error, attempts, next_attempt_at)
        SELECT id, lane, message_id, topic, partition, key, payload, headers, event_type, created_at,
            trace_id, g.error, g.attempts, clock_timestamp() + g.retry_ms * interval '1 millisecond'
        FROM gone AS g
        -- It may be there still: somebody has put a copy back.
        ON CONFLICT DO NOTHING
    )
    SELECT m.lane, m.epoch FROM mine AS m
$function$;

CREATE OR REPLACE FUNCTION outbox_unpark(held smallint[], epochs bigint[], runner uuid, lane smallint, id bigint, archive boolean,
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
            (id, message_id, topic, partition, key, payload, headers, event_type, created_at, trace_id)
        SELECT r.id, r.message_id, r.topic, r.partition, r.key, r.payload, r.headers, r.event_type,
            r.created_at, r.trace_id
        FROM rest AS r
        ON CONFLICT DO NOTHING
    ), gone AS (
        DELETE FROM outbox_parked AS p
        USING delivered AS d
        WHERE p.lane = d.lane AND p.id = d.id AND (SELECT count(*) FROM behind) < $7
        RETURNING p.*
    ), archived AS (
        INSERT INTO outbox_archive
            (id, lane, message_id, topic, partition, key, payload, headers, event_type, created_at, trace_id)
        SELECT id, lane, message_id, topic, partition, key, payload, headers, event_type, created_at, trace_id
        FROM gone
        WHERE $6
    )
    SELECT m.lane, m.epoch, (SELECT count(*) FROM behind) >= $7 FROM mine AS m
$function$;

CREATE FUNCTION outbox_read_with_trace(lanes smallint[], most bigint[], floors bigint[], large bigint, exclude bigint[],
    exclude_topics text[], only_topics text[], late_lanes smallint[], late_xids bigint[], late_floors bigint[])
    RETURNS TABLE (
        lane smallint, id bigint, message_id uuid, topic text, partition integer, key bytea,
        payload bytea, headers text, event_type text, created_at timestamptz, bytes integer,
        trace_id text)
    LANGUAGE sql STABLE
AS $function$
SELECT m.lane, m.id, m.message_id, m.topic, m.partition, CASE WHEN m.bytes <= $4 THEN m.key END,
        CASE WHEN m.bytes <= $4 THEN m.payload END, m.headers::text, m.event_type, m.created_at, m.bytes, m.trace_id
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
