//! The INSERT on SQLite.

use diesel::QueryResult;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{Binary, Integer, Nullable, Text};
use diesel::sqlite::Sqlite;

use super::{INSERT, OutboxBackend};
use crate::Message;

impl OutboxBackend for Sqlite {
    /// Far below SQLite's limit of 32,766 bind parameters.
    const MAX_ROWS: usize = 500;

    type One<'m> = InsertOne<'m>;
    type Many<'m> = InsertMany<'m>;

    fn one(message: &Message) -> InsertOne<'_> {
        InsertOne(Row::new(message))
    }

    fn many(messages: &[Message]) -> InsertMany<'_> {
        InsertMany(messages.iter().map(Row::new).collect())
    }
}

#[derive(Debug)]
struct Row<'m> {
    id: String,
    partition: Option<i32>,
    headers: Option<String>,
    message: &'m Message,
}

impl<'m> Row<'m> {
    fn new(message: &'m Message) -> Self {
        Self {
            id: message.id().to_string(),
            partition: message.partition(),
            headers: message.headers().to_json(),
            message,
        }
    }

    fn walk<'b>(&'b self, out: &mut AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        let message = self.message;
        out.push_sql("(");
        out.push_bind_param::<Text, _>(&self.id)?;
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
        out.push_sql(", ");
        out.push_bind_param::<Nullable<Text>, _>(&message.event_type)?;
        out.push_sql(")");
        Ok(())
    }
}

/// One row, in a statement that is prepared once.
#[derive(Debug)]
pub struct InsertOne<'m>(Row<'m>);

impl QueryId for InsertOne<'_> {
    type QueryId = InsertOne<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl QueryFragment<Sqlite> for InsertOne<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql(INSERT);
        out.push_sql("VALUES ");
        self.0.walk(&mut out)
    }
}

/// Several rows. Its text depends on their number, so it is not kept prepared.
#[derive(Debug)]
pub struct InsertMany<'m>(Vec<Row<'m>>);

impl QueryId for InsertMany<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl QueryFragment<Sqlite> for InsertMany<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.unsafe_to_cache_prepared();
        out.push_sql(INSERT);
        out.push_sql("VALUES ");
        for (i, row) in self.0.iter().enumerate() {
            if i > 0 {
                out.push_sql(", ");
            }
            row.walk(&mut out)?;
        }
        Ok(())
    }
}
