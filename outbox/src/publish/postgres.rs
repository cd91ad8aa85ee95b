//! The INSERT on PostgreSQL.

use diesel::QueryResult;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{Array, Binary, Integer, Nullable, Text, Uuid as SqlUuid};
use uuid::Uuid;

use super::OutboxBackend;
use crate::Message;

/// The columns that a writer fills; all others are the database's own.
const INSERT: &str =
    "INSERT INTO outbox (message_id, topic, partition, key, payload, headers, event_type) ";

impl OutboxBackend for Pg {
    const MAX_ROWS: usize = usize::MAX;
    const MAX_BYTES: usize = usize::MAX;

    type One<'m> = InsertOne<'m>;
    type Many<'m> = InsertMany<'m>;

    fn one(message: &Message) -> InsertOne<'_> {
        InsertOne {
            id: message.id(),
            partition: message.partition(),
            headers: message.headers().to_json(),
            message,
        }
    }

    fn many(messages: &[Message]) -> InsertMany<'_> {
        InsertMany {
            ids: messages.iter().map(Message::id).collect(),
            topics: messages.iter().map(Message::topic).collect(),
            partitions: messages.iter().map(Message::partition).collect(),
            keys: messages.iter().map(Message::key).collect(),
            payloads: messages.iter().map(Message::payload).collect(),
            headers: messages.iter().map(|m| m.headers().to_json()).collect(),
            event_types: messages.iter().map(Message::event_type).collect(),
        }
    }
}

/// One row. Where the runner of its lane sleeps, it rings the doorbell, in the same statement.
#[derive(Debug)]
pub struct InsertOne<'m> {
    id: Uuid,
    partition: Option<i32>,
    headers: Option<String>,
    message: &'m Message,
}

impl QueryId for InsertOne<'_> {
    type QueryId = InsertOne<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl QueryFragment<Pg> for InsertOne<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let message = self.message;
        out.push_sql(INSERT);
        out.push_sql("SELECT * FROM (VALUES (");
        out.push_bind_param::<SqlUuid, _>(&self.id)?;
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(&message.topic)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<Integer>, _>(&self.partition)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<Binary>, _>(&message.key)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<Binary>, _>(&message.payload)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<Text>, _>(&self.headers)?;
        out.push_sql("::json, ");
        out.push_bind_param::<Nullable<Text>, _>(&message.event_type)?;
        out.push_sql(
            ")) AS m (id, topic, partition, key, payload, headers, event_type) WHERE (\
                SELECT outbox_ring(b.tableoid, b.lane) FROM outbox_doorbell AS b \
                WHERE b.lane = outbox_ordering_key(m.topic, m.partition, m.key, m.id) & 15 \
                    AND b.asleep_until > clock_timestamp()) IS NULL",
        );
        Ok(())
    }
}

/// Any number of rows in one statement, a column an array: the statement has the same text whatever
/// the number, so it is prepared once, and no limit on bind parameters applies.
///
/// `unnest` returns its rows in order, and the ids are drawn as they come. Whoever sleeps is woken,
/// whatever the lanes: it is looked up once, not for each row.
#[derive(Debug)]
pub struct InsertMany<'m> {
    ids: Vec<Uuid>,
    topics: Vec<&'m str>,
    partitions: Vec<Option<i32>>,
    keys: Vec<Option<&'m [u8]>>,
    payloads: Vec<Option<&'m [u8]>>,
    headers: Vec<Option<String>>,
    event_types: Vec<Option<&'m str>>,
}

impl QueryId for InsertMany<'_> {
    type QueryId = InsertMany<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl QueryFragment<Pg> for InsertMany<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(INSERT);
        out.push_sql("SELECT m.id, m.topic, m.partition, m.key, m.payload, m.headers::json, m.event_type FROM unnest(");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.ids)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.topics)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Integer>>, _>(&self.partitions)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Binary>>, _>(&self.keys)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Binary>>, _>(&self.payloads)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.headers)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.event_types)?;
        out.push_sql(
            ") AS m (id, topic, partition, key, payload, headers, event_type) WHERE (\
                SELECT count(outbox_ring(b.tableoid, b.lane)) FROM outbox_doorbell AS b \
                WHERE b.asleep_until > clock_timestamp()) = 0",
        );
        Ok(())
    }
}
