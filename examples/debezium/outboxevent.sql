-- A view in the place of Debezium's table `outboxevent`: what is inserted here is a message of the outbox.
--
-- The columns are those that Debezium's event router expects by default, and a message becomes what the router
-- would make of it.

CREATE VIEW outboxevent AS
SELECT
    message_id AS id,
    substr(topic, length('outbox.event.') + 1) AS aggregatetype,
    convert_from(key, 'UTF8') AS aggregateid,
    event_type AS type,
    convert_from(payload, 'UTF8')::jsonb AS payload
FROM outbox
WHERE starts_with(topic, 'outbox.event.');

-- As the owner of the view, so that writers need no right but that to insert into it.
CREATE FUNCTION outboxevent_insert() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path FROM CURRENT
AS $function$
BEGIN
    NEW.id := coalesce(NEW.id, gen_random_uuid());
    INSERT INTO outbox (message_id, topic, key, payload, headers, event_type)
    VALUES (
        NEW.id,
        'outbox.event.' || NEW.aggregatetype,
        convert_to(NEW.aggregateid, 'UTF8'),
        convert_to(NEW.payload::text, 'UTF8'),
        json_build_array(json_build_object('key', 'id', 'value', NEW.id)),
        NEW.type
    );
    RETURN NEW;
END
$function$;

CREATE TRIGGER outboxevent_insert INSTEAD OF INSERT ON outboxevent
    FOR EACH ROW EXECUTE FUNCTION outboxevent_insert();

-- Services that delete the row at once, since Debezium has it from the log, go on to do so. It is the runner
-- who takes messages out.
CREATE FUNCTION outboxevent_delete() RETURNS trigger
    LANGUAGE plpgsql
AS $function$
BEGIN
    RETURN OLD;
END
$function$;

CREATE TRIGGER outboxevent_delete INSTEAD OF DELETE ON outboxevent
    FOR EACH ROW EXECUTE FUNCTION outboxevent_delete();
