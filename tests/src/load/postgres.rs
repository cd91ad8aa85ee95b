//! Writers on PostgreSQL.

use anyhow::Result;
use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text, Uuid as SqlUuid};
use diesel::{
    Connection as _, PgConnection, QueryResult, QueryableByName, RunQueryDsl as _, sql_query,
};
use outbox::Message;
use uuid::Uuid;

use super::{NAME, Writer};
use crate::database::with_parameter;
use crate::history::Committed;

impl Writer for PgConnection {
    const RECORD: &str = "CREATE TABLE written \
        (message_id uuid PRIMARY KEY, key text, number bigint, payload bytea)";

    fn as_writer(url: &str) -> Result<Self> {
        let parameter = format!("application_name={NAME}");
        Ok(Self::establish(&with_parameter(url, &parameter))?)
    }

    fn writers(&mut self) -> Result<i64> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            count: i64,
        }
        let query = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND application_name = $1";
        let row: Row = sql_query(query).bind::<Text, _>(NAME).get_result(self)?;
        Ok(row.count)
    }

    fn serializable<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.build_transaction().serializable().run(work)
    }

    fn insert(
        &mut self,
        topic: &str,
        key: &str,
        number: i64,
        payload: Option<&[u8]>,
    ) -> QueryResult<()> {
        let query = sql_query(
            "WITH message AS ( \
                INSERT INTO outbox (topic, key, payload) VALUES ($1, convert_to($2, 'UTF8'), $4) \
                RETURNING message_id \
             ) \
             INSERT INTO written SELECT message_id, $2, $3, $4 FROM message",
        );
        query
            .bind::<Text, _>(topic)
            .bind::<Text, _>(key)
            .bind::<BigInt, _>(number)
            .bind::<Nullable<Binary>, _>(payload)
            .execute(self)
            .map(drop)
    }

    fn record(&mut self, message: &Message, number: Option<i64>) -> QueryResult<()> {
        let key = message.key().map(String::from_utf8_lossy);
        sql_query("INSERT INTO written VALUES ($1, $2, $3, $4)")
            .bind::<SqlUuid, _>(message.id())
            .bind::<Nullable<Text>, _>(key)
            .bind::<Nullable<BigInt>, _>(number)
            .bind::<Nullable<Binary>, _>(message.payload())
            .execute(self)
            .map(drop)
    }

    fn record_all(&mut self, messages: &[Message], first: i64) -> QueryResult<()> {
        let ids: Vec<_> = messages.iter().map(Message::id).collect();
        let keys: Vec<_> = messages
            .iter()
            .map(|message| message.key().map(String::from_utf8_lossy))
            .collect();
        let payloads: Vec<_> = messages.iter().map(Message::payload).collect();
        sql_query(
            "INSERT INTO written \
             SELECT id, key, $4 + position - 1, payload \
             FROM unnest($1, $2, $3) WITH ORDINALITY AS message (id, key, payload, position)",
        )
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<Nullable<Text>>, _>(keys)
        .bind::<Array<Nullable<Binary>>, _>(payloads)
        .bind::<BigInt, _>(first)
        .execute(self)
        .map(drop)
    }

    fn committed(&mut self) -> Result<Vec<Committed>> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = SqlUuid)]
            message_id: Uuid,
            #[diesel(sql_type = Nullable<Text>)]
            key: Option<String>,
            #[diesel(sql_type = Nullable<BigInt>)]
            number: Option<i64>,
            #[diesel(sql_type = Nullable<Binary>)]
            payload: Option<Vec<u8>>,
        }
        let rows: Vec<Row> = sql_query("SELECT * FROM written").load(self)?;
        let committed = |row: Row| Committed {
            id: row.message_id,
            key: row.key.map(String::into_bytes),
            number: row.number,
            payload: row.payload,
        };
        Ok(rows.into_iter().map(committed).collect())
    }
}
