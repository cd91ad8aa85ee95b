//! Writers on MariaDB.

use anyhow::Result;
use diesel::connection::SimpleConnection as _;
use diesel::sql_types::{BigInt, Binary, Nullable, Text};
use diesel::{
    Connection as _, MysqlConnection, QueryResult, QueryableByName, RunQueryDsl as _, sql_query,
};
use outbox::Message;
use uuid::Uuid;

use super::{NAME, Writer};
use crate::history::Committed;

impl Writer for MysqlConnection {
    // The server knows connections by their users alone.
    const RECORD: &str = "CREATE TABLE written ( \
            message_id varchar(36) CHARACTER SET ascii PRIMARY KEY, `key` varchar(250), number bigint, \
            payload longblob \
        ); \
        CREATE USER IF NOT EXISTS writer@'%'; \
        GRANT ALL ON *.* TO writer@'%'";

    fn as_writer(url: &str) -> Result<Self> {
        Ok(Self::establish(
            &url.replace("//root@", &format!("//{NAME}@")),
        )?)
    }

    fn writers(&mut self) -> Result<i64> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            count: i64,
        }
        let query = "SELECT count(*) AS count FROM information_schema.processlist \
            WHERE db = database() AND user = ?";
        let row: Row = sql_query(query).bind::<Text, _>(NAME).get_result(self)?;
        Ok(row.count)
    }

    fn serializable<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.batch_execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")?;
        self.transaction(work)
    }

    fn insert(
        &mut self,
        topic: &str,
        key: &str,
        number: i64,
        payload: Option<&[u8]>,
    ) -> QueryResult<()> {
        sql_query("INSERT INTO outbox (topic, `key`, payload) VALUES (?, ?, ?)")
            .bind::<Text, _>(topic)
            .bind::<Text, _>(key)
            .bind::<Nullable<Binary>, _>(payload)
            .execute(self)?;
        sql_query(
            "INSERT INTO written \
             SELECT message_id, ?, ?, payload FROM outbox WHERE id = last_insert_id()",
        )
        .bind::<Text, _>(key)
        .bind::<BigInt, _>(number)
        .execute(self)
        .map(drop)
    }

    fn record(&mut self, message: &Message, number: Option<i64>) -> QueryResult<()> {
        let key = message.key().map(String::from_utf8_lossy);
        sql_query("INSERT INTO written VALUES (?, ?, ?, ?)")
            .bind::<Text, _>(message.id().to_string())
            .bind::<Nullable<Text>, _>(key)
            .bind::<Nullable<BigInt>, _>(number)
            .bind::<Nullable<Binary>, _>(message.payload())
            .execute(self)
            .map(drop)
    }

    fn committed(&mut self) -> Result<Vec<Committed>> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = Text)]
            message_id: String,
            #[diesel(sql_type = Nullable<Text>)]
            key: Option<String>,
            #[diesel(sql_type = Nullable<BigInt>)]
            number: Option<i64>,
            #[diesel(sql_type = Nullable<Binary>)]
            payload: Option<Vec<u8>>,
        }
        let rows: Vec<Row> = sql_query("SELECT * FROM written").load(self)?;
        let committed = |row: Row| {
            Ok(Committed {
                id: Uuid::parse_str(&row.message_id)?,
                key: row.key.map(String::into_bytes),
                number: row.number,
                payload: row.payload,
            })
        };
        rows.into_iter().map(committed).collect()
    }
}
